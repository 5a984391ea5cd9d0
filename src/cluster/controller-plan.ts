/**
 * What the controller wants to change about one pool's groups, from what it sees. Pure: the
 * controller carries the changes out, each as a transaction that the group must still match.
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { type GroupState, settledGroup } from '../placement/group-state.ts'
import type { Steps } from '../core/steps.ts'
import { isSettled, type MovePlan, planningMoves } from '../placement/rebalance.ts'
import { parseRedundancy } from '../placement/redundancy.ts'
import type { LeafRing } from '../placement/ring-description.ts'
import { planningTargets, type Targets } from '../placement/targets.ts'
import { isFresh, type KnownGroup, peersOf } from './groups.ts'
import type { PeerView } from './membership.ts'
import { writeMinimumOf } from './pools.ts'
import type { GroupMember, GroupRecord, PeerRecord, PoolRecord } from './records.ts'

/** A peer as the plan sees it. */
export interface PlannedPeer {
  readonly peerId: string
  /** Its present boot; null while it is down. */
  readonly boot: string | null
  /** In proportion to the data it should have; 0 gives everything away. */
  readonly weight: number
  readonly labels: Readonly<Record<string, string>>
  /** Down for so long that its copies are made elsewhere. */
  readonly isLost: boolean
  /** Nothing new is brought there: it could not be finished. What it has is as good as ever. */
  readonly isFull: boolean
  /** It was taken out of groups before it was in sync: nothing new for a while. */
  readonly isResting: boolean
  /** Peer that takes its place in its groups, or null. */
  readonly replacedBy: string | null
}

/** Labels of a record that was not written again are the same object. */
export const areSame = (some: readonly PlannedPeer[], others: readonly PlannedPeer[]): boolean =>
  some.length === others.length &&
  some.every((one, at) => {
    const other = others[at]!
    return (
      one.peerId === other.peerId &&
      one.boot === other.boot &&
      one.weight === other.weight &&
      one.labels === other.labels &&
      one.isLost === other.isLost &&
      one.isFull === other.isFull &&
      one.isResting === other.isResting &&
      one.replacedBy === other.replacedBy
    )
  })

/** Groups between two yields. */
const GROUPS_PER_STEP = 2048

/** Of the capacity; the rest is for what is written while others are told. */
const FULL = 0.9

/** By what the peer told last. */
export const isFull = (capacityBytes: number, usedBytes: number): boolean =>
  usedBytes >= capacityBytes * FULL

/** A peer in proportion to the data it should have. */
function weightOf({ state, weight, capacityBytes }: PeerRecord): number {
  if (state === 'drained' || state === 'pending') return 0
  return weight ?? capacityBytes
}

/** A peer that is registered, up or not, before anybody looked at how long or how full. */
export const plannedPeerOf = ({ record, alive }: PeerView): PlannedPeer => ({
  peerId: record.peerId,
  boot: alive?.bootId ?? null,
  weight: weightOf(record),
  labels: record.labels,
  isLost: false,
  isFull: false,
  isResting: false,
  replacedBy: record.replacedBy ?? null
})

export interface GroupChange {
  readonly group: number
  readonly from: KnownGroup
  readonly record: Pick<GroupRecord, 'members' | 'inSync' | 'syncing'>
  /** For the log and the events. */
  readonly why: string
}

export interface PoolPlan {
  readonly changes: readonly GroupChange[]
  readonly addsLeft: number
  readonly dropsLeft: number
  /** Copies that each peer is to get, those of `changes` included. */
  readonly addsTo: ReadonlyMap<string, number>
  /** Why groups have fewer members than they should, or null. */
  readonly shortage: string | null
}

/** Bounds of what is under way at a time. */
export interface PlanLimits {
  readonly syncsMax: number
  readonly syncsPerPeerMax: number
  readonly changesMax: number
  /** R34: who is taken in anew gives up what it has before it is listed as syncing. */
  readonly isStaged: boolean
}

/** The ring of a pool over the peers there are. */
export function ringOf(pool: PoolRecord, peers: readonly PlannedPeer[]): LeafRing {
  const chosen = peers.filter(({ peerId }) => pool.peers === null || pool.peers.includes(peerId))
  return {
    v: 1,
    kind: pool.ring,
    peers: chosen.map(({ peerId, weight, labels, isLost }) => ({
      id: peerId,
      weight: isLost ? 0 : weight,
      labels: { ...labels }
    })),
    failureDomain: pool.failureDomain,
    groups: pool.groups,
    seed: pool.seed
  }
}

/**
 * `groups` and `peers` must stay as they are until it is done.
 * @throws StoreError InvalidArgument when the pool's ring cannot be made
 */
export function* planPool(
  pool: PoolRecord,
  groups: ReadonlyMap<number, KnownGroup>,
  peers: readonly PlannedPeer[],
  limits: PlanLimits
): Steps<PoolPlan> {
  const byId = new Map(peers.map((peer) => [peer.peerId, peer]))
  const changes: GroupChange[] = []
  const changed = new Set<number>()
  let looks = 0
  for (const [group, from] of groups) {
    if (++looks % GROUPS_PER_STEP === 0) yield
    if (changes.length >= limits.changesMax) break
    if (group >= pool.groups) continue
    if (from.record.restored !== undefined) continue
    const record = withoutLost(pool, from.record, byId)
    if (record === null) continue
    changes.push({ group, from, record, why: 'a member is lost' })
    changed.add(group)
  }
  const targets = yield* targetsOf(pool, groups, peers)
  if (targets === null) {
    const none = { addsLeft: 0, dropsLeft: 0, addsTo: new Map() }
    return { changes, ...none, shortage: 'no peer that can hold data' }
  }
  const states = yield* statesOf(pool, groups, targets)
  const plan = yield* planningMoves(targets, states, {
    isUsable: (peer) => (byId.get(peer)?.boot ?? null) !== null,
    hasRoom: (peer) => byId.get(peer)?.isFull !== true && byId.get(peer)?.isResting !== true,
    isReady: (peer, group) => {
      const record = groups.get(group)?.record
      return record === undefined || !isFresh(record, peer)
    },
    syncsMax: limits.syncsMax,
    syncsPerPeerMax: limits.syncsPerPeerMax,
    dropsMax: limits.changesMax
  })
  const parts = { groups, byId, targets, changed, limits }
  const again = yield* restated(pool, groups, states, targets)
  const more = [...changesOf(plan, parts), ...again]
  changes.push(...more.slice(0, limits.changesMax - changes.length))
  const { addsLeft, dropsLeft, addsTo } = plan
  return { changes, addsLeft, dropsLeft, addsTo, shortage: targets.shortage }
}

/** Null when no peer of the pool has any weight. */
export function* targetsOf(
  pool: PoolRecord,
  groups: ReadonlyMap<number, KnownGroup>,
  peers: readonly PlannedPeer[]
): Steps<Targets | null> {
  const ring = ringOf(pool, peers)
  if (ring.peers.every(({ weight }) => weight === 0)) return null
  const replacements = replacementsIn(peers)
  const current: GroupState[] = []
  for (let group = 0; group < pool.groups; group++) {
    if (group % GROUPS_PER_STEP === GROUPS_PER_STEP - 1) yield
    const known = groups.get(group)
    current.push(withReplacements(stateOf(known), known?.record.members ?? [], replacements))
  }
  try {
    const redundancy = parseRedundancy(pool.redundancy)
    return yield* planningTargets({ redundancy, ring }, current)
  } catch (thrown) {
    if (thrown instanceof StoreError && thrown.code === ErrorCode.InvalidArgument) return null
    throw thrown
  }
}

/** Groups without a record need no moves: who needs one first makes it as it should be. */
function* statesOf(
  pool: PoolRecord,
  groups: ReadonlyMap<number, KnownGroup>,
  targets: Targets
): Steps<GroupState[]> {
  const states: GroupState[] = []
  for (let group = 0; group < pool.groups; group++) {
    if (group % GROUPS_PER_STEP === GROUPS_PER_STEP - 1) yield
    const known = groups.get(group)
    states.push(known === undefined ? settledGroup(targets.membersOf(group)) : stateOf(known))
  }
  return states
}

/** Most groups are the same at the next look. */
const knownStates = new WeakMap<KnownGroup, GroupState>()

function stateOf(known: KnownGroup | undefined): GroupState {
  if (known === undefined) return []
  const old = knownStates.get(known)
  if (old !== undefined) return old
  const state = newStateOf(known)
  knownStates.set(known, state)
  return state
}

/** Slots by the order of `members`; who is on the way out takes a slot that is free. */
function newStateOf(known: KnownGroup): GroupState {
  const { members, inSync, syncing } = known.record
  const present = [
    ...inSync.map(({ peer }) => ({ peer, inSync: true })),
    ...syncing.map(({ peer }) => ({ peer, inSync: false }))
  ]
  const taken = new Set(present.flatMap(({ peer }) => slotsOf(members, peer)))
  let next = 0
  return present.map(({ peer, inSync: isInSync }) => {
    const at = members.indexOf(peer)
    if (at >= 0) return { peer, slot: at, inSync: isInSync }
    while (taken.has(next)) next++
    taken.add(next)
    return { peer, slot: next, inSync: isInSync }
  })
}

/** Who takes whose place: old -> new. */
const replacementsIn = (peers: readonly PlannedPeer[]): [string, string][] =>
  peers.flatMap(({ peerId, replacedBy }) => (replacedBy === null ? [] : [[peerId, replacedBy]]))

/**
 * The state as if who replaces another had its copies already: members stay where they are, so
 * the targets have the new peer in just these places. Where it is a member itself, the old one
 * just goes.
 */
function withReplacements(
  state: GroupState,
  members: readonly string[],
  replacements: readonly (readonly [string, string])[]
): GroupState {
  let replaced = state
  for (const [from, to] of replacements) {
    const old = replaced.find(({ peer }) => peer === from)
    // A lost member is in no state any more; its slot in `members` is still its own.
    const slot = old?.slot ?? members.indexOf(from)
    if (slot < 0) continue
    const others = replaced.filter(({ peer }) => peer !== from)
    const isFree = others.every((each) => each.peer !== to && each.slot !== slot)
    replaced = isFree ? [...others, { peer: to, slot, inSync: old?.inSync ?? false }] : others
  }
  return replaced
}

const slotsOf = (members: readonly string[], peer: string): number[] => {
  const at = members.indexOf(peer)
  return at < 0 ? [] : [at]
}

/**
 * Peers that are lost hold nothing that counts, as long as enough others do: R8's write minimum,
 * and never the last one.
 */
function withoutLost(
  pool: PoolRecord,
  record: GroupRecord,
  peers: ReadonlyMap<string, PlannedPeer>
): GroupChange['record'] | null {
  const isLost = ({ peer }: GroupMember): boolean => peers.get(peer)?.isLost ?? true
  const syncing = record.syncing.filter((member) => !isLost(member))
  const staying = record.inSync.filter((member) => !isLost(member))
  const least = Math.max(1, Math.min(writeMinimumOf(pool), record.inSync.length))
  const inSync = staying.length >= least ? staying : record.inSync
  if (inSync.length === record.inSync.length && syncing.length === record.syncing.length) {
    return null
  }
  return { members: record.members, inSync, syncing }
}

function changesOf(
  plan: MovePlan,
  parts: {
    readonly groups: ReadonlyMap<number, KnownGroup>
    readonly byId: ReadonlyMap<string, PlannedPeer>
    readonly targets: Targets
    readonly changed: ReadonlySet<number>
    readonly limits: PlanLimits
  }
): GroupChange[] {
  const { groups, byId, targets } = parts
  const changes: GroupChange[] = []
  const seen = new Set(parts.changed)
  for (const move of plan.moves) {
    const from = groups.get(move.group)
    // A second move of the same group starts from a record that is not there yet.
    if (from === undefined || seen.has(move.group)) continue
    if (from.record.restored !== undefined) continue
    seen.add(move.group)
    const members = targets.membersOf(move.group).filter((peer) => peer !== null)
    const { inSync, syncing } = from.record
    if (move.kind === 'drop') {
      const stays = ({ peer }: GroupMember): boolean => peer !== move.peer
      const record = { members, inSync: inSync.filter(stays), syncing: syncing.filter(stays) }
      if (record.inSync.length === 0) continue
      changes.push({ group: move.group, from, record, why: `${move.peer} is no longer wanted` })
    } else {
      const boot = byId.get(move.peer)?.boot ?? null
      if (boot === null) continue
      const isAnew = parts.limits.isStaged && !peersOf(from.record).includes(move.peer)
      const listed = isAnew ? [] : [{ peer: move.peer, boot }]
      const record = { members, inSync, syncing: [...syncing, ...listed] }
      const why = `${move.reason}: ${move.peer} ${isAnew ? 'is wanted' : 'joins'}`
      changes.push({ group: move.group, from, record, why })
    }
  }
  return changes
}

/**
 * Groups that have whom they should have, under a record that still wants somebody else: a move
 * was begun, and then the place of the old member was the right one again. Without: nobody who
 * looks at `members` ever finds the group whole.
 */
function* restated(
  pool: PoolRecord,
  groups: ReadonlyMap<number, KnownGroup>,
  states: readonly GroupState[],
  targets: Targets
): Steps<GroupChange[]> {
  const changes: GroupChange[] = []
  let looks = 0
  for (const [group, from] of groups) {
    if (++looks % GROUPS_PER_STEP === 0) yield
    if (group >= pool.groups) continue
    const { members: named, inSync, syncing, restored } = from.record
    const members = targets.membersOf(group).filter((peer) => peer !== null)
    const isNamed = named.length === members.length && members.every((id) => named.includes(id))
    if (isNamed || members.length < targets.size || restored !== undefined) continue
    if (!isSettled(targets, group, states[group]!)) continue
    changes.push({
      ...{ group, from, record: { members, inSync, syncing } },
      why: 'it has whom it should'
    })
  }
  return changes
}
