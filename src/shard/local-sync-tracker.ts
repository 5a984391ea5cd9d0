/** A SyncTracker for one thread: offline tools, tests and simulation. */
import { storeErrorOf } from '../core/errors.ts'
import type { FileHandle, Files, SyncTracker } from './files.ts'

export class LocalSyncTracker implements SyncTracker {
  private readonly files: Files
  private readonly dirty = new Set<FileHandle>()
  private appendedLsn = 0
  private syncedLsn = 0
  private failed = ''
  private readonly lazy: boolean
  syncs = 0

  /** With `lazy` a requested sync never comes: only `syncNow` syncs. */
  constructor(files: Files, options: { lazy?: boolean } = {}) {
    this.files = files
    this.lazy = options.lazy ?? false
  }

  appended(handle: FileHandle, lsn: number): void {
    this.dirty.add(handle)
    if (lsn > this.appendedLsn) this.appendedLsn = lsn
  }

  durableLsn(): number {
    return this.syncedLsn
  }

  requestSync(): void {
    if (!this.lazy) this.syncNow()
  }

  syncNow(): void {
    if (this.failed !== '') return
    for (const handle of this.dirty) {
      try {
        this.files.sync(handle)
        this.syncs++
      } catch (thrown) {
        this.failed = storeErrorOf(thrown).message
        return
      }
    }
    this.dirty.clear()
    this.syncedLsn = this.appendedLsn
  }

  failure(): string {
    return this.failed
  }

  isIdle(handle: FileHandle): boolean {
    return !this.dirty.has(handle)
  }

  untrack(handle: FileHandle): void {
    this.dirty.delete(handle)
  }
}
