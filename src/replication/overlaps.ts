import { OVERLAP_BUCKETS } from '../core/limits.ts'
import type { BlockOp } from './block-store.ts'
import type { Pending } from './pending.ts'

const bucketOf = (op: BlockOp): number =>
  ((Math.imul(op.chunk, 0x9e3779b1) ^ Math.imul(op.familyLow, 0x85ebca6b)) >>> 8) &
  (OVERLAP_BUCKETS - 1)

/** Writes that are pending, by chunk, so that an overlap is found without looking at all. */
export class Overlaps {
  readonly #newest: (Pending | null)[] = new Array<Pending | null>(OVERLAP_BUCKETS).fill(null)

  enter(write: Pending): void {
    const bucket = bucketOf(write.request)
    const newest = this.#newest[bucket]!
    write.bucket = bucket
    write.bucketOlder = newest
    if (newest !== null) newest.bucketNewer = write
    this.#newest[bucket] = write
  }

  leave(write: Pending): void {
    if (write.bucketNewer === null) this.#newest[write.bucket] = write.bucketOlder
    else write.bucketNewer.bucketOlder = write.bucketOlder
    if (write.bucketOlder !== null) write.bucketOlder.bucketNewer = write.bucketNewer
    write.bucketOlder = null
    write.bucketNewer = null
    write.bucket = -1
  }

  /** The newest write with a ticket up to `horizon` that overlaps `op`. */
  find(op: BlockOp, horizon: number): Pending | null {
    let at: Pending | null = this.#newest[bucketOf(op)]!
    while (at !== null) {
      if (at.ticket <= horizon && at.request !== op && at.overlaps(op)) return at
      at = at.bucketOlder
    }
    return null
  }
}
