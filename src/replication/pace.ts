import type { Clock, Timers } from '../core/clock.ts'

/** Client requests at the local shards above which a resync makes way … */
const CLIENT_DEPTH_MAX = 4
/** … for so long, and looks again … */
const YIELD_MS = 2
/** … so often: it goes on at a tenth of its pace however busy clients are. */
const YIELDS_MAX = 25

/** Bounds what background work takes: bytes a second, and its turn behind clients. */
export class Pace {
  /** Bytes a second; may be changed at any time. */
  bytesPerSecond: number
  readonly #clock: Clock
  readonly #timers: Timers
  /** Requests of clients that wait for the shards. */
  readonly #clientDepth: () => number
  /** When what was taken so far is paid for. */
  #paidMs = 0

  constructor(
    clock: Clock,
    timers: Timers,
    options: { bytesPerSecond: number; clientDepth: () => number }
  ) {
    this.#clock = clock
    this.#timers = timers
    this.bytesPerSecond = options.bytesPerSecond
    this.#clientDepth = options.clientDepth
  }

  /** Resolves when it is time to move so many bytes. */
  async take(bytes: number): Promise<void> {
    const now = this.#clock.monotonicMs()
    const startMs = Math.max(now, this.#paidMs)
    this.#paidMs = startMs + (bytes / this.bytesPerSecond) * 1000
    if (startMs > now) await this.#wait(startMs - now)
    for (let left = YIELDS_MAX; left > 0 && this.#clientDepth() > CLIENT_DEPTH_MAX; left--) {
      await this.#wait(YIELD_MS)
    }
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#timers.start(delayMs, resolve)
    })
  }
}
