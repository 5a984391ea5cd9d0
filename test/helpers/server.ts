/** A real `torus serve` process on a data directory of its own, on free loopback ports. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { repositoryRoot } from '../../scripts/repository.ts'
import {
  type CommandOptions,
  type CommandResult,
  end,
  freePort,
  type Gathered,
  gather,
  hasEnded,
  run,
  until
} from './process.ts'

/** The compiled command line program. */
export const torusProgram: string = join(repositoryRoot, 'dist', 'src', 'cli', 'main.js')

export interface ServerOptions {
  /** Default: a new directory that `dispose` removes. */
  readonly dataDir?: string
  /** Default: the compiled command line program. */
  readonly program?: string
  /** More arguments of `torus serve`. */
  readonly args?: readonly string[]
  /** Flags of node itself. */
  readonly nodeArgs?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** Most time until it is ready. */
  readonly readyMs?: number
  /** Also serve a unix socket, see `socketPath`. */
  readonly socket?: boolean
  /** Default: free ones. */
  readonly ports?: { readonly nbd: number; readonly admin: number }
  /** In a process group of its own, so that Ctrl-C on a terminal does not reach it. */
  readonly detached?: boolean
  /** What it prints is appended there, too. */
  readonly logFile?: string
}

/** What `start` is given on every start of the same server. */
interface Settings {
  readonly directory: string
  readonly dataDir: string
  readonly nbdPort: number
  readonly adminPort: number
  readonly options: ServerOptions
}

export class TorusServer {
  readonly dataDir: string
  readonly nbdPort: number
  readonly adminPort: number
  readonly socketPath: string
  /** What the next start runs; another build for a test of upgrades. */
  program: string
  readonly #settings: Settings
  #child: ChildProcess | null = null
  #output: Gathered | null = null
  #earlierLogs = ''
  readonly #moreArgs: string[] = []

  private constructor(settings: Settings) {
    this.#settings = settings
    this.dataDir = settings.dataDir
    this.nbdPort = settings.nbdPort
    this.adminPort = settings.adminPort
    this.socketPath = join(settings.directory, 'nbd.sock')
    this.program = settings.options.program ?? torusProgram
  }

  /** Starts a server and waits until it is ready. */
  static async start(options: ServerOptions = {}): Promise<TorusServer> {
    const server = await TorusServer.prepare(options)
    try {
      await server.start()
      return server
    } catch (error) {
      await server.dispose()
      throw error
    }
  }

  /** Chooses directory and ports; starts nothing. */
  static async prepare(options: ServerOptions = {}): Promise<TorusServer> {
    const directory = await mkdtemp(join(tmpdir(), 'torus-e2e-'))
    return new TorusServer({
      directory,
      dataDir: options.dataDir ?? join(directory, 'data'),
      nbdPort: options.ports?.nbd ?? (await freePort()),
      adminPort: options.ports?.admin ?? (await freePort()),
      options
    })
  }

  /** Starts the process, the first time or again, with `args` added to those it was made with. */
  async start(args: readonly string[] = []): Promise<void> {
    this.spawn(args)
    await this.ready()
  }

  /** Given to every start from now on. */
  addArgs(args: readonly string[]): void {
    this.#moreArgs.push(...args)
  }

  /** As `start`, without waiting. */
  spawn(args: readonly string[] = []): ChildProcess {
    const { options } = this.#settings
    const socket = options.socket === true ? ['--nbd-socket', this.socketPath] : []
    this.#earlierLogs = this.logs
    const child = spawn(
      process.execPath,
      [
        ...(options.nodeArgs ?? []),
        this.program,
        'serve',
        '--data-dir',
        this.dataDir,
        '--nbd-listen',
        `127.0.0.1:${this.nbdPort}`,
        '--admin-listen',
        `127.0.0.1:${this.adminPort}`,
        ...socket,
        ...(options.args ?? []),
        ...this.#moreArgs,
        ...args
      ],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, ...options.env },
        detached: options.detached === true
      }
    )
    this.#child = child
    this.#output = gather(child)
    if (options.logFile !== undefined) {
      const log = createWriteStream(options.logFile, { flags: 'a' })
      child.stdout.pipe(log, { end: false })
      child.stderr.pipe(log, { end: false })
      child.on('close', () => log.end())
    }
    return child
  }

  /** Waits until it says that it is ready and takes NBD connections. */
  async ready(): Promise<void> {
    const child = this.#child
    if (child === null) throw new Error('the server was not started')
    const probe = async (): Promise<boolean> => {
      if (hasEnded(child)) throw new Error(`the server ended while starting:\n${this.logs}`)
      return (await httpStatus(this.adminPort, '/readyz')) === 200 && (await accepts(this.nbdPort))
    }
    try {
      await until(probe, 'the server is ready', this.#settings.options.readyMs ?? 20_000)
    } catch (error) {
      throw new Error(`${String(error)}\n${this.logs}`)
    }
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  /** Everything it printed since it was made, earlier runs included. */
  get logs(): string {
    return this.#earlierLogs + (this.#output?.all() ?? '')
  }

  get running(): boolean {
    return this.#child !== null && !hasEnded(this.#child)
  }

  uri(volume: string): string {
    return `nbd://127.0.0.1:${this.nbdPort}/${volume}`
  }

  socketUri(volume: string): string {
    return `nbd+unix:///${volume}?socket=${this.socketPath}`
  }

  /** Where `--admin` finds it. */
  get adminUrl(): string {
    return `http://127.0.0.1:${this.adminPort}`
  }

  /** Runs `torus …` against this server; any exit code is an answer. */
  async torus(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return await torus(args, { ...options, env: { TORUS_ADMIN: this.adminUrl, ...options.env } })
  }

  /** Runs `torus … --json`, which must succeed, and returns what it printed, parsed. */
  async json<T = unknown>(...args: string[]): Promise<T> {
    const result = await this.torus([...args, '--json'])
    if (result.code !== 0) {
      throw new Error(`torus ${args.join(' ')}: ${result.code}\n${result.stdout}${result.stderr}`)
    }
    return JSON.parse(result.stdout) as T
  }

  async createVolume(name: string, size: string): Promise<void> {
    await this.json('volume', 'create', name, size)
  }

  /** Orderly end, by SIGTERM; the exit code. */
  async stop(graceMs = 20_000): Promise<number> {
    const child = this.#child
    if (child === null) return 0
    await end(child, 'SIGTERM', graceMs)
    return child.exitCode ?? -1
  }

  /** kill -9. */
  async kill(): Promise<void> {
    if (this.#child !== null) await end(this.#child, 'SIGKILL')
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#child !== null && !hasEnded(this.#child)) this.#child.kill(signal)
  }

  /** Ends the process, kindly or not, and removes what it left. */
  async dispose(): Promise<void> {
    this.signal('SIGCONT')
    await this.kill()
    await rm(this.#settings.directory, { recursive: true, force: true })
  }
}

/** Runs the command line program; any exit code is an answer. */
export async function torus(
  args: readonly string[],
  options: CommandOptions = {},
  program: string = torusProgram
): Promise<CommandResult> {
  return await run(process.execPath, [program, ...args], options)
}

/** Status of `GET path`, 0 when nobody answers. */
export function httpStatus(port: number, path: string): Promise<number> {
  return new Promise((resolve) => {
    const sent = request({ host: '127.0.0.1', port, path, timeout: 2_000 }, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    sent.on('timeout', () => sent.destroy())
    sent.on('error', () => resolve(0))
    sent.end()
  })
}

/** Whether somebody listens on the port. */
export function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}
