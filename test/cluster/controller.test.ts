import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { Controller } from '../../src/cluster/controller.ts'
import { type PlannedPeer, planPool, type PoolPlan } from '../../src/cluster/controller-plan.ts'
import { GroupRecords, isFresh, type KnownGroup } from '../../src/cluster/groups.ts'
import { Membership } from '../../src/cluster/membership.ts'
import { Pools } from '../../src/cluster/pools.ts'
import type { PoolRecord } from '../../src/cluster/records.ts'
import { Session } from '../../src/cluster/session.ts'
import { systemTimers } from '../../src/core/clock.ts'
import { allSteps } from '../../src/core/steps.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'

const id = (name: string): string => name.repeat(32)
const LIMITS = { syncsMax: 64, syncsPerPeerMax: 64, changesMax: 1000, isStaged: false }

const plan = (
  pool: PoolRecord,
  groups: ReadonlyMap<number, KnownGroup>,
  peers: readonly PlannedPeer[],
  limits = LIMITS
): PoolPlan => allSteps(planPool(pool, groups, peers, limits))

const POOL: PoolRecord = {
  v: 1,
  name: 'p',
  number: 1,
  redundancy: 'replicated:2',
  failureDomain: 'peer',
  ring: 'ketama',
  groups: 8,
  seed: 1,
  writeMinimum: null,
  peers: null,
  createdAt: '2026-01-01T00:00:00Z'
}

const peer = (name: string, more: Partial<PlannedPeer> = {}): PlannedPeer => ({
  peerId: id(name),
  boot: id('1'),
  weight: 1,
  labels: {},
  isLost: false,
  replacedBy: null,
  isFull: false,
  isResting: false,
  ...more
})

/** Groups whose members are all in sync. */
function groupsOf(members: readonly string[], count = POOL.groups): Map<number, KnownGroup> {
  const inSync = members.map((name) => ({ peer: id(name), boot: id('1') }))
  const record = { v: 1, epoch: 1, members: members.map(id), inSync, syncing: [] } as const
  const known = { record: structuredClone(record), modRevision: 1 } as unknown as KnownGroup
  return new Map(Array.from({ length: count }, (_, group) => [group, known]))
}

/** Carries changes out, and lets whatever syncs be in sync. */
function settle(
  pool: PoolRecord,
  groups: Map<number, KnownGroup>,
  peers: readonly PlannedPeer[]
): number {
  for (let round = 0; round < 100; round++) {
    const { changes, addsLeft, dropsLeft } = plan(pool, groups, peers)
    if (changes.length === 0) {
      deepStrictEqual([addsLeft, dropsLeft], [0, 0])
      return round
    }
    for (const { group, from, record } of changes) {
      strictEqual(groups.get(group), from)
      const inSync = [...record.inSync, ...record.syncing]
      const next = { ...from.record, ...record, inSync, syncing: [], epoch: from.record.epoch + 1 }
      groups.set(group, { record: next, modRevision: from.modRevision + 1 })
    }
  }
  throw new Error('the plan does not come to an end')
}

const holdersOf = (groups: Map<number, KnownGroup>): string[][] =>
  [...groups.values()].map(({ record }) => record.inSync.map((member) => member.peer[0]!).sort())

test('a move that was begun is finished although groups without data are planned anew', () => {
  const [a, b, c, drained] = [
    '2b93283fc2285be0910495ff7fc1ccae',
    '50ba7b994fe5ea2d6abe6185531c6c90',
    'cc5e5cacfb62efa09d6f9ed9c0577938',
    'b55eca3bacc122fa32d0e9ae7f1c5f7e'
  ]
  const pool: PoolRecord = { ...POOL, groups: 256, seed: 3898386418 }
  const peers = [a!, b!, drained!, c!].map((peerId) =>
    peer('p', { peerId, weight: peerId === drained ? 0 : 2 ** 30 })
  )
  const groups = new Map<number, KnownGroup>()
  for (const [group, members] of [
    ...[12, 171, 238, 245, 96].map((group) => [group, [a!, c!]] as const),
    [32, [a!, b!]] as const,
    [27, [c!, drained!]] as const
  ]) {
    const inSync = members.map((each) => ({ peer: each, boot: id('1') }))
    const record = { v: 1, epoch: 1, members: [...members], inSync, syncing: [] } as const
    groups.set(group, { record: structuredClone(record), modRevision: 1 } as unknown as KnownGroup)
  }
  const targetOf = (): string[] => {
    const { changes } = plan(pool, groups, peers)
    strictEqual(changes.length, 1)
    strictEqual(changes[0]!.group, 27)
    const { from, record } = changes[0]!
    const next = { ...from.record, ...record, epoch: from.record.epoch + 1 }
    groups.set(27, { record: next, modRevision: from.modRevision + 1 })
    return next.syncing.map((member) => member.peer)
  }
  const [joining] = targetOf()
  ok(joining === a || joining === b)
  deepStrictEqual(plan(pool, groups, peers).changes, [], 'it is waited for')
  const known = groups.get(27)!
  const inSync = [...known.record.inSync, ...known.record.syncing]
  groups.set(27, { ...known, record: { ...known.record, inSync, syncing: [] } })
  deepStrictEqual(targetOf(), [])
  deepStrictEqual(
    groups
      .get(27)!
      .record.inSync.map((each) => each.peer)
      .sort(),
    [joining, c].sort()
  )
})

test('a lost member is removed where another has the data, and replaced', () => {
  const groups = groupsOf(['a', 'b'])
  const peers = [peer('a'), peer('b', { boot: null, isLost: true }), peer('c')]
  settle(POOL, groups, peers)
  for (const holders of holdersOf(groups)) deepStrictEqual(holders, ['a', 'c'])
})

test('a group that has whom it should have wants nobody else', () => {
  const groups = groupsOf(['a', 'b'])
  for (const [group, { record, modRevision }] of groups) {
    // A move from b to c was begun, and b is wanted again.
    const members = [id('a'), id('c')]
    groups.set(group, { record: { ...record, members }, modRevision })
  }
  const peers = [peer('a'), peer('b'), peer('c', { weight: 0 })]
  settle(POOL, groups, peers)
  for (const { record } of groups.values()) {
    deepStrictEqual(record.members.toSorted(), [id('a'), id('b')])
    deepStrictEqual(record.inSync.map((each) => each.peer).sort(), [id('a'), id('b')])
  }
})

test('a peer that is only down stays a member, and nothing is copied', () => {
  const groups = groupsOf(['a', 'b'])
  const peers = [peer('a'), peer('b', { boot: null }), peer('c', { weight: 0 })]
  deepStrictEqual(plan(POOL, groups, peers).changes, [])
})

test('the last member in sync is never removed, lost or not', () => {
  const groups = groupsOf(['a'])
  const peers = [peer('a', { boot: null, isLost: true }), peer('b')]
  const { changes } = plan(POOL, groups, peers)
  deepStrictEqual(changes, [])
})

test('the write minimum keeps lost members until others took their place', () => {
  const pool: PoolRecord = { ...POOL, redundancy: 'replicated:3' }
  const groups = groupsOf(['a', 'b', 'c'])
  const lost = { boot: null, isLost: true }
  const peers = [peer('a'), peer('b', lost), peer('c', lost), peer('d'), peer('e')]
  settle(pool, groups, peers)
  for (const holders of holdersOf(groups)) deepStrictEqual(holders, ['a', 'd', 'e'])
})

test('more copies, fewer copies, and a drained peer', () => {
  const groups = groupsOf(['a'])
  const peers = [peer('a'), peer('b'), peer('c')]
  settle(POOL, groups, peers)
  ok(holdersOf(groups).every((holders) => holders.length === 2))
  settle({ ...POOL, redundancy: 'replicated:3' }, groups, peers)
  for (const holders of holdersOf(groups)) deepStrictEqual(holders, ['a', 'b', 'c'])
  settle({ ...POOL, redundancy: 'replicated:1' }, groups, peers)
  ok(holdersOf(groups).every((holders) => holders.length === 1))
  settle({ ...POOL, redundancy: 'replicated:1' }, groups, [
    peer('a', { weight: 0 }),
    peer('b'),
    peer('c')
  ])
  ok(holdersOf(groups).every(([holder]) => holder !== 'a'))
})

test('a peer that is full gets nothing new, and gives what it has when it is drained', () => {
  const groups = groupsOf(['a'])
  const peers = [peer('a'), peer('b', { isFull: true })]
  deepStrictEqual(plan(POOL, groups, peers).changes, [])
  const single: PoolRecord = { ...POOL, redundancy: 'replicated:1' }
  settle(single, groups, [peer('a', { isFull: true, weight: 0 }), peer('c')])
  for (const holders of holdersOf(groups)) deepStrictEqual(holders, ['c'])
})

test('who replaces another gets its place in every group, up or down', () => {
  const pairs = ['ab', 'bc', 'ac', 'cd', 'ad', 'bd', 'ab', 'cd']
  const away = { boot: null, isLost: true }
  for (const old of [{}, away]) {
    const groups = new Map(
      pairs.map((pair, group) => [group, groupsOf([...pair], 1).get(0)!] as const)
    )
    const replaced = peer('a', { ...old, weight: 0, replacedBy: id('e') })
    settle(POOL, groups, [replaced, ...['b', 'c', 'd', 'e'].map((name) => peer(name))])
    deepStrictEqual(
      holdersOf(groups).map((holders) => holders.join('')),
      ['be', 'bc', 'ce', 'cd', 'de', 'bd', 'be', 'cd']
    )
  }
})

test('R34: who comes anew is named, and listed once it has nothing from before', () => {
  const peers = ['a', 'b', 'c'].map((name) => peer(name))
  const limits = { ...LIMITS, isStaged: true }
  const [group, from] = [0, groupsOf(['a'], 1).get(0)!]
  const next = (known: KnownGroup) => {
    const { changes } = plan({ ...POOL, groups: 1 }, new Map([[group, known]]), peers, limits)
    return changes.map(({ record }) => record)
  }
  const [named] = next(from)
  strictEqual(named!.members.length, 2)
  deepStrictEqual(named!.syncing, [])
  const fresh = named!.members.filter((each) => each !== id('a'))
  const record = { ...from.record, ...named!, fresh }
  deepStrictEqual(next({ ...from, record }), [], 'it waits')
  const [listed] = next({ ...from, record: { ...record, fresh: [] } })
  deepStrictEqual(listed!.syncing, [{ peer: fresh[0], boot: id('1') }])
})

test('R34: a record keeps in mind whom it took in anew, until it says it has nothing', async () => {
  const { start, store } = await site()
  const { records, pools, end } = await start('a')
  await pools.ensureDefault(1)
  let known = (await records.read(0, 0))!
  const change = async (more: object): Promise<string[] | undefined> => {
    known = (await records.change(0, 0, known, { ...known.record, ...more }))!
    return known.record.fresh
  }
  const [a, b] = [id('a'), id('b')]
  const boot = id('1')
  deepStrictEqual(await change({ members: [a, b] }), [b])
  deepStrictEqual(await change({}), [b], 'others change it')
  deepStrictEqual(await change({ emptied: b }), undefined)
  deepStrictEqual(await change({ syncing: [{ peer: b, boot }] }), undefined)
  deepStrictEqual(await change({ syncing: [] }), undefined, 'it is only away')
  deepStrictEqual(await change({ members: [a] }), undefined)
  deepStrictEqual(await change({ members: [a, b] }), [b], 'it was out')
  // What an older program does.
  deepStrictEqual(await change({ syncing: [{ peer: b, boot }] }), undefined)
  await end()
  await store.close()
})

interface Life {
  readonly session: Session
  readonly membership: Membership
  readonly controller: Controller
  readonly pools: Pools
  readonly records: GroupRecords
  end(): Promise<void>
}

async function site() {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const start = async (name: string): Promise<Life> => {
    const self = {
      clusterId: id('c'),
      peerId: id(name),
      bootId: id('1'),
      bootCounter: 1,
      capacityBytes: 1000
    }
    const cluster = await Cluster.open(store, self, { clock, random })
    const session = await Session.open(store, clock)
    const alive = { peerAddress: '127.0.0.1:1', adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
    const membership = await Membership.open(cluster, session, { alive })
    const pools = new Pools(cluster)
    const timers = {
      start: (_: number, run: () => void) => systemTimers.start(5, run)
    }
    const downAfterMs = 60_000
    const log = (): void => {}
    const parts = { cluster, session, membership, pools, timers, downAfterMs, log }
    const controller = new Controller(parts)
    const records = new GroupRecords(cluster)
    // It has nothing that it could give up.
    const joining = records.follow(0, {
      onGroup: (group, known) => {
        const change = { ...known.record, emptied: self.peerId }
        if (isFresh(known.record, self.peerId)) void records.change(0, group, known, change)
      },
      onTrouble: (error) => {
        throw error
      }
    })
    const end = async (): Promise<void> => {
      joining.stop()
      await controller.close()
      membership.close()
      await session.close()
    }
    return { session, membership, controller, pools, records, end }
  }
  return { clock, store, start }
}

test('one peer is elected; when it ends another is, and goes on', async () => {
  const { start, store } = await site()
  const first = await start('a')
  const pool = await first.pools.ensureDefault(16)
  strictEqual((await first.pools.ensureDefault(16)).createdAt, pool.createdAt)
  strictEqual((await first.records.readAll(0)).size, 16)
  first.controller.start()
  await until(() => first.controller.elected === id('a'), 'the first to be elected')
  const second = await start('b')
  second.controller.start()
  await until(() => second.controller.elected === id('a'), 'the second to follow')
  await first.pools.set('default', { redundancy: 'replicated:2', failureDomain: 'peer' })
  const syncing = async (): Promise<number> => {
    const groups = [...(await first.records.readAll(0)).values()]
    return groups.filter(({ record }) => record.syncing[0]?.peer === id('b')).length
  }
  await until(async () => (await syncing()) >= 4, 'groups to get a second member')
  await first.end()
  await until(() => second.controller.elected === id('b'), 'the second to be elected')
  await second.end()
  await store.close()
})

test('a peer counts as lost only after it was seen to be away for long enough', async () => {
  const { start, store, clock } = await site()
  const first = await start('a')
  const second = await start('b')
  await first.pools.ensureDefault(4)
  await first.pools.set('default', { redundancy: 'replicated:2', failureDomain: 'peer' })
  first.controller.start()
  const memberCount = async (state: 'inSync' | 'syncing'): Promise<number> => {
    const groups = [...(await first.records.readAll(0)).values()]
    return groups.reduce((sum, { record }) => sum + record[state].length, 0)
  }
  await until(async () => (await memberCount('syncing')) === 4, 'groups to get a second member')
  await second.end()
  await until(() => first.membership.addressOf(id('b')) === null, 'the second to be gone')
  for (let round = 0; round < 5; round++) {
    clock.nowMs += 5000
    await first.session.renew()
  }
  strictEqual(await memberCount('syncing'), 4)
  for (let round = 0; round < 10; round++) {
    clock.nowMs += 5000
    await first.session.renew()
  }
  await until(async () => (await memberCount('syncing')) === 0, 'the lost member to be removed')
  strictEqual(await memberCount('inSync'), 4)
  await first.end()
  await store.close()
})

test.run()
