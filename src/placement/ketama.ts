/**
 * Ketama, as published by last.fm in 2007: each peer has points on a circle of 2^32, 160 on
 * average and more for a heavier one, four from each MD5 of `ID-NUMBER`. A group's list is the
 * peers in the order that the circle meets them, from the MD5 of the group's name on.
 */
import { md5 } from './md5.ts'
import type { LeafRing, RingPeer } from './ring-description.ts'
import type { RingKind, RingOrder } from './ring-kind.ts'

const DIGESTS_PER_PEER = 40
const POINTS_PER_DIGEST = 4
/** A point and its peer in one double, which sorts by point and then by peer. */
const PEERS_BASE = 2 ** 20

export const ketama: RingKind = {
  name: 'ketama',
  balanced: true,
  order: (description, peers) => new KetamaOrder(description, peers)
}

class KetamaOrder implements RingOrder {
  readonly #points: Uint32Array
  readonly #peers: Uint16Array
  readonly #groupPoints: Uint32Array
  readonly #peerCount: number
  /** Number of the walk that met the peer last. */
  readonly #metIn: Uint32Array
  #walks = 0

  constructor(description: LeafRing, peers: readonly RingPeer[]) {
    const sorted = pointsOf(peers)
    this.#points = new Uint32Array(sorted.length)
    this.#peers = new Uint16Array(sorted.length)
    for (let at = 0; at < sorted.length; at++) {
      this.#points[at] = Math.floor(sorted[at]! / PEERS_BASE)
      this.#peers[at] = sorted[at]! % PEERS_BASE
    }
    this.#peerCount = peers.filter(({ weight }) => weight > 0).length
    this.#metIn = new Uint32Array(peers.length)
    this.#groupPoints = new Uint32Array(description.groups)
    const digest = new Uint32Array(4)
    for (let group = 0; group < description.groups; group++) {
      md5(`${description.seed}-${group}`, digest)
      this.#groupPoints[group] = digest[0]!
    }
  }

  walk(group: number, visit: (peer: number) => boolean): void {
    const points = this.#points
    let at = firstAtOrAbove(points, this.#groupPoints[group]!)
    this.#walks++
    for (let met = 0; met < this.#peerCount; at++) {
      if (at >= points.length) at = 0
      const peer = this.#peers[at]!
      if (this.#metIn[peer] === this.#walks) continue
      this.#metIn[peer] = this.#walks
      met++
      if (visit(peer)) return
    }
  }
}

function pointsOf(peers: readonly RingPeer[]): Float64Array {
  const heavy = peers.filter(({ weight }) => weight > 0)
  const average = heavy.reduce((sum, { weight }) => sum + weight, 0) / heavy.length
  const digests = peers.map(({ weight }) =>
    weight === 0 ? 0 : Math.max(1, Math.floor((weight / average) * DIGESTS_PER_PEER))
  )
  const total = digests.reduce((sum, count) => sum + count, 0)
  const points = new Float64Array(total * POINTS_PER_DIGEST)
  const digest = new Uint32Array(4)
  let at = 0
  for (let peer = 0; peer < peers.length; peer++) {
    for (let number = 0; number < digests[peer]!; number++) {
      md5(`${peers[peer]!.id}-${number}`, digest)
      for (const point of digest) points[at++] = point * PEERS_BASE + peer
    }
  }
  return points.sort()
}

function firstAtOrAbove(points: Uint32Array, point: number): number {
  let low = 0
  let high = points.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (points[middle]! < point) low = middle + 1
    else high = middle
  }
  return low
}
