/**
 * How workers wake the main thread: one word for all of them. The main thread arms it when it has
 * nothing to drain; the worker that publishes first finds it armed, disarms it and notifies once.
 *
 * Arming and publishing both store, then load what the other stores, with sequentially consistent
 * atomics: at least one of them sees the other, so no wake-up is lost.
 */
const BELL_WORDS = 1
const ARMED = 0

/** Worker side: call after publishing. */
export function ringMain(bell: Int32Array): void {
  if (Atomics.load(bell, ARMED) === 1 && Atomics.exchange(bell, ARMED, 0) === 1) {
    Atomics.notify(bell, ARMED)
  }
}

export class MainBell {
  readonly shared = new SharedArrayBuffer(BELL_WORDS * 4)
  private readonly word = new Int32Array(this.shared)
  private readonly drain: () => boolean
  /** A promise of waitAsync is out. There is never more than one, so none can leak. */
  private waiting = false
  private closed = false

  /** `drain` takes all that was published and tells whether there was anything. */
  constructor(drain: () => boolean) {
    this.drain = drain
  }

  /** From now on published entries reach `drain`. */
  arm(): void {
    if (this.waiting || this.closed) return
    Atomics.store(this.word, ARMED, 1)
    if (this.drain()) {
      // Something came between the last drain and arming, and more may be under way. Sockets have
      // their turn first: a microtask here could keep them out for as long as workers are quick.
      Atomics.store(this.word, ARMED, 0)
      setImmediate(this.wake)
      this.waiting = true
      return
    }
    const wait = Atomics.waitAsync(this.word, ARMED, 1)
    this.waiting = true
    if (wait.async) wait.value.then(this.wake)
    else setImmediate(this.wake)
  }

  close(): void {
    this.closed = true
    Atomics.store(this.word, ARMED, 0)
    Atomics.notify(this.word, ARMED)
  }

  private readonly wake = (): void => {
    this.waiting = false
    if (this.closed) return
    this.drain()
    this.arm()
  }
}
