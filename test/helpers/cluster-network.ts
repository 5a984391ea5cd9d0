/** All links of a cluster's peers, to each other and to etcd, through proxies that obey. */
import { type LinkRule, LoopbackProxy, ownerOf, PASS } from './loopback-proxy.ts'

/** Stands for etcd where a peer's number is expected. */
export const ETCD = -1

export class ClusterNetwork {
  /** By peer, before it. */
  readonly #peers: readonly LoopbackProxy[]
  /** By peer and member of etcd: each peer has its own, so nobody has to be told apart. */
  readonly #etcd: readonly (readonly LoopbackProxy[])[]
  /** By peer, as they run now; a peer's links are known by the process that opens them. */
  pids: () => readonly number[] = () => []

  private constructor(
    peers: readonly LoopbackProxy[],
    etcd: readonly (readonly LoopbackProxy[])[]
  ) {
    this.#peers = peers
    this.#etcd = etcd
  }

  static async start(
    peerPorts: readonly number[],
    etcdPorts: readonly number[]
  ): Promise<ClusterNetwork> {
    let pids = (): readonly number[] => []
    const whoIs = (port: number): number | null => {
      const pid = ownerOf(port, pids())
      return pid === null ? null : pids().indexOf(pid)
    }
    const peers = await Promise.all(peerPorts.map((port) => LoopbackProxy.listen(port, whoIs)))
    const etcd = await Promise.all(
      peerPorts.map(() => Promise.all(etcdPorts.map((port) => LoopbackProxy.listen(port))))
    )
    const network = new ClusterNetwork(peers, etcd)
    pids = () => network.pids()
    return network
  }

  /** Where others reach the peer, and where it reaches etcd. */
  addressOf(peer: number): string {
    return `127.0.0.1:${this.#peers[peer]!.port}`
  }

  etcdOf(peer: number): string {
    return this.#etcd[peer]!.map(({ port }) => `http://127.0.0.1:${port}`).join(',')
  }

  /** Links that `from` opens to `to`: a peer, or ETCD. */
  set(from: number, to: number, rule: LinkRule): void {
    if (to === ETCD) for (const proxy of this.#etcd[from]!) proxy.set(null, rule)
    else this.#peers[to]!.set(from, rule)
  }

  /** Links of both. */
  setBetween(one: number, other: number, rule: LinkRule): void {
    if (one !== ETCD) this.set(one, other, rule)
    if (other !== ETCD) this.set(other, one, rule)
  }

  /** All links of a peer; those to etcd too unless said otherwise. */
  setAround(peer: number, rule: LinkRule, withEtcd: boolean = true): void {
    for (let other = 0; other < this.#peers.length; other++) {
      if (other !== peer) this.setBetween(peer, other, rule)
    }
    if (withEtcd) this.set(peer, ETCD, rule)
  }

  heal(): void {
    for (let peer = 0; peer < this.#peers.length; peer++) this.setAround(peer, PASS)
  }

  close(): void {
    for (const proxy of [...this.#peers, ...this.#etcd.flat()]) proxy.close()
  }
}
