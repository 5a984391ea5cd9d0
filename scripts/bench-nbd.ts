/**
 * What does the NBD protocol alone cost? Serves a volume in memory from this process and compares
 * with `nbdkit memory`, taking turns: operations or bytes per second as fio sees them, and
 * processor time per operation as each server sees it. Reports, and never fails on a figure.
 *
 *   node dist/scripts/bench-nbd.js [--seconds 2] [--rounds 3]
 *
 * Exit codes: 0 measured, 1 something could not run, 2 usage.
 */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { NbdServer } from '../src/nbd/server.ts'
import { MemorySource } from '../test/helpers/memory-devices.ts'
import { end, freePort, until } from '../test/helpers/process.ts'
import { accepts } from '../test/helpers/server.ts'
import { parseArgs } from './arguments.ts'
import { type FioResult, nbdTarget, runFio } from './bench/fio.ts'
import type { Job } from './bench/rows.ts'

const MIB = 1024 * 1024
const SIZE_BYTES = 256 * MIB
/** As the default arena of a peer. */
const ARENA_PAGES = 16_384
/** /proc counts processor time in these. */
const TICK_US = 10_000

const jobs: readonly Job[] = [
  { rw: 'randread', blockBytes: 4096, depth: 32 },
  { rw: 'randwrite', blockBytes: 4096, depth: 32 },
  { rw: 'randread', blockBytes: 4096, depth: 1 },
  { rw: 'randwrite', blockBytes: 4096, depth: 1 },
  { rw: 'randread', blockBytes: 65_536, depth: 16 },
  { rw: 'randwrite', blockBytes: 65_536, depth: 16 },
  { rw: 'read', blockBytes: MIB, depth: 16 },
  { rw: 'write', blockBytes: MIB, depth: 16 }
]

interface Target {
  readonly name: string
  readonly uri: string
  /** Processor time so far, microseconds. */
  readonly cpuUs: () => number
}

function cpuOfProcess(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) * TICK_US
}

const cpuOfThis = (): number => {
  const { user, system } = process.cpuUsage()
  return user + system
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

function line(
  job: Job,
  target: Target,
  results: readonly (FioResult & { cpuUs: number })[]
): string {
  const of = (pick: (result: FioResult & { cpuUs: number }) => number) => median(results.map(pick))
  const what = `${job.rw} ${job.blockBytes / 1024} KiB, depth ${job.depth}`.padEnd(28)
  const speed = `${of((each) => each.iops)
    .toFixed(0)
    .padStart(8)} IOPS`
  const bytes = `${(of((each) => each.bytesPerSecond) / 1e9).toFixed(2).padStart(6)} GB/s`
  const p50 = of((each) => each.p50Us).toFixed(0)
  const p99 = of((each) => each.p99Us).toFixed(0)
  const cpu = `${of((each) => each.cpuUs / each.operations)
    .toFixed(1)
    .padStart(7)} us CPU each`
  return `${what} ${target.name.padEnd(7)} ${speed} ${bytes} ${cpu}  p50 ${p50} us, p99 ${p99} us`
}

async function measure(targets: readonly Target[], seconds: number, rounds: number): Promise<void> {
  for (const job of jobs) {
    const results = targets.map(() => [] as (FioResult & { cpuUs: number })[])
    // One round more than asked for: nothing is measured before it is compiled and paged in.
    for (let round = 0; round <= rounds; round++) {
      for (const [index, target] of targets.entries()) {
        const before = target.cpuUs()
        const fio = { args: nbdTarget(target.uri), sizeBytes: SIZE_BYTES, seconds, seed: round + 1 }
        const result = await runFio(job, fio)
        if (round > 0) results[index]!.push({ ...result, cpuUs: target.cpuUs() - before })
      }
    }
    for (const [index, target] of targets.entries()) {
      console.log(line(job, target, results[index]!))
    }
  }
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '2' },
      rounds: { type: 'string', default: '3' }
    }
  })
  const seconds = Number(values.seconds)
  const rounds = Number(values.rounds)
  if (!(seconds > 0 && rounds > 0)) return 2
  const source = new MemorySource(ARENA_PAGES)
  // Not zero, or reads would be answered as holes.
  source.add('memory', SIZE_BYTES).bytes.fill(0x5a)
  const server = new NbdServer({ source })
  const at = await server.listen({ host: '127.0.0.1', port: 0 })
  const own = 'port' in at ? at.port : 0
  const port = await freePort()
  const args = ['-f', '-i', '127.0.0.1', '-p', String(port), 'memory', String(SIZE_BYTES)]
  const nbdkit = spawn('nbdkit', args, { stdio: 'ignore' })
  try {
    await until(() => accepts(port), 'nbdkit accepts connections')
    const targets: Target[] = [
      { name: 'torus', uri: `nbd://127.0.0.1:${own}/memory`, cpuUs: cpuOfThis },
      { name: 'nbdkit', uri: `nbd://127.0.0.1:${port}/`, cpuUs: () => cpuOfProcess(nbdkit.pid!) }
    ]
    await measure(targets, seconds, rounds)
    return 0
  } finally {
    await end(nbdkit)
    await server.close(1_000)
  }
}

process.exitCode = await main()
