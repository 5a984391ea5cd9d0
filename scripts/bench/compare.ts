/** Runs the rows of the comparison: for each row and round, every server in turn. */
import { execFile } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { fillTwice } from './fill.ts'
import { type FioResult, nbdTarget, runFio } from './fio.ts'
import { dropPageCache, MemoryLimit, writeBack } from './page-cache.ts'
import type { Job, Row } from './rows.ts'
import type { BenchServer } from './servers.ts'
import { cpuUs, MemoryWatch, type ThreadUsage, threadUsage, usedSince } from './usage.ts'

export interface Measurement {
  readonly row: string
  readonly server: string
  readonly round: number
  readonly fio: FioResult
  /** Of the server during the job; 0 for a plain file, where all of it is fio's. */
  readonly cpuUs: number
  /** The same by thread, most first; threads that ended meanwhile are not in it. */
  readonly threads: readonly ThreadUsage[]
  readonly residentBytesPeak: number
  /** On the monotonic clock, to find the job in a profile. */
  readonly startUs: number
  readonly endUs: number
}

export interface Plan {
  readonly rows: readonly Row[]
  readonly rounds: number
  readonly seconds: number
  readonly sizeBytes: number
  readonly directory: string
  /** Page cache that a server may fill in a `cold` row. */
  readonly coldCacheBytes: number
  note(text: string): void
  /** Rounds that are measured already, by an earlier run. */
  isDone(row: string, round: number): boolean
  /** Takes what one whole round of a row measured. */
  onRound(measurements: readonly Measurement[]): void
  /** The time is over: no more rounds begin. */
  isOver(): boolean
}

/** Shown beside the servers, and no reference: it serves nobody. */
export const RAW_DISK = 'raw disk'

export class Comparison {
  /** Of the round that runs. */
  #measurements: Measurement[] = []
  readonly #plan: Plan
  readonly #servers: readonly BenchServer[]
  constructor(plan: Plan, servers: readonly BenchServer[]) {
    this.#plan = plan
    this.#servers = servers
    for (const server of servers) server.pause()
  }

  /** Every server's volume. */
  async fill(): Promise<void> {
    let referencesFilled = false
    for (const server of this.#servers) {
      if (!server.ours && referencesFilled) continue // they share a file
      referencesFilled ||= !server.ours
      this.#plan.note(`filling ${server.name}`)
      server.resume()
      await fillTwice((job) => this.#fio(server.uri, job, 1))
      server.pause()
    }
    await writeBack()
  }

  /** False when the time was over before all was measured. */
  async run(): Promise<boolean> {
    const { rows, rounds } = this.#plan
    for (const row of rows) {
      for (let round = 0; round < rounds; round++) {
        if (this.#plan.isDone(row.id, round)) continue
        if (this.#plan.isOver()) return false
        this.#measurements = []
        await this.#round(row, round)
        this.#plan.onRound(this.#measurements)
      }
    }
    return true
  }

  async #round(row: Row, round: number): Promise<void> {
    for (const plain of plainFiles(row)) await this.#plainFile(row, round, plain)
    for (const server of this.#servers) {
      if (row.reference === 'append' && !server.ours) continue
      server.resume()
      try {
        const uri = row.state === 'fresh' ? await server.freshUri() : server.uri
        await this.#measure(row, round, server, uri)
        if (row.state === 'fresh') await server.dropFresh()
      } finally {
        server.pause()
      }
    }
  }

  async #measure(row: Row, round: number, server: BenchServer, uri: string): Promise<void> {
    let limit: MemoryLimit | null = null
    if (row.state === 'cold') {
      await dropPageCache()
      limit = MemoryLimit.create(this.#plan.coldCacheBytes)
      limit?.enter(server.pid)
    } else await writeBack()
    const memory = new MemoryWatch(server.pid)
    const cpuBefore = cpuUs(server.pid)
    const threadsBefore = threadUsage(server.pid)
    const startUs = monotonicUs()
    const fio = await this.#fio(uri, row.job, seedOf(row, round))
    const endUs = monotonicUs()
    await sleep(50) // a child of nbd-server is counted once it was reaped
    const used = cpuUs(server.pid) - cpuBefore
    if (limit !== null) {
      limit.leave(server.pid)
      limit.remove()
    }
    this.#add({
      row: row.id,
      server: server.name,
      round,
      fio,
      cpuUs: used,
      threads: usedSince(threadsBefore, server.pid),
      residentBytesPeak: memory.stop(),
      startUs,
      endUs
    })
  }

  /** The same job without any server: what the machine itself gives. */
  async #plainFile(row: Row, round: number, plain: PlainFile): Promise<void> {
    await writeBack()
    const { directory, sizeBytes, seconds } = this.#plan
    const file = join(directory, plain.fresh ? 'append.img' : 'reference.img')
    const growing = plain.fresh ? ['--create_on_open=1', '--fallocate=none'] : []
    const startUs = monotonicUs()
    const args = [...plain.args, `--filename=${file}`, ...growing]
    const fio = await runFio(row.job, { args, sizeBytes, seconds, seed: seedOf(row, round) })
    if (plain.fresh) rmSync(file, { force: true })
    this.#add({
      row: row.id,
      server: plain.name,
      round,
      fio,
      cpuUs: 0,
      threads: [],
      residentBytesPeak: 0,
      startUs,
      endUs: monotonicUs()
    })
  }

  #add(measurement: Measurement): void {
    this.#measurements.push(measurement)
    const { row, round, server, fio } = measurement
    const figures = `${Math.round(fio.iops)} IOPS, ${Math.round(fio.bytesPerSecond / 1e6)} MB/s`
    this.#plan.note(`${row} round ${round + 1}, ${server}: ${figures}`)
  }

  async #fio(uri: string, job: Job, seed: number): Promise<FioResult> {
    const { sizeBytes, seconds } = this.#plan
    return await runFio(job, { args: nbdTarget(uri), sizeBytes, seconds, seed })
  }
}

interface PlainFile {
  readonly name: string
  readonly args: readonly string[]
  /** On a new file each time, which grows as it is written. */
  readonly fresh: boolean
}

const DIRECT = ['--ioengine=libaio', '--direct=1']

function plainFiles(row: Row): readonly PlainFile[] {
  if (row.reference === 'append') {
    return [
      { name: 'append-buffered', args: ['--ioengine=psync'], fresh: true },
      { name: 'append-direct', args: DIRECT, fresh: true }
    ]
  }
  return row.state === 'cold' ? [{ name: RAW_DISK, args: DIRECT, fresh: false }] : []
}

/** Also the clock of V8's profiles. */
const monotonicUs = (): number => Number(process.hrtime.bigint() / 1000n)

/** The same for every server of a round, another one in the next. */
function seedOf(row: Row, round: number): number {
  let seed = round + 1
  for (const letter of row.id) seed = (seed * 31 + letter.charCodeAt(0)) % 1_000_003
  return seed
}

/** A file of `bytes` with all its blocks reserved. */
export async function preallocate(file: string, bytes: number): Promise<void> {
  await promisify(execFile)('fallocate', ['-l', String(bytes), file])
}
