/**
 * Plans are carried out against the plainest cluster there is: members that are added sync at some
 * later time, peers fail and come back. What must hold, holds after every single move.
 */
import { deepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import fc from 'fast-check'
import { suite } from 'uvu'
import type { GroupMember, GroupState } from '../../src/placement/group-state.ts'
import { type Move, type MoveOptions, planMoves } from '../../src/placement/rebalance.ts'
import { membersOf, parseRedundancy, type Redundancy } from '../../src/placement/redundancy.ts'
import type { RingPeer } from '../../src/placement/ring-description.ts'
import { planTargets, type Targets } from '../../src/placement/targets.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { ringFor, somePeers, statesOf } from '../helpers/rings.ts'

const test = suite('rebalance')
const three = parseRedundancy('replicated:3')
const stripes = parseRedundancy('erasure:3+2')
const LIMITS = { syncsMax: 20, syncsPerPeerMax: 3, dropsMax: 50 }
const allUsable: MoveOptions = { ...LIMITS, isUsable: () => true }

const copiesOf = (state: GroupState, redundancy: Redundancy): number => {
  const slots = state.filter(({ inSync }) => inSync).map(({ slot }) => slot)
  return redundancy.kind === 'erasure' ? new Set(slots).size : slots.length
}

/** Groups on peers, where moves are carried out and checked one by one. */
class Cluster {
  readonly states: GroupState[]
  readonly redundancy: Redundancy
  readonly down = new Set<string>()
  moved = 0

  constructor(targets: Targets) {
    this.states = statesOf(targets)
    this.redundancy = targets.redundancy
  }

  get options(): MoveOptions {
    return { ...LIMITS, isUsable: (peer) => !this.down.has(peer) }
  }

  carryOut(move: Move): void {
    const before = this.states[move.group]!
    if (move.kind === 'add') {
      const { peer, slot, source } = move
      ok(!before.some((member) => member.peer === peer), 'nobody is added twice')
      ok(before.some((member) => member.peer === source && member.inSync))
      ok(!this.down.has(peer) && !this.down.has(source))
      this.states[move.group] = [...before, { peer, slot, inSync: false }]
      this.moved++
      return
    }
    const after = before.filter(({ peer, slot }) => peer !== move.peer || slot !== move.slot)
    strictEqual(after.length, before.length - 1)
    const full = membersOf(this.redundancy)
    const [had, has] = [copiesOf(before, this.redundancy), copiesOf(after, this.redundancy)]
    ok(has >= Math.min(had, full), `group ${move.group}: ${has} of ${had} in sync are left`)
    this.states[move.group] = after
  }

  /** Members for which `isDone` come in sync, if their peers are there. */
  sync(isDone: (member: GroupMember) => boolean): void {
    for (const [group, state] of this.states.entries()) {
      if (copiesOf(state, this.redundancy) === 0) continue
      this.states[group] = state.map((member) =>
        !member.inSync && !this.down.has(member.peer) && isDone(member)
          ? { ...member, inSync: true }
          : member
      )
    }
  }

  /** Whether every group can still be read without the peer. */
  canFail(peer: string): boolean {
    const { redundancy } = this
    const needed = redundancy.kind === 'erasure' ? redundancy.data : 1
    return this.states.every(
      (state) =>
        copiesOf(
          state.filter((member) => member.peer !== peer),
          redundancy
        ) >= needed
    )
  }

  fail(peer: string): void {
    this.down.add(peer)
    for (const [group, state] of this.states.entries()) {
      this.states[group] = state.map((each) =>
        each.peer === peer ? { ...each, inSync: false } : each
      )
    }
  }

  /** Until nothing is left to do. Returns the number of lists that it took. */
  settle(targets: Targets, isDone: (member: GroupMember) => boolean = () => true): number {
    for (let lists = 0; lists < 2000; lists++) {
      const { moves, addsLeft, dropsLeft } = planMoves(targets, this.states, this.options)
      isBounded(moves, this)
      for (const move of moves) this.carryOut(move)
      this.sync(isDone)
      if (addsLeft + dropsLeft === 0) return lists
    }
    throw new Error('it does not end')
  }
}

function isBounded(moves: readonly Move[], { states, down }: Cluster): void {
  const syncing = states.flat().filter(({ inSync, peer }) => !inSync && !down.has(peer))
  const adds = moves.filter((move) => move.kind === 'add')
  ok(adds.length === 0 || syncing.length + adds.length <= LIMITS.syncsMax)
  ok(moves.length - adds.length <= LIMITS.dropsMax)
  const counts = new Map<string, number>()
  for (const { peer, source } of adds) {
    for (const each of [peer, source]) counts.set(each, (counts.get(each) ?? 0) + 1)
  }
  for (const [peer, count] of counts) ok(count <= LIMITS.syncsPerPeerMax, peer)
}

const poolOf = (peers: RingPeer[], redundancy: Redundancy, states: GroupState[] | null) =>
  planTargets({ redundancy, ring: ringFor(peers, { groups: 64 }) }, states)

const setsOf = (states: readonly GroupState[]): string[] =>
  states.map((state) =>
    state
      .map(({ peer }) => peer)
      .sort()
      .join()
  )

test('any changes of any pool end at the targets, and no move makes a group less safe', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(three, stripes, parseRedundancy('replicated:1')),
      fc.array(
        fc.record({
          kind: fc.constantFrom('add', 'remove', 'drain', 'weigh', 'replace', 'fail', 'return'),
          which: fc.nat(100),
          lists: fc.nat(6)
        }),
        { minLength: 1, maxLength: 6 }
      ),
      fc.integer(),
      (redundancy, changes, seed) => {
        const random = new SeededRandom(seed >>> 0)
        const slowly = () => random.u32() % 3 === 0
        let next = 9
        let peers = somePeers(0, 8)
        const cluster = new Cluster(poolOf(peers, redundancy, null))
        for (const { kind, which, lists } of changes) {
          const at = which % peers.length
          const added = () => somePeers(next++, 1)[0]!
          if (kind === 'add') peers = [...peers, added()]
          if (kind === 'weigh') peers = peers.with(at, { ...peers[at]!, weight: 1 + (which % 5) })
          if (kind === 'drain' && peers.length > 7)
            peers = peers.with(at, { ...peers[at]!, weight: 0 })
          if (kind === 'replace') peers = peers.with(at, added())
          if (kind === 'remove' && peers.length > 7) peers = peers.toSpliced(at, 1)
          if (kind === 'fail' && cluster.canFail(peers[at]!.id)) cluster.fail(peers[at]!.id)
          if (kind === 'return') cluster.down.clear()
          if (peers.filter(({ weight }) => weight > 0).length < 6) peers = [...peers, added()]
          // Changes come while the one before is still carried out, each planned anew.
          for (let list = 0; list < lists; list++) {
            const targets = poolOf(peers, redundancy, cluster.states)
            const { moves } = planMoves(targets, cluster.states, cluster.options)
            isBounded(moves, cluster)
            for (const move of moves) cluster.carryOut(move)
            cluster.sync(slowly)
          }
        }
        // Those that were removed while they were away may stay away for ever.
        for (const { id } of peers) cluster.down.delete(id)
        const targets = poolOf(peers, redundancy, cluster.states)
        cluster.settle(targets, slowly)
        deepStrictEqual(setsOf(cluster.states), setsOf(statesOf(targets)))
      }
    ),
    { seed: 1, numRuns: 150, includeErrorInReport: true }
  )
})

test('a dead peer that was removed is replaced everywhere, the data moving once', () => {
  for (const redundancy of [three, stripes]) {
    const peers = somePeers(0, 8)
    const cluster = new Cluster(poolOf(peers, redundancy, null))
    const dead = peers[0]!.id
    const had = cluster.states.filter((state) => state.some(({ peer }) => peer === dead)).length
    cluster.fail(dead)
    const targets = poolOf(peers.slice(1), redundancy, cluster.states)
    cluster.settle(targets)
    // Another one may have to move for evenness.
    ok(cluster.moved >= had && cluster.moved <= had + 2)
    ok(cluster.states.every((state) => state.every(({ peer, inSync }) => inSync && peer !== dead)))
  }
})

test('groups with the fewest in sync come first', () => {
  const peers = somePeers(0, 8)
  const cluster = new Cluster(poolOf(peers, three, null))
  cluster.fail(peers[0]!.id)
  cluster.fail(peers[1]!.id)
  const targets = poolOf([...peers.slice(2), ...somePeers(8, 1)], three, cluster.states)
  const { moves } = planMoves(targets, cluster.states, cluster.options)
  const adds = moves.filter((move) => move.kind === 'add')
  ok(adds.length > 5)
  const counts = adds.map(({ group }) => copiesOf(cluster.states[group]!, three))
  deepStrictEqual(counts, [...counts].sort())
  strictEqual(counts[0], 1)
  ok(adds.slice(0, 3).every(({ reason }) => reason === 'repair'))
})

test('one that goes is kept while another member is away', () => {
  const [a, b, c, d, e] = somePeers(0, 5)
  const pool = poolOf([a!, b!, c!], three, null)
  const state: GroupState[] = statesOf(pool)
  // c is drained to d, and d has all already; meanwhile b is away.
  const slotOf = (peer: RingPeer) => state[0]!.find((member) => member.peer === peer.id)!.slot
  state[0] = [
    { peer: a!.id, slot: slotOf(a!), inSync: true },
    { peer: b!.id, slot: slotOf(b!), inSync: false },
    { peer: c!.id, slot: slotOf(c!), inSync: true },
    { peer: d!.id, slot: slotOf(c!), inSync: true }
  ]
  const targets = poolOf([a!, b!, d!], three, state)
  const dropsOf = (states: GroupState[]) =>
    planMoves(targets, states, allUsable).moves.filter(
      ({ kind, group }) => kind === 'drop' && group === 0
    )
  deepStrictEqual(dropsOf(state), [])
  const back = state.with(
    0,
    state[0].map((member) => ({ ...member, inSync: true }))
  )
  deepStrictEqual(dropsOf(back), [{ kind: 'drop', group: 0, slot: slotOf(c!), peer: c!.id }])
  // One that never came in sync and is no target any more goes when all others have all.
  const begun = back.with(0, [
    ...back[0]!.filter(({ peer }) => peer !== c!.id),
    { peer: e!.id, slot: 0, inSync: false }
  ])
  deepStrictEqual(dropsOf(begun), [{ kind: 'drop', group: 0, slot: 0, peer: e!.id }])
})

test('a drain that would leave too few copies waits', () => {
  const peers = somePeers(0, 3)
  const cluster = new Cluster(poolOf(peers, three, null))
  const drained = peers.with(0, { ...peers[0]!, weight: 0 })
  const targets = poolOf(drained, three, cluster.states)
  ok(targets.shortage !== null)
  const { moves, dropsLeft } = planMoves(targets, cluster.states, cluster.options)
  deepStrictEqual(moves, [])
  strictEqual(dropsLeft, 64)
})

test('without a source nothing is planned: too few fragments, or nobody that answers', () => {
  const peers = somePeers(0, 8)
  const cluster = new Cluster(poolOf(peers, stripes, null))
  for (const { id } of peers.slice(0, 5)) cluster.fail(id)
  const targets = poolOf(peers.slice(5).concat(somePeers(8, 5)), stripes, cluster.states)
  const { moves } = planMoves(targets, cluster.states, cluster.options)
  for (const move of moves) {
    strictEqual(move.kind, 'add')
    ok(copiesOf(cluster.states[move.group]!, stripes) >= 3)
  }
  const nobody = { ...allUsable, isUsable: () => false }
  deepStrictEqual(planMoves(targets, cluster.states, nobody).moves, [])
})

test('the source of a fragment that moves is the one that holds it', () => {
  const peers = somePeers(0, 8)
  const cluster = new Cluster(poolOf(peers, stripes, null))
  const targets = poolOf([...peers, ...somePeers(8, 1)], stripes, cluster.states)
  const { moves } = planMoves(targets, cluster.states, { ...allUsable, syncsPerPeerMax: 1 })
  for (const move of moves) {
    if (move.kind !== 'add') continue
    const source = cluster.states[move.group]!.find(({ peer }) => peer === move.source)
    strictEqual(source!.slot, move.slot)
  }
})

test('what is settled has no moves', () => {
  const targets = poolOf(somePeers(0, 8), three, null)
  const plan = planMoves(targets, statesOf(targets), allUsable)
  deepStrictEqual(plan, { moves: [], addsLeft: 0, dropsLeft: 0, addsTo: new Map() })
})

test.run()
