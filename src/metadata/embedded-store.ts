/**
 * etcd's semantics on an ordered map of bytes: LMDB on one machine, memory in tests.
 *
 * Every change runs in one write of the tables, which checks first and then writes, so that a
 * refused transaction leaves nothing behind. Watches are fed from the stored history, not from
 * the writes in flight: what a watch reports is committed, in order, and catching up is the same
 * code as following.
 *
 * Leases are stored with their TTL; when they end is kept in memory on the monotonic clock. A
 * store that is opened gives every lease a full TTL again, as etcd does after an election.
 */
import { assert } from '../core/assert.ts'
import type { Clock, Random } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { METADATA_HISTORY_BYTES_MAX, METADATA_HISTORY_REVISIONS_MAX } from '../core/limits.ts'
import { Change } from './change.ts'
import { checkKey, checkLimit, checkTransaction, checkTtl } from './checks.ts'
import * as layout from './layout.ts'
import { LeaseClock } from './lease-clock.ts'
import type * as api from './store.ts'
import {
  byteStringOf,
  endOfPrefix,
  type ReadTables,
  type Tables,
  type WriteTables
} from './tables.ts'
import { WatchHub } from './watch-hub.ts'

export interface EmbeddedStoreOptions {
  readonly clock: Clock
  readonly random: Random
  readonly historyRevisionsMax?: number
  readonly historyBytesMax?: number
  /** Ends leases by a timer of the process; without it they end when the store is next used. */
  readonly timers?: boolean
}

export class EmbeddedStore implements api.MetadataStore {
  readonly #tables: Tables
  readonly #random: Random
  readonly #limits: { readonly revisions: number; readonly bytes: number }
  readonly #leases: LeaseClock
  readonly #watches: WatchHub
  #closed = false

  private constructor(tables: Tables, options: EmbeddedStoreOptions) {
    this.#tables = tables
    this.#random = options.random
    this.#limits = {
      revisions: options.historyRevisionsMax ?? METADATA_HISTORY_REVISIONS_MAX,
      bytes: options.historyBytesMax ?? METADATA_HISTORY_BYTES_MAX
    }
    const expire = options.timers === false ? null : () => this.#expireInBackground()
    this.#leases = new LeaseClock(options.clock, expire)
    this.#watches = new WatchHub(tables)
  }

  /** @throws StoreError UnknownVersion, Corrupt, DiskFailure, OutOfSpace */
  static async open(tables: Tables, options: EmbeddedStoreOptions): Promise<EmbeddedStore> {
    const store = new EmbeddedStore(tables, options)
    await tables.write((write) => {
      const state = write.get(layout.STATE_KEY)
      if (state !== null) return void layout.decodeState(state)
      const empty = { revision: 1, compactRevision: 0, historyBytes: 0 }
      write.put(layout.STATE_KEY, layout.encodeState(empty))
    })
    tables.read((read) => store.#loadLeases(read))
    return store
  }

  async get(key: string): Promise<api.Entry | null> {
    checkKey(key)
    await this.#settle()
    return this.#tables.read((read) => getEntry(read, key))
  }

  async range(prefix: string, options: api.RangeOptions = {}): Promise<api.RangeResult> {
    const limit = checkLimit(options.limit)
    const first = `k${byteStringOf(prefix)}`
    const after = options.after === undefined ? '' : `${layout.keyOf(options.after)}\0`
    await this.#settle()
    return this.#tables.read((read) => {
      const start = after > first ? after : first
      const found = read.range(start, endOfPrefix(first), limit + 1)
      const entries = found
        .slice(0, limit)
        .map(([key, value]) => layout.decodeRecord(layout.textOfKey(key), value))
      return { revision: readState(read).revision, entries, more: found.length > limit }
    })
  }

  async transact(transaction: api.Transaction): Promise<api.TransactionResult> {
    checkTransaction(transaction)
    await this.#settle()
    return this.#write((write) => {
      const compare = transaction.compare ?? []
      const succeeded = compare.every((condition) =>
        holds(getEntry(write, condition.key), condition)
      )
      const operations = (succeeded ? transaction.success : transaction.failure) ?? []
      checkLeases(write, operations)
      const change = this.#change(write)
      const entries = operations.flatMap((operation) => {
        if ('get' in operation) return [getEntry(write, operation.get)]
        if ('put' in operation) change.put(operation.put, operation.value, operation.lease ?? '')
        else change.delete(operation.delete)
        return []
      })
      return { succeeded, revision: change.end(), entries }
    })
  }

  watch(
    prefix: string,
    listener: (change: api.WatchChange) => void,
    options: { readonly fromRevision?: number } = {}
  ): api.Watch {
    this.#checkOpen()
    if (options.fromRevision !== undefined && !(options.fromRevision >= 1)) {
      const text = `a watch from revision ${options.fromRevision}: the first is 1`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    const next = this.#tables.read(readState).revision + 1
    return this.#watches.add(prefix, listener, options.fromRevision ?? next)
  }

  async grantLease(ttlMs: number): Promise<api.Lease> {
    const granted = checkTtl(ttlMs)
    await this.#settle()
    const id = await this.#write((write) => {
      const lease = this.#freeLeaseId(write)
      const bytes = Buffer.alloc(8)
      layout.putNumber(bytes, 0, granted)
      write.put(layout.leaseKeyOf(lease), bytes)
      return lease
    })
    this.#leases.start(id, granted)
    return { id, ttlMs: granted }
  }

  async keepAlive(lease: api.LeaseId): Promise<void> {
    await this.#settle()
    if (!this.#leases.renew(lease)) throw leaseEnded(lease)
  }

  async revokeLease(lease: api.LeaseId): Promise<void> {
    await this.#settle()
    if (!this.#leases.has(lease)) throw leaseEnded(lease)
    await this.#write((write) => this.#endLease(write, lease))
    this.#leases.stop(lease)
  }

  async compact(revision: number): Promise<void> {
    await this.#settle()
    const state = this.#tables.read(readState)
    if (!Number.isInteger(revision) || revision > state.revision) {
      const text = `cannot compact to revision ${revision}: the store is at ${state.revision}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    let more = true
    // Slices: one transaction that removes a whole history would hold others up.
    while (more) more = await this.#write((write) => this.#change(write).forgetUpTo(revision))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#leases.close()
    this.#watches.close()
    await this.#tables.close()
  }

  #checkOpen(): void {
    if (this.#closed) throw new StoreError(ErrorCode.Closed, 'the metadata store is closed')
  }

  /** Leases that are over must not be seen alive, however late the timer is. */
  async #settle(): Promise<void> {
    this.#checkOpen()
    const ended = this.#leases.takeEnded()
    if (ended.length === 0) return
    await this.#write((write) => {
      for (const lease of ended) this.#endLease(write, lease)
    }).catch((thrown: unknown) => {
      // They are over all the same: the next call tries again.
      for (const lease of ended) this.#leases.start(lease, 0)
      throw thrown
    })
    this.#checkOpen()
  }

  #expireInBackground(): void {
    // A failure here shows at the next call, which has someone to tell.
    this.#settle().catch(() => {})
  }

  async #write<T>(work: (write: WriteTables) => T): Promise<T> {
    const result = await this.#tables.write(work)
    if (!this.#closed) this.#watches.deliver()
    return result
  }

  #change(write: WriteTables): Change {
    return new Change(write, readState(write), this.#limits)
  }

  #endLease(write: WriteTables, lease: api.LeaseId): void {
    const change = this.#change(write)
    for (const key of attachedKeys(write, lease)) change.delete(key)
    write.remove(layout.leaseKeyOf(lease))
    change.end()
  }

  #freeLeaseId(read: ReadTables): api.LeaseId {
    for (;;) {
      const high = this.#random.u32().toString(16).padStart(8, '0')
      const id = high + this.#random.u32().toString(16).padStart(8, '0')
      if (read.get(layout.leaseKeyOf(id)) === null) return id
    }
  }

  #loadLeases(read: ReadTables): void {
    for (const [key, value] of read.range('l', 'm', Number.MAX_SAFE_INTEGER)) {
      this.#leases.start(key.slice(1), layout.getNumber(value, 0))
    }
  }
}

const leaseEnded = (lease: api.LeaseId): StoreError =>
  new StoreError(ErrorCode.NotFound, `lease ${lease} has ended or never was`)

function readState(read: ReadTables): layout.State {
  const bytes = read.get(layout.STATE_KEY)
  assert(bytes !== null, 'an open store has its state')
  return layout.decodeState(bytes)
}

function getEntry(read: ReadTables, key: string): api.Entry | null {
  const bytes = read.get(layout.keyOf(key))
  return bytes === null ? null : layout.decodeRecord(key, bytes)
}

function attachedKeys(read: ReadTables, lease: api.LeaseId): string[] {
  const prefix = layout.attachmentPrefixOf(lease)
  return read
    .range(prefix, endOfPrefix(prefix), Number.MAX_SAFE_INTEGER)
    .map(([key]) => layout.textOfKey(key.slice(prefix.length - 1)))
}

function checkLeases(read: ReadTables, operations: readonly api.Operation[]): void {
  for (const operation of operations) {
    if (!('put' in operation) || operation.lease === undefined || operation.lease === '') continue
    if (read.get(layout.leaseKeyOf(operation.lease)) === null) throw leaseEnded(operation.lease)
  }
}

function holds(entry: api.Entry | null, condition: api.Compare): boolean {
  if ('is' in condition) return (entry === null) === (condition.is === 'absent')
  if ('createRevision' in condition) {
    return (entry?.createRevision ?? 0) === condition.createRevision
  }
  if ('modRevision' in condition) return (entry?.modRevision ?? 0) === condition.modRevision
  if ('version' in condition) return (entry?.version ?? 0) === condition.version
  if ('value' in condition) return entry?.value.equals(condition.value) ?? false
  return entry !== null && entry.lease === condition.lease
}
