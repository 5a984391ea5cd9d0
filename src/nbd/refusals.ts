/**
 * Which refusals are told of: a client that tries again and again must not fill the audit log and
 * so push out what stands there. One for each address, kind and while, and few altogether; the next
 * one that is told has the number of those that were not.
 */
import type { Clock } from '../core/clock.ts'

/** Of one address and kind, in that time, one. */
const SAME_MS = 10_000
/** Who was told of longest ago is forgotten first. */
const KINDS_MAX = 1024
/** Of all addresses together: so many at once, then one in each `REFILL_MS`. */
const BURST = 60
const REFILL_MS = 1000

export class Refusals {
  readonly #clock: Clock
  readonly #toldMs = new Map<string, number>()
  #untold = 0
  #tokens = BURST
  #filledMs: number

  constructor(clock: Clock) {
    this.#clock = clock
    this.#filledMs = clock.monotonicMs()
  }

  /** null: not told. Else how many were not told before this one. */
  take(addressAndKind: string): number | null {
    const nowMs = this.#clock.monotonicMs()
    const refill = Math.floor((nowMs - this.#filledMs) / REFILL_MS)
    this.#tokens = Math.min(BURST, this.#tokens + refill)
    this.#filledMs += refill * REFILL_MS
    const lastMs = this.#toldMs.get(addressAndKind) ?? Number.NEGATIVE_INFINITY
    if (nowMs - lastMs < SAME_MS || this.#tokens === 0) {
      this.#untold++
      return null
    }
    this.#tokens--
    this.#toldMs.delete(addressAndKind)
    this.#toldMs.set(addressAndKind, nowMs)
    const [oldest] = this.#toldMs.keys()
    if (this.#toldMs.size > KINDS_MAX && oldest !== undefined) this.#toldMs.delete(oldest)
    const untold = this.#untold
    this.#untold = 0
    return untold
  }
}
