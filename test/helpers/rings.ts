/** Rings of made-up peers, and what must hold of any placement. */
import { deepStrictEqual, ok } from 'node:assert/strict'
import fc from 'fast-check'
import { type GroupState, settledGroup } from '../../src/placement/group-state.ts'
import type { LeafRing, RingPeer } from '../../src/placement/ring-description.ts'
import { madeUpPeers } from '../../src/placement/simulation.ts'
import type { Targets } from '../../src/placement/targets.ts'

const SPREAD = { weights: [1], hosts: null, racks: 5, zones: 3 }

export const somePeers = (first: number, count: number, some: Partial<typeof SPREAD> = {}) =>
  madeUpPeers(first, count, { ...SPREAD, ...some })

export const ringFor = (peers: readonly RingPeer[], some: Partial<LeafRing> = {}): LeafRing => ({
  v: 1,
  kind: 'ketama',
  peers: [...peers],
  failureDomain: 'peer',
  groups: 256,
  seed: 1,
  ...some
})

export const statesOf = (targets: Targets): GroupState[] =>
  Array.from({ length: targets.ring.groups }, (_, group) => settledGroup(targets.membersOf(group)))

/** Copies that are where they were not, and the peers they went to. */
export function newMembers(before: Targets, after: Targets): string[] {
  const found: string[] = []
  for (let group = 0; group < after.ring.groups; group++) {
    const had = before.membersOf(group)
    for (const peer of after.membersOf(group)) {
      if (peer !== null && !had.includes(peer)) found.push(peer)
    }
  }
  return found
}

/** Every group is full, as far as there are failure domains, and has no two members in one. */
export function isApart(targets: Targets): void {
  const { ring, size } = targets
  const most = Math.min(size, ring.domains.usable)
  const loads = new Int32Array(ring.peers.length)
  for (let group = 0; group < ring.groups; group++) {
    const members = [...targets.members.subarray(group * size, (group + 1) * size)]
    const present = members.filter((peer) => peer >= 0)
    deepStrictEqual(present.length, most)
    deepStrictEqual(new Set(present.map((peer) => ring.domains.of[peer])).size, most)
    for (const peer of present) {
      ok(ring.peers[peer]!.weight > 0)
      loads[peer]!++
    }
  }
  deepStrictEqual(loads, targets.loads)
}

/** Every load is its fair share, within 2 % or up or down to the whole number. */
export function isEven({ loads, shares, ring }: Targets): void {
  for (const [peer, load] of loads.entries()) {
    const share = shares.peer[peer]!
    const low = Math.min(Math.floor(share + 1e-6), share * 0.98)
    const high = Math.max(Math.ceil(share - 1e-6), share * 1.02)
    ok(load >= low && load <= high, `${ring.peers[peer]!.id}: ${load} of ${share}`)
  }
}

/** Peers with any weights in any racks. */
export const anyPeers = (options: { min: number; max: number }): fc.Arbitrary<RingPeer[]> =>
  fc
    .array(
      fc.record({
        weight: fc.oneof(
          fc.constant(1),
          fc.integer({ min: 1, max: 20 }),
          fc.constantFrom(0, 0.5, 1e12)
        ),
        rack: fc.integer({ min: 0, max: 7 })
      }),
      { minLength: options.min, maxLength: options.max }
    )
    .map((some) =>
      somePeers(0, some.length).map((peer, at) => ({
        ...peer,
        weight: some[at]!.weight,
        labels: { rack: `r${some[at]!.rack}` }
      }))
    )
