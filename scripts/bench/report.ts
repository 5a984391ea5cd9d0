/** From measurements to the printed tables and the JSON that is kept. */
import Table from 'cli-table3'
import { type Measurement, RAW_DISK } from './compare.ts'
import { type Metric, type Row, tableOrder } from './rows.ts'
import { median, type Spread, spreadOf } from './statistics.ts'

export interface ServerFigures {
  readonly server: string
  /** In the row's metric. */
  readonly value: Spread
  readonly p50Us: number
  readonly p99Us: number
  /** CPU time of the server per operation and per MiB, microseconds; 0 where unknown. */
  readonly cpuUsPerOperation: number
  readonly cpuUsPerMiB: number
  /** CPU time per operation of its busiest threads in the last round, most first. */
  readonly threads: readonly { readonly name: string; readonly cpuUsPerOperation: number }[]
}

export interface RowReport {
  readonly id: string
  readonly title: string
  readonly metric: Metric
  readonly goal: number
  readonly servers: readonly ServerFigures[]
  /** The best reference by its median; '' when none ran. */
  readonly best: string
  /** Ours to the best reference, above 1 being better; NaN when either did not run. */
  readonly ratio: Spread
}

const MiB = 1024 * 1024

const metricOf = (metric: Metric, measurement: Measurement): number => measurement.fio[metric]

/** How much better `ours` is than `theirs`: above 1 for better, whichever way the metric counts. */
const better = (metric: Metric, ours: number, theirs: number): number =>
  metric === 'latencyUs' ? theirs / ours : ours / theirs

export function reportRow(row: Row, measurements: readonly Measurement[]): RowReport {
  const own = measurements.filter((measurement) => measurement.row === row.id)
  const names = [...new Set(own.map((measurement) => measurement.server))]
  const servers = names.map((name) =>
    figuresOf(
      name,
      row.metric,
      own.filter((measurement) => measurement.server === name)
    )
  )
  const references = servers.filter(({ server }) => server !== 'torus' && server !== RAW_DISK)
  const best = references.reduce<ServerFigures | null>(
    (found, next) =>
      found === null || better(row.metric, next.value.median, found.value.median) > 1
        ? next
        : found,
    null
  )
  return {
    id: row.id,
    title: row.title,
    metric: row.metric,
    goal: row.goal,
    servers,
    best: best?.server ?? '',
    ratio: ratioOf(row.metric, own, best?.server ?? '')
  }
}

function figuresOf(server: string, metric: Metric, own: readonly Measurement[]): ServerFigures {
  const perOperation = own.map(({ cpuUs, fio }) => cpuUs / Math.max(1, fio.operations))
  const perMiB = own.map(({ cpuUs, fio }) => cpuUs / Math.max(1, fio.bytes / MiB))
  return {
    server,
    value: spreadOf(own.map((measurement) => metricOf(metric, measurement))),
    p50Us: median(own.map(({ fio }) => fio.p50Us)),
    p99Us: median(own.map(({ fio }) => fio.p99Us)),
    cpuUsPerOperation: median(perOperation),
    cpuUsPerMiB: median(perMiB),
    threads: threadCosts(own.at(-1))
  }
}

const THREADS_SHOWN = 5

function threadCosts(measurement: Measurement | undefined): ServerFigures['threads'] {
  if (measurement === undefined) return []
  const operations = Math.max(1, measurement.fio.operations)
  return measurement.threads
    .slice(0, THREADS_SHOWN)
    .map(({ name, cpuUs }) => ({ name, cpuUsPerOperation: cpuUs / operations }))
}

/** The ratio of the medians, and the least and greatest ratio of one round. */
function ratioOf(metric: Metric, own: readonly Measurement[], best: string): Spread {
  const valuesOf = (server: string): number[] =>
    own
      .filter((measurement) => measurement.server === server)
      .sort((a, b) => a.round - b.round)
      .map((measurement) => metricOf(metric, measurement))
  const ours = valuesOf('torus')
  const theirs = valuesOf(best)
  const rounds = ours.map((value, round) => better(metric, value, theirs[round] ?? Number.NaN))
  return { ...spreadOf(rounds), median: better(metric, median(ours), median(theirs)) }
}

export const inTableOrder = (reports: readonly RowReport[]): RowReport[] =>
  [...reports].sort((a, b) => tableOrder.indexOf(a.id) - tableOrder.indexOf(b.id))

export function formatValue(metric: Metric, value: number): string {
  if (!Number.isFinite(value)) return '-'
  if (metric === 'latencyUs') return `${value.toFixed(0)} µs`
  if (metric === 'iops') return value >= 10_000 ? `${(value / 1000).toFixed(1)}k` : value.toFixed(0)
  return value >= 1e9 ? `${(value / 1e9).toFixed(2)} GB/s` : `${(value / 1e6).toFixed(0)} MB/s`
}

const ratioText = (value: number): string => (Number.isFinite(value) ? value.toFixed(2) : '-')

/** Met in the median; `~` when that does not hold for every round. */
function verdict({ ratio, goal }: RowReport): string {
  if (!Number.isFinite(ratio.median)) return ''
  if (ratio.median < goal) return 'no'
  return ratio.min < goal ? 'yes ~' : 'yes'
}

/** cli-table3 without colours, so that a saved table reads like the printed one. */
const newTable = (head: string[]): InstanceType<typeof Table> =>
  new Table({ head, style: { head: [], border: [], compact: true } })

/** The table of the comparison: a row for a job, a column for a server. */
export function comparisonTable(reports: readonly RowReport[], names: readonly string[]): string {
  const table = newTable(['job', ...names, 'best reference', 'ratio', 'min–max', 'goal', 'met'])
  for (const report of inTableOrder(reports)) {
    const { metric, ratio } = report
    const value = (name: string): string => {
      const found = report.servers.find(({ server }) => server === name)
      return found === undefined ? '' : formatValue(metric, found.value.median)
    }
    const best = names.includes(report.best) ? report.best : `${report.best} ${value(report.best)}`
    const range = Number.isFinite(ratio.min)
      ? `${ratioText(ratio.min)}–${ratioText(ratio.max)}`
      : ''
    table.push([
      report.title,
      ...names.map(value),
      best,
      ratioText(ratio.median),
      range,
      `≥ ${report.goal}`,
      verdict(report)
    ])
  }
  return table.toString()
}

/** Latency as fio saw it, and what each server paid in CPU time. */
export function costTable(reports: readonly RowReport[]): string {
  const table = newTable([
    'job',
    'server',
    'min–max',
    'p50 µs',
    'p99 µs',
    'CPU µs/op',
    'CPU µs/MiB',
    'threads'
  ])
  for (const report of inTableOrder(reports)) {
    for (const figures of report.servers) {
      const { value, p50Us, p99Us, cpuUsPerOperation, cpuUsPerMiB } = figures
      const told = (bound: number): string => formatValue(report.metric, bound)
      const range = `${told(value.min)}–${told(value.max)}`
      const cpu = (us: number): string => (us === 0 ? '' : us.toFixed(us < 100 ? 1 : 0))
      table.push([
        report.id,
        figures.server,
        range,
        p50Us.toFixed(0),
        p99Us.toFixed(0),
        cpu(cpuUsPerOperation),
        cpu(cpuUsPerMiB),
        threadsText(figures)
      ])
    }
  }
  return table.toString()
}

/** Ours: µs per operation of each thread that worked, the main thread by name. */
function threadsText({ server, threads }: ServerFigures): string {
  if (server !== 'torus') return ''
  return threads
    .map(({ name, cpuUsPerOperation }) => {
      const us = cpuUsPerOperation.toFixed(1)
      return name === 'main' ? `main ${us}` : us
    })
    .join(', ')
}

/** Most resident memory of each server over all its jobs. */
export function memoryTable(measurements: readonly Measurement[]): string {
  const table = newTable(['server', 'most resident memory'])
  for (const [server, bytes] of memoryPeaks(measurements)) {
    table.push([server, `${(bytes / MiB).toFixed(0)} MiB`])
  }
  return table.toString()
}

export function memoryPeaks(measurements: readonly Measurement[]): Map<string, number> {
  const peaks = new Map<string, number>()
  for (const { server, residentBytesPeak } of measurements) {
    if (residentBytesPeak > 0) {
      peaks.set(server, Math.max(peaks.get(server) ?? 0, residentBytesPeak))
    }
  }
  return peaks
}
