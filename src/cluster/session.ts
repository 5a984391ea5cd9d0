import type { Clock } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { SESSION_TTL_MS } from '../core/limits.ts'
import type { LeaseId, MetadataStore } from '../metadata/store.ts'

export interface SessionOptions {
  readonly ttlMs?: number
  /** Keepalives fail; called for each. The session goes on trying. */
  readonly onTrouble?: (error: StoreError) => void
}

/** One process's lease, kept alive until `close`. */
export class Session {
  readonly #store: MetadataStore
  readonly #clock: Clock
  readonly #options: SessionOptions
  readonly #replaced: (() => void)[] = []
  #lease: LeaseId = ''
  #ttlMs = 0
  #sentMs = 0
  #timer: NodeJS.Timeout | null = null
  #closed = false
  #renewing: Promise<void> | null = null

  private constructor(store: MetadataStore, clock: Clock, options: SessionOptions) {
    this.#store = store
    this.#clock = clock
    this.#options = options
  }

  static async open(
    store: MetadataStore,
    clock: Clock,
    options: SessionOptions = {}
  ): Promise<Session> {
    const session = new Session(store, clock, options)
    await session.#grant()
    session.#schedule()
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

  /**
   * Until when the lease is surely ours: counted from when its last answered keepalive was *sent*,
   * less a margin for clocks that run differently.
   */
  get trustedUntilMs(): number {
    return this.#sentMs + this.#ttlMs * 0.9
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
    if (this.#timer !== null) clearTimeout(this.#timer)
    await this.#renewing?.catch(() => {})
    try {
      await this.#store.revokeLease(this.#lease)
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      // It ends by itself.
    }
  }

  async #renew(): Promise<void> {
    const sentMs = this.#clock.monotonicMs()
    try {
      await this.#store.keepAlive(this.#lease)
      this.#sentMs = sentMs
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      if (this.#closed) return
      await this.#grant()
      for (const listener of this.#replaced) listener()
    }
  }

  async #grant(): Promise<void> {
    const sentMs = this.#clock.monotonicMs()
    const { id, ttlMs } = await this.#store.grantLease(this.#options.ttlMs ?? SESSION_TTL_MS)
    this.#lease = id
    this.#ttlMs = ttlMs
    this.#sentMs = sentMs
  }

  #schedule(): void {
    if (this.#closed) return
    this.#timer = setTimeout(() => {
      this.renew()
        .catch((thrown: unknown) => {
          if (!(thrown instanceof StoreError)) throw thrown
          if (!this.#closed) this.#options.onTrouble?.(thrown)
        })
        .finally(() => this.#schedule())
    }, this.#ttlMs / 3)
    this.#timer.unref()
  }
}
