/**
 * Where a cluster agrees: a small ordered map of keys with revisions, compare-and-put transactions,
 * watches and leases. etcd is the model, and etcd's rules hold for every implementation; one suite
 * (test/metadata/contract.ts) checks them all.
 *
 * - The store has one *revision*, which each transaction that changes something raises by one. A
 *   key carries the revision that created it, the one that changed it last, and its version: 1 for
 *   a new key, one more for each put since.
 * - A change that was answered is durable.
 * - Keys are ordered by their UTF-8 bytes. A prefix is any string; '' is everything.
 * - All failures are `StoreError`: InvalidArgument and LimitReached for what the caller asked,
 *   NotFound for a lease that ended, Closed after `close`, Unavailable, DiskFailure or OutOfSpace
 *   for the store itself. After one of the last three it is unknown whether a transaction happened.
 */

/** Opaque; '' is no lease. */
export type LeaseId = string

export interface Entry {
  readonly key: string
  readonly value: Buffer
  /** Revision in which the key came to be, since it was last absent. */
  readonly createRevision: number
  /** Revision of its last put. */
  readonly modRevision: number
  /** Puts since the key came to be; 1 for the first. */
  readonly version: number
  /** Lease with which the key ends, '' for none. */
  readonly lease: LeaseId
}

/** One condition on one key; a transaction's conditions must all hold. An absent key has
 * revisions and version 0, no value and no lease. */
export type Compare = { readonly key: string } & (
  | { readonly is: 'absent' | 'present' }
  | { readonly createRevision: number }
  | { readonly modRevision: number }
  | { readonly version: number }
  | { readonly value: Uint8Array }
  | { readonly lease: LeaseId }
)

/** Keys of the puts and deletes of one branch are all different. */
export type Operation =
  | { readonly put: string; readonly value: Uint8Array; readonly lease?: LeaseId }
  | { readonly delete: string }
  /** Its answer is in `TransactionResult.entries`, as the key is after the operations before it. */
  | { readonly get: string }

export interface Transaction {
  readonly compare?: readonly Compare[]
  /** Done if every comparison holds, all or nothing, in one revision. */
  readonly success?: readonly Operation[]
  /** Done otherwise. */
  readonly failure?: readonly Operation[]
}

export interface TransactionResult {
  /** Did every comparison hold? */
  readonly succeeded: boolean
  /** The store's revision after the transaction. */
  readonly revision: number
  /** Answers to the `get`s of the branch that was done, in order; null for an absent key. */
  readonly entries: readonly (Entry | null)[]
}

export interface RangeOptions {
  /** At most so many entries; METADATA_RANGE_KEYS_MAX by default and at most. */
  readonly limit?: number
  /** Only keys after this one: the last key of the page before. */
  readonly after?: string
}

export interface RangeResult {
  /** The store's revision when the range was read: watch from the next one to miss nothing. */
  readonly revision: number
  /** In order of their keys. */
  readonly entries: readonly Entry[]
  /** There are more entries after the last one. */
  readonly more: boolean
}

export type WatchEvent =
  | { readonly kind: 'put'; readonly entry: Entry }
  | { readonly kind: 'delete'; readonly key: string; readonly modRevision: number }

export type WatchChange =
  /** All that one transaction changed below the prefix. Revisions only grow. */
  | { readonly kind: 'events'; readonly revision: number; readonly events: readonly WatchEvent[] }
  /**
   * The history that the watch needs is forgotten: it has ended, and whoever watches reads the
   * keys again (`follow` does both).
   */
  | { readonly kind: 'compacted'; readonly compactRevision: number }
  /** The store was closed, or gave the watch up: it has ended. */
  | { readonly kind: 'closed' }

export interface Watch {
  /** After it, the listener is not called again. */
  cancel(): void
}

export interface Lease {
  readonly id: LeaseId
  /** What the store granted: at least what was asked for, and not below LEASE_TTL_MS_MIN. */
  readonly ttlMs: number
}

export interface MetadataStore {
  get(key: string): Promise<Entry | null>
  range(prefix: string, options?: RangeOptions): Promise<RangeResult>
  transact(transaction: Transaction): Promise<TransactionResult>
  /**
   * Calls `listener` for each transaction from `fromRevision` on that changed keys below `prefix`,
   * in order and each once; never from inside this call. By default from the next revision on.
   */
  watch(
    prefix: string,
    listener: (change: WatchChange) => void,
    options?: { readonly fromRevision?: number }
  ): Watch
  /** A lease ends `ttlMs` after its last keepalive, and every key put with it ends at once. */
  grantLease(ttlMs: number): Promise<Lease>
  /** Starts the lease's time anew. @throws StoreError NotFound when it has ended */
  keepAlive(lease: LeaseId): Promise<void>
  /** Ends the lease and its keys in one revision. @throws StoreError NotFound */
  revokeLease(lease: LeaseId): Promise<void>
  /** Forgets the history up to and with `revision`; present keys stay. Stores also do so alone. */
  compact(revision: number): Promise<void>
  /** Ends every watch; leases go on for their time. */
  close(): Promise<void>
}
