import type { Clock } from '../core/clock.ts'
import { BLOCK_BYTES } from '../core/limits.ts'

export interface ResyncProgress {
  /** Of this run: since there was last nothing to do for a while. */
  readonly groupsDone: number
  /** Waiting or being worked on. */
  readonly groupsLeft: number
  readonly bytesCopied: number
  /** At most so many are left; those of groups that wait are as many as others had. */
  readonly bytesLeft: number
  /** Of the last seconds; 0 while nothing is copied. */
  readonly bytesPerSecond: number
  /** Null while that is not known, 0 while there is nothing to do. */
  readonly secondsLeft: number | null
  /** That those of this run took; null while too few are done. */
  readonly secondsPerGroup: number | null
}

/** Over which the rate is told. */
const RATE_SECONDS = 5
/** Groups come in small lots while data is moved: what follows within this time is the same run. */
const RUN_IDLE_MS = 10_000

/** How far the resyncs of a peer are, for whoever shows it. */
export class ResyncMeter {
  readonly #clock: Clock
  #startMs = 0
  #idleSinceMs = Number.NEGATIVE_INFINITY
  #groupsDone = 0
  /** Those of them of which something was copied. */
  #groupsCopied = 0
  #bytesCopied = 0
  #groupsCompared = 0
  #bytesCompared = 0
  #bytesLeft = 0
  /** Left of it since what is copied now was begun. */
  #begun = { bytes: 0, copied: 0 }
  /** Bytes by second, for the last few. */
  readonly #seconds = new Map<number, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** There is something to do. */
  begin(): void {
    const now = this.#clock.monotonicMs()
    const isNew = now - this.#idleSinceMs > RUN_IDLE_MS
    this.#idleSinceMs = Number.POSITIVE_INFINITY
    if (!isNew) return
    this.#startMs = now
    this.#groupsDone = this.#groupsCopied = this.#bytesCopied = 0
    this.#groupsCompared = this.#bytesCompared = 0
  }

  /** There is nothing to do, for now. */
  end(): void {
    this.#idleSinceMs = this.#clock.monotonicMs()
    this.#bytesLeft = 0
  }

  /** A group has so many blocks where it may differ. */
  compared(blocks: number): void {
    this.#groupsCompared++
    this.#bytesCompared += blocks * BLOCK_BYTES
    this.#bytesLeft += blocks * BLOCK_BYTES
  }

  /** So many of them are looked at now. */
  beginPart(blocks: number): void {
    this.#begun = { bytes: blocks * BLOCK_BYTES, copied: 0 }
  }

  endPart(): void {
    this.#bytesLeft = Math.max(0, this.#bytesLeft - this.#begun.bytes)
    this.#begun = { bytes: 0, copied: 0 }
  }

  copied(bytes: number): void {
    this.#bytesCopied += bytes
    this.#begun.copied += bytes
    const second = Math.floor(this.#clock.monotonicMs() / 1000)
    this.#seconds.set(second, (this.#seconds.get(second) ?? 0) + bytes)
    for (const old of this.#seconds.keys()) {
      if (old < second - RATE_SECONDS) this.#seconds.delete(old)
    }
  }

  groupDone(wasCopied: boolean): void {
    this.#groupsDone++
    if (wasCopied) this.#groupsCopied++
  }

  /** What failed is compared again at its next turn. */
  forgetLeft(): void {
    this.#bytesLeft = 0
    this.#begun = { bytes: 0, copied: 0 }
  }

  /** `waiting` of `groupsLeft` were not looked at yet. */
  progress(groupsLeft: number, waiting: number): ResyncProgress {
    const perGroup = this.#groupsCompared === 0 ? 0 : this.#bytesCompared / this.#groupsCompared
    const partLeft = Math.min(this.#begun.bytes, this.#begun.copied)
    const bytesLeft =
      groupsLeft === 0 ? 0 : Math.max(0, this.#bytesLeft - partLeft) + waiting * perGroup
    const bytesPerSecond = this.#rate()
    return {
      groupsDone: this.#groupsDone,
      groupsLeft,
      bytesCopied: this.#bytesCopied,
      bytesLeft: Math.round(bytesLeft),
      bytesPerSecond,
      secondsPerGroup: this.#secondsPerGroup(),
      secondsLeft: this.#secondsLeft(groupsLeft, bytesLeft, bytesPerSecond)
    }
  }

  #rate(): number {
    const now = this.#clock.monotonicMs()
    // Whole seconds, and the part of this one.
    const first = Math.floor(now / 1000) - RATE_SECONDS
    let bytes = 0
    for (const [second, copied] of this.#seconds) if (second >= first) bytes += copied
    const seconds = Math.min(now / 1000 - first, (now - this.#startMs) / 1000)
    return bytes / Math.max(1, seconds)
  }

  /**
   * By bytes it is at most so long, because of a group that differs a little all of it counts; by
   * groups it is as long as for those that are done.
   */
  #secondsLeft(groupsLeft: number, bytesLeft: number, bytesPerSecond: number): number | null {
    if (groupsLeft === 0) return 0
    const byBytes = bytesPerSecond > 0 ? bytesLeft / bytesPerSecond : null
    const perGroup = this.#secondsPerGroup()
    if (perGroup === null) return byBytes
    const byGroups = perGroup * groupsLeft
    return byBytes === null ? byGroups : Math.min(byBytes, byGroups)
  }

  #secondsPerGroup(): number | null {
    const groups = this.#bytesCopied === 0 ? this.#groupsDone : this.#groupsCopied
    if (groups < 2) return null
    return (this.#clock.monotonicMs() - this.#startMs) / 1000 / groups
  }
}
