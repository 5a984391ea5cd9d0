import type { Clock, Random } from '../../src/core/clock.ts'

/** A clock that moves when told to. */
export class ManualClock implements Clock {
  nowMs = 1000
  monotonicMs(): number {
    return this.nowMs
  }
  wallMs(): number {
    return 1_700_000_000_000 + this.nowMs
  }
}

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
