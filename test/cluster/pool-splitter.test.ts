/** Groups of a pool are doubled: what is refused, and who goes on with it. */
import { deepStrictEqual, rejects, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { GroupTable, type PoolView } from '../../src/cluster/group-table.ts'
import { firstGroups, groupsUnder, leastGroups } from '../../src/cluster/group-shape.ts'
import { GroupRecords } from '../../src/cluster/groups.ts'
import { PoolSplitter, splittingOf } from '../../src/cluster/pool-splitter.ts'
import { Pools } from '../../src/cluster/pools.ts'
import { encodeRecord, type PoolRecord } from '../../src/cluster/records.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'

const test = suite('splits of pools')
const id = (name: string): string => name.repeat(32)

async function site(used: readonly number[] = [0, 1, 2, 3]) {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const self = {
    ...{ clusterId: id('c'), peerId: id('a'), bootId: id('1'), bootCounter: 1 },
    ...{ capacityBytes: 1000, labels: {} }
  }
  const cluster = await Cluster.open(store, self, { clock, random, timers: clock })
  const pools = new Pools(cluster)
  const records = new GroupRecords(cluster)
  const pool = await pools.create({ name: 'p', redundancy: 'replicated:1', groups: 4 })
  const inSync = [{ peer: id('a'), boot: id('1') }]
  for (const group of used) {
    await records.change(pool.number, group, null, { members: [id('a')], inSync, syncing: [] })
  }
  const key = cluster.keys.controller
  await store.transact({ success: [{ put: key, value: Buffer.from('{}') }] })
  const guard = { key, modRevision: (await store.get(key))!.modRevision }
  /** One look of the controller. */
  const step = async (by = guard): Promise<boolean> => {
    const known = await records.readAll(pool.number)
    return new PoolSplitter(cluster, records).step(await pools.get('p'), known, by)
  }
  const counts = async (): Promise<number[]> =>
    [...(await records.readAll(pool.number)).values()].map(({ record }) => groupsUnder(record, 4))
  return { cluster, store, pools, records, number: pool.number, step, guard, counts }
}

const fails = (work: Promise<unknown>, code: ErrorCode, text: RegExp): Promise<void> =>
  rejects(work, (error) => {
    return error instanceof StoreError && error.code === code && text.test(error.message)
  })

test('numbers that cannot be are refused, and nothing is changed', async () => {
  const { pools, store } = await site()
  const { revision } = await store.range('')
  const invalid = ErrorCode.InvalidArgument
  const to = (groups: number): Promise<unknown> => pools.set('p', { groups })
  await fails(to(6), invalid, /6 groups: a pool has a power of two of them, up to 65536/)
  await fails(to(131_072), invalid, /up to 65536/)
  await fails(to(2), invalid, /pool p has 4 groups: they can be split, not joined to 2/)
  await fails(pools.set('q', { groups: 8 }), ErrorCode.NotFound, /no pool "q"/)
  await to(4)
  const record = await pools.get('p')
  strictEqual(record.splitting, undefined)
  strictEqual((await store.range('')).revision, revision + 1, 'the same number is no split')
})

test('an older version would misunderstand: the level of the cluster comes first', async () => {
  const { cluster, pools } = await site()
  Object.defineProperty(cluster.features, 'level', { value: 3 })
  cluster.features.has = () => false
  await fails(
    pools.set('p', { groups: 8 }),
    ErrorCode.Busy,
    /needs feature level 4 \(split-groups\)/
  )
})

test('one doubling ends before the next, whoever is the controller', async () => {
  const { pools, records, number, step, counts, guard } = await site([0, 2])
  await pools.set('p', { groups: 16 })
  const begun = await pools.get('p')
  deepStrictEqual([begun.groups, begun.firstGroups, begun.splitting], [8, 4, { from: 4, to: 16 }])
  deepStrictEqual(splittingOf(begun, await records.readAll(number)), { to: 16, left: 2 })
  strictEqual(await step({ ...guard, modRevision: 1 }), false, 'another one was elected')
  deepStrictEqual(await counts(), [4, 4])
  strictEqual(await step(), true)
  deepStrictEqual(await counts(), [8, 8, 8, 8])
  strictEqual(await step(), true)
  deepStrictEqual((await pools.get('p')).splitting, { from: 8, to: 16 })
  for (let i = 0; i < 2; i++) strictEqual(await step(), true)
  const { groups, splitting } = await pools.get('p')
  deepStrictEqual([groups, splitting], [16, undefined])
  const found = await records.readAll(number)
  deepStrictEqual(
    [...found.keys()].sort((a, b) => a - b),
    [0, 2, 4, 6, 8, 10, 12, 14]
  )
  deepStrictEqual(found.get(14)!.record.split, { groups: 16, epochs: [2, 3] })
  strictEqual(await step(), false)
  await pools.set('p', { groups: 32 })
  strictEqual((await pools.get('p')).firstGroups, 4)
})

test('more can be asked for while it goes on, less cannot', async () => {
  const { pools } = await site()
  await pools.set('p', { groups: 8 })
  await pools.set('p', { groups: 32 })
  deepStrictEqual((await pools.get('p')).splitting, { from: 4, to: 32 })
  const less = pools.set('p', { groups: 16 })
  await fails(less, ErrorCode.InvalidArgument, /is being split into 32 groups/)
})

test('a group whose copy an operator has to choose waits, and the end with it', async () => {
  const { pools, records, number, step, counts } = await site([0, 1])
  const known = (await records.read(number, 1))!
  const restored = { epoch: 1, unproven: [], proven: [], behind: [] }
  const open = (await records.change(number, 1, known, { ...known.record, restored }))!
  await pools.set('p', { groups: 8 })
  for (let i = 0; i < 3; i++) await step()
  deepStrictEqual(await counts(), [8, 4, 8])
  deepStrictEqual((await pools.get('p')).splitting, { from: 4, to: 8 })
  await records.change(number, 1, open, { ...known.record, restored: null })
  for (let i = 0; i < 2; i++) await step()
  deepStrictEqual(await counts(), [8, 8, 8, 8])
  strictEqual((await pools.get('p')).splitting, undefined)
})

test('R46: none begins or ends while peers may come that remember groups of fewer', async () => {
  const { cluster, store, pools, step } = await site([0])
  await pools.set('p', { groups: 8 })
  await step()
  const pendingPeers = [id('b')]
  const at = '2026-01-31T12:00:00.000Z'
  const say = (peers: string[]) => {
    const record = { v: 1, restoredAt: at, epochFloor: 9, pendingPeers: peers } as const
    const put = { put: cluster.keys.restore, value: encodeRecord('restore', record) }
    return store.transact({ success: [put] })
  }
  await say(pendingPeers)
  strictEqual(await step(), false)
  await fails(pools.set('p', { groups: 16 }), ErrorCode.Busy, /have not said yet/)
  await say([])
  strictEqual(await step(), true)
})

const viewOf = (record: PoolRecord): PoolView => ({
  number: record.number,
  name: record.name,
  groups: record.groups,
  leastGroups: leastGroups(record),
  firstGroups: firstGroups(record),
  writeMinimum: 1,
  place: () => Promise.resolve([id('a')])
})

test('R44: a gateway that has not heard of a split makes no group of before it', async () => {
  const { cluster, store, pools, number, step } = await site([0])
  const { keys } = cluster
  const value = encodeRecord('alive', {
    ...{ v: 1 as const, bootId: id('1'), startedAt: '2026-01-31T12:00:00.000Z' },
    ...{ peerAddress: null, adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
  })
  await store.transact({ success: [{ put: keys.alive(id('a')), value }] })
  const table = new GroupTable(cluster)
  const claim = {
    key: keys.alive(id('a')),
    modRevision: (await store.get(keys.alive(id('a'))))!.modRevision
  }
  const before = viewOf(await pools.get('p'))
  await pools.set('p', { groups: 8 })
  const conflict = ErrorCode.Conflict
  await fails(table.ensure(before, { group: 1, groups: 4 }, claim), conflict, /another number/)
  const now = viewOf(await pools.get('p'))
  await fails(table.ensure(now, { group: 4, groups: 8 }, claim), conflict, /not split yet/)
  const made = await table.ensure(now, { group: 5, groups: 8 }, claim)
  deepStrictEqual(made.record.split, { groups: 8, epochs: [0] })
  await step()
  strictEqual((await table.ensure(now, { group: 4, groups: 8 }, claim)).record.epoch, 2)
  strictEqual(await table.refresh(number, 1), null)
})

test.run()
