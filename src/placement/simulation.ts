/** What a ring would do: balance, and movement when its peers change. Exact, without a cluster. */
import { mixOther } from './hash.ts'
import type { RingPeer } from './ring-description.ts'
import type { Targets } from './targets.ts'

/** Loads as ratios to what they should be: 1 is even. Over all peers that have a weight. */
export interface Evenness {
  readonly min: number
  readonly mean: number
  readonly max: number
  readonly stddev: number
}

export interface Balance {
  readonly peers: number
  readonly members: number
  /** Against the weights alone. */
  readonly toWeight: Evenness
  /** Against the fair share: what the weights say, as far as failure domains allow it. */
  readonly toFairShare: Evenness
}

export function balanceOf({ ring, loads, shares }: Targets): Balance {
  const members = loads.reduce((sum, load) => sum + load, 0)
  const weights = ring.peers.map(({ weight }) => weight)
  const weightSum = weights.reduce((sum, weight) => sum + weight, 0)
  const heavy = [...weights.keys()].filter((peer) => weights[peer]! > 0)
  const weighed = heavy.map((peer) => loads[peer]! / ((members * weights[peer]!) / weightSum))
  const shared = heavy.map((peer) => loads[peer]! / shares.peer[peer]!)
  return {
    peers: heavy.length,
    members,
    toWeight: evennessOf(weighed),
    toFairShare: evennessOf(shared)
  }
}

function evennessOf(ratios: readonly number[]): Evenness {
  if (ratios.length === 0) return { min: 0, mean: 0, max: 0, stddev: 0 }
  const mean = ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length
  const variance = ratios.reduce((sum, ratio) => sum + (ratio - mean) ** 2, 0) / ratios.length
  const min = ratios.reduce((least, ratio) => Math.min(least, ratio), Infinity)
  const max = ratios.reduce((most, ratio) => Math.max(most, ratio), 0)
  return { min, mean, max, stddev: Math.sqrt(variance) }
}

export interface Movement {
  readonly groups: number
  /** Groups with at least one new member. */
  readonly groupsMoved: number
  readonly members: number
  /** Copies or fragments that go to a peer that did not have them. */
  readonly membersMoved: number
  /**
   * What must move for every load to be its fair share up or down to a whole number. Less can
   * move when loads within the slack stay as they are.
   */
  readonly membersLeast: number
  readonly fraction: number
  readonly fractionLeast: number
}

/** Both of as many groups. */
export function movementBetween(before: Targets, after: Targets): Movement {
  const { groups } = after.ring
  const idOf = (targets: Targets, place: number): string | null => {
    const peer = targets.members[place]!
    return peer < 0 ? null : targets.ring.peers[peer]!.id
  }
  let groupsMoved = 0
  let membersMoved = 0
  for (let group = 0; group < groups; group++) {
    const had = before.membersOf(group)
    let moved = 0
    for (let place = group * after.size; place < (group + 1) * after.size; place++) {
      const id = idOf(after, place)
      if (id !== null && !had.includes(id)) moved++
    }
    membersMoved += moved
    if (moved > 0) groupsMoved++
  }
  const membersLeast = leastMoves(before, after)
  const members = after.loads.reduce((sum, load) => sum + load, 0)
  return {
    groups,
    groupsMoved,
    members,
    membersMoved,
    membersLeast,
    fraction: members === 0 ? 0 : membersMoved / members,
    fractionLeast: members === 0 ? 0 : membersLeast / members
  }
}

function leastMoves(before: Targets, after: Targets): number {
  const loadBefore = new Map(before.ring.peers.map(({ id }, peer) => [id, before.loads[peer]!]))
  let lacking = 0
  let tooMany = before.loads.reduce((sum, load) => sum + load, 0)
  for (const [peer, { id }] of after.ring.peers.entries()) {
    const load = loadBefore.get(id) ?? 0
    const share = after.shares.peer[peer]!
    lacking += Math.max(0, Math.floor(share) - load)
    // What is left of the sum is on peers that left.
    tooMany -= Math.min(load, Math.ceil(share))
  }
  return Math.max(lacking, tooMany)
}

export interface MadeUpPeers {
  /** Taken in turn. */
  readonly weights: readonly number[]
  /** Peers take turns in so many of each; as many hosts as peers by default. */
  readonly hosts: number | null
  readonly racks: number
  readonly zones: number
}

/** Peers number `first` to `first + count`, with ids as mixed as real ones. */
export function madeUpPeers(first: number, count: number, options: MadeUpPeers): RingPeer[] {
  const { weights, hosts, racks, zones } = options
  return Array.from({ length: count }, (_, at) => {
    const number = first + at
    const words = [1, 2, 3, 4].map((salt) => mixOther(number * 4 + salt) >>> 0)
    return {
      id: words.map((word) => word.toString(16).padStart(8, '0')).join(''),
      weight: weights[number % weights.length]!,
      labels: {
        host: `host-${hosts === null ? number : number % hosts}`,
        rack: `rack-${number % racks}`,
        zone: `zone-${number % zones}`
      }
    }
  })
}
