import { deepStrictEqual, ok, strictEqual, throws } from 'node:assert/strict'
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { suite } from 'uvu'
import type { Steps } from '../../src/core/steps.ts'
import { splitGroups } from '../../src/placement/groups.ts'
import { parseRedundancy } from '../../src/placement/redundancy.ts'
import type { LeafRing } from '../../src/placement/ring-description.ts'
import {
  assertPlaceable,
  planningTargets,
  planTargets,
  type Targets
} from '../../src/placement/targets.ts'
import {
  anyPeers,
  isApart,
  isEven,
  newMembers,
  ringFor,
  somePeers,
  statesOf
} from '../helpers/rings.ts'

const test = suite('targets')
const three = parseRedundancy('replicated:3')
const stripes = parseRedundancy('erasure:4+2')
const place = (ring: LeafRing, redundancy = three) => planTargets({ redundancy, ring }, null)
const hashOf = (members: Int32Array): string =>
  createHash('sha256').update(members.join()).digest('hex').slice(0, 16)

// A pool's first placement follows from these.
test('placements of fresh pools are what they always were', () => {
  const peers = somePeers(0, 30, { weights: [1, 2, 0.5] })
  const found = ['ketama', 'rendezvous', 'mod'].flatMap((kind) =>
    (['peer', 'rack'] as const).map((failureDomain) =>
      hashOf(place(ringFor(peers, { kind, failureDomain })).members)
    )
  )
  deepStrictEqual(found, [
    'a7453ffd5f5b0903',
    'e510ac511bdb5327',
    '4aced32c0d7b6e5a',
    '95027eca5e392aed',
    '9b7794e9b8384f67',
    '88ccf89c4866d578'
  ])
})

test('any peers: apart, even, and the same in any order of the description', () => {
  fc.assert(
    fc.property(
      anyPeers({ min: 0, max: 40 }),
      fc.constantFrom('ketama', 'rendezvous'),
      fc.constantFrom('peer' as const, 'rack' as const),
      fc.constantFrom('replicated:1', 'replicated:2', 'replicated:3', 'erasure:4+2'),
      fc.constantFrom(1, 16, 256, 1024),
      (peers, kind, failureDomain, redundancy, groups) => {
        const ring = ringFor(peers, { kind, failureDomain, groups })
        const targets = place(ring, parseRedundancy(redundancy))
        isApart(targets)
        isEven(targets)
        const again = place({ ...ring, peers: [...peers].reverse() }, parseRedundancy(redundancy))
        deepStrictEqual(again.members, targets.members)
      }
    ),
    { seed: 1, numRuns: 300 }
  )
})

test('any change of peers: apart, even, and nothing moves when nothing changes', () => {
  fc.assert(
    fc.property(
      anyPeers({ min: 0, max: 40 }),
      anyPeers({ min: 0, max: 40 }),
      fc.constantFrom('peer' as const, 'rack' as const),
      fc.constantFrom('replicated:2', 'replicated:3', 'erasure:3+2'),
      fc.constantFrom(16, 256),
      (before, after, failureDomain, redundancy, groups) => {
        const pool = { redundancy: parseRedundancy(redundancy), groups }
        const old = place(ringFor(before, { failureDomain, groups }), pool.redundancy)
        const ring = ringFor(after, { failureDomain, groups })
        const targets = planTargets({ redundancy: pool.redundancy, ring }, statesOf(old))
        isApart(targets)
        isEven(targets)
        const again = planTargets({ redundancy: pool.redundancy, ring }, statesOf(targets))
        deepStrictEqual(again.members, targets.members)
      }
    ),
    { seed: 1, numRuns: 300 }
  )
})

test('a peer that joins takes its share, and nothing moves between the others', () => {
  for (const count of [4, 9, 30, 99]) {
    for (const redundancy of [three, stripes]) {
      if (count < 6 && redundancy === stripes) continue
      const before = place(ringFor(somePeers(0, count), { groups: 1024 }), redundancy)
      const ring = ringFor(somePeers(0, count + 1), { groups: 1024 })
      const after = planTargets({ redundancy, ring }, statesOf(before))
      const added = somePeers(count, 1)[0]!.id
      const moved = newMembers(before, after)
      deepStrictEqual(
        moved.filter((peer) => peer !== added),
        []
      )
      const share = after.members.length / (count + 1)
      ok(moved.length <= Math.ceil(share) && moved.length >= share * 0.97 - 1)
    }
  }
})

test('a peer that leaves gives what it had to the others, and nothing else moves', () => {
  for (const count of [5, 10, 30, 100]) {
    for (const how of ['removed', 'drained']) {
      const peers = somePeers(0, count)
      const before = place(ringFor(peers, { groups: 1024 }))
      const rest =
        how === 'removed'
          ? peers.slice(1)
          : peers.map((peer, at) => (at === 0 ? { ...peer, weight: 0 } : peer))
      const ring = ringFor(rest, { groups: 1024 })
      const after = planTargets({ redundancy: three, ring }, statesOf(before))
      isEven(after)
      const had = before.loads[before.ring.peers.findIndex(({ id }) => id === peers[0]!.id)]!
      strictEqual(newMembers(before, after).length, had, `${how} of ${count}`)
    }
  }
})

test('a peer replaced by another of its weight gives all to it, if the others are even', () => {
  const before = place(ringFor(somePeers(0, 10), { groups: 1024 }))
  const ring = ringFor(somePeers(1, 10), { groups: 1024 })
  const after = planTargets({ redundancy: three, ring }, statesOf(before))
  const moved = newMembers(before, after)
  const added = somePeers(10, 1)[0]!.id
  ok(moved.filter((peer) => peer === added).length > 0.97 * moved.length)
  ok(moved.length <= 1.03 * (3072 / 10))
})

test('a small change of a weight moves nothing, a large one what it must', () => {
  const peers = somePeers(0, 10)
  const before = place(ringFor(peers, { groups: 1024 }))
  const weigh = (weight: number) => {
    const ring = ringFor([{ ...peers[0]!, weight }, ...peers.slice(1)], { groups: 1024 })
    const after = planTargets({ redundancy: three, ring }, statesOf(before))
    isEven(after)
    return newMembers(before, after).length
  }
  strictEqual(weigh(1.01), 0)
  // From 1/10 to 2/11 of all.
  const least = 3072 * (2 / 11 - 1 / 10)
  ok(weigh(2) <= least + 1 && weigh(2) >= least * 0.95)
})

test('members stay in their slots, which are fragments', () => {
  const before = place(ringFor(somePeers(0, 12), { groups: 512 }), stripes)
  const ring = ringFor(somePeers(2, 14), { groups: 512 })
  const after = planTargets({ redundancy: stripes, ring }, statesOf(before))
  for (let group = 0; group < 512; group++) {
    const had = before.membersOf(group)
    for (const [slot, peer] of after.membersOf(group).entries()) {
      const was = had.indexOf(peer)
      ok(was === -1 || was === slot)
    }
  }
})

test('who leaves a slot is not put into another one, where it would need another fragment', () => {
  const peers = somePeers(0, 12)
  const before = place(ringFor(peers), stripes)
  const gone = peers[0]!.id
  const added = somePeers(12, 12)
  // A free slot where `gone` was; in the next slot somebody is being replaced.
  let inOther = 0
  const states = statesOf(before).map((state, group) => {
    const slot = state.find(({ peer }) => peer === gone)?.slot
    if (slot === undefined) return state
    const replaced = (slot + 1) % 6
    return [...state, { peer: added[group % 12]!.id, slot: replaced, inSync: false }]
  })
  const ring = ringFor([...peers.slice(1), ...added])
  const after = planTargets({ redundancy: stripes, ring }, states)
  isApart(after)
  for (let group = 0; group < 256; group++) {
    const had = before.membersOf(group)
    for (const [slot, peer] of after.membersOf(group).entries()) {
      if (had.includes(peer) && had.indexOf(peer) !== slot) inOther++
    }
  }
  ok(inOther < 256 / 20, `${inOther} of 256`)
})

test('a split pool moves nothing, and is even', () => {
  const before = place(ringFor(somePeers(0, 10)))
  const ring = ringFor(somePeers(0, 10), { groups: 512 })
  const after = planTargets({ redundancy: three, ring }, splitGroups(statesOf(before)))
  isEven(after)
  for (let group = 0; group < 512; group++) {
    deepStrictEqual(after.membersOf(group), before.membersOf(group % 256))
  }
})

test('copies are added and taken away where they are', () => {
  const peers = somePeers(0, 10)
  const two = parseRedundancy('replicated:2')
  const before = place(ringFor(peers), two)
  const more = planTargets({ redundancy: three, ring: ringFor(peers) }, statesOf(before))
  isApart(more)
  isEven(more)
  strictEqual(newMembers(before, more).length, 256)
  const fewer = planTargets({ redundancy: two, ring: ringFor(peers) }, statesOf(more))
  isApart(fewer)
  isEven(fewer)
  ok(newMembers(more, fewer).length < 0.05 * 512)
})

test('a change under way is kept to by whoever plans next', () => {
  const before = place(ringFor(somePeers(0, 10)))
  const ring = ringFor(somePeers(0, 11))
  const goal = planTargets({ redundancy: three, ring }, statesOf(before))
  const states = statesOf(before)
  for (let group = 0; group < 256; group++) {
    const had = before.membersOf(group)
    for (const [slot, peer] of goal.membersOf(group).entries()) {
      if (had.includes(peer)) continue
      // A third has not begun, a third is syncing, a third is done.
      if (group % 3 === 1) states[group] = [...states[group]!, { peer: peer!, slot, inSync: false }]
      if (group % 3 === 2) {
        states[group] = states[group]!.map((member) =>
          member.slot === slot ? { peer: peer!, slot, inSync: true } : member
        )
      }
    }
  }
  const next = planTargets({ redundancy: three, ring }, states)
  isEven(next)
  for (let group = 0; group < 256; group++) {
    const begun = goal.membersOf(group).join() !== before.membersOf(group).join()
    if (begun && group % 3 !== 0) deepStrictEqual(next.membersOf(group), goal.membersOf(group))
  }
  const left = (targets: typeof goal) => newMembers(before, targets).length
  strictEqual(left(next), left(goal))
})

test('a heavy domain is in every group, and what it cannot take goes to the others', () => {
  const peers = somePeers(0, 12, { racks: 4, weights: [1, 1, 1, 100] })
  for (const redundancy of [three, parseRedundancy('replicated:4')]) {
    const targets = place(ringFor(peers, { failureDomain: 'rack' }), redundancy)
    isApart(targets)
    isEven(targets)
    for (let group = 0; group < 256; group++) {
      const racks = targets.membersOf(group).map((id) => peers.find((peer) => peer.id === id))
      ok(racks.some((peer) => peer!.labels['rack'] === 'rack-3'))
    }
  }
})

test('too few domains: fewer members, and words that name what is missing', () => {
  const ring = ringFor(somePeers(0, 10, { racks: 2 }), { failureDomain: 'rack' })
  const targets = place(ring)
  isApart(targets)
  const missing =
    '3 members, each in a rack of its own: there are 2 racks with a weight (rack-0, rack-1), ' +
    '1 missing'
  strictEqual(targets.shortage, missing)
  throws(
    () => assertPlaceable({ redundancy: three, ring }),
    (error: Error) => error.message === `replication needs ${missing}`
  )
  const alone = ringFor(somePeers(0, 1))
  throws(
    () => assertPlaceable({ redundancy: stripes, ring: alone }),
    /erasure coding needs 6 members: there is 1 peer with a weight \(\w+\), 5 missing/
  )
  assertPlaceable({ redundancy: three, ring: ringFor(somePeers(0, 3)) })
  const unlabelled = somePeers(0, 8).map((peer) => ({ ...peer, labels: {} }))
  throws(
    () => place(ringFor(unlabelled, { failureDomain: 'zone' })),
    /failure domain zone: no label zone on (\w{32}, ){4}\w{32} and 3 more/
  )
})

test('kinds without balance give their lists as they are', () => {
  const ring = ringFor(somePeers(0, 5), { kind: 'mod' })
  const targets = place(ring)
  isApart(targets)
  const moved = planTargets(
    { redundancy: three, ring: ringFor(somePeers(0, 6), { kind: 'mod' }) },
    statesOf(targets)
  )
  for (let group = 0; group < 256; group++) {
    deepStrictEqual(targets.membersOf(group), targets.ring.peersOf(group, 3))
    deepStrictEqual(moved.membersOf(group), moved.ring.peersOf(group, 3))
  }
  deepStrictEqual(place(ringFor([], { kind: 'empty' })).membersOf(0), [null, null, null])
})

test('planning many groups stops for others again and again, and comes to the same', () => {
  for (const kind of ['ketama', 'rendezvous']) {
    const ring = ringFor(somePeers(0, 300), { kind, groups: 8192 })
    const fresh = stepsOf(planningTargets({ redundancy: three, ring }, null))
    deepStrictEqual(fresh.targets.members, place(ring).members)
    ok(fresh.steps >= 24, `${fresh.steps} steps of ${kind}`)
    const current = statesOf(fresh.targets)
    const later = { ...ring, peers: somePeers(10, 300) }
    const change = stepsOf(planningTargets({ redundancy: three, ring: later }, current))
    const atOnce = planTargets({ redundancy: three, ring: later }, current)
    deepStrictEqual(change.targets.members, atOnce.members)
    ok(change.steps >= 8, `${change.steps} steps of a change of ${kind}`)
  }
  const few = planningTargets({ redundancy: three, ring: ringFor(somePeers(0, 3)) }, null)
  strictEqual(stepsOf(few).steps, 0, 'a few groups take no time')
})

function stepsOf(planning: Steps<Targets>): { targets: Targets; steps: number } {
  for (let steps = 0; ; steps++) {
    const { done, value } = planning.next()
    if (done === true) return { targets: value, steps }
  }
}

test('1,000 peers in 32,768 groups take less than 5 s, busy machine or not', () => {
  const started = performance.now()
  const targets = place(ringFor(somePeers(0, 1000), { groups: 32_768 }))
  isEven(targets)
  ok(performance.now() - started < 5000)
})

test.run()
