/**
 * The jobs of the comparison, in the order in which they run. Reads come first, on data that was
 * written once from start to end; rows that scatter the data or drop the page cache come last.
 */

/** One fio job, without the server it runs against. */
export interface Job {
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite' | 'randrw'
  readonly blockBytes: number
  readonly depth: number
  readonly connections?: number
  /** A flush after each so many writes. */
  readonly fsync?: number
  readonly readPercent?: number
  /** Once over the whole size, with a flush at the end, instead of for some seconds. */
  readonly wholeSize?: boolean
}

/** What a row is measured in; all but latency are better when higher. */
export type Metric = 'iops' | 'latencyUs' | 'bytesPerSecond'

export interface Row {
  readonly id: string
  readonly title: string
  readonly job: Job
  readonly metric: Metric
  /** Ratio to the best reference, 1 being as good. */
  readonly goal: number
  /** `append`: fio writing to fresh files, without any server. */
  readonly reference: 'servers' | 'append'
  /** `fresh`: on a volume nobody wrote before. `cold`: with little page cache left. */
  readonly state: 'warm' | 'fresh' | 'cold'
  /** Part of `--quick`. */
  readonly quick: boolean
}

const KiB = 1024
const MiB = 1024 * KiB

/** `[id, title, metric, goal]`, the job, and what differs from a usual row. */
const row = (
  [id, title, metric, goal]: readonly [string, string, Metric, number],
  job: Job,
  more: Partial<Row> = {}
): Row => ({
  id,
  title,
  job,
  metric,
  goal,
  reference: 'servers',
  state: 'warm',
  quick: false,
  ...more
})

const small = (rw: Job['rw'], depth: number, more: Partial<Job> = {}): Job => ({
  rw,
  blockBytes: 4 * KiB,
  depth,
  ...more
})
const large = (rw: Job['rw'], more: Partial<Job> = {}): Job => ({
  rw,
  blockBytes: MiB,
  depth: 16,
  ...more
})
const mixed: Job = { rw: 'randrw', blockBytes: 64 * KiB, depth: 64, readPercent: 75 }
const quick = { quick: true }
const newData: Partial<Row> = { reference: 'append', state: 'fresh', quick: true }
const rate = 'bytesPerSecond'

/* biome-ignore format: two lines a row read as the table it is */
export const rows: readonly Row[] = [
  row(['seqread', 'sequential read 1 MiB, depth 16', rate, 0.75],
    large('read'), quick),
  row(['randread', 'random read 4 KiB, depth 32', 'iops', 1.1],
    small('randread', 32), quick),
  row(['randread1', 'random read 4 KiB, depth 1', 'latencyUs', 0.9],
    small('randread', 1), quick),
  row(['conn4', '4 connections random read 4 KiB, depth 32 each', 'iops', 1.1],
    small('randread', 32, { connections: 4 })),
  row(['mixed', '64 KiB random 75/25, depth 64', 'iops', 1.2],
    mixed, quick),
  row(['randwrite', 'random write 4 KiB, depth 32', 'iops', 2.5],
    small('randwrite', 32), quick),
  row(['randwrite1', 'random write 4 KiB, depth 1', 'latencyUs', 0.9],
    small('randwrite', 1), quick),
  row(['fsync1', 'random write 4 KiB, depth 1, fsync each', 'iops', 1],
    small('randwrite', 1, { fsync: 1 }), quick),
  row(['fsync32', 'random write 4 KiB, depth 32, fsync every 32', 'iops', 1.5],
    small('randwrite', 32, { fsync: 32 })),
  row(['newdata', 'sequential write 1 MiB, depth 16, new data, on disk at the end', rate, 0.9],
    large('write', { wholeSize: true }), newData),
  row(['overwrite', 'sequential write 1 MiB, depth 16, overwriting', rate, 0.5],
    large('write')),
  row(['cold', 'random read 4 KiB, depth 32, beyond the page cache', 'iops', 1],
    small('randread', 32), { state: 'cold' })
]

/** The order of the printed table. */
export const tableOrder: readonly string[] = [
  'randread',
  'randwrite',
  'randread1',
  'randwrite1',
  'fsync1',
  'fsync32',
  'seqread',
  'newdata',
  'overwrite',
  'mixed',
  'conn4',
  'cold'
]
