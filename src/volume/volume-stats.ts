import { type HistogramSnapshot, LatencyHistogram } from '../core/histogram.ts'
import { RequestKind } from './request.ts'

/** Counters of one kind of request. */
class KindStats {
  count = 0
  errors = 0
  bytes = 0
  readonly latency: LatencyHistogram = new LatencyHistogram()
}

export interface KindSnapshot {
  readonly count: number
  readonly errors: number
  readonly bytes: number
  readonly latency: HistogramSnapshot
}

/** Requests of one volume since it was first opened, by `RequestKind`. */
export class VolumeStats {
  readonly #kinds: readonly KindStats[]

  constructor() {
    const last = Math.max(...Object.values(RequestKind))
    this.#kinds = Array.from({ length: last + 1 }, () => new KindStats())
  }

  record(kind: number, bytes: number, failed: boolean, ms: number): void {
    const stats = this.#kinds[kind]!
    stats.count++
    stats.bytes += bytes
    if (failed) stats.errors++
    stats.latency.recordMs(ms)
  }

  snapshot(kind: RequestKind): KindSnapshot {
    const { count, errors, bytes, latency } = this.#kinds[kind]!
    return { count, errors, bytes, latency: latency.snapshot() }
  }
}
