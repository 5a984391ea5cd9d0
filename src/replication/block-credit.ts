/**
 * How long reads may block the main thread. Each earns what the way through the thread pool would
 * cost more, and pays for what it took longer than a read from the page cache. Without credit they
 * pause, which is when they take that way. A late read during which this process read nothing from
 * a disk has lost its core to somebody, as it would have anywhere: it pays nothing.
 */
/** What a read through the thread pool costs more than one here: so much credit a read earns. */
const POOL_COST_MS = 0.01
/** A read from the page cache is quicker, and one from a disk is not. */
const QUICK_MS = 0.03
/** Looking whether a disk was read costs 2 µs: only for what took so much longer. */
const LOOK_MS = 0.05
/** What a late read pays that came alone: it is likely to have lost its core meanwhile. */
const LATE_MS = 0.3
/** Not alone is one that comes so few reads after another. */
const LATE_APART_READS = 200
/** Nobody loses a core for so long: it is the disk, even if the read came alone. */
const STUCK_MS = 50
/** Bounds how long reads may block that come after very many that did not. */
const CREDIT_MAX_MS = 2
/** After a pause so much is tried, and if it does not do, the next pause is twice as long. */
const CREDIT_TRIAL_MS = 0.4
const PAUSE_MIN_MS = 20
const PAUSE_MAX_MS = 1000
/** A pause is at least so many times as long as what the last read blocked. */
const PAUSE_FACTOR = 10

export class BlockCredit {
  private creditMs = CREDIT_TRIAL_MS
  private pauseMs = PAUSE_MIN_MS
  private pausedUntilMs = 0
  private readsSinceLate = LATE_APART_READS
  private readonly diskReads: () => number
  private seenDiskReads = 0

  /** `diskReads`: grows with what the process reads from disks; stays 0 where nobody counts. */
  constructor(diskReads: () => number) {
    this.diskReads = diskReads
  }

  isPaused(nowMs: number): boolean {
    return nowMs < this.pausedUntilMs
  }

  /** A read blocked from `startMs` to `endMs`. */
  account(startMs: number, endMs: number): void {
    const lateMs = endMs - startMs - QUICK_MS
    const costMs = lateMs > LOOK_MS && !this.wasDisk() ? 0 : this.costOf(lateMs)
    this.creditMs += POOL_COST_MS - costMs
    if (this.creditMs < 0) {
      this.pausedUntilMs = endMs + Math.max(this.pauseMs, PAUSE_FACTOR * costMs)
      this.pauseMs = Math.min(2 * this.pauseMs, PAUSE_MAX_MS)
      this.creditMs = CREDIT_TRIAL_MS
    } else if (this.creditMs > CREDIT_MAX_MS) {
      this.creditMs = CREDIT_MAX_MS
      this.pauseMs = PAUSE_MIN_MS
    }
  }

  private wasDisk(): boolean {
    const reads = this.diskReads()
    const isNews = reads === 0 || reads !== this.seenDiskReads
    this.seenDiskReads = reads
    return isNews
  }

  private costOf(lateMs: number): number {
    this.readsSinceLate++
    if (lateMs <= LATE_MS) return Math.max(lateMs, 0)
    const isAlone = this.readsSinceLate > LATE_APART_READS && lateMs < STUCK_MS
    this.readsSinceLate = 0
    return isAlone ? LATE_MS : lateMs
  }
}
