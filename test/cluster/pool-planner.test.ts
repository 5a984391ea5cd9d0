import { deepStrictEqual, notStrictEqual, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import type { PlannedPeer } from '../../src/cluster/controller-plan.ts'
import { FollowedGroups, PoolPlanner } from '../../src/cluster/pool-planner.ts'
import type { GroupRecord, PoolRecord } from '../../src/cluster/records.ts'

const test = suite('pool planner')
const id = (name: string): string => name.repeat(32)
const LIMITS = { syncsMax: 8, syncsPerPeerMax: 8, changesMax: 8 }
const POOL: PoolRecord = {
  ...{ v: 1, name: 'p', number: 1, redundancy: 'replicated:2', failureDomain: 'peer' },
  ...{ ring: 'ketama', groups: 8192, seed: 1, writeMinimum: null, peers: null },
  createdAt: '2026-01-01T00:00:00Z'
}
const labels = {}
const peer = (name: string): PlannedPeer => ({
  ...{ peerId: id(name), boot: id('1'), weight: 1, labels, isLost: false, replacedBy: null },
  ...{ isFull: false, isResting: false }
})

function wholeGroups(): FollowedGroups {
  const groups = new FollowedGroups()
  const inSync = ['a', 'b'].map((name) => ({ peer: id(name), boot: id('1') }))
  const members = inSync.map((entry) => entry.peer)
  for (let group = 0; group < POOL.groups; group++) {
    const record: GroupRecord = { v: 1, epoch: 1, members, inSync, syncing: [] }
    groups.set(group, { record, modRevision: 1 })
  }
  return groups
}

/** Counts pauses, and does something in the first. */
function pausing(inFirst: () => void = () => {}) {
  const state = { pauses: 0 }
  const start = (_: number, run: () => void): (() => void) => {
    if (state.pauses++ === 0) inFirst()
    setImmediate(run)
    return () => {}
  }
  return { state, timers: { start } }
}

test('a plan is made again only when something changed', async () => {
  const { state, timers } = pausing()
  const planner = new PoolPlanner(LIMITS, timers)
  const groups = wholeGroups()
  const peers = [peer('a'), peer('b')]
  const plan = await planner.plan(POOL, groups, peers, true)
  deepStrictEqual(plan.changes, [])
  const { pauses } = state
  strictEqual(await planner.plan(POOL, groups, [peer('a'), peer('b')], true), plan)
  strictEqual(state.pauses, pauses, 'nothing was computed')
  const after = await planner.plan(POOL, groups, [peer('a'), { ...peer('b'), isLost: true }], true)
  notStrictEqual(after.changes.length, 0)
  strictEqual((await planner.plan(POOL, groups, peers, true)).changes.length, 0)
  const { record } = groups.known.get(3)!
  groups.set(3, { record: { ...record, inSync: record.inSync.slice(1) }, modRevision: 2 })
  deepStrictEqual(
    (await planner.plan(POOL, groups, peers, true)).changes.map(({ group }) => group),
    [3]
  )
  const pool = { ...POOL, redundancy: 'replicated:1' }
  strictEqual((await planner.plan(pool, groups, peers, true)).changes.length, LIMITS.changesMax)
})

test('what changes while a plan is made is in the next one', async () => {
  const groups = wholeGroups()
  const { record } = groups.known.get(8000)!
  const { state, timers } = pausing(() => {
    groups.set(8000, { record: { ...record, inSync: record.inSync.slice(1) }, modRevision: 2 })
  })
  const planner = new PoolPlanner(LIMITS, timers)
  const peers = [peer('a'), peer('b')]
  deepStrictEqual((await planner.plan(POOL, groups, peers, true)).changes, [])
  strictEqual(state.pauses > 4, true, `${state.pauses} pauses`)
  const { changes } = await planner.plan(POOL, groups, peers, true)
  deepStrictEqual(
    changes.map(({ group }) => group),
    [8000]
  )
})

test.run()
