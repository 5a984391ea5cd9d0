/**
 * How many members of groups each peer should have. In proportion to its weight, but a failure
 * domain holds at most one member of a group: what a heavy one cannot take goes to the others.
 */
import type { Domains } from './domains.ts'
import type { RingPeer } from './ring-description.ts'

/**
 * Loads may differ from the fair share by this much before members move for evenness alone. Less
 * would move data for every small change of weights.
 */
const BALANCE_SLACK = 0.02

export interface FairShares {
  /** Members by peer and by domain, fractions included. */
  readonly peer: Float64Array
  readonly domain: Float64Array
  /** Loads within these, ends included, are even: the slack, but at least the whole numbers. */
  readonly peerLow: Int32Array
  readonly peerHigh: Int32Array
  readonly domainLow: Int32Array
  readonly domainHigh: Int32Array
}

/** `members` of a group; at most as many as there are usable domains. */
export function fairShares(
  peers: readonly RingPeer[],
  domains: Domains,
  groups: number,
  members: number
): FairShares {
  const domain = domainShares(domainWeights(peers, domains), groups, groups * members)
  const peer = new Float64Array(peers.length)
  for (const [number, inside] of domains.peers.entries()) {
    const weight = inside.reduce((sum, each) => sum + peers[each]!.weight, 0)
    for (const each of inside) peer[each] = domain[number]! * (peers[each]!.weight / weight)
  }
  const peerLow = peer.map((share) => Math.min(floor(share), ceil(share * (1 - BALANCE_SLACK))))
  const peerHigh = peer.map((share) => Math.max(ceil(share), floor(share * (1 + BALANCE_SLACK))))
  const sumOf = (numbers: Float64Array, inside: readonly number[]): number =>
    inside.reduce((sum, each) => sum + numbers[each]!, 0)
  // A domain must not have more, or less, than its peers may have together.
  const domainLow = domain.map((share, number) =>
    Math.min(
      floor(share),
      Math.max(ceil(share * (1 - BALANCE_SLACK)), sumOf(peerLow, domains.peers[number]!))
    )
  )
  const domainHigh = domain.map((share, number) =>
    Math.max(
      ceil(share),
      Math.min(floor(share * (1 + BALANCE_SLACK)), groups, sumOf(peerHigh, domains.peers[number]!))
    )
  )
  return {
    peer,
    domain,
    peerLow: Int32Array.from(peerLow),
    peerHigh: Int32Array.from(peerHigh),
    domainLow: Int32Array.from(domainLow),
    domainHigh: Int32Array.from(domainHigh)
  }
}

/** Sums of fractions that should be whole numbers are off by a little. */
const ROUNDING = 1e-6
const floor = (value: number): number => Math.floor(value + ROUNDING)
const ceil = (value: number): number => Math.ceil(value - ROUNDING)

const domainWeights = (peers: readonly RingPeer[], domains: Domains): Float64Array =>
  Float64Array.from(domains.peers, (inside) =>
    inside.reduce((sum, peer) => sum + peers[peer]!.weight, 0)
  )

/** Fills to the brim (`groups`) what would overflow, and shares out the rest by weight. */
function domainShares(weights: Float64Array, groups: number, total: number): Float64Array {
  const shares = new Float64Array(weights.length)
  const full = new Uint8Array(weights.length)
  for (;;) {
    let restWeight = 0
    let rest = total
    for (let at = 0; at < weights.length; at++) {
      if (full[at] === 1) rest -= groups
      else restWeight += weights[at]!
    }
    let overflows = false
    for (let at = 0; at < weights.length; at++) {
      if (full[at] === 1) continue
      shares[at] = restWeight === 0 ? 0 : rest * (weights[at]! / restWeight)
      if (shares[at]! < groups) continue
      shares[at] = groups
      full[at] = 1
      overflows = true
    }
    if (!overflows) return shares
  }
}
