/**
 * Runs the tests: lint and every dist/test/…/*.test.js in a process of its own with a time limit,
 * several at a time where files do not disturb each other, those that take long first.
 *
 * Usage: node dist/scripts/test.js [--jobs N] [--timeout S] [--no-lint] [--root DIR] [FILTER…]
 *   FILTER     runs only files whose path below test/ contains one of these
 *   --jobs     files that keep the machine busy at the same time (default 2); next to them
 *              one more runs that waits most of its time
 *   --timeout  seconds that one file may take
 *   --root     looks for tests in this folder instead of dist/test
 * Ends with the line "N passed, N failed[, N skipped]".
 * Exit codes: 0 all passed; 1 something failed, hung, crashed, or ran no test; 2 usage
 */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { parseArgs } from './arguments.ts'
import { repositoryRoot } from './repository.ts'
import { renderFile, renderFolders, totalsOf } from './testing/report.ts'
import { type FileResult, killAllGroups, runFile } from './testing/run-file.ts'

/**
 * Seconds that the files of a folder may take together, on two cores. All of `npm test` must stay
 * under ten minutes; what needs longer belongs to `npm run torture`.
 */
const budgetSeconds: Record<string, number> = {
  core: 10,
  format: 15,
  placement: 15,
  shard: 120,
  handoff: 60,
  // Real members of etcd that hang and come back.
  metadata: 100,
  cluster: 30,
  replication: 60,
  volume: 60,
  nbd: 90,
  admin: 60,
  cli: 140,
  scripts: 60,
  // Seeds of whole clusters.
  sim: 70,
  e2e: 460
}
const BUDGET_SECONDS_ELSEWHERE = 30

/** A file that takes longer hangs. */
const FILE_SECONDS_MAX = 180

/** They compare speeds, or mount: nothing runs beside them. */
const alone = /^e2e\/(bench|filesystem|load)$/
/** They wait for leases, deadlines and restarts most of their time. */
const waiting =
  /^(metadata\/etcd|nbd\/(limits|remote)|cli\/mount|e2e\/(cluster-(gat|net)|etcd|rec|ses))/
/** Seconds that a file takes, where that is a lot: the last file must not be one of them. */
const longest: readonly RegExp[] = [/^e2e\/cluster/, /^sim\/sim$/, /^e2e\//, /^cli\/(com|ben|clu)/]

const budgetOf = (folder: string): number => budgetSeconds[folder] ?? BUDGET_SECONDS_ELSEWHERE

function findTests(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.js'))
    .sort()
    .map((name) => join(folder, name))
}

/** Each lane runs one file at a time, from the first of its queues that has one. */
async function runLanes(
  lanes: readonly (readonly string[][])[],
  options: Options
): Promise<FileResult[]> {
  const results: FileResult[] = []
  const runLane = async (queues: readonly string[][]): Promise<void> => {
    for (;;) {
      const file = queues.find((queue) => queue.length > 0)?.shift()
      if (file === undefined) return
      const result = await runFile(file, options.timeoutMs)
      results.push(result)
      console.log(renderFile(result, options.nameOf(file)))
    }
  }
  await Promise.all(lanes.map(runLane))
  return results
}

async function runAll(files: readonly string[], options: Options): Promise<FileResult[]> {
  const rank = (file: string): number => {
    const found = longest.findIndex((each) => each.test(options.nameOf(file)))
    return found < 0 ? longest.length : found
  }
  const sorted = [...files].sort((a, b) => rank(a) - rank(b))
  const isWaiting = (file: string): boolean => waiting.test(options.nameOf(file))
  const isAlone = (file: string): boolean => alone.test(options.nameOf(file))
  const idle = sorted.filter(isWaiting)
  const busy = sorted.filter((file) => !isWaiting(file) && !isAlone(file))
  const lanes = Array.from({ length: options.jobs }, () => [busy, idle])
  const results = await runLanes([...lanes, [idle]], options)
  return [...results, ...(await runLanes([[sorted.filter(isAlone)]], options))]
}

async function lint(): Promise<boolean> {
  const biome = join(repositoryRoot, 'node_modules/@biomejs/biome/bin/biome')
  const args = [biome, 'check', '--colors=off', '--error-on-warnings', '.']
  try {
    await promisify(execFile)(process.execPath, args, { cwd: repositoryRoot })
    console.log('ok    lint')
    return true
  } catch (error) {
    const { stdout = '', stderr = String(error) } = error as { stdout?: string; stderr?: string }
    console.log(`FAIL  lint\n${stdout}${stderr}`)
    return false
  }
}

interface Options {
  readonly jobs: number
  readonly timeoutMs: number
  readonly lint: boolean
  readonly root: string
  readonly filters: readonly string[]
  readonly nameOf: (file: string) => string
}

function readOptions(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      jobs: { type: 'string', default: '2' },
      timeout: { type: 'string', default: String(FILE_SECONDS_MAX) },
      'no-lint': { type: 'boolean', default: false },
      root: { type: 'string', default: fileURLToPath(new URL('../test', import.meta.url)) }
    }
  })
  const [jobs, timeoutMs] = [Number(values.jobs), Number(values.timeout) * 1000]
  if (!(jobs >= 1 && timeoutMs > 0)) throw new TypeError('--jobs and --timeout are above zero')
  const root = resolve(values.root)
  const nameOf = (file: string): string => relative(root, file).replace(/\.test\.js$/, '')
  const lint = !values['no-lint'] && positionals.length === 0
  return { jobs, timeoutMs, lint, root, filters: positionals, nameOf }
}

function printSummary(results: readonly FileResult[], options: Options, lintFailed: boolean): void {
  console.log(`\n${renderFolders(results, options.nameOf, budgetOf)}\n`)
  for (const result of results) {
    for (const reason of result.notRun) {
      console.log(`not run: ${options.nameOf(result.file)}: ${reason}`)
    }
  }
  for (const result of results.filter(({ failed }) => failed > 0)) {
    const reason = result.reason === '' ? '' : `: ${result.reason}`
    console.log(`failed: ${options.nameOf(result.file)}${reason}`)
  }
  if (lintFailed) console.log('failed: lint')
  if (results.length === 0) console.log('failed: there is no test')
  const totals = totalsOf(results)
  const failed = totals.failed + (lintFailed ? 1 : 0) + (results.length === 0 ? 1 : 0)
  const skipped = totals.skipped > 0 ? `, ${totals.skipped} skipped` : ''
  console.log(`\n${totals.passed} passed, ${failed} failed${skipped}`)
  process.exitCode = failed > 0 ? 1 : 0
}

async function main(): Promise<void> {
  const options = readOptions()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      killAllGroups()
      process.exit(1)
    })
  }
  const wanted = (file: string): boolean => {
    const name = options.nameOf(file)
    return options.filters.length === 0 || options.filters.some((filter) => name.includes(filter))
  }
  const files = findTests(options.root).filter(wanted)
  const [lintFailed, results] = await Promise.all([
    options.lint ? lint().then((isClean) => !isClean) : false,
    runAll(files, options)
  ])
  printSummary(results, options, lintFailed)
}

main().catch((error: unknown) => {
  console.error(error instanceof TypeError ? error.message : error)
  console.log('\n0 passed, 1 failed')
  process.exitCode = error instanceof TypeError ? 2 : 1
})
