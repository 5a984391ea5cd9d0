/** What becomes of a peer's entries in group records when it starts (PROTOCOL.md, R13 and R14). */
import type { GroupRecords, KnownGroup } from '../cluster/groups.ts'
import type { GroupRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { TRANSACTION_ATTEMPTS_MAX } from '../core/limits.ts'

export interface StartedPeer {
  readonly peerId: string
  readonly bootId: string
  /** The boot before this one if it ended cleanly: its entries count as ours. */
  readonly cleanPredecessor: string | null
  /** False: the disk is a copy, or an older state, of the one that the metadata knows. */
  readonly counterFollows: boolean
}

type Change = Pick<GroupRecord, 'members' | 'inSync' | 'syncing'>
export type StartDecision =
  | { readonly kind: 'keep' }
  | { readonly kind: 'change'; readonly record: Change }
  /** It is the only one in sync and not to be trusted: an operator has to say so. */
  | { readonly kind: 'distrusted' }

/** `hasAll`: may that entry stand for a boot that is up now, or that ended cleanly as the last? */
export function decideAtStart(
  record: GroupRecord,
  self: StartedPeer,
  hasAll: (peerId: string, bootId: string) => boolean
): StartDecision {
  const { peerId, bootId } = self
  if (record.restored !== undefined) return { kind: 'keep' }
  const isOurs = (boot: string): boolean =>
    boot === bootId || (self.counterFollows && boot === self.cleanPredecessor)
  const present = { peer: peerId, boot: bootId }
  const others = record.inSync.filter(({ peer }) => peer !== peerId)
  const syncing = record.syncing.filter(({ peer }) => peer !== peerId)
  const inSyncEntry = record.inSync.find(({ peer }) => peer === peerId)
  if (inSyncEntry !== undefined) {
    if (isOurs(inSyncEntry.boot)) return { kind: 'keep' }
    const mayStay = self.counterFollows && !others.some(({ peer, boot }) => hasAll(peer, boot))
    if (mayStay) {
      const inSync = record.inSync.map((entry) => (entry.peer === peerId ? present : entry))
      return { kind: 'change', record: { ...record, inSync, syncing } }
    }
    if (others.length === 0) return { kind: 'distrusted' }
    const change = { ...record, inSync: others, syncing: [...syncing, present] }
    return { kind: 'change', record: change }
  }
  const entry = record.syncing.find(({ peer }) => peer === peerId)
  if (entry === undefined || entry.boot === bootId) return { kind: 'keep' }
  return { kind: 'change', record: { ...record, syncing: [...syncing, present] } }
}

/**
 * Carries the rule out for one group. Returns the record as it stands then, null when there is
 * none, and whether an operator has to decide.
 * @throws StoreError Conflict, and what the metadata throws
 */
export async function settleAtStart(
  groups: Pick<GroupRecords, 'read' | 'change'>,
  id: { readonly pool: number; readonly group: number },
  self: StartedPeer,
  hasAll: (peerId: string, bootId: string) => boolean
): Promise<{ known: KnownGroup | null; distrusted: boolean }> {
  for (let left = TRANSACTION_ATTEMPTS_MAX; left > 0; left--) {
    const known = await groups.read(id.pool, id.group)
    if (known === null) return { known, distrusted: false }
    const decision = decideAtStart(known.record, self, hasAll)
    if (decision.kind !== 'change') return { known, distrusted: decision.kind === 'distrusted' }
    const changed = await groups.change(id.pool, id.group, known, decision.record)
    if (changed !== null) return { known: changed, distrusted: false }
  }
  throw new StoreError(ErrorCode.Conflict, `group ${id.pool}/${id.group} changes all the time`)
}
