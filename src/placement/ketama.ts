/**
 * Ketama, as published by last.fm in 2007: each peer has points on a circle of 2^32, 160 on
 * average and more for a heavier one, four from each MD5 of `ID-NUMBER`. A group's list is the
 * peers in the order that the circle meets them, from the MD5 of the group's name on.
 */
import { allSteps, type Steps } from '../core/steps.ts'
import { md5 } from './md5.ts'
import type { LeafRing, RingPeer } from './ring-description.ts'
import type { RingKind, RingOrder } from './ring-kind.ts'

const DIGESTS_PER_PEER = 40
const POINTS_PER_DIGEST = 4
/** Between two yields: a millisecond of digests, or of moving numbers about. */
const DIGESTS_PER_STEP = 2048
const POINTS_PER_STEP = 65_536

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

  *prepare(): Steps<void> {
    this.#circle ??= yield* circleOf(this.#description, this.#peers)
  }

  walk(group: number, visit: (peer: number) => boolean): void {
    this.#circle ??= allSteps(circleOf(this.#description, this.#peers))
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

interface Circle extends Points {
  readonly groupPoints: Uint32Array
}

function* circleOf({ seed, groups }: LeafRing, peers: readonly RingPeer[]): Steps<Circle> {
  const digest = new Uint32Array(4)
  const groupPoints = new Uint32Array(groups)
  for (let group = 0; group < groups; group++) {
    md5(`${seed}-${group}`, digest)
    groupPoints[group] = digest[0]!
    if (group % DIGESTS_PER_STEP === DIGESTS_PER_STEP - 1) yield
  }
  let made = yield* pointsOf(peers)
  // From the lower to the upper half of the point: who is equal stays in the order of the peers.
  made = yield* sortedBy(made, 0)
  made = yield* sortedBy(made, 16)
  return { ...made, groupPoints }
}

interface Points {
  readonly points: Uint32Array
  /** Peer of each point. */
  readonly peers: Uint16Array
}

function* pointsOf(peers: readonly RingPeer[]): Steps<Points> {
  const heavy = peers.filter(({ weight }) => weight > 0)
  const average = heavy.reduce((sum, { weight }) => sum + weight, 0) / heavy.length
  const digests = peers.map(({ weight }) =>
    weight === 0 ? 0 : Math.max(1, Math.floor((weight / average) * DIGESTS_PER_PEER))
  )
  const total = digests.reduce((sum, count) => sum + count, 0)
  const points = new Uint32Array(total * POINTS_PER_DIGEST)
  const peerOfPoint = new Uint16Array(total * POINTS_PER_DIGEST)
  const digest = new Uint32Array(4)
  let at = 0
  let made = 0
  for (let peer = 0; peer < peers.length; peer++) {
    for (let number = 0; number < digests[peer]!; number++) {
      md5(`${peers[peer]!.id}-${number}`, digest)
      points.set(digest, at)
      peerOfPoint.fill(peer, at, at + POINTS_PER_DIGEST)
      at += POINTS_PER_DIGEST
      if (++made % DIGESTS_PER_STEP === 0) yield
    }
  }
  return { points, peers: peerOfPoint }
}

/** By 16 bits of the points, from bit `shift` on; equal ones stay in their order. */
function* sortedBy(from: Points, shift: number): Steps<Points> {
  const count = from.points.length
  const starts = new Uint32Array(65_537)
  for (let at = 0; at < count; at++) {
    starts[((from.points[at]! >>> shift) & 0xffff) + 1]!++
    if (at % POINTS_PER_STEP === POINTS_PER_STEP - 1) yield
  }
  for (let digit = 1; digit < starts.length; digit++) starts[digit]! += starts[digit - 1]!
  const points = new Uint32Array(count)
  const peers = new Uint16Array(count)
  for (let at = 0; at < count; at++) {
    const to = starts[(from.points[at]! >>> shift) & 0xffff]!++
    points[to] = from.points[at]!
    peers[to] = from.peers[at]!
    if (at % POINTS_PER_STEP === POINTS_PER_STEP - 1) yield
  }
  return { points, peers }
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
