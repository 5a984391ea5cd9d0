/**
 * The disk as one shard sees it: one directory with files named by us. Real: `DiskFiles`; in tests
 * and simulation: `FaultyFiles`, which forgets unsynced bytes, tears writes at sectors, flips bits
 * and fails on request. Every call is synchronous and throws `StoreError` (DiskFailure, OutOfSpace,
 * NotFound) with the system's errno in its message.
 *
 * Durability is per file: what was written becomes durable by `sync(handle)` or by a sync that
 * `SyncTracker` reports. Names created, renamed or removed become durable by `syncDirectory`.
 */

import type { PartList } from './part-list.ts'

/** With `DiskFiles` the file descriptor, so that another thread of the process can sync it. */
export type FileHandle = number

export interface Files {
  /** File names in the directory, any order. */
  list(): string[]
  /** Opens for reading and writing. With `create` the file must not exist yet. */
  open(name: string, mode: 'existing' | 'create' | 'readOnly'): FileHandle
  /** The directory itself: `sync` of this handle does what `syncDirectory` does. */
  openDirectory(): FileHandle
  /** Closes now. Only for a handle that no sync elsewhere uses: see `SyncTracker.isIdle`. */
  close(handle: FileHandle): void
  size(handle: FileHandle): number
  /** Sets the size, sparse where it grows. */
  truncate(handle: FileHandle, bytes: number): void
  /** Reads into `into[start, start + length)` until that is full or the file ends; bytes read. */
  read(handle: FileHandle, offset: number, into: Buffer, start: number, length: number): number
  /** Writes `from[start, start + length)`, all of it. Aligned and large ones may bypass caches. */
  write(handle: FileHandle, offset: number, from: Buffer, start: number, length: number): void
  /** Writes all of `parts` one after the other from `offset`, as one gathered write. */
  writeGathered(handle: FileHandle, offset: number, parts: PartList): void
  /** Returns once every earlier write to the file survives power loss. */
  sync(handle: FileHandle): void
  remove(name: string): void
  /** Atomically replaces `to`. */
  rename(from: string, to: string): void
  syncDirectory(): void
  /** Bytes of the filesystem that this process may still use. */
  freeBytes(): number
}

/**
 * Knows which appended batches are durable. In production it is a table in shared memory
 * (handoff/sync-board.ts), so that the main thread can run fdatasync in its thread pool without
 * stalling the shard, and without asking it. In one-thread use it is `LocalSyncTracker`.
 *
 * A file enters with its first append, and stays until a sync covered its last append; the shard
 * calls `untrack` for a sealed file only when `isIdle` says so.
 */
export interface SyncTracker {
  /** Batch `lsn` was appended to `handle` (the tracker starts to know the file with its first). */
  appended(handle: FileHandle, lsn: number): void
  /** Every batch with lsn <= this one is durable, in whatever file it is. */
  durableLsn(): number
  /** Asks for a sync of everything appended so far, soon, by whoever runs syncs. Never blocks. */
  requestSync(): void
  /** Syncs everything appended so far, in this thread, and returns when it is durable. */
  syncNow(): void
  /** errno name of the first sync that failed ('' while none did). Sticky for ever. */
  failure(): string
  /** May `handle` be closed: nothing unsynced in it and no sync of it running elsewhere. */
  isIdle(handle: FileHandle): boolean
  /** Forget an idle file, before its handle is closed. */
  untrack(handle: FileHandle): void
}
