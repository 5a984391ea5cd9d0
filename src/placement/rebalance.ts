/**
 * From the members that groups have to those they should have, a bounded list of next moves at a
 * time. Of each group: the new member is added as syncing, resync brings it in sync, then the one
 * it replaces is dropped. No move makes a group less safe than it is, so the list may be carried
 * out in any order, in part, or not at all; the next one starts from what is then so.
 */
import { assert } from '../core/assert.ts'
import { allSteps, type Steps } from '../core/steps.ts'
import type { GroupMember, GroupState } from './group-state.ts'
import type { Targets } from './targets.ts'

export type Move =
  | {
      readonly kind: 'add'
      readonly group: number
      readonly slot: number
      readonly peer: string
      /** Least busy member in sync, of the same slot if possible: where the data come from. */
      readonly source: string
      /** `repair` when the group has too few in sync, else `rebalance`. */
      readonly reason: 'repair' | 'rebalance'
    }
  | {
      readonly kind: 'drop'
      readonly group: number
      readonly slot: number
      readonly peer: string
    }

export interface MoveOptions {
  /** Whether the peer answers: others get nothing new and are no sources. */
  readonly isUsable: (peer: string) => boolean
  /** Whether it has room: others get nothing new. By default it has. */
  readonly hasRoom?: (peer: string) => boolean
  /** Whether it can begin: else it has its turn, and keeps it. By default it can. */
  readonly isReady?: (peer: string, group: number) => boolean
  /** Members syncing at a time, those that are already included. */
  readonly syncsMax: number
  /** The same of one peer, as the one that syncs or as a source. */
  readonly syncsPerPeerMax: number
  /** Drops in one list. */
  readonly dropsMax: number
}

export interface MovePlan {
  /** Groups with the fewest members in sync first. */
  readonly moves: readonly Move[]
  /** Members still to be added and to be dropped, the moves included. 0 and 0: all is done. */
  readonly addsLeft: number
  readonly dropsLeft: number
  /** The adds by the peer that is to hold the copy. */
  readonly addsTo: ReadonlyMap<string, number>
}

/** Groups between two yields. */
const GROUPS_PER_STEP = 2048

export const planMoves = (
  targets: Targets,
  states: readonly GroupState[],
  options: MoveOptions
): MovePlan => allSteps(planningMoves(targets, states, options))

/** The same, a little at a time. */
export function* planningMoves(
  targets: Targets,
  states: readonly GroupState[],
  options: MoveOptions
): Steps<MovePlan> {
  assert(states.length === targets.ring.groups, 'every group has a state')
  const gaps: Gap[] = []
  const drops: Drop[] = []
  const busy = new Busy(options)
  for (const [group, state] of states.entries()) {
    if (group % GROUPS_PER_STEP === GROUPS_PER_STEP - 1) yield
    busy.countSyncs(state)
    if (isSettled(targets, group, state)) continue
    const changing = new Changing(targets, group, state)
    gaps.push(...changing.gaps(options))
    drops.push(...changing.drops())
  }
  const moves: Move[] = []
  const ready = drops.filter(({ isSafe }) => isSafe).slice(0, options.dropsMax)
  for (const { group, slot, peer } of ready) moves.push({ kind: 'drop', group, slot, peer })
  const going = new Set(ready.map(({ member }) => member))
  // The group breaks ties, so that the list does not depend on how the runtime sorts.
  gaps.sort((a, b) => a.inSync - b.inSync || a.group - b.group || a.slot - b.slot)
  const rebalancing = new Set<number>()
  for (const gap of gaps) {
    if (busy.isFull()) break
    // One at a time: every member that syncs takes a share of the group's writes.
    if (gap.mustWait || (!gap.isRepair && rebalancing.has(gap.group))) continue
    // Who is dropped by this list is no source for it.
    const source = busy.take(
      gap,
      states[gap.group]!.filter((member) => !going.has(member))
    )
    if (source === null) continue
    if (!gap.isRepair) rebalancing.add(gap.group)
    const { group, slot, peer } = gap
    if (options.isReady?.(peer, group) === false) continue
    const reason = gap.isRepair ? 'repair' : 'rebalance'
    moves.push({ kind: 'add', group, slot, peer, source, reason })
  }
  const addsTo = new Map<string, number>()
  for (const { peer } of gaps) addsTo.set(peer, (addsTo.get(peer) ?? 0) + 1)
  return { moves, addsLeft: gaps.length, dropsLeft: drops.length, addsTo }
}

/** A target that is no member yet. */
interface Gap {
  readonly group: number
  readonly slot: number
  readonly peer: string
  /** Copies, or different fragments, that the group has in sync. */
  readonly inSync: number
  readonly isRepair: boolean
  readonly mustWait: boolean
}

/** A member that is no target. */
interface Drop {
  readonly group: number
  readonly slot: number
  readonly peer: string
  readonly member: GroupMember
  readonly isSafe: boolean
}

/** Every target is a member, and nobody else is. */
export function isSettled(targets: Targets, group: number, state: GroupState): boolean {
  let members = 0
  for (let slot = 0; slot < targets.size; slot++) {
    const peer = targets.members[group * targets.size + slot]!
    if (peer < 0) continue
    members++
    const { id } = targets.ring.peers[peer]!
    const fits = (member: GroupMember): boolean =>
      member.peer === id && (member.slot === slot || targets.redundancy.kind === 'replicated')
    if (!state.some(fits)) return false
  }
  return state.length === members
}

/** A group whose members are not its targets. */
class Changing {
  readonly #group: number
  readonly #state: GroupState
  readonly #isErasure: boolean
  /** Members in sync that the data can be made from. */
  readonly #sourcesMin: number
  readonly #targets: readonly (string | null)[]

  constructor(targets: Targets, group: number, state: GroupState) {
    const { redundancy } = targets
    this.#group = group
    this.#state = state
    this.#isErasure = redundancy.kind === 'erasure'
    this.#sourcesMin = redundancy.kind === 'erasure' ? redundancy.data : 1
    this.#targets = alignedTargets(targets.membersOf(group), state)
  }

  gaps({ isUsable }: MoveOptions): Gap[] {
    const state = this.#state
    const size = this.#targets.length
    const inSync = this.#inSync(state)
    const isSyncing = state.some((member) => !member.inSync && isUsable(member.peer))
    return this.#targets.flatMap((peer, slot) => {
      if (peer === null || state.some((member) => this.#standsIn(member, peer, slot))) return []
      const isRepair = inSync < size && !state.some((each) => each.inSync && each.slot === slot)
      const mustWait =
        inSync < this.#sourcesMin ||
        (isSyncing && !isRepair) ||
        // It still holds another fragment, or plans changed too often: first somebody goes.
        state.some((member) => member.peer === peer) ||
        state.length >= 2 * size
      return [{ group: this.#group, slot, peer, inSync, isRepair, mustWait }]
    })
  }

  drops(): Drop[] {
    const dropped = new Set<GroupMember>()
    return this.#state
      .filter((member) => !this.#targets.some((peer, slot) => this.#standsIn(member, peer, slot)))
      .map((member) => {
        const rest = this.#state.filter((other) => other !== member && !dropped.has(other))
        const isSafe = this.#isSafeToDrop(member, rest)
        if (isSafe) dropped.add(member)
        return { group: this.#group, slot: member.slot, peer: member.peer, member, isSafe }
      })
  }

  /**
   * A member that has all may go when the group has the full number without it. One that has not
   * is kept too until all targets there are have all: should they be lost, it has something.
   */
  #isSafeToDrop(member: GroupMember, rest: GroupState): boolean {
    const targets = this.#targets.filter((peer) => peer !== null).length
    const left = this.#inSync(rest)
    if (!member.inSync) return targets > 0 && left >= targets
    if (!this.#isErasure) return left >= this.#targets.length
    return rest.some(({ inSync, slot }) => inSync && slot === member.slot)
  }

  /** A copy is as good in any slot, a fragment belongs to its own. */
  #standsIn(member: GroupMember, peer: string | null, slot: number): boolean {
    return member.peer === peer && (!this.#isErasure || member.slot === slot)
  }

  /** Copies, or different fragments, of members in sync. */
  #inSync(state: GroupState): number {
    const slots = state.filter(({ inSync }) => inSync).map(({ slot }) => slot)
    return this.#isErasure ? new Set(slots).size : slots.length
  }
}

/** Targets by slot, with those that are members already in the slots they have. */
function alignedTargets(targets: readonly (string | null)[], state: GroupState): (string | null)[] {
  const aligned = [...targets]
  for (const { peer, slot } of state) {
    const at = aligned.indexOf(peer)
    if (at < 0 || at === slot || slot >= aligned.length) continue
    // Of two members in one slot, the other may be a target that stands here already.
    const other = aligned[slot]!
    if (state.some((member) => member.peer === other && member.slot === slot)) continue
    aligned[at] = other
    aligned[slot] = peer
  }
  return aligned
}

/** Who is busy with how many syncs. */
class Busy {
  readonly #options: MoveOptions
  readonly #syncs = new Map<string, number>()
  #total = 0

  constructor(options: MoveOptions) {
    this.#options = options
  }

  isFull(): boolean {
    return this.#total >= this.#options.syncsMax
  }

  /** Members that sync already: whom from is not known, so the source is taken to be the first. */
  countSyncs(state: GroupState): void {
    for (const member of state) {
      if (member.inSync || !this.#options.isUsable(member.peer)) continue
      const source = state.find(({ inSync, peer }) => inSync && this.#options.isUsable(peer))
      // One that waits for a source keeps nobody busy.
      if (source !== undefined) this.#count(member.peer, source.peer)
    }
  }

  /** A source for the gap, both counted; null when the peer is busy or nobody can be it. */
  take({ peer, slot }: Gap, state: GroupState): string | null {
    if (!this.#isFree(peer) || this.#options.hasRoom?.(peer) === false) return null
    let best: GroupMember | null = null
    const cost = (member: GroupMember): number =>
      this.#syncsOf(member.peer) * 2 + (member.slot === slot ? 0 : 1)
    for (const member of state) {
      if (!member.inSync || !this.#isFree(member.peer)) continue
      if (best === null || cost(member) < cost(best)) best = member
    }
    if (best === null) return null
    this.#count(peer, best.peer)
    return best.peer
  }

  #syncsOf(peer: string): number {
    return this.#syncs.get(peer) ?? 0
  }

  #isFree(peer: string): boolean {
    return this.#options.isUsable(peer) && this.#syncsOf(peer) < this.#options.syncsPerPeerMax
  }

  #count(peer: string, source: string): void {
    this.#total++
    for (const each of [peer, source]) this.#syncs.set(each, this.#syncsOf(each) + 1)
  }
}
