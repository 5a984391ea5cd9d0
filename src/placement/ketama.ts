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
  readonly #description: LeafRing
  readonly #peers: readonly RingPeer[]
  readonly #heavyPeers: number
  /** Made by the first walk: a change that only levels loads needs none. */
  #circle: Circle | null = null
  /** Number of the walk that met the peer last. */
  readonly #metIn: Uint32Array
  #walks = 0

  constructor(description: LeafRing, peers: readonly RingPeer[]) {
    this.#description = description
    this.#peers = peers
    this.#heavyPeers = peers.filter(({ weight }) => weight > 0).length
    this.#metIn = new Uint32Array(peers.length)
  }

  walk(group: number, visit: (peer: number) => boolean): void {
    this.#circle ??= circleOf(this.#description, this.#peers)
    const { points, peers, groupPoints } = this.#circle
    let at = firstAtOrAbove(points, groupPoints[group]!)
    this.#walks++
    for (let met = 0; met < this.#heavyPeers; at++) {
      if (at >= points.length) at = 0
      const peer = peers[at]!
      if (this.#metIn[peer] === this.#walks) continue
      this.#metIn[peer] = this.#walks
      met++
      if (visit(peer)) return
    }
  }
}

interface Circle {
  readonly points: Uint32Array
  /** Peer of each point. */
  readonly peers: Uint16Array
  readonly groupPoints: Uint32Array
}

function circleOf({ seed, groups }: LeafRing, peers: readonly RingPeer[]): Circle {
  const sorted = pointsOf(peers)
  const digest = new Uint32Array(4)
  const groupPoints = new Uint32Array(groups)
  for (let group = 0; group < groups; group++) {
    md5(`${seed}-${group}`, digest)
    groupPoints[group] = digest[0]!
  }
  const points = new Uint32Array(sorted.length)
  const peerOfPoint = new Uint16Array(sorted.length)
  for (let at = 0; at < sorted.length; at++) {
    points[at] = Math.floor(sorted[at]! / PEERS_BASE)
    peerOfPoint[at] = sorted[at]! % PEERS_BASE
  }
  return { points, peers: peerOfPoint, groupPoints }
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
