/**
 * Which peers a pool's groups should be on.
 *
 * A fresh pool follows the ring's lists, each peer up to its fair share (filling.ts). Later the
 * members that groups have come first: they stay unless their peer is gone or drained, shares a
 * failure domain with another, or has more than its share while others have less (leveling.ts).
 * So a change moves what it must: one peer more among n takes 1/(n+1) of the data, and nothing
 * moves between the others. Given its own answer as the current state, it changes nothing.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { allSteps, type Steps } from '../core/steps.ts'
import { Assignment, NOBODY } from './assignment.ts'
import { type FairShares, fairShares } from './fair-shares.ts'
import { Filling } from './filling.ts'
import type { GroupState } from './group-state.ts'
import { Leveling } from './leveling.ts'
import { membersOf, type Redundancy } from './redundancy.ts'
import { Ring } from './ring.ts'
import type { LeafRing } from './ring-description.ts'

/** Between two yields. */
const GROUPS_PER_STEP = 1024
const PEERS_PER_STEP = 1024

export interface PoolPlacement {
  readonly redundancy: Redundancy
  /** Says the failure domain, too. */
  readonly ring: LeafRing
}

export class Targets {
  readonly ring: Ring
  readonly redundancy: Redundancy
  /** Members that a group should have. */
  readonly size: number
  readonly shares: FairShares
  /** Members by peer, in the order of `ring.peers`. */
  readonly loads: Int32Array
  /** Why groups have fewer members than they should, or null. */
  readonly shortage: string | null
  /** Index into `ring.peers` at `group * size + slot`, or -1. */
  readonly members: Int32Array

  constructor(
    ring: Ring,
    redundancy: Redundancy,
    { size, peerLoad, members }: Assignment,
    shares: FairShares
  ) {
    this.ring = ring
    this.redundancy = redundancy
    this.size = size
    this.shares = shares
    this.loads = peerLoad
    this.shortage = ring.domains.shortageFor(size)
    this.members = members
  }

  /** The group's members by slot; null where no failure domain is left for one. */
  membersOf(group: number): (string | null)[] {
    const first = group * this.size
    return Array.from(this.members.subarray(first, first + this.size), (peer) =>
      peer === NOBODY ? null : this.ring.peers[peer]!.id
    )
  }
}

/**
 * `current` is what groups have now, null for a fresh pool. With too few failure domains, groups
 * get fewer members and `shortage` tells why.
 * @throws StoreError InvalidArgument when the ring cannot be made
 */
export const planTargets = (
  placement: PoolPlacement,
  current: readonly GroupState[] | null
): Targets => allSteps(planningTargets(placement, current))

/** The same, a little at a time. */
export function* planningTargets(
  { redundancy, ring: description }: PoolPlacement,
  current: readonly GroupState[] | null
): Steps<Targets> {
  const ring = new Ring(description)
  if (ring.peers.length > PEERS_PER_STEP) yield
  assert(current === null || current.length === ring.groups, 'every group has a state')
  const size = membersOf(redundancy)
  const { domains, groups, peers } = ring
  const shares = fairShares(peers, domains, groups, Math.min(size, domains.usable))
  if (ring.peers.length > PEERS_PER_STEP) yield
  const assignment = new Assignment(groups, size, domains)
  if (!ring.balanced) followOrder(ring, assignment)
  else {
    if (current !== null) yield* keep(ring, assignment, current, redundancy)
    yield* new Filling(ring, assignment, shares).fill()
    yield* new Leveling(assignment, shares).level()
  }
  return new Targets(ring, redundancy, assignment, shares)
}

/** For a new pool, or before a change. @throws StoreError InvalidArgument: what is missing */
export function assertPlaceable({ redundancy, ring }: PoolPlacement): void {
  const shortage = new Ring(ring).domains.shortageFor(membersOf(redundancy))
  if (shortage === null) return
  const name = redundancy.kind === 'replicated' ? 'replication' : 'erasure coding'
  throw new StoreError(ErrorCode.InvalidArgument, `${name} needs ${shortage}`)
}

/** Kinds that know no balance: the ring's list is the answer. */
function followOrder({ order, groups }: Ring, assignment: Assignment): void {
  const { domains, size } = assignment
  for (let group = 0; group < groups; group++) {
    let slot = 0
    order.walk(group, (peer) => {
      if (slot < size && !assignment.hasDomain(group, domains.of[peer]!)) {
        assignment.put(group * size + slot++, peer)
      }
      return slot === size
    })
  }
}

/** Puts members back to where they are, as far as the ring still allows it. */
function* keep(
  ring: Ring,
  assignment: Assignment,
  current: readonly GroupState[],
  redundancy: Redundancy
): Steps<void> {
  const numbers = new Map<string, number>()
  for (const [number, { id, weight }] of ring.peers.entries()) {
    if (weight > 0) numbers.set(id, number)
  }
  const { size, members, domains } = assignment
  for (let group = 0; group < ring.groups; group++) {
    if (group % GROUPS_PER_STEP === GROUPS_PER_STEP - 1) yield
    // Of two in a slot the one that is coming, not the one that goes: a plan begun is kept to.
    const state = [...(current[group] ?? [])].sort(
      (a, b) => a.slot - b.slot || Number(a.inSync) - Number(b.inSync)
    )
    const left: number[] = []
    for (const { peer: id, slot } of state) {
      const peer = numbers.get(id)
      if (peer === undefined || assignment.hasDomain(group, domains.of[peer]!)) continue
      const place = group * size + slot
      if (slot < size && members[place] === NOBODY) assignment.keep(place, peer)
      else left.push(peer)
    }
    // A copy is as good in any slot; a fragment belongs to its own.
    if (redundancy.kind === 'erasure') continue
    for (let slot = 0; slot < size; slot++) {
      if (members[group * size + slot] !== NOBODY) continue
      const peer = left.find((each) => !assignment.hasDomain(group, domains.of[each]!))
      if (peer !== undefined) assignment.keep(group * size + slot, peer)
    }
  }
}
