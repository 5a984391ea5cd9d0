/** A whole cluster of real processes on loopback: etcd, a secret, and peers that joined. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ClusterStatus } from '../../src/admin/cluster-schemas.ts'
import { ClusterNetwork } from './cluster-network.ts'
import { EtcdServer } from './etcd.ts'
import { findFreePorts, until } from './process.ts'
import { TorusServer, torus } from './server.ts'

export interface SiteOptions {
  /** 3 by default. */
  readonly peers?: number
  /** Of etcd; 1 by default. */
  readonly etcdMembers?: number
  /** Of the default pool; replicated:2 by default. */
  readonly redundancy?: string
  /** Default: a new one that `dispose` removes. A second site in it goes on with the first. */
  readonly directory?: string
  /** What makes the cluster, and is its peers; the compiled command line program by default. */
  readonly program?: string
  /** More arguments of `torus serve`, by peer. */
  readonly argsOf?: (peer: number) => readonly string[]
  readonly nodeArgs?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** More of it, by peer. */
  readonly envOf?: (peer: number) => Readonly<Record<string, string>>
  /** See ServerOptions. */
  readonly detached?: boolean
  /** All links go through `network`. */
  readonly withNetwork?: boolean
  /** Writes what peers print to h1.log, h2.log… in the directory. */
  readonly logFiles?: boolean
}

/** What a second run must find again. */
interface Plan {
  readonly etcd: readonly number[]
  readonly peers: readonly { readonly nbd: number; readonly admin: number; readonly peer: number }[]
}

export class ClusterSite {
  readonly directory: string
  readonly etcd: EtcdServer
  /** As started; peer n has the label host=h(n+1). */
  readonly peers: readonly TorusServer[]
  readonly #network: ClusterNetwork | null
  readonly #isKept: boolean

  private constructor(parts: {
    directory: string
    etcd: EtcdServer
    peers: readonly TorusServer[]
    network: ClusterNetwork | null
    isKept: boolean
  }) {
    this.directory = parts.directory
    this.etcd = parts.etcd
    this.peers = parts.peers
    this.#network = parts.network
    this.#isKept = parts.isKept
  }

  /** Of a site that was started with one. */
  get network(): ClusterNetwork {
    if (this.#network === null) throw new Error('the site was started without a network')
    return this.#network
  }

  /** Every peer is up, and the pool is as it should be. */
  static async start(options: SiteOptions = {}): Promise<ClusterSite> {
    const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'torus-cluster-'))
    mkdirSync(directory, { recursive: true })
    const plan = await planOf(directory, options)
    const etcd = await EtcdServer.start({
      members: plan.etcd.length / 2,
      ports: plan.etcd,
      directory: join(directory, 'etcd'),
      detached: options.detached === true
    })
    const endpoints = etcd.endpoints.join(',')
    const network = options.withNetwork === true ? await networkOf(plan) : null
    const peers = await Promise.all(
      plan.peers.map((_, at) => preparePeer({ plan, at, endpoints, directory, options, network }))
    )
    if (network !== null) network.pids = () => peers.map(({ pid }) => pid)
    const isKept = options.directory !== undefined
    const site = new ClusterSite({ directory, etcd, peers, network, isKept })
    try {
      await site.#begin(endpoints, options)
      return site
    } catch (error) {
      await site.dispose()
      throw error
    }
  }

  async #begin(endpoints: string, options: SiteOptions): Promise<void> {
    const { redundancy = 'replicated:2', program } = options
    const secret = join(this.directory, 'secret')
    if (!existsSync(secret)) {
      const flags = ['--etcd', endpoints, '--cluster-secret-file', secret]
      const { code, stderr } = await torus(['cluster', 'init', ...flags], {}, program)
      if (code !== 0) throw new Error(`torus cluster init: ${stderr}`)
    }
    await Promise.all(this.peers.map((peer) => peer.start()))
    const first = this.peers[0]!
    const isThere = async (): Promise<boolean> =>
      (await this.status()).peers.filter(({ up }) => up).length >= this.peers.length
    await until(isThere, 'every peer is known', 20_000)
    const pool = await first.json<{ redundancy: string }>('pool', 'show', 'default')
    if (pool.redundancy !== redundancy) {
      await first.json('pool', 'set', 'default', '--redundancy', redundancy)
    }
  }

  /** As peer `at` sees the cluster. */
  async status(at = 0): Promise<ClusterStatus> {
    const response = await fetch(`${this.peers[at]!.adminUrl}/v1/cluster`, {
      signal: AbortSignal.timeout(10_000)
    })
    const text = await response.text()
    if (response.status !== 200) throw new Error(`cluster status: ${response.status} ${text}`)
    return JSON.parse(text) as ClusterStatus
  }

  /** Waits until every group has its full number of members in sync, as peer `at` sees it. */
  async untilInSync(at = 0, timeoutMs = 30_000): Promise<void> {
    let last = ''
    const isWhole = async (): Promise<boolean> => {
      const { pools, peers } = await this.status(at)
      last = JSON.stringify({
        pools,
        peers: peers.map(({ up, groupsSyncing }) => [up, groupsSyncing])
      })
      return pools.every(({ degraded, syncing }) => degraded === 0 && syncing === 0)
    }
    await until(isWhole, 'every group is in sync', timeoutMs).catch((error: Error) => {
      throw new Error(`${error.message}: ${last}`)
    })
  }

  /** Ends all in order; files stay. */
  async stop(): Promise<void> {
    await Promise.all(
      this.peers.map((peer) => {
        peer.signal('SIGCONT')
        return peer.stop()
      })
    )
    await this.etcd.stop()
  }

  /** Every process is gone and so is every file, but those of a directory that was given. */
  async dispose(): Promise<void> {
    await Promise.all(this.peers.map((peer) => peer.dispose()))
    await this.etcd.stop()
    this.#network?.close()
    if (!this.#isKept) rmSync(this.directory, { recursive: true, force: true })
  }
}

async function planOf(
  directory: string,
  { peers = 3, etcdMembers = 1 }: SiteOptions
): Promise<Plan> {
  const path = join(directory, 'ports.json')
  const old = existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Plan) : null
  if (old !== null && old.peers.length === peers) return old
  const known = old?.peers.slice(0, peers) ?? []
  const ports = await findFreePorts(2 * etcdMembers + 3 * (peers - known.length))
  const etcd = old?.etcd ?? ports.splice(0, 2 * etcdMembers)
  const more = Array.from({ length: peers - known.length }, () => {
    const [nbd, admin, peer] = ports.splice(0, 3)
    return { nbd: nbd!, admin: admin!, peer: peer! }
  })
  const plan: Plan = { etcd, peers: [...known, ...more] }
  writeFileSync(path, `${JSON.stringify(plan, null, 2)}\n`)
  return plan
}

/** Of etcd's two ports a member, clients use the second. */
const networkOf = ({ peers, etcd }: Plan): Promise<ClusterNetwork> =>
  ClusterNetwork.start(
    peers.map(({ peer }) => peer),
    etcd.filter((_, at) => at % 2 === 1)
  )

function preparePeer(given: {
  readonly plan: Plan
  readonly at: number
  readonly endpoints: string
  readonly directory: string
  readonly options: SiteOptions
  readonly network: ClusterNetwork | null
}): Promise<TorusServer> {
  const { plan, at, endpoints, directory, options, network } = given
  const ports = plan.peers[at]!
  return TorusServer.prepare({
    dataDir: join(directory, `h${at + 1}`),
    ports,
    args: [
      ...['--etcd', network === null ? endpoints : network.etcdOf(at), '--join'],
      ...(network === null ? [] : ['--peer-advertise', network.addressOf(at)]),
      ...['--peer-listen', `127.0.0.1:${ports.peer}`],
      ...['--cluster-secret-file', join(directory, 'secret')],
      ...['--label', `host=h${at + 1}`],
      ...(options.argsOf?.(at) ?? [])
    ],
    readyMs: 60_000,
    ...(options.program === undefined ? {} : { program: options.program }),
    detached: options.detached === true,
    ...(options.nodeArgs === undefined ? {} : { nodeArgs: options.nodeArgs }),
    env: { ...options.env, ...options.envOf?.(at) },
    ...(options.logFiles === true ? { logFile: join(directory, `h${at + 1}.log`) } : {})
  })
}
