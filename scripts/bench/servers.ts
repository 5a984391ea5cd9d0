/**
 * The servers that are compared. The reference servers share one preallocated file: only one of
 * them runs at any time, and so all find it in the same state.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { end, freePort, gather, hasEnded, run, until } from '../../test/helpers/process.ts'
import { findProgram } from '../../test/helpers/environment.ts'
import { accepts, TorusServer } from '../../test/helpers/server.ts'
import { childrenOf } from './usage.ts'

export interface BenchServer {
  readonly name: string
  /** One of ours; the others are the references. */
  readonly ours: boolean
  readonly version: string
  readonly pid: number
  readonly uri: string
  /** Of a volume that nobody wrote yet; references give the usual one. */
  freshUri(): Promise<string>
  /** Gives the volume of `freshUri` up. */
  dropFresh(): Promise<void>
  pause(): void
  resume(): void
  stop(): Promise<void>
}

export interface ServerSettings {
  /** A directory on the filesystem under test. */
  readonly directory: string
  /** The preallocated file of the references. */
  readonly file: string
  readonly sizeBytes: number
  /** Flags of node for torus. */
  readonly nodeArgs: readonly string[]
  /** More arguments of `torus serve`. */
  readonly torusArgs: readonly string[]
}

export const serverNames = ['torus', 'nbdkit', 'qemu-threads', 'qemu-uring', 'nbd-server'] as const
export type ServerName = (typeof serverNames)[number]

/**
 * Starts a server and waits until it answers.
 * @returns null with the reason in `why` when its program is missing or it does not start
 */
export async function startServer(
  name: ServerName,
  settings: ServerSettings
): Promise<{ server: BenchServer | null; why: string }> {
  try {
    return { server: await starters[name](settings), why: '' }
  } catch (error) {
    return { server: null, why: error instanceof Error ? error.message : String(error) }
  }
}

const starters: Record<ServerName, (settings: ServerSettings) => Promise<BenchServer>> = {
  torus: startTorus,
  nbdkit: startNbdkit,
  'qemu-threads': (settings) => startQemu('qemu-threads', 'threads', settings),
  'qemu-uring': (settings) => startQemu('qemu-uring', 'io_uring', settings),
  'nbd-server': startNbdServer
}

/** Stops and continues a process with its children, which is how a server is kept quiet. */
function signalTree(pid: number, signal: NodeJS.Signals): void {
  for (const child of childrenOf(pid)) signalTree(child, signal)
  try {
    process.kill(pid, signal)
  } catch {
    // it ended; the next job tells
  }
}

function reference(
  name: string,
  version: string,
  uri: string,
  pid: number,
  stop: () => Promise<void>
): BenchServer {
  return {
    name,
    ours: false,
    version,
    pid,
    uri,
    freshUri: async () => uri,
    dropFresh: async () => {},
    pause: () => signalTree(pid, 'SIGSTOP'),
    resume: () => signalTree(pid, 'SIGCONT'),
    stop
  }
}

async function versionOf(program: string, flag: string): Promise<string> {
  if (findProgram(program) === '') throw new Error(`${program} is not installed`)
  const { stdout, stderr } = await run(program, [flag])
  return (stdout + stderr).trim().split('\n')[0] ?? ''
}

/** Starts a server that stays in the foreground. */
async function foreground(
  program: string,
  args: readonly string[],
  port: number
): Promise<ChildProcess> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const output = gather(child)
  const answers = async (): Promise<boolean> => {
    if (hasEnded(child)) throw new Error(`${program} ended: ${output.all().trim()}`)
    return await accepts(port)
  }
  await until(answers, `${program} answers`)
  return child
}

const stopChild = (child: ChildProcess) => async (): Promise<void> => {
  child.kill('SIGCONT')
  await end(child, 'SIGTERM', 3_000)
}

async function startNbdkit(settings: ServerSettings): Promise<BenchServer> {
  const version = await versionOf('nbdkit', '--version')
  const port = await freePort()
  const args = ['-f', '-i', '127.0.0.1', '-p', String(port), 'file', settings.file]
  const child = await foreground('nbdkit', args, port)
  return reference('nbdkit', version, `nbd://127.0.0.1:${port}/`, child.pid ?? 0, stopChild(child))
}

async function startQemu(
  name: string,
  aio: string,
  settings: ServerSettings
): Promise<BenchServer> {
  const version = await versionOf('qemu-nbd', '--version')
  const port = await freePort()
  const place = ['-b', '127.0.0.1', '-p', String(port), '-x', 'bench', '-t', '-e', '16']
  // Both variants hold the same file open; only one of them writes at any time.
  const file = `file.locking=off,file.aio=${aio},file.filename=${settings.file}`
  const image = `driver=raw,file.driver=file,${file}`
  const args = [...place, '--cache=writeback', `--aio=${aio}`, '--image-opts', image]
  const child = await foreground('qemu-nbd', args, port)
  return reference(name, version, `nbd://127.0.0.1:${port}/bench`, child.pid ?? 0, stopChild(child))
}

const LUKS_TRIES_MAX = 10

/** What encrypted volumes are compared with: LUKS1, which is what it knows. */
export async function startLuks(directory: string, sizeBytes: number): Promise<BenchServer> {
  const version = await versionOf('qemu-nbd', '--version')
  const file = join(directory, 'luks.img')
  const secret = ['--object', 'secret,id=key,data=bench-passphrase']
  rmSync(file, { force: true })
  const options = ['-f', 'luks', '-o', 'key-secret=key,iter-time=10', '-q']
  const make = () => run('qemu-img', ['create', ...secret, ...options, file, String(sizeBytes)])
  let made = await make()
  // It measures how many iterations take so long, and on some machines the clock does not tell.
  for (let tries = 1; made.code !== 0 && tries < LUKS_TRIES_MAX; tries++) made = await make()
  if (made.code !== 0) throw new Error(`qemu-img: ${made.stderr.trim()}`)
  const port = await freePort()
  const place = ['-b', '127.0.0.1', '-p', String(port), '-x', 'bench', '-t', '-e', '16']
  const image = `driver=luks,key-secret=key,file.driver=file,file.filename=${file}`
  const args = [...place, ...secret, '--cache=writeback', '--image-opts', image]
  const child = await foreground('qemu-nbd', args, port)
  const stop = async (): Promise<void> => {
    await stopChild(child)()
    rmSync(file, { force: true })
  }
  return reference('luks', version, `nbd://127.0.0.1:${port}/bench`, child.pid ?? 0, stop)
}

/** nbd-server always goes to the background; its pid file says where. */
async function startNbdServer(settings: ServerSettings): Promise<BenchServer> {
  const version = await versionOf('nbd-server', '-V')
  const port = await freePort()
  const config = join(settings.directory, 'nbd-server.conf')
  const pidFile = join(settings.directory, 'nbd-server.pid')
  writeFileSync(
    config,
    `[generic]\nlistenaddr = 127.0.0.1\nport = ${port}\nallowlist = true\n` +
      `[bench]\nexportname = ${settings.file}\nflush = true\nfua = true\ntrim = true\n`
  )
  const started = await run('nbd-server', ['-C', config, '-p', pidFile])
  if (started.code !== 0) throw new Error(`nbd-server: ${started.stderr}`)
  await until(() => accepts(port), 'nbd-server answers')
  const pid = Number(readFileSync(pidFile, 'utf8'))
  const stop = async (): Promise<void> => {
    signalTree(pid, 'SIGCONT')
    signalTree(pid, 'SIGTERM')
    await sleep(200)
    signalTree(pid, 'SIGKILL')
  }
  return reference('nbd-server', version, `nbd://127.0.0.1:${port}/bench`, pid, stop)
}

async function startTorus(settings: ServerSettings): Promise<TorusBenchServer> {
  const dataDir = join(settings.directory, 'torus')
  mkdirSync(dataDir, { recursive: true })
  const process = await TorusServer.start({
    dataDir,
    args: settings.torusArgs,
    nodeArgs: settings.nodeArgs,
    env: { TORUS_LOG_LEVEL: 'warn' }
  })
  try {
    await process.createVolume('bench', String(settings.sizeBytes))
  } catch (error) {
    await process.dispose()
    throw error
  }
  return new TorusBenchServer(process, settings.sizeBytes)
}

export class TorusBenchServer implements BenchServer {
  readonly name = 'torus'
  readonly ours = true
  readonly version = `node ${globalThis.process.version}`
  readonly process: TorusServer
  readonly #sizeBytes: number
  constructor(process: TorusServer, sizeBytes: number) {
    this.process = process
    this.#sizeBytes = sizeBytes
  }

  get pid(): number {
    return this.process.pid
  }

  get uri(): string {
    return this.process.uri('bench')
  }

  async freshUri(): Promise<string> {
    await this.process.createVolume('fresh', String(this.#sizeBytes))
    return this.process.uri('fresh')
  }

  async dropFresh(): Promise<void> {
    await this.process.json('volume', 'delete', 'fresh', '--now', '--force', '--yes')
  }

  pause(): void {
    this.process.signal('SIGSTOP')
  }

  resume(): void {
    this.process.signal('SIGCONT')
  }

  async stop(): Promise<void> {
    this.resume()
    await this.process.stop(60_000)
    await this.process.dispose()
  }
}
