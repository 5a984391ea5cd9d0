import type { Clock } from './clock.ts'
import { CLOCK_JUMP_MS, CLOCK_STEADY_MS } from './limits.ts'

/**
 * Tells when the wall clock has gone on as the monotonic one does for a while. Right after a start,
 * or after it was set, it may be days ahead until somebody sets it right: what cannot be undone
 * waits. A machine that slept looks the same.
 */
export class ClockWatch {
  readonly #clock: Clock
  #aheadMs: number
  #sinceMs: number

  constructor(clock: Clock) {
    this.#clock = clock
    this.#sinceMs = clock.monotonicMs()
    this.#aheadMs = clock.wallMs() - this.#sinceMs
  }

  /** Asked now and then: it sees only the jumps between two questions. */
  isSteady(): boolean {
    const nowMs = this.#clock.monotonicMs()
    const aheadMs = this.#clock.wallMs() - nowMs
    if (Math.abs(aheadMs - this.#aheadMs) > CLOCK_JUMP_MS) {
      this.#aheadMs = aheadMs
      this.#sinceMs = nowMs
    }
    return nowMs - this.#sinceMs >= CLOCK_STEADY_MS
  }
}
