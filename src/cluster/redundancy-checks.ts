/** Do the copies of a pool find failure domains enough? What operators are told before a change. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { Domains } from '../placement/domains.ts'
import { membersOf, parseRedundancy } from '../placement/redundancy.ts'
import { assertPlaceable } from '../placement/targets.ts'
import { plannedPeerOf, ringOf } from './controller-plan.ts'
import type { PeerView } from './membership.ts'
import type { GroupRecord, PoolRecord } from './records.ts'

/** Why groups of the pool cannot have all their members on `peers`; null: they can. */
export function shortageOf(pool: PoolRecord, peers: readonly PeerView[]): string | null {
  const { failureDomain, peers: chosen } = ringOf(pool, peers.map(plannedPeerOf))
  try {
    const domains = new Domains(failureDomain, chosen)
    return domains.shortageFor(membersOf(parseRedundancy(pool.redundancy)))
  } catch (thrown) {
    if (thrown instanceof StoreError) return thrown.message
    throw thrown
  }
}

/**
 * For a new pool, `old` null, or before a change: its peers are enough for all copies. Those that
 * are down count with `force`, and where the change asks for no more than before.
 * @throws StoreError InvalidArgument, Busy
 */
export function requirePlaceable(
  pool: PoolRecord,
  old: PoolRecord | null,
  { peers, force }: { readonly peers: readonly PeerView[]; readonly force: boolean }
): void {
  const redundancy = parseRedundancy(pool.redundancy)
  assertPlaceable({ redundancy, ring: ringOf(pool, peers.map(plannedPeerOf)) })
  if (force || (old !== null && !asksForMore(pool, old))) return
  const shortage = shortageOf(pool, peers.filter(isUp))
  if (shortage === null) return
  const down = peers.filter((peer) => !isUp(peer)).map(({ record }) => record.peerId.slice(0, 8))
  const text = `of the peers that are up, ${pool.redundancy} needs ${shortage}`
  const advice = `start ${down.slice(0, 4).join(', ')}; with --force copies are missing until then`
  throw new StoreError(ErrorCode.Busy, `${text}: ${advice}`)
}

const isUp = ({ alive }: PeerView): boolean => alive !== null

function asksForMore(pool: PoolRecord, old: PoolRecord): boolean {
  const membersIn = ({ redundancy }: PoolRecord): number => membersOf(parseRedundancy(redundancy))
  const isElsewhere = pool.peers?.join() !== old.peers?.join()
  return membersIn(pool) > membersIn(old) || pool.failureDomain !== old.failureDomain || isElsewhere
}

/**
 * What is degraded for good when `peerId` is gone, for want of other failure domains; null:
 * nothing that is not so now, or everything can be made anew.
 */
export function degradedWithout(
  pool: PoolRecord,
  peers: readonly PeerView[],
  { peerId, holds }: { readonly peerId: string; readonly holds: number }
): string | null {
  const shortage = shortageOf(pool, without(peers, peerId))
  if (shortage === null) return null
  if (holds === 0 && shortageOf(pool, peers) !== null) return null
  const groups = holds === 0 ? 'its groups' : `${holds} groups`
  return `${groups} of pool ${pool.name} would stay degraded, as ${needText(pool, shortage)}`
}

/** How a shortage ends. */
export const needText = (pool: PoolRecord, shortage: string): string => {
  const labels = pool.failureDomain === 'peer' ? '' : `, with a ${pool.failureDomain} of its own`
  const advice = `start a new peer${labels}, or keep fewer copies`
  const change = `"torus pool set ${pool.name} --redundancy"`
  return `${pool.redundancy} needs ${shortage}; ${advice} (${change})`
}

/**
 * `newId` cannot take what `oldId` has of groups in which it is itself, and who else could?
 * Null: another peer, or there are no such groups.
 */
export function sharedText(
  pool: PoolRecord,
  groups: Iterable<GroupRecord>,
  parts: { readonly peers: readonly PeerView[]; readonly oldId: string; readonly newId: string }
): string | null {
  const { peers, oldId, newId } = parts
  let shared = 0
  for (const { members } of groups) {
    if (members.includes(oldId) && members.includes(newId)) shared++
  }
  const shortage = shared === 0 ? null : shortageOf(pool, without(peers, oldId))
  if (shortage === null) return null
  const text = `it is in ${shared} groups of pool ${pool.name} beside peer ${oldId.slice(0, 8)}`
  return `${text}, which would have one copy fewer: ${needText(pool, shortage)}`
}

const without = (peers: readonly PeerView[], peerId: string): PeerView[] =>
  peers.filter(({ record }) => record.peerId !== peerId)
