/** How many placement groups a pool has, and what becomes of them when it grows. */
import { assert } from '../core/assert.ts'
import { GROUPS_DEFAULT_MIN, GROUPS_MAX } from '../core/limits.ts'

/**
 * Members that a peer should have: with so many, one more or less is about a percent of its
 * share, and a lost peer's groups are spread over that many others that refill them.
 */
const MEMBERS_PER_PEER = 64

export const isGroupCount = (groups: number): boolean =>
  Number.isInteger(groups) && groups >= 1 && groups <= GROUPS_MAX && (groups & (groups - 1)) === 0

/** For a new pool of `peers`, with `members` (copies or fragments) in each group. */
export function defaultGroupCount(peers: number, members: number): number {
  let groups = GROUPS_DEFAULT_MIN
  while (groups < GROUPS_MAX && groups * members < peers * MEMBERS_PER_PEER) groups *= 2
  return groups
}

/**
 * Doubles a pool's groups: what is known of group g (its members) now holds for g and for
 * g + groups, which have its chunks between them. Nothing moves by it.
 */
export function splitGroups<State>(states: readonly State[]): State[] {
  assert(isGroupCount(states.length * 2), 'a pool within the limit can be split')
  return [...states, ...states]
}
