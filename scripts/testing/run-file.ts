/** Runs one compiled test file in a process of its own, and tells what became of it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import {
  NOT_RUN_PREFIX,
  OUTSIDE_FILE_VARIABLE,
  TEST_FILE_VARIABLE,
  TEST_REPORT_DESCRIPTOR
} from './protocol.ts'
import { parseUvuOutput } from './uvu-output.ts'

export interface FileResult {
  readonly file: string
  readonly passed: number
  /** Failed tests; a file that hung, crashed or ran no test has one more. */
  readonly failed: number
  readonly skipped: number
  readonly notRun: readonly string[]
  readonly milliseconds: number
  /** Why the file as a whole failed, '' if it did not. */
  readonly reason: string
  /** All that it printed. */
  readonly output: string
}

interface Run {
  output: string
  test: string
  resources: string
  timedOut: boolean
}

const HOOK = fileURLToPath(new URL('./hook.js', import.meta.url))
const LOOPBACK = new URL('./loopback.js', import.meta.url).href
/** Between asking a file that hangs what keeps it, and killing it. */
const ANSWER_MS = 500

/** Of what was done beyond this machine: more of it is not shown. */
const OUTSIDE_LINES_MAX = 5

/** Who left the process group may hold the pipes open for ever; no more waiting after this. */
const PIPE_CLOSE_MS = 3000

const groups = new Set<number>()

/** Ends what is left of every test process, with the processes those started. */
export function killAllGroups(): void {
  for (const group of groups) killGroup(group)
}

function killGroup(group: number): boolean {
  try {
    process.kill(-group, 'SIGKILL')
    return true
  } catch {
    return false // Nobody is left in it.
  }
}

function readReports(pipe: Readable, run: Run): void {
  let rest = ''
  pipe.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      const [kind, value] = JSON.parse(line) as [string, string]
      if (kind === 'test') run.test = value
      else if (kind === 'resources') run.resources = value
    }
  })
}

function reasonOf(run: Run, code: number | null, signal: string | null, limitMs: number): string {
  const counts = parseUvuOutput(run.output)
  const during = run.test === '' ? '' : ` in test "${run.test}"`
  if (run.timedOut) {
    const where = counts === null ? during : ' after its last test: something keeps it alive'
    const open = run.resources === '' ? '' : ` (open: ${run.resources})`
    return `not done after ${limitMs / 1000} s${where}${open}`
  }
  if (signal !== null) return `killed by ${signal}${during}`
  if (counts === null) return `ended with exit code ${code}${during} before uvu was done`
  if (counts.total + counts.skipped === 0) return 'has no test'
  if (counts.passed === counts.total && code !== 0) return `all tests passed, but exit code ${code}`
  return ''
}

function resultOf(file: string, run: Run, reason: string, milliseconds: number): FileResult {
  const counts = parseUvuOutput(run.output) ?? { total: 0, passed: 0, skipped: 0 }
  const notRun = run.output
    .split('\n')
    .filter((line) => line.startsWith(NOT_RUN_PREFIX))
    .map((line) => line.slice(NOT_RUN_PREFIX.length))
  return {
    file,
    passed: counts.passed,
    failed: counts.total - counts.passed + (reason === '' ? 0 : 1),
    skipped: Math.max(0, counts.skipped - notRun.length),
    notRun,
    milliseconds,
    reason,
    output: run.output
  }
}

function enforceLimit(child: ChildProcess, run: Run, limitMs: number): () => void {
  const group = child.pid ?? 0
  let killer: NodeJS.Timeout | undefined
  const asker = setTimeout(() => {
    run.timedOut = true
    child.kill('SIGUSR2')
    killer = setTimeout(() => killGroup(group), ANSWER_MS)
  }, limitMs)
  return () => {
    clearTimeout(asker)
    clearTimeout(killer)
  }
}

/** Where processes of one test file write what they do beyond this machine. */
class OutsideFile {
  readonly env: Readonly<Record<string, string>>
  readonly #directory = mkdtempSync(join(tmpdir(), 'torus-outside-'))
  readonly #path = join(this.#directory, 'lines')

  constructor() {
    const options = `${process.env['NODE_OPTIONS'] ?? ''} --import ${LOOPBACK}`.trim()
    this.env = { NODE_OPTIONS: options, [OUTSIDE_FILE_VARIABLE]: this.#path }
  }

  /** Why the file fails for it; '' where nothing was written. */
  take(): string {
    const text = readOrNothing(this.#path)
    rmSync(this.#directory, { recursive: true, force: true })
    if (text === '') return ''
    const lines = [...new Set(text.trimEnd().split('\n'))]
    return `it is not alone on this machine: ${lines.slice(0, OUTSIDE_LINES_MAX).join('; ')}`
  }
}

function readOrNothing(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // Nobody wrote.
  }
}

/** Resolves when the file's process and all that it started are gone. */
export function runFile(file: string, limitMs: number): Promise<FileResult> {
  const started = performance.now()
  const run: Run = { output: '', test: '', resources: '', timedOut: false }
  const outside = new OutsideFile()
  // Detached: a group of its own, so that servers which a test started go down with it.
  const child = spawn(process.execPath, ['--import', HOOK, file], {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    env: {
      ...process.env,
      ...outside.env,
      [TEST_FILE_VARIABLE]: file,
      FORCE_COLOR: '0',
      NO_COLOR: '1'
    }
  })
  const group = child.pid ?? 0
  groups.add(group)
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      run.output += text
    })
  }
  readReports(child.stdio[TEST_REPORT_DESCRIPTOR] as Readable, run)
  const lift = enforceLimit(child, run, limitMs)
  return new Promise((resolve, reject) => {
    let late: NodeJS.Timeout | undefined
    const finish = (code: number | null, signal: string | null): void => {
      clearTimeout(late)
      groups.delete(group)
      const milliseconds = performance.now() - started
      const told = outside.take()
      const reason = reasonOf(run, code, signal, limitMs) || told
      resolve(resultOf(file, run, reason, milliseconds))
    }
    child.once('error', reject)
    child.once('exit', (code, signal) => {
      lift()
      if (killGroup(group) && !run.timedOut) run.output += '\n(left processes behind: killed)\n'
      late = setTimeout(finish, PIPE_CLOSE_MS, code, signal)
    })
    child.once('close', finish)
  })
}
