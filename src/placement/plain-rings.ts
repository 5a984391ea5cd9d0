/** Rings without hashing and weights: `mod`, `single`, `empty`. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { RingPeer } from './ring-description.ts'
import type { RingKind, RingOrder } from './ring-kind.ts'

/** Group g starts at peer g mod n of those sorted by id. Any change moves nearly everything. */
export const mod: RingKind = {
  name: 'mod',
  balanced: false,
  order: (_, peers) => new InTurn(peers)
}

/** One peer has it all. */
export const single: RingKind = {
  name: 'single',
  balanced: false,
  order: (_, peers) => {
    if (peers.length === 1) return new InTurn(peers)
    const text = `a ring of kind single has one peer, not ${peers.length}`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
}

/** Nobody has anything: a pool before its first peer. */
export const empty: RingKind = {
  name: 'empty',
  balanced: false,
  order: (_, peers) => {
    if (peers.length === 0) return new InTurn(peers)
    const text = `a ring of kind empty has no peers, not ${peers.length}`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
}

class InTurn implements RingOrder {
  readonly #peers: number[]

  constructor(peers: readonly RingPeer[]) {
    this.#peers = [...peers.keys()].filter((peer) => peers[peer]!.weight > 0)
  }

  walk(group: number, visit: (peer: number) => boolean): void {
    const count = this.#peers.length
    for (let step = 0; step < count; step++) {
      if (visit(this.#peers[(group + step) % count]!)) return
    }
  }
}
