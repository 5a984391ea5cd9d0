/** An operator who drains peers and takes them back all the time, so that groups move. */
import { decodeRecord, encodeRecord, type PeerRecord } from '../../src/cluster/records.ts'
import type { SimCluster } from './cluster.ts'
import type { SimPeer } from './peer.ts'

export class Mover {
  readonly #sim: SimCluster
  readonly #drained = new Set<SimPeer>()
  #isMoving = false

  constructor(sim: SimCluster) {
    this.#sim = sim
  }

  begin(): void {
    this.#isMoving = true
    this.#next()
  }

  /** All may have data again. */
  end(): void {
    this.#isMoving = false
    for (const peer of this.#drained) setState(this.#sim, peer, 'active')
  }

  #next(): void {
    const { world, peers, options } = this.#sim
    world.after(world.between(200, 1500), () => {
      if (!this.#isMoving) return
      const peer = peers[world.random.below(peers.length)]!
      const there = peers.filter((each) => !each.isGone && !this.#drained.has(each))
      if (this.#drained.delete(peer)) setState(this.#sim, peer, 'active')
      else if (there.length > options.copies && there.includes(peer)) {
        this.#drained.add(peer)
        setState(this.#sim, peer, 'drained')
      }
      this.#next()
    })
  }
}

/** What an operator says of a peer. */
export function setState(
  sim: SimCluster,
  { name, peerId }: SimPeer,
  state: PeerRecord['state']
): void {
  const { world, metadata, keys } = sim
  world.log(`${name} is ${state}`)
  const key = keys.peer(peerId)
  const change = async (): Promise<void> => {
    for (;;) {
      const entry = await metadata.get(key)
      if (entry === null) return
      const record = { ...decodeRecord('peer', key, entry.value), state }
      const { succeeded } = await metadata.transact({
        compare: [{ key, modRevision: entry.modRevision }],
        success: [{ put: key, value: encodeRecord('peer', record) }]
      })
      if (succeeded) return
    }
  }
  change().catch((thrown: Error) => world.fail(`${name} is not ${state}: ${thrown.message}`))
}
