/**
 * Fills free slots: consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016).
 * A slot goes to the first peer of the group's list that is not full and whose failure domain has
 * nothing of the group yet.
 */
import type { Steps } from '../core/steps.ts'
import { type Assignment, NOBODY } from './assignment.ts'
import type { FairShares } from './fair-shares.ts'
import { mixOther } from './hash.ts'
import type { Ring } from './ring.ts'

/** Peers looked at; after these one with a little room, or the emptiest of all, takes the slot. */
const STEPS_MAX = 64

/** Hashes between two yields, and of the search that each choice is. */
const HASHES_PER_STEP = 262_144
const HASHES_PER_CHOICE = 256

/** Less is a sum of fractions that is off by a little. */
const ROOM_MIN = 1e-6

export class Filling {
  readonly #ring: Ring
  readonly #assignment: Assignment
  readonly #shares: FairShares
  // Of the walk that goes on.
  #group = 0
  #only = NOBODY
  #steps = 0
  #hashes = 0
  #found = NOBODY
  /** First with room for a part of a member only: that would be above its share by the rest. */
  #nearlyFull = NOBODY

  constructor(ring: Ring, assignment: Assignment, shares: FairShares) {
    this.#ring = ring
    this.#assignment = assignment
    this.#shares = shares
  }

  /** Afterwards no slot is free, unless all domains have something of the group. */
  *fill(): Steps<void> {
    const { members, groups, size, domains } = this.#assignment
    const wanted = groups * Math.min(size, domains.usable)
    let standing = 0
    for (const peer of members) if (peer !== NOBODY) standing++
    if (standing === wanted) return
    if (this.#ring.order.prepare !== undefined) yield* this.#ring.order.prepare()
    yield* this.#fillFullDomains()
    // First everybody's first choice.
    for (let slot = 0; slot < size; slot++) {
      for (let group = 0; group < groups; group++) {
        const place = group * size + slot
        if (members[place] !== NOBODY) continue
        const peer = this.#choose(group, NOBODY)
        if (peer !== NOBODY) this.#assignment.put(place, peer)
        if (this.#isLong()) yield
      }
    }
  }

  /** Has it been a while? */
  #isLong(): boolean {
    this.#hashes += HASHES_PER_CHOICE + (this.#ring.order.walkHashes ?? 0)
    if (this.#hashes < HASHES_PER_STEP) return false
    this.#hashes = 0
    return true
  }

  /** Domains that must be in every group come first: later there may be no slot left. */
  *#fillFullDomains(): Steps<void> {
    const { members, groups, size, domainLoad } = this.#assignment
    const { domain: shares } = this.#shares
    for (let domain = 0; domain < shares.length; domain++) {
      if (shares[domain]! < groups) continue
      for (let group = 0; group < groups && domainLoad[domain]! < groups; group++) {
        if (this.#assignment.hasDomain(group, domain)) continue
        // Not always in the same slot: of a stripe's fragments only some are read.
        const first = (mixOther(group) >>> 0) % size
        for (let step = 0; step < size; step++) {
          const place = group * size + ((first + domain + step) % size)
          if (members[place] !== NOBODY) continue
          this.#assignment.put(place, this.#choose(group, domain))
          if (this.#isLong()) yield
          break
        }
      }
    }
  }

  /** `only` that domain, if it is not NOBODY. */
  #choose(group: number, only: number): number {
    this.#group = group
    this.#only = only
    this.#steps = 0
    this.#found = NOBODY
    this.#nearlyFull = NOBODY
    this.#ring.order.walk(group, this.#visit)
    if (this.#found !== NOBODY) return this.#found
    return this.#nearlyFull === NOBODY ? this.#emptiest(group, only) : this.#nearlyFull
  }

  readonly #visit = (peer: number): boolean => {
    const { domains, domainLoad, peerLoad } = this.#assignment
    const domain = domains.of[peer]!
    if (this.#only === NOBODY || domain === this.#only) {
      const room = Math.min(
        this.#shares.peer[peer]! - peerLoad[peer]!,
        this.#shares.domain[domain]! - domainLoad[domain]!
      )
      if (room > ROOM_MIN && !this.#assignment.hasDomain(this.#group, domain)) {
        if (room > 1 - ROOM_MIN) {
          this.#found = peer
          return true
        }
        if (this.#nearlyFull === NOBODY) this.#nearlyFull = peer
      }
    }
    return ++this.#steps >= STEPS_MAX
  }

  #emptiest(group: number, only: number): number {
    const { domains, domainLoad } = this.#assignment
    let best = only
    if (only === NOBODY) {
      let room = -Infinity
      for (let domain = 0; domain < domainLoad.length; domain++) {
        const roomHere = this.#shares.domain[domain]! - domainLoad[domain]!
        if (roomHere <= room || domains.peers[domain]!.length === 0) continue
        if (this.#assignment.hasDomain(group, domain)) continue
        best = domain
        room = roomHere
      }
    }
    return best === NOBODY ? NOBODY : roomiestPeer(this.#assignment, this.#shares, best)
  }
}

/** The peer of the domain that is furthest below its share, or least above. */
export function roomiestPeer(
  { domains, peerLoad }: Assignment,
  shares: FairShares,
  domain: number
): number {
  let best = NOBODY
  let room = -Infinity
  for (const peer of domains.peers[domain]!) {
    const roomHere = shares.peer[peer]! - peerLoad[peer]!
    if (roomHere <= room) continue
    best = peer
    room = roomHere
  }
  return best
}
