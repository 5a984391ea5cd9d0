/**
 * Prometheus metrics that cost nothing between scrapes: each one is a function that reads counters
 * which exist anyway (shared memory of shards, histograms of volumes) when somebody asks.
 *
 * Names follow Prometheus' conventions: `torus_` first, base units (seconds, bytes) last, `_total`
 * on counters; the registry refuses others, so a typo fails the first test that makes one.
 */
import { collectDefaultMetrics, type Metric, Registry } from 'prom-client'
import { assert } from './assert.ts'
import { type HistogramSnapshot, LATENCY_BOUNDS_SECONDS } from './histogram.ts'

export type Labels = Readonly<Record<string, string | number>>

export interface Sample {
  readonly labels: Labels
  readonly value: number
}

export interface HistogramSample {
  readonly labels: Labels
  readonly histogram: HistogramSnapshot
}

export interface MetricInfo {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly labels: readonly string[]
}

/**
 * The event loop's lag is measured by a timer of so many milliseconds, which is part of what is
 * told. The usual 10 would be nearly all that wakes an idle peer.
 */
const LAG_LOOK_MS = 500

type Described = Omit<MetricInfo, 'type'>

export class MetricsRegistry {
  readonly #registry = new Registry()
  readonly #infos: MetricInfo[] = []

  constructor(options: { processMetrics: boolean }) {
    if (!options.processMetrics) return
    collectDefaultMetrics({ register: this.#registry, eventLoopMonitoringPrecision: LAG_LOOK_MS })
  }

  gauge(info: Described, collect: () => Iterable<Sample>): void {
    assert(!info.name.endsWith('_total'), 'a gauge has no name that ends in _total')
    this.#add({ ...info, type: 'gauge' }, () => [...collect()])
  }

  counter(info: Described, collect: () => Iterable<Sample>): void {
    assert(info.name.endsWith('_total'), 'the name of a counter ends in _total')
    this.#add({ ...info, type: 'counter' }, () => [...collect()])
  }

  histogram(info: Described, collect: () => Iterable<HistogramSample>): void {
    assert(info.name.endsWith('_seconds'), 'the name of a latency histogram ends in _seconds')
    assert(!info.labels.includes('le'), 'le is the label of buckets')
    this.#add({ ...info, type: 'histogram' }, () => {
      const samples: NamedSample[] = []
      for (const sample of collect()) pushHistogram(samples, info.name, sample)
      return samples
    })
  }

  /** What was registered here; without the process's own metrics. */
  infos(): readonly MetricInfo[] {
    return this.#infos
  }

  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE

  /** The exposition format, for a scrape. */
  text(): Promise<string> {
    return this.#registry.metrics()
  }

  #add(info: MetricInfo, values: () => NamedSample[]): void {
    assert(/^torus_[a-z0-9_]+$/.test(info.name), 'a metric is named torus_ and lower case')
    this.#infos.push(info)
    const described = { name: info.name, help: info.help, type: info.type, aggregator: 'sum' }
    const metric = { ...described, get: async () => ({ ...described, values: values() }) }
    // prom-client's registry asks a metric for `name` and `get()`; its types name the four classes.
    this.#registry.registerMetric(metric as unknown as Metric)
  }
}

interface NamedSample extends Sample {
  readonly metricName?: string
}

function pushHistogram(into: NamedSample[], name: string, sample: HistogramSample): void {
  const { labels, histogram } = sample
  let cumulative = 0
  for (const [bucket, count] of histogram.counts.entries()) {
    cumulative += count
    const le = LATENCY_BOUNDS_SECONDS[bucket] ?? '+Inf'
    into.push({ metricName: `${name}_bucket`, labels: { ...labels, le }, value: cumulative })
  }
  into.push({ metricName: `${name}_sum`, labels, value: histogram.sumSeconds })
  into.push({ metricName: `${name}_count`, labels, value: cumulative })
}
