/** Runs fio and reads what it measured. */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Job } from './rows.ts'

export interface FioResult {
  readonly operations: number
  readonly bytes: number
  readonly seconds: number
  readonly iops: number
  readonly bytesPerSecond: number
  /** Mean, from submission to completion. */
  readonly latencyUs: number
  readonly p50Us: number
  readonly p99Us: number
  readonly maxUs: number
  /** Flushes that were sent. */
  readonly syncs: number
}

export interface FioTarget {
  /** Arguments that choose engine and file: `nbdTarget(uri)`, or those of a plain file. */
  readonly args: readonly string[]
  readonly sizeBytes: number
  readonly seconds: number
  /** The same seed makes the same offsets; every server of a round gets the same. */
  readonly seed: number
}

export const nbdTarget = (uri: string): readonly string[] => ['--ioengine=nbd', `--uri=${uri}`]

/** fio's arguments for `job` on `target`. */
export function fioArguments(job: Job, target: FioTarget): string[] {
  const args = [
    '--name=bench',
    '--thread',
    '--group_reporting',
    ...target.args,
    `--rw=${job.rw}`,
    `--bs=${job.blockBytes}`,
    `--iodepth=${job.depth}`,
    `--numjobs=${job.connections ?? 1}`,
    `--size=${target.sizeBytes}`,
    `--randseed=${target.seed}`
  ]
  if (job.fsync !== undefined) args.push(`--fsync=${job.fsync}`)
  if (job.readPercent !== undefined) args.push(`--rwmixread=${job.readPercent}`)
  // Over the whole size every block is met once; for some seconds any block any time.
  if (job.wholeSize === true) args.push('--end_fsync=1', '--random_generator=lfsr')
  else args.push('--time_based=1', `--runtime=${target.seconds}`, '--norandommap')
  return args
}

export async function runFio(job: Job, target: FioTarget): Promise<FioResult> {
  return await fio(fioArguments(job, target), job.wholeSize === true ? 600 : target.seconds + 120)
}

/** Runs fio with any arguments; ends it after `limitSeconds`. */
export async function fio(args: readonly string[], limitSeconds: number): Promise<FioResult> {
  const directory = await mkdtemp(join(tmpdir(), 'torus-fio-'))
  const output = join(directory, 'fio.json')
  try {
    await runToEnd(['--output-format=json', `--output=${output}`, ...args], limitSeconds)
    return parseFio(await readFile(output, 'utf8'))
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

function runToEnd(args: readonly string[], limitSeconds: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('fio', args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (errors.length < 10_000) errors += text
    })
    const timer = setTimeout(() => child.kill('SIGKILL'), limitSeconds * 1000)
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      if (code === 0) resolve()
      else
        reject(new Error(`fio ${args.join(' ')}: ended with ${signal ?? code}: ${errors.trim()}`))
    })
  })
}

interface FioSide {
  total_ios: number
  io_bytes: number
  runtime: number
  iops: number
  bw_bytes: number
  lat_ns: { mean: number; max: number }
  clat_ns: { percentile?: Record<string, number> }
}
interface FioJob {
  error: number
  read: FioSide
  write: FioSide
  sync: { total_ios: number }
}

/** fio prints notes before its JSON; with group_reporting there is one job. */
export function parseFio(text: string): FioResult {
  const parsed = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: FioJob[] }
  const job = parsed.jobs[0]
  if (job === undefined) throw new Error('fio reported no job')
  if (job.error !== 0) throw new Error(`fio reported error ${job.error}`)
  const { read, write } = job
  const operations = read.total_ios + write.total_ios
  const bytes = read.io_bytes + write.io_bytes
  // Percentiles cannot be added: a mixed job tells those of its larger half, its reads.
  const main = read.total_ios >= write.total_ios ? read : write
  const percentile = main.clat_ns.percentile ?? {}
  const weighted = read.lat_ns.mean * read.total_ios + write.lat_ns.mean * write.total_ios
  return {
    operations,
    bytes,
    seconds: Math.max(read.runtime, write.runtime) / 1000,
    iops: read.iops + write.iops,
    bytesPerSecond: read.bw_bytes + write.bw_bytes,
    latencyUs: operations === 0 ? 0 : weighted / operations / 1000,
    p50Us: (percentile['50.000000'] ?? 0) / 1000,
    p99Us: (percentile['99.000000'] ?? 0) / 1000,
    maxUs: main.lat_ns.max / 1000,
    syncs: job.sync.total_ios
  }
}
