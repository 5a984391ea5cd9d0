import type { Clock } from './clock.ts'
import { ErrorCode, StoreError } from './errors.ts'

/** After the first failure; doubled by every further one. */
const FIRST_MS = 1000
const LONGEST_MS = 60_000
/** Failures are forgotten after so long without one. */
const FORGET_MS = 10 * 60_000
/** Who failed least recently is forgotten first. */
const KEPT_MAX = 4096

interface Failures {
  count: number
  lastMs: number
}

/** Slows down whoever guesses: each failure of a key makes its next attempt wait longer. */
export class FailedAttempts {
  readonly #clock: Clock
  readonly #failures = new Map<string, Failures>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** @throws StoreError Busy while `key` has to wait; `what` names it */
  check(key: string, what: string): void {
    const known = this.#failures.get(key)
    if (known === undefined) return
    const waitMs = known.lastMs + delayMs(known.count) - this.#clock.monotonicMs()
    if (waitMs <= 0) return
    const failures = `${known.count} failed attempt${known.count === 1 ? '' : 's'}`
    const text = `${what}: ${failures}, the next one is taken in`
    throw new StoreError(ErrorCode.Busy, `${text} ${Math.ceil(waitMs / 1000)} s`)
  }

  failed(key: string): void {
    const now = this.#clock.monotonicMs()
    const known = this.#failures.get(key)
    const recent = known !== undefined && now - known.lastMs < FORGET_MS
    this.#failures.delete(key)
    this.#failures.set(key, { count: recent ? known.count + 1 : 1, lastMs: now })
    const [oldest] = this.#failures.keys()
    if (this.#failures.size > KEPT_MAX && oldest !== undefined) this.#failures.delete(oldest)
  }

  succeeded(key: string): void {
    this.#failures.delete(key)
  }
}

const delayMs = (count: number): number => Math.min(FIRST_MS * 2 ** (count - 1), LONGEST_MS)
