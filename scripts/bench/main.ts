/** `npm run bench`: starts the servers, runs the rows, prints and keeps the results. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { repositoryRoot } from '../repository.ts'
import { comparisonChart } from './chart.ts'
import { Comparison, preallocate } from './compare.ts'
import { describeMachine, type Machine, machineLine } from './machine.ts'
import { type BenchOptions, parseOptions, usage } from './options.ts'
import { profilesIn, topFunctions } from './profile.ts'
import {
  comparisonTable,
  costTable,
  inTableOrder,
  memoryPeaks,
  memoryTable,
  type RowReport,
  reportRow
} from './report.ts'
import { runSelfRow, type SelfReport } from './self.ts'
import { type BenchServer, startServer, TorusBenchServer } from './servers.ts'

const say = (text: string): void => {
  process.stdout.write(`${text}\n`)
}
const note = (text: string): void => {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${text}\n`)
}

/** Returns the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  let options: BenchOptions | 'help'
  try {
    options = parseOptions(args)
  } catch (error) {
    note(error instanceof Error ? error.message : String(error))
    note(usage)
    return 2
  }
  if (options === 'help') {
    say(usage)
    return 0
  }
  const made = options.directory === '' ? mkdtempSync(join(tmpdir(), 'torus-bench-')) : ''
  const directory = made === '' ? resolve(options.directory) : made
  mkdirSync(directory, { recursive: true })
  try {
    return await bench(options, directory)
  } finally {
    rmSync(join(directory, 'reference.img'), { force: true })
    if (made !== '') rmSync(made, { recursive: true, force: true })
  }
}

async function bench(options: BenchOptions, directory: string): Promise<number> {
  const out = resolve(options.out)
  const profiles = join(out, 'profiles')
  if (options.cpuProf) rmSync(profiles, { recursive: true, force: true })
  mkdirSync(out, { recursive: true })
  const { servers, missing } = await startServers(options, directory, profiles)
  const cleanUp = onInterrupt(servers)
  const machine = await describeMachine(directory)
  let comparison: Comparison
  const selfReports: SelfReport[] = []
  try {
    comparison = new Comparison(
      {
        rows: options.rows,
        rounds: options.rounds,
        seconds: options.seconds,
        sizeBytes: options.sizeBytes,
        directory,
        coldCacheBytes: Math.max(options.sizeBytes / 16, 128 * 2 ** 20),
        note
      },
      servers
    )
    await comparison.fill()
    await comparison.run()
    selfReports.push(...(await runSelf(options, servers)))
  } finally {
    cleanUp()
    for (const server of servers) await server.stop()
  }
  const reports = inTableOrder(options.rows.map((row) => reportRow(row, comparison.measurements)))
  printAll(reports, selfReports, comparison, machine, servers)
  for (const why of missing) say(`not run: ${why}`)
  if (options.cpuProf) printProfiles(profiles, comparison)
  keep(out, options, { machine, options, reports, selfReports, comparison })
  return missing.length === 0 ? 0 : 1
}

async function startServers(
  options: BenchOptions,
  directory: string,
  profiles: string
): Promise<{ servers: BenchServer[]; missing: string[] }> {
  const file = join(directory, 'reference.img')
  await preallocate(file, options.sizeBytes)
  const profile = ['--cpu-prof', `--cpu-prof-dir=${profiles}`, '--cpu-prof-interval=500']
  const servers: BenchServer[] = []
  const missing: string[] = []
  for (const name of options.servers) {
    const { server, why } = await startServer(name, {
      directory,
      file,
      sizeBytes: options.sizeBytes,
      nodeArgs: options.cpuProf ? [...options.nodeArgs, ...profile] : options.nodeArgs,
      torusArgs: options.torusArgs
    })
    if (server === null) missing.push(`${name}: ${why}`)
    else servers.push(server)
  }
  return { servers, missing }
}

/** Nothing is left behind when the run is interrupted. */
function onInterrupt(servers: readonly BenchServer[]): () => void {
  const stop = (): void => {
    void Promise.allSettled(servers.map((server) => server.stop())).then(() => process.exit(1))
  }
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  return () => {
    process.off('SIGINT', stop)
    process.off('SIGTERM', stop)
  }
}

async function runSelf(
  options: BenchOptions,
  servers: readonly BenchServer[]
): Promise<SelfReport[]> {
  const torus = servers.find((server) => server instanceof TorusBenchServer)
  if (torus === undefined || options.selfRows.length === 0) return []
  torus.resume()
  const { rounds, seconds, sizeBytes } = options
  const reports: SelfReport[] = []
  for (const id of options.selfRows) {
    reports.push(await runSelfRow(id, torus, { rounds, seconds, sizeBytes, note }))
  }
  return reports
}

function printAll(
  reports: readonly RowReport[],
  selfReports: readonly SelfReport[],
  comparison: Comparison,
  machine: Machine,
  servers: readonly BenchServer[]
): void {
  say(machineLine(machine))
  for (const { name, version } of servers) say(`${name}: ${version}`)
  if (reports.length > 0) {
    say(
      comparisonTable(
        reports,
        servers.map(({ name }) => name)
      )
    )
    say(costTable(reports))
    say(memoryTable(comparison.measurements))
  }
  for (const { title, measured, goal, met } of selfReports) {
    say(`${met ? 'yes' : 'no '}  ${title}: ${measured}; goal ${goal}`)
  }
}

const TOP_FUNCTIONS = 14

function printProfiles(directory: string, comparison: Comparison): void {
  for (const { row, round, server, startUs, endUs, fio } of comparison.measurements) {
    if (server !== 'torus') continue
    say(`\n${row}, round ${round + 1}: ${fio.operations} operations`)
    for (const profile of profilesIn(directory, startUs, endUs)) {
      say(topFunctions(profile, TOP_FUNCTIONS, fio.operations))
    }
  }
}

interface Result {
  readonly machine: Machine
  readonly options: BenchOptions
  readonly reports: readonly RowReport[]
  readonly selfReports: readonly SelfReport[]
  readonly comparison: Comparison
}

function keep(out: string, options: BenchOptions, result: Result): void {
  const { machine, reports, selfReports, comparison } = result
  const { seconds, sizeBytes, rounds } = options
  const text = JSON.stringify(
    {
      machine,
      options: { seconds, sizeBytes, rounds },
      rows: reports,
      selfRows: selfReports,
      memoryPeaks: Object.fromEntries(memoryPeaks(comparison.measurements)),
      measurements: comparison.measurements
    },
    null,
    2
  )
  const chart = comparisonChart(
    reports,
    `${machine.date.slice(0, 10)}, ${machine.cores} cores, ${seconds} s a job, ` +
      `${sizeBytes / 2 ** 30} GiB, median of ${rounds}, client on the same machine`
  )
  const places = [join(out, 'bench')]
  if (options.save !== '') places.push(join(repositoryRoot, 'scripts/bench/results', options.save))
  for (const place of places) {
    mkdirSync(join(place, '..'), { recursive: true })
    writeFileSync(`${place}.json`, `${text}\n`)
    if (reports.length > 0) writeFileSync(`${place}.svg`, chart)
    say(`wrote ${place}.json${reports.length > 0 ? ' and .svg' : ''}`)
  }
}
