import type { Clock, Timers } from '../../src/core/clock.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'

interface Event {
  readonly atMs: number
  readonly order: number
  run: (() => void) | null
}

/**
 * Everything settled that was resolved: ticks wait for all microtasks, and cost much less than a
 * turn of the event loop, which nothing here waits for.
 */
const settled = (): Promise<void> => new Promise((resolve) => process.nextTick(resolve))

/**
 * Time in a simulated cluster: events in order, one after the other, with all that they set off.
 * Two runs with one seed do the same.
 */
export class World implements Clock {
  readonly random: SeededRandom
  nowMs = 1000
  events = 0
  #order = 0
  readonly #heap: Event[] = []
  readonly trace: string[] = []
  /** The first thing that went wrong ends the run. */
  failure: Error | null = null

  constructor(seed: number) {
    this.random = new SeededRandom(seed)
  }

  monotonicMs(): number {
    return this.nowMs
  }
  wallMs(): number {
    return 1_700_000_000_000 + this.nowMs
  }

  /** Below `limit`, not whole. */
  between(low: number, high: number): number {
    return low + (this.random.u32() / 2 ** 32) * (high - low)
  }
  chance(one: number): boolean {
    return this.random.below(one) === 0
  }

  at(atMs: number, run: () => void): () => void {
    const event: Event = { atMs: Math.max(atMs, this.nowMs), order: this.#order++, run }
    push(this.#heap, event)
    return () => {
      event.run = null
    }
  }
  after(delayMs: number, run: () => void): () => void {
    return this.at(this.nowMs + delayMs, run)
  }

  log(text: string): void {
    this.trace.push(`${this.nowMs.toFixed(2)} ${text}`)
    if (this.trace.length > 20000) this.trace.splice(0, 5000)
  }

  fail(text: string): void {
    this.failure ??= new Error(`at ${this.nowMs.toFixed(2)} ms: ${text}`)
  }

  /** The next event up to then, and all that it sets off; false when there is none. */
  async runNext(endMs: number = Number.POSITIVE_INFINITY): Promise<boolean> {
    for (;;) {
      const next = this.#heap[0]
      if (next === undefined || next.atMs > endMs) return false
      pop(this.#heap)
      const { run } = next
      if (run === null) continue
      this.nowMs = next.atMs
      this.events++
      run()
      await settled()
      return true
    }
  }

  async runUntil(endMs: number): Promise<void> {
    await settled()
    while (this.failure === null && (await this.runNext(endMs))) {
      // Until then, or until something is wrong.
    }
    if (this.failure !== null) throw this.failure
    this.nowMs = Math.max(this.nowMs, endMs)
  }

  /** Runs until `done` says so. @throws Error when that takes longer */
  async runFor(limitMs: number, what: string, done: () => boolean): Promise<void> {
    const endMs = this.nowMs + limitMs
    await settled()
    while (!done()) {
      if (this.nowMs >= endMs) throw new Error(`${what}: not within ${limitMs} ms`)
      await this.runUntil(Math.min(endMs, (this.#heap[0]?.atMs ?? endMs) + 1))
    }
    if (this.failure !== null) throw this.failure
  }

  /** Waits for a promise while time passes. */
  async until<T>(limitMs: number, what: string, promise: Promise<T>): Promise<T> {
    let state: { value: T } | { thrown: unknown } | null = null
    promise.then(
      (value) => {
        state = { value }
      },
      (thrown: unknown) => {
        state = { thrown }
      }
    )
    await this.runFor(limitMs, what, () => state !== null)
    const ended = state as unknown as { value: T } | { thrown: unknown }
    if ('thrown' in ended) throw ended.thrown
    return ended.value
  }
}

/**
 * One run of one program: its timers stand still while it is stopped (SIGSTOP) and are gone when
 * it is killed; so is what others send it.
 */
export class Process implements Timers, Clock {
  readonly world: World
  readonly name: string
  isAlive = true
  /** By how much somebody set the wall clock. */
  wallShiftMs = 0
  /** For how long its machine slept: the monotonic clock stood still meanwhile. */
  #sleptMs = 0
  #stoppedUntilMs = 0
  /** What came while it was stopped, in that order; functions that do nothing were cancelled. */
  readonly #backlog: { run: () => void }[] = []
  readonly #onKill: (() => void)[] = []

  constructor(world: World, name: string) {
    this.world = world
    this.name = name
  }

  monotonicMs(): number {
    return this.world.nowMs - this.#sleptMs
  }
  wallMs(): number {
    return this.world.wallMs() + this.wallShiftMs
  }

  get isStopped(): boolean {
    return this.world.nowMs < this.#stoppedUntilMs
  }

  /** Who is stopped already, or sleeps, goes on no earlier by that. */
  stop(forMs: number): void {
    this.#stoppedUntilMs = Math.max(this.#stoppedUntilMs, this.world.nowMs + forMs)
  }

  /** The whole machine stands still, and its clock with it, as a virtual one that is paused. */
  sleep(forMs: number): void {
    if (this.isStopped) return
    this.stop(forMs)
    this.#sleptMs += forMs
  }

  kill(): void {
    this.isAlive = false
    for (const tell of this.#onKill.splice(0)) tell()
  }

  /** For who would look again and again; at once where it is over already. */
  onKill(tell: () => void): void {
    if (this.isAlive) this.#onKill.push(tell)
    else tell()
  }

  start(delayMs: number, run: () => void): () => void {
    return this.at(this.world.nowMs + delayMs, run)
  }

  /** Runs in this process, when it runs: after all that waited before. */
  at(atMs: number, run: () => void): () => void {
    const entry = { run }
    const attempt = (): void => {
      if (!this.isAlive) return
      if (!this.isStopped && this.#backlog.length === 0) entry.run()
      else if (this.#backlog.push(entry) === 1) this.#wakeLater()
    }
    const cancel = this.world.at(atMs, attempt)
    return () => {
      cancel()
      entry.run = () => {}
    }
  }

  #wakeLater(): void {
    this.world.at(Math.max(this.world.nowMs, this.#stoppedUntilMs), () => {
      if (!this.isAlive) return
      if (!this.isStopped) {
        this.#backlog[0]!.run()
        this.#backlog.shift()
      }
      if (this.#backlog.length > 0) this.#wakeLater()
    })
  }
}

const isBefore = (a: Event, b: Event): boolean =>
  a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)

function push(heap: Event[], event: Event): void {
  let at = heap.length
  heap.push(event)
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (!isBefore(event, heap[parent]!)) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = event
}

function pop(heap: Event[]): void {
  const last = heap.pop()!
  if (heap.length === 0) return
  let at = 0
  for (;;) {
    let child = 2 * at + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++
    if (!isBefore(heap[child]!, last)) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = last
}
