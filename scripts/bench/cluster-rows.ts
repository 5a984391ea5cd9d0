/** The rows of `npm run bench:cluster`, in the order in which they run: reads first. */
import { type Metric, rows as localRows } from './rows.ts'
import type { Job } from './rows.ts'

export interface ClusterRow {
  readonly id: string
  readonly title: string
  readonly metric: Metric
  /** Absolute, for three peers with two copies and the client on two cores. */
  readonly goal: number
  readonly job: Job
}

/** Reads and writes together: 700 MB/s and 230 MB/s. */
const MIXED_GOAL = 930e6

const goals: readonly (readonly [string, number])[] = [
  ['seqread', 1400e6],
  ['randread', 50_000],
  ['randread1', 85],
  ['randwrite', 24_000],
  ['randwrite1', 230],
  ['fsync1', 2200],
  ['fsync32', 16_000],
  ['overwrite', 560e6]
]

const rowOf = ([id, goal]: readonly [string, number]): ClusterRow => {
  const row = localRows.find((each) => each.id === id)
  if (row === undefined) throw new Error(`there is no row ${id}`)
  return { id, title: row.title, metric: row.metric, goal, job: row.job }
}

const mixed = { ...rowOf(['mixed', MIXED_GOAL]), metric: 'bytesPerSecond' as const }

export const clusterRows: readonly ClusterRow[] = [...goals.map(rowOf), mixed]
