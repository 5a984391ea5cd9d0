import { StoreError } from '../core/errors.ts'
import { MEMBER_TRUST_MS, REPLICATION_RETRY_MS } from '../core/limits.ts'
import type { Boot } from './boots.ts'
import type { ReplicatedStore } from './replicated-store.ts'

/**
 * Asks every member now and then how it is, while there is something to do: for its room (R9), and
 * whether this gateway still is the newest writer there (R26).
 */
export class Pings {
  readonly #store: ReplicatedStore
  #nextMs = 0

  constructor(store: ReplicatedStore) {
    this.#store = store
  }

  /** With `isUrgent` what the members confirm is all that this gateway may go on by. */
  tick(nowMs: number, isUrgent: boolean): void {
    if (nowMs < this.#nextMs) return
    this.#nextMs = nowMs + (isUrgent ? MEMBER_TRUST_MS / 4 : REPLICATION_RETRY_MS)
    for (const boot of this.#store.boots.all()) {
      if (boot.member !== null && !boot.pinging) this.#ping(boot, nowMs)
    }
  }

  #ping(boot: Boot, sentMs: number): void {
    const families = [...this.#store.families()]
      .filter(({ isClosed }) => !isClosed)
      .map(({ id, writerEpoch }) => [id, writerEpoch] as const)
    const { jumps } = boot
    boot.pinging = true
    boot
      .member!.call({ call: 'ping', families })
      .then(
        ({ fenced = [], freeBytes }) => {
          if (freeBytes !== undefined) boot.freeBytes = freeBytes
          if (boot.jumps === jumps) boot.confirmedMs = sentMs
          for (const [id, writerEpoch] of families) {
            if (fenced.includes(id)) this.#fence(id, writerEpoch)
          }
        },
        (thrown: unknown) => {
          // The link's end, or its deadline, is seen elsewhere.
          if (!(thrown instanceof StoreError)) throw thrown
        }
      )
      .finally(() => {
        boot.pinging = false
      })
  }

  #fence(id: string, writerEpoch: number): void {
    for (const family of [...this.#store.families()]) {
      if (family.id === id && family.writerEpoch === writerEpoch) this.#store.fence(family)
    }
  }
}
