/** Real etcd processes on free loopback ports, with their data in a temporary directory. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Etcd3 } from 'etcd3'
import { end, findFreePorts, gather, until } from './process.ts'
import { findProgram } from './environment.ts'

export interface EtcdSettings {
  /** Members of the etcd cluster; 1 by default. */
  readonly members?: number
  readonly arguments?: readonly string[]
  /** Default: a new one that `stop` removes. What is there from an earlier run is gone on with. */
  readonly directory?: string
  /** Two a member; an earlier run's members know each other by them. */
  readonly ports?: readonly number[]
  /** In process groups of their own, so that Ctrl-C on a terminal does not reach them. */
  readonly detached?: boolean
  /** Files of a server certificate: endpoints are https then. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly clientCa?: string }
}

/** What its members take at least: each preallocates two logs. */
const ROOM_BYTES = 1024 * 1024 * 1024

/**
 * In memory where there is room: tests run side by side, and an etcd that waits for the disk that
 * they all write to misses its heartbeats. None of them takes its power away.
 */
function temporaryDirectory(): string {
  const memory = '/dev/shm'
  let parent = tmpdir()
  try {
    const { bavail, bsize } = statfsSync(memory)
    if (bavail * bsize >= ROOM_BYTES) parent = memory
  } catch {
    // Not on this system.
  }
  return mkdtempSync(join(parent, 'torus-etcd-'))
}

class Member {
  readonly index: number
  readonly url: string
  readonly #arguments: readonly string[]
  readonly #detached: boolean
  child: ChildProcess | null = null
  #output = { all: () => '' }

  constructor(index: number, url: string, args: readonly string[], detached: boolean) {
    this.index = index
    this.url = url
    this.#arguments = args
    this.#detached = detached
  }

  start(): void {
    this.child = spawn(findProgram('etcd'), this.#arguments, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: this.#detached
    })
    this.#output = gather(this.child)
  }

  printed(): string {
    return this.#output.all().slice(-2000)
  }
}

export class EtcdServer {
  readonly members: readonly Member[]
  readonly #directory: string
  readonly #isKept: boolean

  private constructor(directory: string, members: readonly Member[], isKept: boolean) {
    this.#directory = directory
    this.members = members
    this.#isKept = isKept
  }

  /** Started, with a leader. */
  static async start(settings: EtcdSettings = {}): Promise<EtcdServer> {
    const directory = settings.directory ?? temporaryDirectory()
    const count = settings.members ?? 1
    const ports = settings.ports ?? (await findFreePorts(2 * count))
    const scheme = settings.tls === undefined ? 'http' : 'https'
    const peers = Array.from({ length: count }, (_, n) => `m${n}=http://127.0.0.1:${ports[2 * n]}`)
    const members = peers.map((peer, n) => {
      const url = `${scheme}://127.0.0.1:${ports[2 * n + 1]}`
      const args = [
        ...['--name', `m${n}`, '--data-dir', join(directory, `m${n}`)],
        ...['--listen-peer-urls', peer.slice(3), '--initial-advertise-peer-urls', peer.slice(3)],
        ...['--listen-client-urls', url, '--advertise-client-urls', url],
        ...['--initial-cluster', peers.join(','), '--initial-cluster-token', directory],
        ...['--logger', 'zap', '--log-level', 'warn'],
        ...tlsArguments(settings.tls),
        ...(settings.arguments ?? [])
      ]
      return new Member(n, url, args, settings.detached === true)
    })
    const server = new EtcdServer(directory, members, settings.directory !== undefined)
    for (const member of members) member.start()
    if (settings.tls === undefined) await server.ready()
    return server
  }

  get endpoints(): readonly string[] {
    return this.members.map(({ url }) => url)
  }

  /** A client of etcd3's own, to look at what is there. Close it. */
  client(auth?: { readonly username: string; readonly password: string }): Etcd3 {
    return new Etcd3({
      hosts: [...this.endpoints],
      ...(auth === undefined ? {} : { auth }),
      grpcOptions: { 'grpc.enable_http_proxy': 0 },
      defaultCallOptions: ({ isStream }) => (isStream ? {} : { deadline: Date.now() + 5000 })
    })
  }

  async ready(): Promise<void> {
    try {
      await until(async () => (await this.leader()) >= 0, 'etcd has a leader', 20_000)
    } catch (thrown) {
      const printed = this.members.map((member) => member.printed()).join('\n')
      await this.stop()
      throw new Error(`${(thrown as Error).message}\n${printed}`)
    }
  }

  /** Index of the member that leads; -1 for none. */
  async leader(): Promise<number> {
    for (const { url, index } of this.members) {
      const found = await statusOf(url)
      if (found !== null && found.leader !== '0' && found.leader === found.header.member_id) {
        return index
      }
    }
    return -1
  }

  signal(index: number, signal: NodeJS.Signals): void {
    this.members[index]!.child?.kill(signal)
  }

  async kill(index: number): Promise<void> {
    const { child } = this.members[index]!
    if (child !== null) await end(child, 'SIGKILL')
  }

  /** Killed, and all it had is gone. */
  async wipe(index: number): Promise<void> {
    await this.kill(index)
    rmSync(join(this.#directory, `m${index}`), { recursive: true, force: true })
  }

  restart(index: number): void {
    this.members[index]!.start()
  }

  /** Every process is gone and so is every file, but those of a directory that was given. */
  async stop(): Promise<void> {
    await Promise.all(this.members.map(({ index }) => this.kill(index)))
    if (!this.#isKept) rmSync(this.#directory, { recursive: true, force: true })
  }
}

const tlsArguments = (tls: EtcdSettings['tls']): string[] =>
  tls === undefined
    ? []
    : [
        ...['--cert-file', tls.cert, '--key-file', tls.key],
        ...(tls.clientCa === undefined
          ? []
          : ['--trusted-ca-file', tls.clientCa, '--client-cert-auth'])
      ]

async function statusOf(url: string) {
  const client = new Etcd3({ hosts: url, grpcOptions: { 'grpc.enable_http_proxy': 0 } })
  try {
    return await client.maintenance.status({ deadline: Date.now() + 500 })
  } catch {
    return null
  } finally {
    client.close()
  }
}
