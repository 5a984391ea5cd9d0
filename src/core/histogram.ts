/**
 * Latency as counts in fixed buckets. Recording is an array increment, so it may stand on a hot
 * path; everything else (cumulative counts, percentiles, the Prometheus text) is made by readers.
 */

/** Upper bounds of the buckets in seconds; the last bucket, +Inf, follows them. */
export const LATENCY_BOUNDS_SECONDS: readonly number[] = [
  0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
  0.2, 0.5, 1, 2, 5, 10
]

/** What a reader gets: plain data, safe to keep and to send as JSON. */
export interface HistogramSnapshot {
  /** Count of each bucket (not cumulative); one more than there are bounds. */
  readonly counts: readonly number[]
  readonly sumSeconds: number
}

const boundsMs = LATENCY_BOUNDS_SECONDS.map((seconds) => seconds * 1000)

export class LatencyHistogram {
  readonly #counts = new Float64Array(LATENCY_BOUNDS_SECONDS.length + 1)
  #sumMs = 0

  /** Counts one operation that took `ms` milliseconds, fractions included. */
  recordMs(ms: number): void {
    // Most operations end within the first few buckets, so a plain walk beats a search.
    let bucket = 0
    while (bucket < boundsMs.length && ms > boundsMs[bucket]!) bucket++
    this.#counts[bucket]!++
    this.#sumMs += ms
  }

  snapshot(): HistogramSnapshot {
    return { counts: [...this.#counts], sumSeconds: this.#sumMs / 1000 }
  }
}

export const histogramCount = (histogram: HistogramSnapshot): number =>
  histogram.counts.reduce((sum, count) => sum + count, 0)

/**
 * The latency in seconds that `quantile` (0..1) of the operations between `from` and `to` did not
 * pass, linear inside its bucket; null when there were none. `from` null counts from the start.
 */
export function histogramQuantile(
  from: HistogramSnapshot | null,
  to: HistogramSnapshot,
  quantile: number
): number | null {
  const counts = to.counts.map((count, bucket) => count - (from?.counts[bucket] ?? 0))
  const total = counts.reduce((sum, count) => sum + count, 0)
  if (total <= 0) return null
  let before = 0
  for (const [bucket, count] of counts.entries()) {
    if (before + count >= quantile * total && count > 0) {
      const lower = bucket === 0 ? 0 : LATENCY_BOUNDS_SECONDS[bucket - 1]!
      const upper = LATENCY_BOUNDS_SECONDS[bucket] ?? lower * 2
      return lower + (upper - lower) * ((quantile * total - before) / count)
    }
    before += count
  }
  return LATENCY_BOUNDS_SECONDS.at(-1)!
}
