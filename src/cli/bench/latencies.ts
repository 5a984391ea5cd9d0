/**
 * Latencies as counts in buckets that grow by a factor of 2^(1/64), 1.1 %: fine enough for the
 * percentiles of a report, and of one size however long a run takes. Exact: count, mean, maximum.
 */
const BUCKETS_PER_OCTAVE = 64
/** From 1 µs; whatever takes longer than 2^30 µs (18 minutes) is in the last bucket. */
const OCTAVES = 30
const BUCKETS = OCTAVES * BUCKETS_PER_OCTAVE

export class Latencies {
  count = 0
  maxUs = 0
  #sumUs = 0
  readonly #counts = new Float64Array(BUCKETS)

  recordUs(us: number): void {
    const bucket = us <= 1 ? 0 : Math.min(BUCKETS - 1, (Math.log2(us) * BUCKETS_PER_OCTAVE) | 0)
    this.#counts[bucket]!++
    this.count++
    this.#sumUs += us
    if (us > this.maxUs) this.maxUs = us
  }

  /** Takes over what `other` counted, and empties it. */
  drain(other: Latencies): void {
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      this.#counts[bucket]! += other.#counts[bucket]!
    }
    this.count += other.count
    this.#sumUs += other.#sumUs
    this.maxUs = Math.max(this.maxUs, other.maxUs)
    other.#counts.fill(0)
    other.count = 0
    other.#sumUs = 0
    other.maxUs = 0
  }

  get meanUs(): number {
    return this.count === 0 ? 0 : this.#sumUs / this.count
  }

  /** What `quantile` (0..1) of them did not pass, to about 1 %; 0 when there are none. */
  quantileUs(quantile: number): number {
    let left = Math.max(1, Math.ceil(quantile * this.count))
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      left -= this.#counts[bucket]!
      if (left > 0) continue
      const middle = 2 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)
      return Math.min(middle, this.maxUs)
    }
    return this.maxUs
  }
}
