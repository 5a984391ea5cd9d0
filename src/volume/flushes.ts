import type { Clock, Timers } from '../core/clock.ts'
import { systemTimers } from '../core/clock.ts'
import { ErrorCode } from '../core/errors.ts'
import { LATE_FLUSHES_MS } from '../core/limits.ts'
import type { BlockStore } from '../replication/block-store.ts'
import { complete, type OpenVolume } from './open-volume.ts'
import type { VolumeRequest } from './request.ts'

/** Requests that wait for one flush of the store. Pooled with its callback. */
class FlushBatch {
  requests: VolumeRequest[] = []
  readonly done: (error: number) => void

  constructor(store: BlockStore, free: FlushBatch[], running: Set<FlushBatch>) {
    this.done = (error) => {
      running.delete(this)
      for (const request of this.requests) {
        if (request.error === 0) request.error = error
        if (request.error === 0 && isGivenUp(store, request)) request.error = ErrorCode.Closed
        complete(request)
      }
      this.requests.length = 0
      free.push(this)
    }
  }

  /** Ends the requests that may not wait any longer. */
  endLate(nowMs: number): void {
    const { requests } = this
    const late = requests.filter((request) => isLate(request, nowMs))
    if (late.length === 0) return
    this.requests = requests.filter((request) => !late.includes(request))
    for (const request of late) {
      request.error = ErrorCode.NoQuorum
      complete(request)
    }
  }
}

function isLate(request: VolumeRequest, nowMs: number): boolean {
  const { unavailableMs } = (request.device as OpenVolume).volume
  return unavailableMs !== null && nowMs - request.startedMs >= unavailableMs
}

/** Another gateway has the volume: the flush that ended may not have covered it any more. */
function isGivenUp(store: BlockStore, { device }: VolumeRequest): boolean {
  const { writable, ops } = (device as OpenVolume).volume
  if (store.isServed === undefined || !writable) return false
  return !store.isServed(ops.identity.familyHigh, ops.identity.familyLow)
}

/**
 * Flush requests, and FUA writes whose bytes are written: everything that arrives in one turn of
 * the event loop shares one flush of the store. The store's flush starts after the writes that it
 * has to cover were completed, never before.
 *
 * A flush that cannot be done waits, as writes do. In a volume that may not wait without limit it
 * ends with NoQuorum; the store goes on with it, and a later flush covers the same writes.
 */
export class Flushes {
  readonly #store: BlockStore
  readonly #clock: Clock
  readonly #timers: Timers
  readonly #free: FlushBatch[] = []
  readonly #running: Set<FlushBatch> = new Set()
  #waiting: FlushBatch
  #scheduled = false
  /** Is the look for late ones under way? */
  #looking = false
  readonly #run = (): void => {
    this.#scheduled = false
    this.start()
  }
  readonly #look = (): void => {
    const nowMs = this.#clock.monotonicMs()
    for (const batch of this.#running) batch.endLate(nowMs)
    this.#looking = this.#running.size > 0
    if (this.#looking) this.#timers.start(LATE_FLUSHES_MS, this.#look)
  }

  constructor(store: BlockStore, clock: Clock, timers: Timers = systemTimers) {
    this.#store = store
    this.#clock = clock
    this.#timers = timers
    this.#waiting = new FlushBatch(store, this.#free, this.#running)
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
    this.#waiting = this.#free.pop() ?? new FlushBatch(this.#store, this.#free, this.#running)
    this.#running.add(batch)
    if (!this.#looking) {
      this.#looking = true
      this.#timers.start(LATE_FLUSHES_MS, this.#look)
    }
    this.#store.flush(batch.done)
  }
}
