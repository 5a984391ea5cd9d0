import { deepStrictEqual, rejects, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { Controller } from '../../src/cluster/controller.ts'
import { Membership } from '../../src/cluster/membership.ts'
import { ClusterOperations } from '../../src/cluster/operations.ts'
import { Pools } from '../../src/cluster/pools.ts'
import { encodeRecord } from '../../src/cluster/records.ts'
import { Session } from '../../src/cluster/session.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'
import { delegateTo } from '../helpers/store-delegate.ts'

const test = suite('operations of a cluster')
const id = (name: string): string => name.repeat(32)
const BOOT = id('1')

/** Peers a, b and c, each on a host of its own, in two racks; the first is asked. */
async function site() {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const inner = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const ranges: string[] = []
  const store = delegateTo(inner, {
    range: (prefix, options) => {
      ranges.push(prefix)
      return inner.range(prefix, options)
    }
  })
  const start = async (name: string, rack: string) => {
    const self = {
      ...{ clusterId: id('c'), peerId: id(name), bootId: BOOT, bootCounter: 1 },
      ...{ capacityBytes: 1000, labels: { host: name, rack } }
    }
    const cluster = await Cluster.open(store, self, { clock, random, timers: clock })
    const session = await Session.open(store, clock, { timers: clock })
    const alive = { peerAddress: '127.0.0.1:1', adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
    const membership = await Membership.open(cluster, session, { alive })
    return { cluster, session, membership }
  }
  const peers = [await start('a', 'r1'), await start('b', 'r1'), await start('d', 'r2')]
  const { cluster, session, membership } = peers[0]!
  await until(() => membership.peers().length === 3, 'all are known')
  const pools = new Pools(cluster)
  const controller = new Controller({
    ...{ cluster, session, membership, timers: clock, downAfterMs: 1000, log: () => {} }
  })
  const operations = new ClusterOperations({ cluster, membership, controller, pools })
  /** One group of the pool, with these in sync. */
  const group = async (pool: number, number: number, ...names: string[]): Promise<void> => {
    const members = names.map(id)
    const inSync = members.map((peer) => ({ peer, boot: BOOT }))
    const value = encodeRecord('group', { v: 1, epoch: 1, members, inSync, syncing: [] })
    await store.transact({ success: [{ put: cluster.keys.group(pool, number), value }] })
  }
  const end = async (): Promise<void> => {
    for (const peer of peers) peer.membership.close()
    await store.close()
  }
  return { store, ranges, peers, membership, operations, group, end }
}

type Site = Awaited<ReturnType<typeof site>>

async function refuses(
  { store }: Site,
  work: () => Promise<unknown>,
  code: ErrorCode,
  text: RegExp
): Promise<void> {
  const { revision } = await store.range('')
  await rejects(
    work(),
    (error) => error instanceof StoreError && error.code === code && text.test(error.message)
  )
  strictEqual((await store.range('')).revision, revision, 'nothing was changed')
}

test('a pool that the peers cannot hold is refused, new or by a change', async () => {
  const here = await site()
  const { operations } = here
  const invalid = ErrorCode.InvalidArgument
  const four = { name: 'p', redundancy: 'replicated:4' }
  await refuses(here, () => operations.createPool(four), invalid, /4 members.*3 hosts.*1 missing/)
  const racks = { name: 'p', redundancy: 'replicated:3', failureDomain: 'rack' as const }
  await refuses(here, () => operations.createPool(racks), invalid, /2 racks.*\(r1, r2\), 1 missing/)
  const zones = { name: 'p', redundancy: 'replicated:2', failureDomain: 'zone' as const }
  await refuses(here, () => operations.createPool(zones), invalid, /no label zone on/)
  const named = { name: 'p', redundancy: 'replicated:2', peers: [id('a')] }
  await refuses(here, () => operations.createPool(named), invalid, /1 host/)
  const stranger = { name: 'p', redundancy: 'replicated:1', peers: [id('e')] }
  await refuses(here, () => operations.createPool(stranger), ErrorCode.NotFound, /no peer "e{32}"/)

  await operations.createPool({ name: 'p', redundancy: 'replicated:2', failureDomain: 'rack' })
  const change = (redundancy: string) => () => operations.changePool('p', { redundancy })
  await refuses(here, change('replicated:3'), invalid, /2 racks/)
  await refuses(here, change('replicated:0'), invalid, /replicated:0/)
  const minimum = () => operations.changePool('p', { writeMinimum: 3 })
  await refuses(here, minimum, invalid, /write minimum 3.*1 to 2/)
  await here.end()
})

test('what a status needs of the groups is read once', async () => {
  const { operations, group, ranges, end } = await site()
  for (let number = 0; number < 3; number++) await group(0, number, 'a', 'b')
  await operations.createPool({ name: 'p', redundancy: 'replicated:2' })
  await group(1, 0, 'a', 'd')
  ranges.length = 0
  const [peers, pools] = await Promise.all([
    operations.peers(),
    operations.poolSummaries(),
    operations.waitingGroups()
  ])
  deepStrictEqual(
    peers.map(({ inSync }) => inSync),
    [1, 0, 1]
  )
  deepStrictEqual(
    pools.map(({ groupsUsed }) => groupsUsed),
    [1]
  )
  strictEqual(ranges.filter((prefix) => prefix.endsWith('/groups/1/')).length, 1)
  await group(1, 1, 'b')
  deepStrictEqual(
    (await operations.peers()).map(({ inSync }) => inSync),
    [1, 1, 1],
    'who asks later gets what is there then'
  )
  await end()
})

test('a peer that has the last copy of something is removed only by force', async () => {
  const here = await site()
  const { operations, peers, group, membership } = here
  const { number } = await operations.createPool({ name: 'p', redundancy: 'replicated:2' })
  await group(number, 0, 'a', 'b')
  await group(number, 1, 'b', 'd')
  await group(number, 2, 'b')
  const remove = (force: boolean) => () => operations.removePeer(id('b'), force)
  await refuses(
    here,
    remove(false),
    ErrorCode.Busy,
    /1 groups \(p\/2…\).*would be lost; and it is up/
  )
  await group(number, 2, 'b', 'a')
  await refuses(here, remove(false), ErrorCode.Busy, /is up and has 3 groups.*drain it first/)
  await membership.change(id('b'), () => ({ state: 'drained' }))
  await until(() => membership.peer(id('b'))?.record.state === 'drained', 'it is drained')
  await refuses(here, remove(false), ErrorCode.Busy, /3 groups in sync: wait until they are/)
  await membership.change(id('b'), () => ({ state: 'active' }))
  await peers[1]!.session.close()
  await peers[2]!.session.close()
  await until(() => membership.peers().filter(({ alive }) => alive !== null).length === 1, 'gone')
  // Who else has it is down as well.
  await refuses(here, remove(false), ErrorCode.Busy, /1 groups \(p\/1…\)/)
  await remove(true)()
  await until(() => membership.peers().length === 2, 'it is removed')
  deepStrictEqual(
    (await operations.peers()).map(({ view }) => view.record.peerId),
    [id('a'), id('d')]
  )
  await here.end()
})

test('a peer without which copies would be missing for good is removed only by force', async () => {
  const here = await site()
  const { operations, peers, group, membership } = here
  const { number } = await operations.createPool({ name: 'p', redundancy: 'replicated:3' })
  await group(number, 0, 'a', 'b', 'd')
  await peers[2]!.session.close()
  await until(() => membership.peers().some(({ alive }) => alive === null), 'gone')
  const remove = (force: boolean) => () => operations.removePeer(id('d'), force)
  const reason = /1 groups of pool p would stay degraded, as replicated:3 .*2 hosts.*set p/
  await refuses(here, remove(false), ErrorCode.Busy, reason)
  await operations.changePool('p', { redundancy: 'replicated:2' })
  await remove(false)()
  await until(() => membership.peers().length === 2, 'it is removed')
  await here.end()
})

test('peers that are down count for new pools, or for more copies, only by force', async () => {
  const here = await site()
  const { operations, peers, membership } = here
  await operations.createPool({ name: 'p', redundancy: 'replicated:2' })
  await peers[2]!.session.close()
  await until(() => membership.peers().some(({ alive }) => alive === null), 'gone')
  const down = /that are up, replicated:3 needs 3 members.*2 hosts.*start dddddddd; with --force/
  const change = () => operations.changePool('p', { redundancy: 'replicated:3' })
  await refuses(here, change, ErrorCode.Busy, down)
  const q = { name: 'q', redundancy: 'replicated:3' }
  await refuses(here, () => operations.createPool(q), ErrorCode.Busy, down)
  strictEqual((await operations.createPool(q, true)).redundancy, 'replicated:3')
  await operations.changePool('q', { writeMinimum: 1 })
  strictEqual((await operations.changePool('q', { redundancy: 'replicated:2' })).writeMinimum, 1)
  await here.end()
})

test('no peer takes the copies of one beside which it has its own', async () => {
  const here = await site()
  const { operations, group } = here
  const { number } = await operations.createPool({ name: 'p', redundancy: 'replicated:3' })
  await group(number, 0, 'a', 'b', 'd')
  const replace = () => operations.replacePeer(id('d'), id('b'))
  const reason = /it is in 1 groups of pool p beside peer dddddddd, .*one copy fewer.*start a new/
  await refuses(here, replace, ErrorCode.InvalidArgument, reason)
  await operations.changePool('p', { redundancy: 'replicated:2' })
  strictEqual((await replace()).replacedBy, id('b'), 'the third has what neither may have twice')
  await here.end()
})

test.run()
