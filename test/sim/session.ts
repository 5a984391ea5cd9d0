import type { LeaseHolder } from '../../src/cluster/writers.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { MetadataStore } from '../../src/metadata/store.ts'
import type { Process } from './world.ts'

/** A process's lease on simulated time: trusted from when its answered keepalive was sent. */
export class SimSession implements LeaseHolder {
  lease = ''
  onReplaced: () => void = () => {}
  readonly #store: MetadataStore
  readonly #process: Process
  readonly #ttlMs: number
  #sentMs = 0

  constructor(store: MetadataStore, process: Process, ttlMs: number) {
    this.#store = store
    this.#process = process
    this.#ttlMs = ttlMs
  }

  async open(): Promise<void> {
    await this.#grant()
    this.#schedule(this.#ttlMs / 3)
  }

  trustedForMs(): number {
    return this.#sentMs + this.#ttlMs * 0.9 - this.#process.monotonicMs()
  }

  async renew(): Promise<void> {
    const sentMs = this.#process.monotonicMs()
    try {
      await this.#store.keepAlive(this.lease)
      this.#sentMs = sentMs
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      await this.#grant()
      this.#process.world.log(`${this.#process.name} has a new lease`)
      this.onReplaced()
    }
  }

  async #grant(): Promise<void> {
    const sentMs = this.#process.monotonicMs()
    this.lease = (await this.#store.grantLease(this.#ttlMs)).id
    this.#sentMs = sentMs
  }

  #schedule(ms: number): void {
    this.#process.start(ms, () => {
      this.renew().then(
        () => this.#schedule(this.#ttlMs / 3),
        (thrown: unknown) => {
          if (!(thrown instanceof StoreError)) throw thrown
          this.#schedule(this.#ttlMs / 10)
        }
      )
    })
  }
}
