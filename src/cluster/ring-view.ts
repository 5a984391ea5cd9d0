import type { Steps } from '../core/steps.ts'
import { type PlannedPeer, ringOf, targetsOf } from './controller-plan.ts'
import type { KnownGroup } from './groups.ts'
import type { PoolRecord } from './records.ts'

/** A pool's ring: who should have how much of it, and who has. */
export interface RingView {
  readonly pool: PoolRecord
  readonly peers: readonly RingViewPeer[]
  /** Why groups have fewer members than they should, or null. */
  readonly shortage: string | null
}

export interface RingViewPeer {
  readonly peerId: string
  readonly weight: number
  /** Of the weight of all. */
  readonly share: number
  /** Groups whose member it should be. */
  readonly target: number
  /** Groups whose member it is, in sync or syncing. */
  readonly members: number
}

/** Pure. Sorted by peer id; who is no longer in the ring but still has copies is in it too. */
export function* ringViewOf(
  pool: PoolRecord,
  groups: ReadonlyMap<number, KnownGroup>,
  planned: readonly PlannedPeer[]
): Steps<RingView> {
  const targets = yield* targetsOf(pool, groups, planned)
  const members = countsOf(groups)
  const weights = new Map(ringOf(pool, planned).peers.map(({ id, weight }) => [id, weight]))
  const all = [...weights.values()].reduce((sum, weight) => sum + weight, 0)
  const loads = new Map(targets?.ring.peers.map(({ id }, at) => [id, targets.loads[at] ?? 0]))
  const ids = [...new Set([...weights.keys(), ...members.keys()])].sort()
  const peers = ids.map((peerId) => {
    const weight = weights.get(peerId) ?? 0
    return {
      peerId,
      weight,
      share: all === 0 ? 0 : weight / all,
      target: loads.get(peerId) ?? 0,
      members: members.get(peerId) ?? 0
    }
  })
  const shortage = targets === null ? 'no peer that can hold data' : targets.shortage
  return { pool, peers, shortage }
}

function countsOf(groups: ReadonlyMap<number, KnownGroup>): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { record } of groups.values()) {
    for (const { peer } of [...record.inSync, ...record.syncing]) {
      counts.set(peer, (counts.get(peer) ?? 0) + 1)
    }
  }
  return counts
}
