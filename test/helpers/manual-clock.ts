import type { Clock, Random, Timers } from '../../src/core/clock.ts'

/** A clock that moves when told to. */
export class ManualClock implements Clock, Timers {
  nowMs = 1000
  /** By how much somebody set the wall clock, or the machine slept. */
  wallShiftMs = 0
  readonly #timers = new Set<{ readonly atMs: number; readonly work: () => void }>()

  monotonicMs(): number {
    return this.nowMs
  }
  wallMs(): number {
    return 1_700_000_000_000 + this.nowMs + this.wallShiftMs
  }

  start(ms: number, work: () => void): () => void {
    const timer = { atMs: this.nowMs + ms, work }
    this.#timers.add(timer)
    return () => this.#timers.delete(timer)
  }

  /** Lets the time pass with its timers, and what they start run as far as it can. */
  async advance(ms: number): Promise<void> {
    const endMs = this.nowMs + ms
    await settled()
    for (;;) {
      const due = [...this.#timers].filter(({ atMs }) => atMs <= endMs)
      const next = due.sort((a, b) => a.atMs - b.atMs)[0]
      if (next === undefined) break
      this.#timers.delete(next)
      this.nowMs = Math.max(this.nowMs, next.atMs)
      next.work()
      await settled()
    }
    this.nowMs = endMs
  }
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Repeatable numbers (mulberry32). */
export class SeededRandom implements Random {
  #state: number
  constructor(seed: number) {
    this.#state = seed >>> 0
  }
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  below(limit: number): number {
    return Math.floor((this.u32() / 2 ** 32) * limit)
  }
}
