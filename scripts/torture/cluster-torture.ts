/** A cluster of real processes under a verifying load, and what faults do with it. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../../src/core/clock.ts'
import { ClusterLoad, connectWithin } from '../../test/helpers/cluster-load.ts'
import { ClusterSite } from '../../test/helpers/cluster-site.ts'
import { DiskFault } from '../../test/helpers/faulty-disk.ts'
import { until } from '../../test/helpers/process.ts'
import type { TorusServer } from '../../test/helpers/server.ts'
import { below } from './load.ts'
import type { NbdClient } from './nbd-client.ts'

export const PEERS = 4
export const ETCD_MEMBERS = 3
/** Of a lease. */
export const TTL_MS = 10_000
/** What status calls lost, so that copies are made anew: far more than a restart takes. */
export const DOWN_AFTER_MS = 20_000
/** A request to a member has a deadline of 5 s; a read waits for the end of the link. */
export const MEMBER_LOST_MS = 20_000
/** A lease, and a machine of two cores with all of this on it. */
const TAKEOVER_MS = TTL_MS + 15_000
/** Until all copies are in sync again, everything being up. */
const WHOLE_MS = 120_000
const READY_MS = 60_000

const VOLUME = 'v'

export interface TortureOptions {
  readonly volumeBytes: number
  readonly seed: number
  readonly random: Random
  readonly directory: string
  readonly args: readonly string[]
  readonly print: (line: string) => void
}

export class ClusterTorture {
  readonly site: ClusterSite
  readonly load: ClusterLoad
  readonly disks: readonly DiskFault[]
  readonly random: Random
  /** How many things were noted. */
  notes = 0
  readonly #print: (line: string) => void
  /** Peer through which the load goes. */
  gateway = 0
  readonly #startMs = performance.now()

  private constructor(site: ClusterSite, disks: readonly DiskFault[], options: TortureOptions) {
    this.site = site
    this.disks = disks
    this.random = options.random
    this.#print = options.print
    this.load = new ClusterLoad(VOLUME, options.volumeBytes, options.seed)
  }

  static async start(options: TortureOptions): Promise<ClusterTorture> {
    const { directory } = options
    const disks = Array.from(
      { length: PEERS },
      (_, at) => new DiskFault(join(directory, `disk-${at + 1}.json`))
    )
    const site = await ClusterSite.start({
      ...{ peers: PEERS, etcdMembers: ETCD_MEMBERS, directory, withNetwork: true, logFiles: true },
      nodeArgs: disks[0]!.nodeArgs,
      envOf: (at) => disks[at]!.env,
      argsOf: () => [
        ...['--segment-size', '4MiB', '--shards', '1', '--capacity', '1GiB'],
        ...['--down-after', `${DOWN_AFTER_MS / 1000}s`],
        ...options.args
      ]
    })
    const torture = new ClusterTorture(site, disks, options)
    await site.peers[0]!.createVolume(VOLUME, `${options.volumeBytes}`)
    torture.load.begin(site.peers[0]!.nbdPort)
    await torture.load.goesOn(READY_MS, 500)
    return torture
  }

  get gatewayServer(): TorusServer {
    return this.site.peers[this.gateway]!
  }

  /** Of the peers but the gateway. */
  someMember(...but: readonly number[]): number {
    return this.pick(
      this.site.peers.map((_, at) => at).filter((at) => !but.includes(at)),
      [this.gateway]
    )
  }

  pick<T>(from: readonly T[], but: readonly T[] = []): T {
    const left = from.filter((each) => !but.includes(each))
    return left[below(this.random, left.length)]!
  }

  between(low: number, high: number): number {
    return low + below(this.random, high - low + 1)
  }

  note(text: string): void {
    const seconds = ((performance.now() - this.#startMs) / 1000).toFixed(1)
    this.notes++
    this.#print(`${seconds.padStart(7)} s  ${text}`)
  }

  /** The load goes on for so long, waiting for each lot of answers no longer than `patienceMs`. */
  async goesOn(ms: number, patienceMs: number = MEMBER_LOST_MS): Promise<void> {
    const endMs = performance.now() + ms
    let slowestMs = 0
    do {
      slowestMs = Math.max(slowestMs, await this.load.goesOn(patienceMs, 50))
    } while (performance.now() < endMs)
    this.note(`  went on; slowest 50 answers in ${slowestMs.toFixed(0)} ms`)
  }

  /**
   * All members of some group were gone at once: as after a power cut, its clients may lose their
   * connections. Nothing that was acknowledged is missing, because no machine was down.
   */
  async goesOnOrBreaks(withinMs: number): Promise<void> {
    const endMs = performance.now() + withinMs
    const { reads, writes } = this.load.counts
    const isEnough = (): boolean => {
      const { counts } = this.load
      return counts.reads + counts.writes > reads + writes + 300
    }
    while (!this.load.isOver && !isEnough()) {
      if (performance.now() > endMs) throw new Error(`nothing goes on within ${withinMs} ms`)
      await sleep(20)
    }
    if (!this.load.isOver) return
    this.note('  the gateway dropped its clients')
    await this.takeOver(this.gateway, withinMs)
    this.begin()
  }

  /** The gateway is gone or cannot answer: another one serves what it acknowledged. */
  async takeOver(to: number, withinMs: number = TAKEOVER_MS): Promise<void> {
    const startMs = performance.now()
    const client = await connectWithin(this.site.peers[to]!.nbdPort, VOLUME, withinMs)
    const tookMs = performance.now() - startMs
    const { model } = this.load
    await this.load.verify(client, (block, stamp) => model.checkTakenOver(block, stamp))
    client.destroy()
    this.gateway = to
    this.note(`  peer ${to + 1} took over in ${tookMs.toFixed(0)} ms`)
  }

  /** A connection of its own to a volume at the gateway. */
  connect(volume: string): Promise<NbdClient> {
    return connectWithin(this.gatewayServer.nbdPort, volume, TAKEOVER_MS)
  }

  begin(): void {
    this.load.begin(this.gatewayServer.nbdPort)
  }

  /** In order, without a loss: the load stops, and goes on through another peer. */
  async moveTo(to: number): Promise<void> {
    await this.load.stop(MEMBER_LOST_MS)
    const client = await connectWithin(this.site.peers[to]!.nbdPort, VOLUME, TAKEOVER_MS)
    await this.load.verify(client)
    client.destroy()
    this.gateway = to
    this.begin()
    this.note(`  moved to peer ${to + 1}`)
  }

  async restart(at: number): Promise<void> {
    await this.site.peers[at]!.start()
    this.note(`  peer ${at + 1} is up again`)
  }

  async peerIdOf(at: number): Promise<string> {
    const { peers } = await this.site.status(this.gateway)
    const found = peers.find(({ labels }) => labels['host'] === `h${at + 1}`)
    if (found === undefined) throw new Error(`status does not know peer ${at + 1}`)
    return found.peerId
  }

  /** Everything is well again, and stays so under load. */
  async settle(): Promise<void> {
    this.site.network.heal()
    for (const disk of this.disks) disk.set({})
    await until(
      async () => (await this.site.status(this.gateway)).peers.every(({ up }) => up),
      'every peer is up',
      READY_MS
    )
    const startMs = performance.now()
    await this.site.untilInSync(this.gateway, WHOLE_MS)
    this.note(`  whole after ${((performance.now() - startMs) / 1000).toFixed(1)} s`)
    await this.load.goesOn(MEMBER_LOST_MS)
  }

  /** All blocks as they should be, read through the gateway while nothing is written. */
  async verify(): Promise<void> {
    await this.load.stop(MEMBER_LOST_MS)
    await this.load.verifyAt(this.gatewayServer.nbdPort)
    this.begin()
    await this.load.goesOn(MEMBER_LOST_MS)
  }

  async end(): Promise<void> {
    await this.load.stop(MEMBER_LOST_MS)
    await this.load.verifyAt(this.gatewayServer.nbdPort)
    const { health, problems } = await this.site.status(this.gateway)
    if (health !== 'ok') throw new Error(`health is ${health}: ${JSON.stringify(problems)}`)
  }
}
