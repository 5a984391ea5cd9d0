import { assert } from '../core/assert.ts'
import { FILE_DESCRIPTORS_MAX } from '../core/limits.ts'

/**
 * The file descriptors that a shard's worker has open, a bit each in shared memory. Node would
 * close a dead worker's descriptors by itself, while an fdatasync of one may still be queued in the
 * thread pool: it would then sync whatever file got the number next, and report success. Shard
 * workers run with that switched off, and the main thread closes what a dead worker left behind
 * once no sync is running.
 *
 * A worker that ends between a system call and the change of its bit leaves one descriptor open.
 */
export class OpenFiles {
  private readonly bits: Int32Array
  constructor(shared: SharedArrayBuffer) {
    this.bits = new Int32Array(shared)
  }

  /** After `descriptor` was opened. */
  opened(descriptor: number): void {
    assert(
      descriptor >= 0 && descriptor < FILE_DESCRIPTORS_MAX,
      'a file descriptor is in its range'
    )
    Atomics.or(this.bits, descriptor >>> 5, 1 << (descriptor & 31))
  }

  /** Before `descriptor` is closed: its number may be somebody else's right after. */
  closing(descriptor: number): void {
    Atomics.and(this.bits, descriptor >>> 5, ~(1 << (descriptor & 31)))
  }

  /** Calls `close` for every open descriptor and forgets it. */
  takeAll(close: (descriptor: number) => void): void {
    for (let word = 0; word < this.bits.length; word++) {
      let open = Atomics.exchange(this.bits, word, 0)
      while (open !== 0) {
        const lowest = open & -open
        open ^= lowest
        close(word * 32 + (31 - Math.clz32(lowest)))
      }
    }
  }
}
