import type { GroupTable } from '../cluster/group-table.ts'
import type { Arena } from '../core/arena.ts'
import type { Clock, Timers } from '../core/clock.ts'
import type { StoreError } from '../core/errors.ts'
import type { BlockStore } from './block-store.ts'
import type { Members } from './member.ts'

export interface ReplicatedStoreOptions {
  readonly members: Members
  readonly groups: GroupTable
  readonly arena: Arena
  readonly clock: Clock
  readonly timers: Timers
  /** The shards of this process, for what is sent to all of them; null where there are none. */
  readonly local: BlockStore | null
  /** Milliseconds for which the gateway's own lease is surely its own, R26; always by default. */
  readonly trustedForMs?: () => number
  /** Something failed that nobody waits for, or that an operator should know. */
  readonly onTrouble?: (what: string, error: StoreError | null) => void
  readonly patienceMs?: number
  readonly deadlineMs?: number
  /** Whether the peer is up as far as the metadata knows; always by default. */
  readonly isUp?: (peerId: string) => boolean
}
