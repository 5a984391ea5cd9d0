/** What `torus bench` prints: the line while it runs, the tables and the JSON at its end. */
import { formatLatency, formatSize, plural } from '../../core/units.ts'
import type { Output } from '../output.ts'
import type { Latencies } from './latencies.ts'
import { type Load, type LoadCounts, type LoadKind, type LoadPlan, loadKinds } from './load.ts'

export interface KindReport {
  readonly count: number
  readonly iops: number
  readonly bytesPerSecond: number
  readonly latencyUs: Readonly<Record<'mean' | 'p50' | 'p90' | 'p99' | 'p99.9' | 'max', number>>
}

export interface BenchReport {
  readonly volume: string
  readonly sizeBytes: number
  readonly options: Omit<LoadPlan, 'endpoint' | 'volume'>
  /** From the first request to the last answer. */
  readonly seconds: number
  /** null when there was none of the kind. */
  readonly read: KindReport | null
  readonly write: KindReport | null
  readonly flush: KindReport | null
  /** Of the flush after the last write; null without writes. */
  readonly lastFlushUs: number | null
  /** Part of one core that this client used, 0..1: near 1 it was the limit, not the server. */
  readonly clientCpu: number
  readonly ended: 'time' | 'interrupted' | 'failed'
}

export function reportOf(
  load: Load,
  sizeBytes: number,
  clientCpu: number,
  ended: BenchReport['ended']
): BenchReport {
  const { endpoint: _, volume, ...options } = load.plan
  const of = (kind: LoadKind): KindReport | null => {
    const bytes = kind === 'flush' ? 0 : options.blockBytes
    return kindReport(load.total[loadKinds.indexOf(kind)]!, bytes, load.seconds)
  }
  return {
    volume,
    sizeBytes,
    options,
    seconds: rounded(load.seconds),
    read: of('read'),
    write: of('write'),
    flush: of('flush'),
    lastFlushUs: load.lastFlushUs === 0 ? null : rounded(load.lastFlushUs),
    clientCpu: rounded(clientCpu),
    ended
  }
}

const rounded = (value: number): number => Math.round(value * 1000) / 1000

function kindReport(latencies: Latencies, blockBytes: number, seconds: number): KindReport | null {
  if (latencies.count === 0) return null
  const iops = latencies.count / seconds
  const quantile = (part: number): number => rounded(latencies.quantileUs(part))
  return {
    count: latencies.count,
    iops: rounded(iops),
    bytesPerSecond: rounded(iops * blockBytes),
    latencyUs: {
      mean: rounded(latencies.meanUs),
      p50: quantile(0.5),
      p90: quantile(0.9),
      p99: quantile(0.99),
      'p99.9': quantile(0.999),
      max: rounded(latencies.maxUs)
    }
  }
}

const latency = (us: number): string => formatLatency(us / 1e6)
const rate = (bytes: number): string => `${formatSize(Math.round(bytes))}/s`
const perSecond = (value: number): string => value.toFixed(value < 10 ? 1 : 0)

/** 'random 4 KiB reads, 2 connections with 32 requests each'. */
export function planText(plan: LoadPlan): string {
  const { readPercent, fsyncEvery, connections, depth } = plan
  const what =
    readPercent === 100
      ? 'reads'
      : readPercent === 0
        ? 'writes'
        : `requests, ${readPercent} % of them reads`
  const flushes = fsyncEvery === 0 ? '' : `, a flush after each ${plural(fsyncEvery, 'write')}`
  return (
    `${plan.pattern} ${formatSize(plan.blockBytes)} ${what}${flushes}, ` +
    `${plural(connections, 'connection')} with ${plural(depth, 'request')} in flight`
  )
}

export function reportText(report: BenchReport, plan: LoadPlan, output: Output): string {
  const rows = loadKinds.flatMap((kind) => {
    const found = report[kind]
    if (found === null) return []
    const { mean, p50, p90, p99, max } = found.latencyUs
    const speed = kind === 'flush' ? '' : rate(found.bytesPerSecond)
    const latencies = [mean, p50, p90, p99, found.latencyUs['p99.9'], max].map(latency)
    return [[kind, String(found.count), perSecond(found.iops), speed, ...latencies]]
  })
  const names = ['', 'COUNT', 'IOPS', 'BYTES', 'MEAN', 'P50', 'P90', 'P99', 'P99.9', 'MAX']
  const lines = [
    `${report.volume}, ${formatSize(report.sizeBytes)}: ${planText(plan)}, ` +
      `${report.seconds.toFixed(1)} s`,
    '',
    output.table(names, rows, 'lrrrrrrrrr')
  ]
  if (report.lastFlushUs !== null) {
    lines.push('', `flush after the last write: ${latency(report.lastFlushUs)}`)
  }
  if (report.clientCpu > CLIENT_BUSY) {
    const share = Math.round(report.clientCpu * 100)
    lines.push('', `this client used ${share} % of a core: it may have been the limit itself`)
  }
  return lines.join('\n')
}

const CLIENT_BUSY = 0.9

/** One line on standard error that is written over again; nothing where no person looks. */
export class LiveLine {
  readonly #shown: boolean
  #any = false

  constructor(output: Output) {
    this.#shown = !output.json && process.stderr.isTTY === true
  }

  show(leftSeconds: number, recent: LoadCounts, blockBytes: number, seconds: number): void {
    if (!this.#shown) return
    this.#any = true
    const width = (process.stderr.columns ?? 80) - 1
    process.stderr.write(
      `\r\x1b[K${liveText(leftSeconds, recent, blockBytes, seconds).slice(0, width)}`
    )
  }

  end(): void {
    if (this.#any) process.stderr.write('\r\x1b[K')
    this.#any = false
  }
}

function liveText(
  leftSeconds: number,
  recent: LoadCounts,
  blockBytes: number,
  seconds: number
): string {
  const parts = loadKinds.map((kind, at) => {
    const latencies = recent[at]!
    if (latencies.count === 0) return ''
    const iops = latencies.count / seconds
    const speed = kind === 'flush' ? '' : ` ${rate(iops * blockBytes)}`
    const p99 = latency(latencies.quantileUs(0.99))
    return `  ${kind} ${perSecond(iops)}/s${speed} p99 ${p99}`
  })
  return `${Math.max(0, Math.ceil(leftSeconds))} s left${parts.join('')}`
}
