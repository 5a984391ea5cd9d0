/** How long a run will take, so that nobody starts an hour unawares. */
import { FILL_JOBS } from './fill.ts'
import type { Row } from './rows.ts'
import { selfSeconds } from './self.ts'

export interface RunShape {
  readonly rows: readonly Row[]
  readonly selfRows: readonly string[]
  /** Names of the servers that run. */
  readonly servers: readonly string[]
  readonly seconds: number
  readonly sizeBytes: number
  readonly rounds: number
}

/** Starting fio, writing back what is dirty, counting CPU time. */
const JOB_SECONDS = 1.5
/** Dropping the page cache, and entering and leaving the group that limits it. */
const COLD_SECONDS = 3
/** Large sequential requests, written and read, by any of the servers; a guess that holds here. */
const BYTES_PER_SECOND = 1e9

/** Seconds of one round of a row. */
function roundSeconds(row: Row, { servers, seconds, sizeBytes }: RunShape): number {
  const ours = servers.includes('torus') ? 1 : 0
  const once = sizeBytes / BYTES_PER_SECOND
  const job = (row.job.wholeSize === true ? once : seconds) + JOB_SECONDS
  if (row.reference === 'append') return (ours + 2) * job
  if (row.state === 'cold') return servers.length * (job + COLD_SECONDS) + job
  return servers.length * job
}

/** Writing and reading each volume; the references share one. */
function fillSeconds({ servers, sizeBytes }: RunShape): number {
  const volumes = new Set(servers.map((name) => (name === 'torus' ? name : 'reference'))).size
  return FILL_JOBS * volumes * (sizeBytes / BYTES_PER_SECOND + JOB_SECONDS)
}

/** `isDone` tells of rounds that an earlier run measured. */
export function estimateSeconds(
  shape: RunShape,
  isDone: (row: string, round: number) => boolean = () => false
): number {
  let total = fillSeconds(shape)
  for (const row of shape.rows) {
    for (let round = 0; round < shape.rounds; round++) {
      if (!isDone(row.id, round)) total += roundSeconds(row, shape)
    }
  }
  if (!shape.servers.includes('torus')) return total
  for (const id of shape.selfRows) total += selfSeconds(id, shape)
  return total
}

/** '50 s', '12 min', '1 h 5 min'. */
export function durationText(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`
  const minutes = Math.round(seconds / 60)
  if (minutes < 90) return `${minutes} min`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
