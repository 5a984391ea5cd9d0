import { fdatasyncSync } from 'node:fs'
import { getSystemErrorName } from 'node:util'
import { AssertionError, assert } from '../core/assert.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { UNSYNCED_FILES_MAX } from '../core/limits.ts'
import { ringMain } from './main-bell.ts'

// The sync board: which files of a shard have appends that are not durable yet. The worker enters
// appends, the main thread runs fdatasync in its thread pool (SyncRounds) and enters the outcome.
//
//   word  field
//      0  FAILED      errno of the first sync that failed, 0 while none did. Never cleared
//      1  REQUESTED   1 when the worker wants a sync
//  2..15  zero
//     16  rows, 16 words each:
//
//   word  field
//      0  state         Free, Idle, Syncing (only main sets and ends it), SyncingHere (worker)
//      1  descriptor
//      2  appended      low 32 bits of the lsn last appended
//      3  synced        main: `appended` as it was before the last sync that succeeded began
//      4  syncedHere    worker: the same for its own syncs
//
// A row that is being synced is pinned: the worker neither frees it nor closes its file, and the
// other side does not sync it too. The kernel reports a failed write-back to one fdatasync of a
// descriptor only, so that the other one's success would be a lie.
//
// Lsn are compared by their distance from `appended`, of which the worker knows the high bits too.
const FAILED = 0
export const REQUESTED = 1
export const ROWS = 16
export const ROW_WORDS = 16
export const STATE = 0
export const DESCRIPTOR = 1
export const APPENDED = 2
export const SYNCED = 3
export const SYNCED_HERE = 4
export const SYNC_BOARD_WORDS = ROWS + UNSYNCED_FILES_MAX * ROW_WORDS

export const RowState = { Free: 0, Idle: 1, Syncing: 2, SyncingHere: 3 } as const

/** errno name of the first sync that failed, '' while none did. */
export function syncFailure(words: Int32Array): string {
  const errno = Atomics.load(words, FAILED)
  return errno === 0 ? '' : errnoName(errno)
}

/** Marks the board failed for ever. `error` is what a file system call threw or returned. */
export function markSyncFailed(words: Int32Array, error: unknown): void {
  const errno = (error as { errno?: unknown } | null)?.errno
  const code = typeof errno === 'number' && errno < 0 ? errno : UNKNOWN_ERRNO
  Atomics.compareExchange(words, FAILED, 0, code)
}

const UNKNOWN_ERRNO = -5 // EIO: what Linux reports when it lost written pages
const errnoName = (errno: number): string => {
  try {
    return getSystemErrorName(errno)
  } catch {
    return `errno ${-errno}`
  }
}

/** The worker's side. Implements the shard engine's SyncTracker over shared memory. */
export class SyncBoard {
  private readonly words: Int32Array
  private readonly bell: Int32Array
  private readonly syncFile: (descriptor: number) => void
  private readonly rows: Row[] = []
  /** The row of the last append: nearly always the next one's too. */
  private last: Row | null = null
  private lastLsn = 0

  constructor(
    shared: SharedArrayBuffer,
    bell: SharedArrayBuffer,
    syncFile: (descriptor: number) => void = fdatasyncSync
  ) {
    this.words = new Int32Array(shared)
    this.bell = new Int32Array(bell)
    this.syncFile = syncFile
  }

  /** Batch `lsn` was written to `handle`: call after the write returned. */
  appended(handle: number, lsn: number): void {
    const row = this.rowOf(handle)
    if (row === null) {
      this.enter(handle, lsn)
    } else {
      // What was appended before stays as durable as it is; an idle row only moves up.
      if (this.isSynced(row)) Atomics.store(this.words, row.at + SYNCED_HERE, (lsn - 1) | 0)
      row.appendedLsn = lsn
      Atomics.store(this.words, row.at + APPENDED, lsn | 0)
    }
    if (lsn > this.lastLsn) this.lastLsn = lsn
  }

  /** Every batch with lsn <= this one is durable, in whatever file it is. */
  durableLsn(): number {
    let durable = this.lastLsn
    for (const row of this.rows) {
      const distance = this.unsynced(row)
      if (distance > 0) durable = Math.min(durable, row.appendedLsn - distance)
    }
    return durable
  }

  requestSync(): void {
    Atomics.store(this.words, REQUESTED, 1)
    ringMain(this.bell)
  }

  /** Syncs everything appended so far in this thread; `failure` tells whether it succeeded. */
  syncNow(): void {
    for (const row of this.rows) {
      if (this.failure() !== '') return
      if (!this.isSynced(row)) this.trySyncRow(row)
    }
  }

  /**
   * Syncs one file, on the board or not.
   * @throws StoreError DiskFailure when that fails: the board is failed from then on
   */
  syncHandle(handle: number): void {
    const row = this.rowOf(handle)
    if (row !== null && this.failure() === '') this.syncRow(row)
    else this.syncOrFail(handle)
  }

  failure(): string {
    return syncFailure(this.words)
  }

  /**
   * Whether `handle` may be closed. When it may, the board has forgotten it: no sync of it can
   * begin any more before the next append.
   */
  isIdle(handle: number): boolean {
    const row = this.rowOf(handle)
    return row === null || this.leave(row)
  }

  untrack(handle: number): void {
    assert(this.isIdle(handle), 'only an idle file is forgotten')
  }

  private trySyncRow(row: Row): void {
    try {
      this.syncRow(row)
    } catch (error) {
      // Marked on the board, which is where callers look.
      storeErrorOf(error)
    }
  }

  private syncRow(row: Row): void {
    const state = row.at + STATE
    const { Idle, Syncing, SyncingHere } = RowState
    while (Atomics.compareExchange(this.words, state, Idle, SyncingHere) !== Idle) {
      Atomics.wait(this.words, state, Syncing, PINNED_WAIT_MS)
    }
    try {
      this.syncOrFail(row.handle)
      // A sync that succeeds after one that failed proves nothing.
      if (this.failure() !== '') throw this.failed(null)
      Atomics.store(this.words, row.at + SYNCED_HERE, row.appendedLsn | 0)
    } finally {
      Atomics.store(this.words, state, Idle)
    }
  }

  private syncOrFail(handle: number): void {
    try {
      this.syncFile(handle)
    } catch (error) {
      markSyncFailed(this.words, error)
      throw this.failed(error)
    }
  }

  private failed(cause: unknown): StoreError {
    return new StoreError(ErrorCode.DiskFailure, `sync failed: ${this.failure()}`, { cause })
  }

  private rowOf(handle: number): Row | null {
    if (this.last !== null && this.last.handle === handle) return this.last
    for (const row of this.rows) {
      if (row.handle !== handle) continue
      this.last = row
      return row
    }
    return null
  }

  private enter(handle: number, lsn: number): void {
    const row: Row = { handle, at: this.freeRow(), appendedLsn: lsn }
    Atomics.store(this.words, row.at + DESCRIPTOR, handle)
    Atomics.store(this.words, row.at + SYNCED, (lsn - 1) | 0)
    Atomics.store(this.words, row.at + SYNCED_HERE, (lsn - 1) | 0)
    Atomics.store(this.words, row.at + APPENDED, lsn | 0)
    Atomics.store(this.words, row.at + STATE, RowState.Idle)
    this.rows.push(row)
    this.last = row
  }

  /** Frees the row unless it is unsynced or pinned. */
  private leave(row: Row): boolean {
    if (!this.isSynced(row)) return false
    const state = row.at + STATE
    const before = Atomics.compareExchange(this.words, state, RowState.Idle, RowState.Free)
    if (before !== RowState.Idle) return false
    this.rows.splice(this.rows.indexOf(row), 1)
    if (this.last === row) this.last = null
    return true
  }

  private freeRow(): number {
    if (this.rows.length === UNSYNCED_FILES_MAX) this.makeRoom()
    for (let at = ROWS; at < SYNC_BOARD_WORDS; at += ROW_WORDS) {
      if (Atomics.load(this.words, at + STATE) === RowState.Free) return at
    }
    throw new AssertionError('a board with fewer rows than its limit has a free one')
  }

  /** The disk does not keep up with sealed files: wait for it here, which slows the writers. */
  private makeRoom(): void {
    for (;;) {
      this.syncNow()
      if (this.failure() !== '') throw this.failed(null)
      for (const row of [...this.rows]) this.leave(row)
      if (this.rows.length < UNSYNCED_FILES_MAX) return
      const pinned = this.rows[0]!.at + STATE
      Atomics.wait(this.words, pinned, RowState.Syncing, PINNED_WAIT_MS)
    }
  }

  private isSynced(row: Row): boolean {
    return this.unsynced(row) === 0
  }

  /** How many lsn lie between what is durable in the file and its last append. */
  private unsynced(row: Row): number {
    const byMain = (row.appendedLsn - Atomics.load(this.words, row.at + SYNCED)) >>> 0
    const byWorker = (row.appendedLsn - Atomics.load(this.words, row.at + SYNCED_HERE)) >>> 0
    return Math.min(byMain, byWorker)
  }
}

interface Row {
  readonly handle: number
  /** First word of the row on the board. */
  readonly at: number
  appendedLsn: number
}

const PINNED_WAIT_MS = 1000
