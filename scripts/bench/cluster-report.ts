/** From what `npm run bench:cluster` measured to its tables. */
import Table from 'cli-table3'
import type { ClusterRow } from './cluster-rows.ts'
import type { FioResult } from './fio.ts'
import { formatValue } from './report.ts'
import type { Metric } from './rows.ts'
import { median } from './statistics.ts'

/** CPU time of one process during a job. */
export interface ProcessUsage {
  /** `gateway`, `member 2`, `etcd`… */
  readonly name: string
  readonly mainUs: number
  readonly restUs: number
}

export interface ClusterMeasurement {
  readonly row: string
  readonly server: string
  readonly round: number
  readonly fio: FioResult
  readonly usage: readonly ProcessUsage[]
  readonly startUs: number
  readonly endUs: number
}

export const REFERENCE = 'nbdkit'
export const CLUSTER = 'cluster'

export interface ClusterRowReport {
  readonly id: string
  readonly title: string
  readonly metric: Metric
  readonly goal: number
  readonly met: boolean
  /** Medians by server, in the row's metric. */
  readonly values: Readonly<Record<string, number>>
  /** Of the cluster to the reference, above 1 being better; NaN without one. */
  readonly ratio: number
  readonly p50Us: number
  readonly p99Us: number
  /** Of the cluster: µs per operation of each process. */
  readonly usage: readonly ProcessUsage[]
}

const isLatency = (metric: Metric): boolean => metric === 'latencyUs'

export function reportClusterRow(
  row: ClusterRow,
  measurements: readonly ClusterMeasurement[]
): ClusterRowReport {
  const own = measurements.filter((each) => each.row === row.id)
  const values: Record<string, number> = {}
  for (const server of new Set(own.map((each) => each.server))) {
    const of = own.filter((each) => each.server === server)
    values[server] = median(of.map(({ fio }) => fio[row.metric]))
  }
  const ours = values[CLUSTER] ?? Number.NaN
  const theirs = values[REFERENCE] ?? Number.NaN
  const cluster = own.filter(({ server }) => server === CLUSTER)
  const last = cluster.at(-1)
  const operations = Math.max(1, last?.fio.operations ?? 1)
  return {
    id: row.id,
    title: row.title,
    metric: row.metric,
    goal: row.goal,
    met: isLatency(row.metric) ? ours <= row.goal : ours >= row.goal,
    values,
    ratio: isLatency(row.metric) ? theirs / ours : ours / theirs,
    p50Us: median(cluster.map(({ fio }) => fio.p50Us)),
    p99Us: median(cluster.map(({ fio }) => fio.p99Us)),
    usage: (last?.usage ?? []).map(({ name, mainUs, restUs }) => ({
      name,
      mainUs: mainUs / operations,
      restUs: restUs / operations
    }))
  }
}

const newTable = (head: readonly string[]) =>
  new Table({ head: [...head], style: { head: [], border: [], compact: true } })

export function clusterTable(
  reports: readonly ClusterRowReport[],
  servers: readonly string[]
): string {
  const table = newTable(['job', ...servers, `× ${REFERENCE}`, 'goal', '', 'p50 µs', 'p99 µs'])
  for (const { title, metric, goal, met, values, ratio, p50Us, p99Us } of reports) {
    const shown = servers.map((name) => formatValue(metric, values[name] ?? Number.NaN))
    table.push([
      title,
      ...shown,
      Number.isFinite(ratio) ? ratio.toFixed(2) : '-',
      `${isLatency(metric) ? '≤' : '≥'} ${formatValue(metric, goal)}`,
      met ? 'yes' : 'no',
      p50Us.toFixed(0),
      p99Us.toFixed(0)
    ])
  }
  return table.toString()
}

/** Processor time per operation: of each process, its main thread and all others. */
export function clusterCostTable(reports: readonly ClusterRowReport[]): string {
  const names = [...new Set(reports.flatMap(({ usage }) => usage.map(({ name }) => name)))]
  const table = newTable(['µs of CPU an operation: main + others', ...names, 'all'])
  for (const { title, usage } of reports) {
    const all = usage.reduce((sum, { mainUs, restUs }) => sum + mainUs + restUs, 0)
    const cells = names.map((name) => {
      const found = usage.find((each) => each.name === name)
      return found === undefined ? '' : `${found.mainUs.toFixed(1)} + ${found.restUs.toFixed(1)}`
    })
    table.push([title, ...cells, all.toFixed(1)])
  }
  return table.toString()
}
