/** Child processes with bounded time, gathered output, and an end by their own pid. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export interface CommandResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface CommandOptions {
  readonly timeoutMs?: number
  readonly input?: string | Buffer
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
}

const OUTPUT_BYTES_MAX = 16 * 1024 * 1024

/**
 * Runs a program to its end and returns what it printed, whatever its exit code was.
 * @throws Error when it cannot be started, or is not done in `timeoutMs` (default 60 s)
 */
export function run(
  program: string,
  args: readonly string[],
  options: CommandOptions = {}
): Promise<CommandResult> {
  const timeoutMs = options.timeoutMs ?? 60_000
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      cwd: options.cwd,
      env: { ...process.env, ...options.env }
    })
    const output = gather(child)
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, timeoutMs)
    child.on('error', reject)
    child.stdin?.on('error', () => {}) // it ended without reading all
    child.stdin?.end(options.input)
    child.on('close', (code) => {
      clearTimeout(timer)
      const told = `${program} ${args.join(' ')}`
      if (late) reject(new Error(`${told}: not done in ${timeoutMs} ms\n${output.all()}`))
      else resolve({ code: code ?? -1, stdout: output.stdout(), stderr: output.stderr() })
    })
  })
}

/**
 * Runs a program that must succeed.
 * @throws Error with all it printed when it ends with another code than 0
 */
export async function runOk(
  program: string,
  args: readonly string[],
  options: CommandOptions = {}
): Promise<string> {
  const result = await run(program, args, options)
  if (result.code === 0) return result.stdout
  const told = `${program} ${args.join(' ')}`
  throw new Error(`${told}: exit code ${result.code}\n${result.stdout}${result.stderr}`)
}

export interface Gathered {
  stdout(): string
  stderr(): string
  all(): string
}

/** Collects what a child prints, up to a limit. */
export function gather(child: ChildProcess): Gathered {
  const streams = { stdout: '', stderr: '' }
  let all = ''
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      if (all.length > OUTPUT_BYTES_MAX) return
      streams[name] += text
      all += text
    })
  }
  return { stdout: () => streams.stdout, stderr: () => streams.stderr, all: () => all }
}

/** Waits until the child has ended; false when it is still there after `timeoutMs`. */
export async function waitForEnd(child: ChildProcess, timeoutMs: number): Promise<boolean> {
  if (hasEnded(child)) return true
  const ended = new Promise<true>((resolve) => child.once('exit', () => resolve(true)))
  const abort = new AbortController()
  const late = sleep(timeoutMs, false as const, { signal: abort.signal }).catch(
    () => false as const
  )
  const result = await Promise.race([ended, late])
  abort.abort()
  return result
}

export const hasEnded = (child: ChildProcess): boolean =>
  child.exitCode !== null || child.signalCode !== null

/** Ends a child by `signal`, and by SIGKILL when it is not gone in `graceMs`. */
export async function end(
  child: ChildProcess,
  signal: NodeJS.Signals = 'SIGTERM',
  graceMs = 15_000
): Promise<void> {
  if (hasEnded(child)) return
  child.kill(signal)
  if (await waitForEnd(child, graceMs)) return
  child.kill('SIGKILL')
  await waitForEnd(child, 5_000)
}

/** Below those that kernels give to outgoing connections: one of these could come first. */
const PORT_MIN = 15_000
/** Of a process; its neighbours by pid, which run beside it, have others. */
const PORTS = 170
const SLICES = 100
const firstPort = PORT_MIN + (process.pid % SLICES) * PORTS
let handedOut = randomInt(PORTS)

/** A TCP port of 127.0.0.1 that nobody listens on, and that nobody else is given soon. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = firstPort + (handedOut++ % PORTS)
    if (await isFree(port)) return port
  }
}

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false)
      else reject(error)
    })
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })

/** Several that differ. */
export async function findFreePorts(count: number): Promise<number[]> {
  const ports = new Set<number>()
  while (ports.size < count) ports.add(await freePort())
  return [...ports]
}

/** Asks `probe` every few milliseconds until it says true. */
export async function until(
  probe: () => boolean | Promise<boolean>,
  what: string,
  timeoutMs = 10_000
): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await probe())) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(20)
  }
}
