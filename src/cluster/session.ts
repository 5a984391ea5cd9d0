/**
 * One process's lease, kept alive until `close`.
 *
 * The lease is trusted from when its last answered keepalive was *sent*, because its time may have
 * begun at any moment after that, until its TTL less a margin has passed on the monotonic clock.
 * That clock stands still while a virtual machine is paused or a laptop sleeps, and the lease goes
 * on: so when the wall clock and the monotonic clock moved apart since that keepalive, nothing is
 * trusted until a keepalive that was sent later is answered.
 *
 * Nothing here waits for the metadata store longer than part of a TTL, however long that hangs.
 */
import { type Clock, systemTimers, type Timers } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  CLOCK_JUMP_MS_MAX,
  SESSION_CLOSE_MS,
  SESSION_MARGIN,
  SESSION_TTL_MS
} from '../core/limits.ts'
import type { LeaseId, MetadataStore } from '../metadata/store.ts'

/** Of the TTL: between keepalives, after one that failed, and until one counts as failed. */
const RENEW_PART = 1 / 3
const RETRY_PART = 1 / 20
const ANSWER_PART = 0.6

export interface SessionOptions {
  readonly ttlMs?: number
  /** Keepalives fail; called for each. The session goes on trying. */
  readonly onTrouble?: (error: StoreError) => void
  /** A keepalive was answered after some that were not. */
  readonly onRecovered?: () => void
  readonly timers?: Timers
}

export class Session {
  readonly #store: MetadataStore
  readonly #clock: Clock
  readonly #timers: Timers
  readonly #options: SessionOptions
  readonly #replaced: (() => void)[] = []
  #lease: LeaseId = ''
  #ttlMs = 0
  #sentMs = 0
  /** Wall less monotonic time when that keepalive was sent. */
  #offsetMs = 0
  #cancelTimer: () => void = () => {}
  #failing = false
  #closed = false
  #renewing: Promise<void> | null = null

  private constructor(store: MetadataStore, clock: Clock, options: SessionOptions) {
    this.#store = store
    this.#clock = clock
    this.#timers = options.timers ?? systemTimers
    this.#options = options
  }

  static async open(
    store: MetadataStore,
    clock: Clock,
    options: SessionOptions = {}
  ): Promise<Session> {
    const session = new Session(store, clock, options)
    await session.#grant()
    session.#schedule(session.#ttlMs * RENEW_PART)
    return session
  }

  /** `listener` is called when the lease ended and a new one was taken: keys bound to the old one
   * are gone and must be put again. */
  onReplaced(listener: () => void): void {
    this.#replaced.push(listener)
  }

  get lease(): LeaseId {
    return this.#lease
  }

  /** On the monotonic clock: until when the lease is surely ours, if no clock jumps meanwhile. */
  get trustedUntilMs(): number {
    return this.#sentMs + this.#ttlMs * (1 - SESSION_MARGIN)
  }

  /** How long the lease is surely ours from now on; 0 when it may be lost. */
  get trustedForMs(): number {
    if (this.#closed || this.#jumped(this.#offsetMs)) return 0
    return Math.max(0, this.trustedUntilMs - this.#clock.monotonicMs())
  }

  /** The last keepalive was answered: who asks the metadata store need not wait in vain. */
  get isAnswered(): boolean {
    return !this.#failing
  }

  /** Asks for the lease now; takes a new one when it has ended. Also runs by itself in time. */
  renew(): Promise<void> {
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = null
    })
    return this.#renewing
  }

  /** Ends the lease, and with it every key that is bound to it. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#cancelTimer()
    try {
      await this.#within(SESSION_CLOSE_MS, this.#store.revokeLease(this.#lease))
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      // It ends by itself.
    }
  }

  async #renew(): Promise<void> {
    const sentMs = this.#clock.monotonicMs()
    const offsetMs = this.#clock.wallMs() - sentMs
    try {
      await this.#within(this.#ttlMs * ANSWER_PART, this.#store.keepAlive(this.#lease))
      if (this.#jumped(offsetMs)) throw jumpedError()
      this.#sentMs = sentMs
      this.#offsetMs = offsetMs
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      if (this.#closed) return
      await this.#grant()
      for (const listener of this.#replaced) listener()
    }
  }

  async #grant(): Promise<void> {
    const sentMs = this.#clock.monotonicMs()
    const offsetMs = this.#clock.wallMs() - sentMs
    const ttl = this.#options.ttlMs ?? SESSION_TTL_MS
    const { id, ttlMs } = await this.#within(ttl * ANSWER_PART, this.#store.grantLease(ttl))
    this.#lease = id
    this.#ttlMs = ttlMs
    this.#sentMs = sentMs
    this.#offsetMs = offsetMs
  }

  #jumped(offsetMs: number): boolean {
    const nowMs = this.#clock.wallMs() - this.#clock.monotonicMs()
    return Math.abs(nowMs - offsetMs) > CLOCK_JUMP_MS_MAX
  }

  #schedule(ms: number): void {
    if (this.#closed) return
    this.#cancelTimer = this.#timers.start(ms, () => {
      this.renew().then(
        () => {
          if (this.#failing && !this.#closed) this.#options.onRecovered?.()
          this.#failing = false
          this.#schedule(this.#ttlMs * RENEW_PART)
        },
        (thrown: unknown) => {
          if (!(thrown instanceof StoreError)) throw thrown
          this.#failing = true
          if (!this.#closed) this.#options.onTrouble?.(thrown)
          this.#schedule(this.#ttlMs * RETRY_PART)
        }
      )
    })
  }

  /** @throws StoreError Unavailable when there is no answer in `ms` */
  #within<T>(ms: number, answer: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const cancel = this.#timers.start(ms, () => {
        const text = `the metadata store did not answer within ${Math.round(ms)} ms`
        reject(new StoreError(ErrorCode.Unavailable, text))
      })
      answer.then(resolve, reject).finally(cancel)
    })
  }
}

const jumpedError = (): StoreError => {
  const text = 'the clock of this machine jumped, or the machine slept: the lease is asked for anew'
  return new StoreError(ErrorCode.Unavailable, text)
}
