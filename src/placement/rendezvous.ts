/**
 * Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and
 * Schomaker 2005): a hash of group and peer gives each peer a number u in (0, 1), and the list is
 * by score -w / ln u. That is a race: peer p arrives at the time -ln u / w, the first ones win.
 */
import { mixOther } from './hash.ts'
import { md5 } from './md5.ts'
import type { LeafRing, RingPeer } from './ring-description.ts'
import type { RingKind, RingOrder } from './ring-kind.ts'

/** Kept for each group; longer lists are made again when a walk needs them. */
const KEPT = 16
const TWO_32 = 2 ** 32

export const rendezvous: RingKind = {
  name: 'rendezvous',
  balanced: true,
  order: (description, peers) => new RendezvousOrder(description, peers)
}

class RendezvousOrder implements RingOrder {
  /** Indices of peers with a weight, and by their position here: weight and two hash words. */
  readonly #peers: number[] = []
  readonly #weights: Float64Array
  readonly #weightSum: number
  readonly #first: Int32Array
  readonly #second: Int32Array
  readonly #seed: number
  readonly #kept: Uint16Array
  readonly #keptCount: Uint8Array
  readonly #leastHashes = new Map<number, Uint32Array>()

  get walkHashes(): number {
    return this.#peers.length
  }

  constructor(description: LeafRing, peers: readonly RingPeer[]) {
    for (let peer = 0; peer < peers.length; peer++) {
      if (peers[peer]!.weight > 0) this.#peers.push(peer)
    }
    const count = this.#peers.length
    this.#weights = Float64Array.from(this.#peers, (peer) => peers[peer]!.weight)
    this.#weightSum = this.#weights.reduce((sum, weight) => sum + weight, 0)
    this.#first = new Int32Array(count)
    this.#second = new Int32Array(count)
    const digest = new Uint32Array(4)
    for (let at = 0; at < count; at++) {
      md5(peers[this.#peers[at]!]!.id, digest)
      this.#first[at] = digest[0]!
      this.#second[at] = digest[1]! | 1
    }
    this.#seed = mixOther(description.seed + 0x2545f491)
    this.#kept = new Uint16Array(description.groups * KEPT)
    this.#keptCount = new Uint8Array(description.groups)
  }

  walk(group: number, visit: (peer: number) => boolean): void {
    const count = this.#peers.length
    if (count === 0) return
    if (this.#keptCount[group] === 0) this.#keep(group)
    const kept = this.#keptCount[group]!
    for (let at = 0; at < kept; at++) {
      if (visit(this.#kept[group * KEPT + at]!)) return
    }
    for (let seen = kept; seen < count; ) {
      const list = this.#firstOf(group, seen * 4)
      while (seen < list.length) {
        if (visit(list[seen++]!)) return
      }
    }
  }

  #keep(group: number): void {
    const list = this.#firstOf(group, KEPT)
    const kept = Math.min(KEPT, list.length)
    for (let at = 0; at < kept; at++) this.#kept[group * KEPT + at] = list[at]!
    this.#keptCount[group] = kept
  }

  /** At least the first `wanted` peers of the group's list, if there are so many. */
  #firstOf(group: number, wanted: number): number[] {
    const peers = this.#peers
    const times = new Map<number, number>()
    const groupHash = mixOther(group ^ this.#seed)
    // So many arrive by then on average; rarely fewer than wanted do, and it is done again.
    let expected = wanted + 4 * Math.sqrt(wanted) + 4
    for (;;) {
      const until = expected * 2 >= peers.length ? Infinity : expected / this.#weightSum
      times.clear()
      this.#arrivals(groupHash, until, times)
      if (times.size >= Math.min(wanted, peers.length)) break
      expected *= 2
    }
    const arrived = [...times.keys()]
    arrived.sort((a, b) => times.get(a)! - times.get(b)! || a - b)
    return arrived
  }

  #arrivals(groupHash: number, until: number, times: Map<number, number>): void {
    const [weights, first, second] = [this.#weights, this.#first, this.#second]
    const leastHashes = this.#leastHashesFor(until)
    for (let at = 0; at < first.length; at++) {
      let hash = Math.imul(groupHash ^ first[at]!, second[at]!)
      hash = Math.imul(hash ^ (hash >>> 15), 0x846ca68b)
      hash = (hash ^ (hash >>> 16)) >>> 0
      if (hash < leastHashes[at]!) continue
      const time = minusLog(hash) / weights[at]!
      if (time < until) times.set(this.#peers[at]!, time)
    }
  }

  /**
   * Below its number here no hash of the peer arrives in time. That only saves logarithms: the
   * numbers are on the safe side of what Math.exp rounds to.
   */
  #leastHashesFor(until: number): Uint32Array {
    const known = this.#leastHashes.get(until)
    if (known !== undefined) return known
    const made = new Uint32Array(this.#weights.length)
    for (let at = 0; at < made.length; at++) {
      made[at] = Math.max(0, Math.floor(Math.exp(-this.#weights[at]! * until) * TWO_32) - 2)
    }
    this.#leastHashes.set(until, made)
    return made
  }
}

const powersOfTwo = Float64Array.from({ length: 34 }, (_, exponent) => 2 ** exponent)

/**
 * -ln((hash + 1/2) / 2^32), by additions, multiplications and divisions alone: these are the same
 * to the last bit everywhere, which Math.log need not be.
 */
export function minusLog(hash: number): number {
  let exponent = 32 - Math.clz32(hash)
  let mantissa = (2 * hash + 1) / powersOfTwo[exponent]!
  if (mantissa > Math.SQRT2) {
    mantissa /= 2
    exponent++
  }
  // ln m = 2 artanh((m - 1) / (m + 1)), and that is at most 0.172.
  const ratio = (mantissa - 1) / (mantissa + 1)
  const square = ratio * ratio
  let series = 0
  for (let power = 19; power >= 1; power -= 2) series = series * square + 1 / power
  return (33 - exponent) * Math.LN2 - 2 * ratio * series
}
