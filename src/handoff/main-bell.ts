/**
 * How workers wake the main thread: one word for all of them. The main thread arms it when it has
 * nothing to drain; the worker that publishes first finds it armed, disarms it and notifies once.
 *
 * Arming and publishing both store, then load what the other stores, with sequentially consistent
 * atomics: at least one of them sees the other, so no wake-up is lost.
 */
const BELL_WORDS = 2
const ARMED = 0
/** Thread id of the worker that spins, or MAIN_SPINS: a second one sleeps instead. */
export const SPINNER = 1
export const MAIN_SPINS = -1

/** Worker side: call after publishing. */
export function ringMain(bell: Int32Array): void {
  if (Atomics.load(bell, ARMED) === 1 && Atomics.exchange(bell, ARMED, 0) === 1) {
    Atomics.notify(bell, ARMED)
  }
}

/** Main thread: the worker with this thread id has ended, perhaps while it spun. */
export function freeSpinner(bell: Int32Array, threadId: number): void {
  Atomics.compareExchange(bell, SPINNER, threadId, 0)
}

export class MainBell {
  readonly shared = new SharedArrayBuffer(BELL_WORDS * 4)
  readonly words = new Int32Array(this.shared)
  private readonly drain: () => boolean
  /** A promise of waitAsync is out. There is never more than one, so none can leak. */
  private waiting = false
  /** A turn of the event loop will look. */
  private looking = false
  private closed = false

  /** `drain` takes all that was published and tells whether there was anything. */
  constructor(drain: () => boolean) {
    this.drain = drain
  }

  /** From now on published entries reach `drain`. */
  arm(): void {
    if (this.looking || this.closed) return
    Atomics.store(this.words, ARMED, 1)
    if (this.drain()) {
      // Something came between the last drain and arming, and more may be under way. Sockets have
      // their turn first: a microtask here could keep them out for as long as workers are quick.
      this.disarm()
      this.lookLater()
    } else if (!this.waiting) {
      const wait = Atomics.waitAsync(this.words, ARMED, 1)
      this.waiting = wait.async
      if (wait.async) void wait.value.then(this.wake)
      else this.lookLater()
    }
  }

  /** Until `arm`, the caller looks itself: workers are spared the waking. */
  disarm(): void {
    Atomics.store(this.words, ARMED, 0)
  }

  close(): void {
    this.closed = true
    this.disarm()
    Atomics.notify(this.words, ARMED)
  }

  private lookLater(): void {
    this.looking = true
    setImmediate(this.look)
  }

  private readonly look = (): void => {
    this.looking = false
    if (this.closed) return
    this.drain()
    this.arm()
  }

  private readonly wake = (): void => {
    this.waiting = false
    if (this.looking || this.closed) return
    this.drain()
    this.arm()
  }
}
