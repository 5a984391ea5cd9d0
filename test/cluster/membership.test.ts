import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Cluster, type SelfIdentity } from '../../src/cluster/cluster.ts'
import { type AliveInfo, Membership } from '../../src/cluster/membership.ts'
import { changeSettings } from '../../src/cluster/settings.ts'
import { Session } from '../../src/cluster/session.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'
import { delegateTo } from '../helpers/store-delegate.ts'

const identity = (name: string, boot: number): SelfIdentity => ({
  clusterId: 'c'.repeat(32),
  peerId: name.repeat(32),
  bootId: `${boot}`.repeat(32),
  bootCounter: boot,
  capacityBytes: 1000
})

const INFO: AliveInfo = {
  peerAddress: '127.0.0.1:1',
  adminAddresses: [],
  nbdAddresses: [],
  usedBytes: 0
}

async function openSite() {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const start = async (name: string, boot: number, onReplaced = (_: StoreError): void => {}) => {
    const cluster = await Cluster.open(store, identity(name, boot), { clock, random })
    const session = await Session.open(store, clock)
    const membership = await Membership.open(cluster, session, { alive: INFO, onReplaced })
    return { membership, session }
  }
  return { clock, store, start }
}

test('peers see each other come, change and go', async () => {
  const { start, store, clock } = await openSite()
  const first = await start('a', 1)
  const second = await start('b', 1)
  await until(() => first.membership.peers().length === 2, 'the records to follow')
  strictEqual(first.membership.addressOf('b'.repeat(32)), '127.0.0.1:1')
  await second.membership.announce({ peerAddress: '127.0.0.1:2' })
  await until(
    () => first.membership.addressOf('b'.repeat(32)) === '127.0.0.1:2',
    'the records to follow'
  )
  await second.session.close()
  await until(() => first.membership.addressOf('b'.repeat(32)) === null, 'the records to follow')
  strictEqual(first.membership.peers().length, 2)
  const gone = first.membership.peer('b'.repeat(32))!
  strictEqual(gone.alive, null)
  clock.nowMs += 60_000
  const lastSeenAt = first.membership.peer('b'.repeat(32))!.lastSeenAt
  strictEqual(Date.parse(lastSeenAt!), clock.wallMs() - 60_000)
  await first.membership.noteLastSeen('b'.repeat(32))
  const third = await start('c', 1)
  strictEqual(third.membership.peer('b'.repeat(32))!.lastSeenAt, lastSeenAt, 'told to later ones')
  strictEqual(first.membership.peer('b'.repeat(32))!.changedMs, gone.changedMs)
  third.membership.close()
  first.membership.close()
  second.membership.close()
  await store.close()
})

test('a clean shutdown lets the next boot stand for the last one, a crash does not', async () => {
  const { start, store } = await openSite()
  const watcher = await start('d', 1)
  const boots = async (boot: number, clean: boolean) => {
    const life = await start('a', boot)
    if (clean) await life.membership.leaveCleanly()
    life.membership.close()
    await life.session.close()
  }
  const present = (boot: number) =>
    watcher.membership.isPresentBoot('a'.repeat(32), `${boot}`.repeat(32))
  const clean = (boot: number) =>
    watcher.membership.endedCleanly('a'.repeat(32), `${boot}`.repeat(32))
  await boots(1, true)
  await until(() => clean(1), 'the records to follow')
  const second = await start('a', 2)
  await until(() => present(2), 'the records to follow')
  ok(present(1) && !clean(1), 'it is up')
  second.membership.close()
  await second.session.close()
  await until(() => !present(2), 'the records to follow')
  deepStrictEqual([clean(1), clean(2)], [false, false], 'it did not end cleanly')
  const third = await start('a', 3)
  await until(() => present(3), 'the records to follow')
  deepStrictEqual([present(1), present(2)], [false, false])
  await third.membership.leaveCleanly()
  third.membership.close()
  await third.session.close()
  await boots(4, true)
  await until(() => clean(4), 'the records to follow')
  deepStrictEqual([clean(2), clean(3), clean(4)], [false, true, true])
  await watcher.membership.change('a'.repeat(32), () => ({ state: 'removed' }))
  await until(() => !clean(4), 'nobody to wait for one that is removed')
  watcher.membership.close()
  await store.close()
})

test('another process of the same peer: who was there is told, and registers no more', async () => {
  const { start, store } = await openSite()
  const told: string[] = []
  const first = await start('a', 1, (error) => told.push(error.message))
  await first.membership.change('a'.repeat(32), () => ({ labels: { rack: 'r1' } }))
  await first.membership.announce({ usedBytes: 1 })
  deepStrictEqual(told, [], 'an operator may change its record')
  const copy = await start('a', 2)
  await until(() => told.length > 0, 'the first is told')
  ok(told.every((text) => /another process started as peer a{32}.*must not go on/.test(text)))
  const alive = await store.get(`/torus/v1/alive/${'a'.repeat(32)}`)
  await rejects(
    first.membership.announce({ usedBytes: 2 }),
    (error) => error instanceof StoreError && error.code === ErrorCode.Closed
  )
  const after = await store.get(`/torus/v1/alive/${'a'.repeat(32)}`)
  strictEqual(after!.modRevision, alive!.modRevision, 'that of the copy stands')
  first.membership.close()
  copy.membership.close()
  await store.close()
})

test('one that is removed while it runs is told, and registers no more', async () => {
  const { start, store } = await openSite()
  const told: string[] = []
  const first = await start('a', 1, (error) => told.push(error.message))
  await first.membership.change('a'.repeat(32), () => ({ state: 'removed' }))
  await until(() => told.length > 0, 'it is told')
  ok(told.every((text) => /^peer a{32} was removed from the cluster/.test(text)))
  await rejects(
    first.membership.announce({ usedBytes: 2 }),
    (error) => error instanceof StoreError && error.code === ErrorCode.Closed
  )
  first.membership.close()
  await store.close()
})

test('what a store that does not answer was not told is told when it does', async () => {
  const { clock, store, start } = await openSite()
  const random = new SeededRandom(2)
  let isAway = false
  const away = delegateTo(store, {
    transact: (transaction) => {
      if (!isAway) return store.transact(transaction)
      return Promise.reject(new StoreError(ErrorCode.Unavailable, 'no answer in time'))
    }
  })
  const watcher = await start('d', 1)
  const address = () => watcher.membership.addressOf('a'.repeat(32))
  const session = await Session.open(store, clock)
  const cluster = await Cluster.open(away, identity('a', 1), { clock, random, timers: clock })
  isAway = true
  let troubles = 0
  const onTrouble = (): void => void troubles++
  const membership = await Membership.open(cluster, session, { alive: INFO, onTrouble })
  await membership.announce({ peerAddress: '127.0.0.1:7' })
  strictEqual(troubles, 2)
  await clock.advance(1500)
  strictEqual(troubles, 3, 'one attempt at a time')
  strictEqual(address(), null)
  isAway = false
  await clock.advance(1000)
  await until(() => address() === '127.0.0.1:7', 'the records to follow')
  isAway = true
  await membership.announce({ usedBytes: 5 })
  membership.close()
  await clock.advance(5000)
  strictEqual(troubles, 4, 'nothing is tried after the end')
  watcher.membership.close()
  await store.close()
})

test('a record of nobody cannot be changed', async () => {
  const { start, store } = await openSite()
  const { membership } = await start('a', 1)
  await rejects(
    membership.change('f'.repeat(32), () => ({})),
    (thrown: unknown) => thrown instanceof StoreError && thrown.code === ErrorCode.NotFound
  )
  membership.close()
  await store.close()
})

test('where joining needs approval a new peer is pending, and known ones are not', async () => {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const open = (name: string, boot: number) =>
    Cluster.open(store, identity(name, boot), { clock, random })
  const first = await open('a', 1)
  await changeSettings(first, { joinPolicy: 'approve' })
  await open('b', 1)
  await open('b', 2)
  await open('a', 2)
  const states = async (): Promise<unknown[]> => (await first.peers()).map(({ state }) => state)
  deepStrictEqual(await states(), ['active', 'pending'])
  strictEqual((await changeSettings(first, {})).joinPolicy, 'approve')
  strictEqual((await changeSettings(first, { joinPolicy: 'open' })).joinPolicy, 'open')
  await open('c', 1)
  deepStrictEqual(await states(), ['active', 'pending', 'active'])
  await store.close()
})

test.run()
