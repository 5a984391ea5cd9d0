import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Cluster, type SelfIdentity } from '../../src/cluster/cluster.ts'
import { decodeRecord, encodeRecord } from '../../src/cluster/records.ts'
import { Session } from '../../src/cluster/session.ts'
import { deletedLayers } from '../../src/cluster/layer-lines.ts'
import { VolumeDirectory } from '../../src/cluster/volume-directory.ts'
import { Writers } from '../../src/cluster/writers.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { delegateTo } from '../helpers/store-delegate.ts'

const failsWith =
  (code: ErrorCode) =>
  (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === code

interface Site {
  readonly clock: ManualClock
  readonly store: EmbeddedStore
  peer(name: string, boot?: number): Promise<Cluster>
}

const identity = (name: string, boot: number): SelfIdentity => ({
  clusterId: 'c'.repeat(32),
  peerId: name.repeat(32),
  bootId: `${boot}`.repeat(32),
  bootCounter: boot,
  capacityBytes: 1000 * boot
})

async function openSite(): Promise<Site> {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  return {
    clock,
    store,
    peer: (name, boot = 1) => Cluster.open(store, identity(name, boot), { clock, random })
  }
}

const SPEC = { type: 'block', sizeBytes: 4096, unitBytes: 4096 }

test('the first peer makes the cluster, others join it, strangers do not', async () => {
  const { store, peer, clock } = await openSite()
  const first = await peer('a')
  ok(first.bootCounterFollows)
  await peer('b')
  deepStrictEqual(
    (await first.peers()).map(({ peerId, capacityBytes }) => [peerId[0], capacityBytes]),
    [
      ['a', 1000],
      ['b', 1000]
    ]
  )
  const stranger = { ...identity('d', 1), clusterId: 'e'.repeat(32) }
  const random = new SeededRandom(2)
  const joining = Cluster.open(store, stranger, { clock, random })
  await rejects(joining, failsWith(ErrorCode.InvalidArgument))
  strictEqual((await first.peers()).length, 2)
})

test('metadata that is not of a cluster, or not all of it, is left as it is', async () => {
  const { store, clock } = await openSite()
  const environment = { clock, random: new SeededRandom(2) }
  const lost = Cluster.open(store, identity('a', 1), { ...environment, create: false })
  await rejects(lost, failsWith(ErrorCode.NotFound))
  for (const key of ['/torus/other', '/torus/v1/volumes/1']) {
    await store.transact({ success: [{ put: key, value: Buffer.from('1') }] })
    const { revision } = await store.range('')
    const refused = Cluster.open(store, identity('a', 1), environment)
    await rejects(refused, failsWith(ErrorCode.InvalidArgument))
    strictEqual((await store.range('')).revision, revision)
    await store.transact({ success: [{ delete: key }] })
  }
})

test('a boot counter that does not follow is noticed, and never goes back', async () => {
  const { peer, store, clock } = await openSite()
  await peer('a', 4)
  const next = await peer('a', 5)
  ok(next.bootCounterFollows)
  const again = await peer('a', 5)
  ok(again.bootCounterFollows, 'the same boot, whose first answer was lost')
  const environment = { clock, random: new SeededRandom(3) }
  const copied = { ...identity('a', 5), bootId: 'f'.repeat(32) }
  const copy = await Cluster.open(store, copied, environment)
  strictEqual(copy.bootCounterFollows, false)
  const reverted = await peer('a', 2)
  strictEqual(reverted.bootCounterFollows, false)
  strictEqual((await reverted.peers())[0]?.bootCounter, 5)
})

test('a start goes on when others change its record, but not beside another', async () => {
  const { store, peer, clock } = await openSite()
  const first = await peer('a', 1)
  const environment = { clock, random: new SeededRandom(3) }
  const key = first.keys.peer('a'.repeat(32))
  const change = async (bootId: string): Promise<void> => {
    const record = decodeRecord('peer', key, (await store.get(key))!.value)
    const value = encodeRecord('peer', { ...record, bootId, revokedBootId: '1'.repeat(32) })
    await store.transact({ success: [{ put: key, value }] })
  }
  const beginBeside = (bootId: string): Promise<Cluster> => {
    let changes = 0
    const slow = delegateTo(store, {
      transact: async (transaction) => {
        // It was read before: this is the one that registers.
        const registers = transaction.compare?.some((each) => each.key === key) === true
        if (registers && changes++ === 0) await change(bootId)
        return store.transact(transaction)
      }
    })
    return Cluster.open(slow, identity('a', 2), environment)
  }
  await rejects(beginBeside('9'.repeat(32)), failsWith(ErrorCode.Conflict))
  const next = await beginBeside('9'.repeat(32))
  ok(next.bootCounterFollows)
  strictEqual((await next.peers())[0]?.revokedBootId, '1'.repeat(32))
})

test('a volume and its name come, change and go together', async () => {
  const { store, peer } = await openSite()
  const directory = new VolumeDirectory(await peer('a'))
  const record = await directory.create({ ...SPEC, name: 'v', labels: { x: 'y' } })
  const keysOf = async () => (await store.range('/torus/v1/')).entries.map(({ key }) => key)
  const { id, family } = record
  const [cluster, self] = ['/torus/v1/cluster', `/torus/v1/peers/${'a'.repeat(32)}`]
  deepStrictEqual(await keysOf(), [
    cluster,
    `/torus/v1/families/${family}`,
    '/torus/v1/levels',
    '/torus/v1/names/v',
    self,
    '/torus/v1/settings',
    `/torus/v1/volumes/${id}`
  ])
  const { revision } = await store.range('')
  await directory.rename('v', 'w')
  strictEqual((await store.range('')).revision, revision + 1)
  strictEqual((await directory.get('w')).id, id)
  await rejects(directory.get('v'), failsWith(ErrorCode.NotFound))
  await directory.rename('w', 'w')
  const changed = await directory.update(id, () => ({ description: 'hello' }))
  strictEqual(changed.description, 'hello')
  const long = directory.update(id, () => ({ description: 'x'.repeat(2000) }))
  await rejects(long, failsWith(ErrorCode.InvalidArgument))
  const deleted = await directory.delete('w', { force: false })
  deepStrictEqual(deletedLayers(deleted), [record.headLayer])
  const kept = ['/torus/v1/levels', self, '/torus/v1/settings']
  deepStrictEqual(await keysOf(), [cluster, `/torus/v1/deleted/${family}`, ...kept])
})

test('of many who make one name, one succeeds; nobody sees a half', async () => {
  const { peer } = await openSite()
  const directory = new VolumeDirectory(await peer('a'))
  const made = await Promise.allSettled(
    Array.from({ length: 10 }, () => directory.create({ ...SPEC, name: 'v' }))
  )
  strictEqual(made.filter(({ status }) => status === 'fulfilled').length, 1)
  strictEqual((await directory.list()).length, 1)
})

test('renames and changes that race all take effect, or one says why not', async () => {
  const { peer } = await openSite()
  const directory = new VolumeDirectory(await peer('a'))
  const { id } = await directory.create({ ...SPEC, name: 'v' })
  await directory.create({ ...SPEC, name: 'u' })
  const outcomes = await Promise.allSettled([
    directory.update(id, ({ labels }) => ({ labels: { ...labels, a: '1' } })),
    directory.update(id, ({ labels }) => ({ labels: { ...labels, b: '1' } })),
    directory.rename('v', 'w'),
    directory.rename('u', 'w'),
    directory.update(id, ({ labels }) => ({ labels: { ...labels, c: '1' } }))
  ])
  const failed = outcomes.filter(({ status }) => status === 'rejected')
  strictEqual(failed.length, 1)
  const all = await directory.list()
  deepStrictEqual(all.find((volume) => volume.id === id)?.labels, { a: '1', b: '1', c: '1' })
  strictEqual(all.filter(({ name }) => name === 'w').length, 1)
})

test('one peer writes a volume at a time, each time under a higher writerEpoch', async () => {
  const { peer, store, clock } = await openSite()
  const [a, b] = [await peer('a'), await peer('b')]
  const sessionA = await Session.open(store, clock)
  const sessionB = await Session.open(store, clock)
  const [writersA, writersB] = [new Writers(a, sessionA), new Writers(b, sessionB)]
  const volume = await new VolumeDirectory(a).create({ ...SPEC, name: 'v' })
  const raced = await Promise.allSettled([writersA.acquire(volume), writersB.acquire(volume)])
  strictEqual(raced.filter(({ status }) => status === 'fulfilled').length, 1)
  strictEqual(await writersA.acquire(volume), 2)
  await rejects(writersB.acquire(volume), failsWith(ErrorCode.Busy))
  await writersB.release(volume)
  await rejects(writersB.acquire(volume), failsWith(ErrorCode.Busy))
  await writersA.release(volume)
  strictEqual(await writersB.acquire(volume), 3)
  // The same peer after a crash: its old lease may go on for a while.
  const again = await peer('b', 2)
  const sessionC = await Session.open(store, clock)
  strictEqual(await new Writers(again, sessionC).acquire(volume), 4)
  await writersB.release(volume)
  await rejects(writersA.acquire(volume), failsWith(ErrorCode.Busy))
  await sessionC.close()
  strictEqual(await writersA.acquire(volume), 5)
  await new VolumeDirectory(a).delete('v', { force: false })
  await rejects(writersA.acquire(volume), failsWith(ErrorCode.NotFound))
  await Promise.all([sessionA.close(), sessionB.close(), store.close()])
})

test('R16: who had a volume is remembered until a takeover came to its end', async () => {
  const { peer, store, clock } = await openSite()
  const open = async (name: string, boot = 1) => {
    const session = await Session.open(store, clock)
    const writers = new Writers(await peer(name, boot), session)
    return { writers, session, entry: { peer: name.repeat(32), boot: `${boot}`.repeat(32) } }
  }
  const [a, b, c] = [await open('a'), await open('b'), await open('c')]
  const volume = await new VolumeDirectory(await peer('d')).create({ ...SPEC, name: 'v' })
  const { family } = volume
  deepStrictEqual((await a.writers.take(volume)).former, [])
  await a.session.close()
  deepStrictEqual((await b.writers.take(volume)).former, [a.entry])
  await a.session.close()
  await b.writers.revoke((await b.writers.holder(family))!)
  const taken = await c.writers.take(volume)
  deepStrictEqual(taken.former, [a.entry, b.entry])
  const trust = (entry: typeof a.entry): Promise<number> => c.writers.trustOf(entry, 1, 10)
  deepStrictEqual([await trust(a.entry), await trust(b.entry)], [1, 10])
  await peer('b', 2)
  strictEqual(await trust(b.entry), 0, 'another process runs there')
  await c.writers.settle(family, taken)
  await c.session.close()
  const again = await open('a', 2)
  const last = await again.writers.take(volume)
  deepStrictEqual(last.former, [c.entry])
  await again.writers.leaveClean(family, last.claim)
  const e = await open('e')
  deepStrictEqual((await e.writers.take(volume)).former, [])
  await Promise.all([again.session.close(), e.session.close()])
  await store.close()
})

test('a writer whose lease has ended takes a new one by itself', async () => {
  const { peer, store, clock } = await openSite()
  const session = await Session.open(store, clock)
  const writers = new Writers(await peer('a'), session)
  const volume = await new VolumeDirectory(await peer('a', 2)).create({ ...SPEC, name: 'v' })
  clock.nowMs += 100_000
  strictEqual(await writers.acquire(volume), 1)
  strictEqual((await store.range('/torus/v1/writers/')).entries[0]?.lease, session.lease)
  await session.close()
  strictEqual((await store.range('/torus/v1/writers/')).entries.length, 0)
})

test('a session is trusted from when its keepalive was sent', async () => {
  const { store, clock } = await openSite()
  const slow = delegateTo(store, {
    keepAlive: async (lease) => {
      await store.keepAlive(lease)
      clock.nowMs += 700
    }
  })
  const session = await Session.open(slow, clock, { ttlMs: 10_000 })
  const openedMs = clock.nowMs
  strictEqual(session.trustedUntilMs, openedMs + 9000)
  clock.nowMs += 1000
  await session.renew()
  strictEqual(session.trustedUntilMs, openedMs + 1000 + 9000)
  await session.close()
})

test('a session goes on by itself, and tells when its lease was replaced', async () => {
  const { store, clock } = await openSite()
  let fails = true
  const troubles: StoreError[] = []
  const shaky = delegateTo(store, {
    keepAlive: async (lease) => {
      if (fails) throw new StoreError(ErrorCode.Unavailable, 'no answer')
      await store.keepAlive(lease)
    }
  })
  const onTrouble = (error: StoreError): void => void troubles.push(error)
  const session = await Session.open(shaky, clock, { ttlMs: 2000, onTrouble })
  const old = session.lease
  let replaced = 0
  session.onReplaced(() => replaced++)
  const wait = async (condition: () => boolean): Promise<void> => {
    const end = performance.now() + 8000
    while (!condition() && performance.now() < end) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    ok(condition())
  }
  await wait(() => troubles.length > 0)
  clock.nowMs += 10_000
  fails = false
  await wait(() => replaced === 1)
  ok(session.lease !== old)
  await session.close()
})

test.run()
