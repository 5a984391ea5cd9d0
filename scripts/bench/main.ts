/** `npm run bench`: starts the servers, runs the rows, prints and keeps the results. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { repositoryRoot } from '../repository.ts'
import { Comparison, preallocate } from './compare.ts'
import { durationText, estimateSeconds } from './estimate.ts'
import { joined, keptIn } from './join.ts'
import { describeMachine, machineLine } from './machine.ts'
import { type BenchOptions, parseOptions, usage } from './options.ts'
import { profilesIn, topFunctions } from './profile.ts'
import { comparisonTable, costTable, memoryTable } from './report.ts'
import { Results } from './results.ts'
import { runSelfRow } from './self.ts'
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
  if (options.join.length > 0) return showJoined(options)
  const parent = resolve(options.directory)
  mkdirSync(parent, { recursive: true })
  const directory = mkdtempSync(join(parent, 'torus-bench-'))
  const removeFiles = (): void => rmSync(directory, { recursive: true, force: true })
  try {
    return await bench(options, directory, removeFiles)
  } finally {
    removeFiles()
  }
}

function showJoined(options: BenchOptions): number {
  try {
    const kept = joined(options.join.map((directory) => keptIn(resolve(directory))))
    const results = new Results(resolve(options.out), options.rows, kept.options, kept.machine)
    results.take(kept)
    printAll(results, [...new Set(kept.measurements.map(({ server }) => server))])
    keepAll(options, results, kept.complete)
    return 0
  } catch (error) {
    note(error instanceof Error ? error.message : String(error))
    return 2
  }
}

async function bench(
  options: BenchOptions,
  directory: string,
  removeFiles: () => void
): Promise<number> {
  const out = resolve(options.out)
  const profiles = join(out, 'profiles')
  if (options.cpuProf) rmSync(profiles, { recursive: true, force: true })
  const results = new Results(out, options.rows, options, await describeMachine(directory))
  if (options.resume) {
    try {
      note(results.resume())
    } catch (error) {
      note(error instanceof Error ? error.message : String(error))
      return 2
    }
  }
  const { servers, missing } = await startServers(options, directory, profiles)
  const cleanUp = onInterrupt(servers, results, removeFiles)
  let complete = false
  try {
    complete = await measure(options, directory, servers, results)
  } finally {
    cleanUp()
    for (const server of servers) await server.stop()
  }
  printAll(
    results,
    servers.map(({ name }) => name),
    servers.map(({ name, version }) => `${name}: ${version}`)
  )
  for (const why of missing) say(`not run: ${why}`)
  if (!complete) say('not all of it: the time was over; --resume goes on, --minutes gives more')
  if (options.cpuProf) printProfiles(profiles, results)
  keepAll(options, results, complete)
  // io_uring does not work everywhere: who did not ask for it by name does without.
  return complete && (missing.length === 0 || !options.serversChosen) ? 0 : 1
}

/** Fills the volumes and runs all rows. False when the time was over before the end. */
async function measure(
  options: BenchOptions,
  directory: string,
  servers: readonly BenchServer[],
  results: Results
): Promise<boolean> {
  const isDone = (row: string, round: number): boolean => results.isDone(row, round)
  const { rows, rounds, seconds, sizeBytes } = options
  const selfRows = options.selfRows.filter((id) => !results.isSelfDone(id))
  const names = servers.map(({ name }) => name)
  const shape = { rows, selfRows, servers: names, seconds, sizeBytes, rounds }
  const estimate = estimateSeconds(shape, isDone)
  const limit = options.minutes > 0 ? options.minutes * 60 : estimate * 2
  const startedMs = performance.now()
  const isOver = (): boolean => performance.now() - startedMs > limit * 1000
  note(`this takes about ${durationText(estimate)}; no round begins after ${durationText(limit)}`)
  const comparison = new Comparison(
    {
      rows,
      rounds,
      seconds,
      sizeBytes,
      directory,
      coldCacheBytes: Math.max(sizeBytes / 16, 128 * 2 ** 20),
      note,
      isDone,
      isOver,
      onRound: (measurements) => {
        results.measurements.push(...measurements)
        results.keep(false)
      }
    },
    servers
  )
  await comparison.fill()
  if (!(await comparison.run())) return false
  const torus = servers.find((server) => server instanceof TorusBenchServer)
  if (torus === undefined) return true
  torus.resume()
  for (const id of selfRows) {
    if (isOver()) return false
    results.selfReports.push(await runSelfRow(id, torus, { rounds, seconds, sizeBytes, note }))
    results.keep(false)
  }
  return true
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
function onInterrupt(
  servers: readonly BenchServer[],
  results: Results,
  removeFiles: () => void
): () => void {
  const stop = (): void => {
    note(`interrupted; ${results.place}.json has all whole rounds, --resume goes on from there`)
    void Promise.allSettled(servers.map((server) => server.stop())).then(() => {
      removeFiles()
      process.exit(1)
    })
  }
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  return () => {
    process.off('SIGINT', stop)
    process.off('SIGTERM', stop)
  }
}

function printAll(
  results: Results,
  servers: readonly string[],
  versions: readonly string[] = []
): void {
  const { machine, measurements, selfReports } = results
  const reports = results.reports()
  say(machineLine(machine))
  for (const version of versions) say(version)
  if (reports.length > 0) {
    say(comparisonTable(reports, servers))
    say(costTable(reports))
    say(memoryTable(measurements))
  }
  for (const { title, measured, goal, met } of selfReports) {
    say(`${met ? 'yes' : 'no '}  ${title}: ${measured}; goal ${goal}`)
  }
}

function keepAll(options: BenchOptions, results: Results, complete: boolean): void {
  const extra =
    options.save === '' ? '' : join(repositoryRoot, 'scripts/bench/results', options.save)
  for (const place of results.keep(complete, extra)) say(`wrote ${place}.json and .svg`)
}

const TOP_FUNCTIONS = 14

function printProfiles(directory: string, { measurements }: Results): void {
  for (const { row, round, server, startUs, endUs, fio } of measurements) {
    if (server !== 'torus') continue
    say(`\n${row}, round ${round + 1}: ${fio.operations} operations`)
    for (const profile of profilesIn(directory, startUs, endUs)) {
      say(topFunctions(profile, TOP_FUNCTIONS, fio.operations))
    }
  }
}
