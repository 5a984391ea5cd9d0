import type { BlockStore } from '../replication/block-store.ts'
import { complete } from './open-volume.ts'
import type { VolumeRequest } from './request.ts'

/** Requests that wait for one flush of the store. Pooled with its callback. */
class FlushBatch {
  requests: VolumeRequest[] = []
  readonly done: (error: number) => void

  constructor(free: FlushBatch[]) {
    this.done = (error) => {
      for (const request of this.requests) {
        if (request.error === 0) request.error = error
        complete(request)
      }
      this.requests.length = 0
      free.push(this)
    }
  }
}

/**
 * Flush requests, and FUA writes whose bytes are written: everything that arrives in one turn of
 * the event loop shares one flush of the store. The store's flush starts after the writes that it
 * has to cover were completed, never before.
 */
export class Flushes {
  readonly #store: BlockStore
  readonly #free: FlushBatch[] = []
  #waiting: FlushBatch
  #scheduled = false
  readonly #run = (): void => {
    this.#scheduled = false
    this.start()
  }

  constructor(store: BlockStore) {
    this.#store = store
    this.#waiting = new FlushBatch(this.#free)
  }

  add(request: VolumeRequest): void {
    this.#waiting.requests.push(request)
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(this.#run)
  }

  /** Starts the flush for all that were added: by itself at the end of the turn. */
  start(): void {
    const batch = this.#waiting
    if (batch.requests.length === 0) return
    this.#waiting = this.#free.pop() ?? new FlushBatch(this.#free)
    this.#store.flush(batch.done)
  }
}
