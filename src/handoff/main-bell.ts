/**
 * How workers wake the main thread: one word for all of them. The main thread arms it when it has
 * nothing to drain; the worker that publishes first finds it armed, disarms it and notifies once.
 *
 * Arming and publishing both store, then load what the other stores, with sequentially consistent
 * atomics: at least one of them sees the other, so no wake-up is lost.
 */
const BELL_WORDS = 2
const ARMED = 0
/** 1 while a worker spins: a second one sleeps instead. */
export const SPINNER = 1

/** Worker side: call after publishing. */
export function ringMain(bell: Int32Array): void {
  if (Atomics.load(bell, ARMED) === 1 && Atomics.exchange(bell, ARMED, 0) === 1) {
    Atomics.notify(bell, ARMED)
  }
}

export interface BellKnobs {
  /**
   * How long the main thread goes on looking for completions, once a turn of its event loop, after
   * requests were rung or answered; then it arms the bell and sleeps. Microseconds.
   */
  readonly lookMicros: number
}

const defaultKnobs: BellKnobs = { lookMicros: 0 }

export class MainBell {
  readonly shared = new SharedArrayBuffer(BELL_WORDS * 4)
  private readonly word = new Int32Array(this.shared)
  private readonly drain: () => boolean
  private readonly lookMs: number
  /** A promise of waitAsync is out. There is never more than one, so none can leak. */
  private waiting = false
  /** A turn of the event loop will look. */
  private looking = false
  /** Until when turns go on looking though they find nothing. */
  private lookUntilMs = 0
  private closed = false

  /** `drain` takes all that was published and tells whether there was anything. */
  constructor(drain: () => boolean, knobs: Partial<BellKnobs> = {}) {
    this.drain = drain
    this.lookMs = { ...defaultKnobs, ...knobs }.lookMicros / 1000
  }

  /** Answers are expected soon: look for them between turns instead of being woken. */
  expect(): void {
    if (this.looking || this.closed || this.lookMs === 0) return
    Atomics.store(this.word, ARMED, 0)
    this.lookUntilMs = performance.now() + this.lookMs
    this.lookLater()
  }

  /** From now on published entries reach `drain`. */
  arm(): void {
    if (this.looking || this.closed) return
    Atomics.store(this.word, ARMED, 1)
    if (this.drain()) {
      // Something came between the last drain and arming, and more may be under way. Sockets have
      // their turn first: a microtask here could keep them out for as long as workers are quick.
      Atomics.store(this.word, ARMED, 0)
      this.lookLater()
    } else if (!this.waiting) {
      const wait = Atomics.waitAsync(this.word, ARMED, 1)
      this.waiting = wait.async
      if (wait.async) void wait.value.then(this.wake)
      else this.lookLater()
    }
  }

  close(): void {
    this.closed = true
    Atomics.store(this.word, ARMED, 0)
    Atomics.notify(this.word, ARMED)
  }

  private lookLater(): void {
    if (this.looking) return
    this.looking = true
    setImmediate(this.look)
  }

  private readonly look = (): void => {
    this.looking = false
    if (this.closed) return
    const found = this.drain()
    if (this.lookMs > 0) {
      const nowMs = performance.now()
      if (found) this.lookUntilMs = nowMs + this.lookMs
      if (nowMs < this.lookUntilMs) this.lookLater()
    }
    this.arm()
  }

  private readonly wake = (): void => {
    this.waiting = false
    if (this.closed || this.looking) return
    this.drain()
    this.arm()
  }
}
