/**
 * How fast is a replicated volume? Three peers with two copies of everything, etcd and fio on
 * loopback of one machine; fio's NBD engine on the volume of one peer, the gateway. Each row also
 * as a ratio to `nbdkit file` in the same run, and beside it one peer alone (no copies, no etcd).
 *
 *   npm run bench:cluster                             all rows, about six minutes
 *   npm run bench:cluster -- --rows randread,fsync32 --seconds 4 --servers cluster,nbdkit
 *
 * Each job is run before it is measured, for --warmup SECONDS (2), on every server alike: what
 * compilers and page caches do first is no part of a figure.
 *
 * --peers N (3), --redundancy SCHEME (replicated:2), --size SIZE (512MiB), --rounds N (1),
 * --dir DIR (in a new directory there, which is removed), --out DIR (bench-out), --save NAME: also
 * scripts/bench/results/NAME.json, --cpu-prof: where the time of gateway and members went,
 * --node-arg ARG and --torus-arg ARG, repeatable.
 *
 * It reports, and never fails on a figure.
 * Exit codes: 0 measured, 1 something could not run, 2 usage.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { ClusterSite } from '../test/helpers/cluster-site.ts'
import { findProgram } from '../test/helpers/environment.ts'
import { parseArgs } from './arguments.ts'
import {
  CLUSTER,
  clusterCostTable,
  type ClusterMeasurement,
  clusterTable,
  type ProcessUsage,
  REFERENCE,
  reportClusterRow
} from './bench/cluster-report.ts'
import { type ClusterRow, clusterRows } from './bench/cluster-rows.ts'
import { preallocate } from './bench/compare.ts'
import { nbdTarget, runFio } from './bench/fio.ts'
import { describeMachine, machineLine } from './bench/machine.ts'
import { sizeOf } from './bench/options.ts'
import { writeBack } from './bench/page-cache.ts'
import { profilesIn, topFunctions } from './bench/profile.ts'
import type { Job } from './bench/rows.ts'
import { startServer } from './bench/servers.ts'
import { cpuUs, threadUsage, usedSince } from './bench/usage.ts'
import { repositoryRoot } from './repository.ts'

const MiB = 2 ** 20
const FILL: Job = { rw: 'write', blockBytes: MiB, depth: 16, wholeSize: true }
const SERVERS = [CLUSTER, 'torus', REFERENCE] as const
const VOLUME = 'bench'
const TOP_FUNCTIONS = 14
/** Other offsets while warming up than while measuring. */
const WARMUP_SEEDS = 500

interface Options {
  readonly rows: readonly ClusterRow[]
  readonly servers: readonly string[]
  readonly peers: number
  readonly redundancy: string
  readonly sizeBytes: number
  readonly seconds: number
  readonly warmup: number
  readonly rounds: number
  readonly directory: string
  readonly out: string
  readonly save: string
  readonly cpuProf: boolean
  readonly nodeArgs: readonly string[]
  readonly torusArgs: readonly string[]
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      rows: { type: 'string', default: clusterRows.map(({ id }) => id).join() },
      servers: { type: 'string', default: SERVERS.join() },
      peers: { type: 'string', default: '3' },
      redundancy: { type: 'string', default: 'replicated:2' },
      size: { type: 'string', default: '512MiB' },
      seconds: { type: 'string', default: '8' },
      warmup: { type: 'string', default: '2' },
      rounds: { type: 'string', default: '1' },
      dir: { type: 'string', default: tmpdir() },
      out: { type: 'string', default: 'bench-out' },
      save: { type: 'string', default: '' },
      'cpu-prof': { type: 'boolean', default: false },
      'node-arg': { type: 'string', multiple: true, default: [] },
      'torus-arg': { type: 'string', multiple: true, default: [] }
    }
  })
  const wanted = values.rows.split(',')
  const unknown = wanted.find((id) => clusterRows.every((row) => row.id !== id))
  const known = clusterRows.map(({ id }) => id).join(' ')
  if (unknown !== undefined) throw new TypeError(`no row ${unknown}; there are ${known}`)
  const servers = values.servers.split(',')
  const foreign = servers.find((name) => !SERVERS.some((each) => each === name))
  if (foreign !== undefined) throw new TypeError(`no server ${foreign}; there are ${SERVERS}`)
  const [peers, seconds, rounds] = [values.peers, values.seconds, values.rounds].map(Number)
  if (!(peers! >= 1 && seconds! > 0 && rounds! >= 1)) {
    throw new TypeError('--peers, --seconds and --rounds are numbers above 0')
  }
  return {
    rows: clusterRows.filter(({ id }) => wanted.includes(id)),
    servers,
    ...{ peers: peers!, seconds: seconds!, rounds: rounds!, warmup: Number(values.warmup) },
    redundancy: values.redundancy,
    sizeBytes: sizeOf(values.size),
    directory: values.dir,
    out: resolve(values.out),
    save: values.save,
    cpuProf: values['cpu-prof'],
    nodeArgs: values['node-arg'],
    torusArgs: values['torus-arg']
  }
}

/** A server as a job sees it. A cluster is never paused: its leases would run out. */
interface Target {
  readonly name: string
  readonly uri: string
  readonly processes: readonly { readonly name: string; readonly pid: number }[]
  pause(): void
  resume(): void
  stop(): Promise<void>
}

async function startCluster(options: Options, directory: string): Promise<Target> {
  const { peers, redundancy, cpuProf, nodeArgs, torusArgs, out, sizeBytes } = options
  const profile = ['--cpu-prof', `--cpu-prof-dir=${join(out, 'profiles')}`]
  const site = await ClusterSite.start({
    ...{ peers, redundancy, directory: join(directory, 'cluster'), argsOf: () => torusArgs },
    nodeArgs: [...nodeArgs, ...(cpuProf ? [...profile, '--cpu-prof-interval=500'] : [])],
    env: { TORUS_LOG_LEVEL: 'warn' }
  })
  try {
    await site.peers[0]!.createVolume(VOLUME, String(sizeBytes))
  } catch (error) {
    await site.dispose()
    throw error
  }
  const nameOf = (at: number): string => (at === 0 ? 'gateway' : `member ${at + 1}`)
  return {
    name: CLUSTER,
    uri: site.peers[0]!.uri(VOLUME),
    processes: [
      ...site.peers.map(({ pid }, at) => ({ name: nameOf(at), pid })),
      ...site.etcd.members.map(({ child }) => ({ name: 'etcd', pid: child?.pid ?? 0 }))
    ],
    pause: () => {},
    resume: () => {},
    stop: async () => {
      await site.stop()
      await site.dispose()
    }
  }
}

async function startTarget(name: string, options: Options, directory: string): Promise<Target> {
  if (name === CLUSTER) return startCluster(options, directory)
  const { sizeBytes, nodeArgs, torusArgs } = options
  const file = join(directory, 'reference.img')
  if (name === REFERENCE) await preallocate(file, sizeBytes)
  const kind = name === 'torus' ? 'torus' : 'nbdkit'
  const settings = { directory, file, sizeBytes, nodeArgs, torusArgs }
  const { server, why } = await startServer(kind, settings)
  if (server === null) throw new Error(why)
  server.pause()
  return {
    name,
    uri: server.uri,
    processes: [{ name, pid: server.pid }],
    pause: () => server.pause(),
    resume: () => server.resume(),
    stop: () => server.stop()
  }
}

async function measure(
  target: Target,
  row: ClusterRow,
  round: number,
  { sizeBytes, seconds, warmup }: Options
): Promise<ClusterMeasurement> {
  const seed = 1000 * clusterRows.indexOf(row) + round + 1
  const on = { args: nbdTarget(target.uri), sizeBytes, seconds }
  if (warmup > 0) await runFio(row.job, { ...on, seconds: warmup, seed: seed + WARMUP_SEEDS })
  await writeBack()
  const before = target.processes.map(({ pid }) => [cpuUs(pid), threadUsage(pid)] as const)
  const startUs = monotonicUs()
  const fio = await runFio(row.job, { ...on, seed })
  const endUs = monotonicUs()
  const usage = target.processes.map(({ name, pid }, at): ProcessUsage => {
    const [allBefore, threads] = before[at]!
    const mainUs = usedSince(threads, pid).find((thread) => thread.id === pid)?.cpuUs ?? 0
    return { name, mainUs, restUs: Math.max(0, cpuUs(pid) - allBefore - mainUs) }
  })
  return { row: row.id, server: target.name, round, fio, usage, startUs, endUs }
}

/** Also the clock of V8's profiles. */
const monotonicUs = (): number => Number(process.hrtime.bigint() / 1000n)

const note = (text: string): void => {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${text}\n`)
}

async function runAll(options: Options, targets: readonly Target[]): Promise<ClusterMeasurement[]> {
  const { sizeBytes, seconds, rows, rounds } = options
  const resumed = async <T>(target: Target, work: () => Promise<T>): Promise<T> => {
    target.resume()
    try {
      return await work()
    } finally {
      target.pause()
    }
  }
  for (const target of targets) {
    note(`filling ${target.name}`)
    const whole = { args: nbdTarget(target.uri), sizeBytes, seconds, seed: 1 }
    await resumed(target, () => runFio(FILL, whole))
  }
  const measurements: ClusterMeasurement[] = []
  for (const row of rows) {
    for (let round = 0; round < rounds; round++) {
      for (const target of targets) {
        const one = await resumed(target, () => measure(target, row, round, options))
        measurements.push(one)
        const { iops, bytesPerSecond, latencyUs } = one.fio
        const figures = `${iops.toFixed(0)} IOPS, ${(bytesPerSecond / 1e6).toFixed(0)} MB/s`
        note(`${row.id}, ${target.name}: ${figures}, ${latencyUs.toFixed(0)} µs`)
      }
    }
  }
  return measurements
}

async function report(
  options: Options,
  measurements: readonly ClusterMeasurement[]
): Promise<void> {
  const { rows, servers, peers, redundancy, sizeBytes, seconds, rounds, out, save } = options
  const { warmup } = options
  const machine = await describeMachine(tmpdir())
  const reports = rows.map((row) => reportClusterRow(row, measurements))
  console.log(machineLine(machine))
  console.log(`${peers} peers, ${redundancy}, ${sizeBytes / MiB} MiB, ${seconds} s a job, warm`)
  console.log(clusterTable(reports, servers))
  console.log(clusterCostTable(reports))
  if (options.cpuProf) printProfiles(join(out, 'profiles'), measurements)
  const settings = { peers, redundancy, sizeBytes, seconds, warmup, rounds }
  const kept = { machine, options: settings, rows: reports }
  const places: [string, object][] = [[join(out, 'cluster.json'), { ...kept, measurements }]]
  if (save !== '') {
    places.push([join(repositoryRoot, 'scripts/bench/results', `${save}.json`), kept])
  }
  for (const [path, value] of places) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`)
    console.log(`wrote ${path}`)
  }
}

function printProfiles(directory: string, measurements: readonly ClusterMeasurement[]): void {
  for (const { row, server, startUs, endUs, fio } of measurements) {
    if (server !== CLUSTER) continue
    console.log(`\n${row}: ${fio.operations} operations`)
    for (const profile of profilesIn(directory, startUs, endUs)) {
      console.log(`process ${profile.file.split('.')[3]}`)
      console.log(topFunctions(profile, TOP_FUNCTIONS, fio.operations))
    }
  }
}

async function main(): Promise<void> {
  const options = readOptions()
  for (const program of [
    'etcd',
    'fio',
    ...(options.servers.includes(REFERENCE) ? ['nbdkit'] : [])
  ]) {
    if (findProgram(program) === '') throw new Error(`${program} is not installed`)
  }
  if (options.cpuProf) rmSync(join(options.out, 'profiles'), { recursive: true, force: true })
  mkdirSync(options.directory, { recursive: true })
  const directory = mkdtempSync(join(resolve(options.directory), 'torus-bench-cluster-'))
  const targets: Target[] = []
  const stopAll = async (): Promise<void> => {
    const stopped = targets.splice(0).map((target) => target.stop())
    await Promise.allSettled(stopped)
    rmSync(directory, { recursive: true, force: true })
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void stopAll().then(() => process.exit(1)))
  }
  try {
    for (const name of options.servers) targets.push(await startTarget(name, options, directory))
    const measurements = await runAll(options, targets)
    await stopAll() // profiles are written at the end
    await report(options, measurements)
  } finally {
    await stopAll()
  }
}

main().catch((error: unknown) => {
  const isUsage = error instanceof TypeError
  console.error(error instanceof Error ? `bench:cluster: ${error.message}` : error)
  process.exitCode = isUsage ? 2 : 1
})
