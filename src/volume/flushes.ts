import type { Clock, Timers } from '../core/clock.ts'
import { systemTimers } from '../core/clock.ts'
import { ErrorCode } from '../core/errors.ts'
import { LATE_FLUSHES_MS } from '../core/limits.ts'
import type { BlockStore, FamilyKey } from '../replication/block-store.ts'
import { complete, type OpenVolume } from './open-volume.ts'
import type { VolumeRequest } from './request.ts'

/** Requests that wait for one flush of the store. Pooled with its callback. */
class FlushBatch {
  requests: VolumeRequest[] = []
  /** The family whose writes are meant; undefined: those of all. */
  whose: FamilyKey | undefined = undefined
  readonly done: (error: number) => void

  constructor(free: FlushBatch[], running: Set<FlushBatch>) {
    this.done = (error) => {
      running.delete(this)
      for (const request of this.requests) {
        if (request.error === 0) request.error = error
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

const isSame = (a: FamilyKey | undefined, b: FamilyKey | undefined): boolean =>
  a?.familyLow === b?.familyLow && a?.familyHigh === b?.familyHigh

/**
 * Flush requests, and FUA writes whose bytes are written: everything that arrives in one turn of
 * the event loop shares one flush of the store. The store's flush starts after the writes that it
 * has to cover were completed, never before. Where the store flushes families apart, so is this
 * done: a volume does not wait for what another one's members are up to.
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
  /** What comes in this turn: a batch for each family, or one for all. */
  #waiting: FlushBatch[] = []
  #starting: FlushBatch[] = []
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
  }

  add(request: VolumeRequest): void {
    this.#batchOf(request).requests.push(request)
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(this.#run)
  }

  /** Starts the flush for all that were added: by itself at the end of the turn. */
  start(): void {
    if (this.#waiting.length === 0) return
    if (!this.#looking) {
      this.#looking = true
      this.#timers.start(LATE_FLUSHES_MS, this.#look)
    }
    const batches = this.#waiting
    this.#waiting = this.#starting
    this.#starting = batches
    for (const batch of batches) {
      this.#running.add(batch)
      this.#store.flush(batch.done, batch.whose)
    }
    batches.length = 0
  }

  #batchOf({ device }: VolumeRequest): FlushBatch {
    const { writable, ops } = (device as OpenVolume).volume
    // What is only read waits for nobody in particular.
    const whose = this.#store.flushesApart === true && writable ? ops.identity : undefined
    for (const batch of this.#waiting) if (isSame(batch.whose, whose)) return batch
    const batch = this.#free.pop() ?? new FlushBatch(this.#free, this.#running)
    batch.whose = whose
    this.#waiting.push(batch)
    return batch
  }
}
