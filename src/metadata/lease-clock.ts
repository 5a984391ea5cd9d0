import type { Clock } from '../core/clock.ts'
import type { LeaseId } from './store.ts'

/** When leases end, on the monotonic clock, and the timer that notices. */
export class LeaseClock {
  readonly #clock: Clock
  readonly #expire: (() => void) | null
  readonly #leases = new Map<LeaseId, { readonly ttlMs: number; endMs: number }>()
  #timer: NodeJS.Timeout | null = null
  #closed = false

  /** `expire` is called when a lease may have ended; null leaves that to `takeEnded`. */
  constructor(clock: Clock, expire: (() => void) | null) {
    this.#clock = clock
    this.#expire = expire
  }

  has(lease: LeaseId): boolean {
    return this.#leases.has(lease)
  }

  start(lease: LeaseId, ttlMs: number): void {
    this.#leases.set(lease, { ttlMs, endMs: this.#clock.monotonicMs() + ttlMs })
    this.#arm()
  }

  /** False when the lease is not known. */
  renew(lease: LeaseId): boolean {
    const known = this.#leases.get(lease)
    if (known === undefined) return false
    known.endMs = this.#clock.monotonicMs() + known.ttlMs
    return true
  }

  stop(lease: LeaseId): void {
    this.#leases.delete(lease)
  }

  /** The leases that are over, which are forgotten here by this. */
  takeEnded(): LeaseId[] {
    if (this.#leases.size === 0) return []
    const now = this.#clock.monotonicMs()
    const ended: LeaseId[] = []
    for (const [lease, { endMs }] of this.#leases) if (endMs <= now) ended.push(lease)
    for (const lease of ended) this.#leases.delete(lease)
    return ended
  }

  close(): void {
    this.#closed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  #arm(): void {
    if (this.#expire === null || this.#closed || this.#timer !== null) return
    let endMs = Number.POSITIVE_INFINITY
    for (const lease of this.#leases.values()) endMs = Math.min(endMs, lease.endMs)
    if (endMs === Number.POSITIVE_INFINITY) return
    const delayMs = Math.max(1, Math.ceil(endMs - this.#clock.monotonicMs()))
    this.#timer = setTimeout(() => {
      this.#timer = null
      this.#expire?.()
      this.#arm()
    }, delayMs)
    this.#timer.unref()
  }
}
