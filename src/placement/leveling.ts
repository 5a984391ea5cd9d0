/**
 * Moves as few members as bring every load within its bounds, those of groups without data before
 * others: first between failure domains,
 * where a group's other members may forbid it, then inside each, where nothing can.
 */
import type { Steps } from '../core/steps.ts'
import { type Assignment, NOBODY } from './assignment.ts'
import type { FairShares } from './fair-shares.ts'
import { roomiestPeer } from './filling.ts'
import { mixOther } from './hash.ts'

/** Domains that are tried as the middle of a chain. */
const MIDDLES_MAX = 256
/** Loads looked at between two yields. */
const LOOKS_PER_STEP = 50_000

export class Leveling {
  readonly #assignment: Assignment
  readonly #shares: FairShares
  readonly #domains: Loads
  readonly #peers: Loads
  /** Raised with every move: begins the search for the next one elsewhere. */
  #moves = 0
  #looks = 0

  constructor(assignment: Assignment, shares: FairShares) {
    this.#assignment = assignment
    this.#shares = shares
    const { domainLoad, peerLoad } = assignment
    this.#domains = new Loads(domainLoad, shares.domain, shares.domainLow, shares.domainHigh)
    this.#peers = new Loads(peerLoad, shares.peer, shares.peerLow, shares.peerHigh)
  }

  *level(): Steps<void> {
    yield* this.#levelDomains()
    for (const inside of this.#assignment.domains.peers) yield* this.#levelPeers(inside)
  }

  /** Has it been a while? */
  #isLong(looks: number): boolean {
    this.#looks += looks
    if (this.#looks < LOOKS_PER_STEP) return false
    this.#looks = 0
    return true
  }

  *#levelDomains(): Steps<void> {
    const { peers } = this.#assignment.domains
    let usable = [...peers.keys()].filter((domain) => peers[domain]!.length > 0)
    const loads = this.#domains
    while (loads.choose(usable)) {
      const { giver, taker, isFeeding } = loads
      if (this.#isLong(usable.length)) yield
      if (giver !== NOBODY && taker !== NOBODY && this.#transfer(giver, taker)) continue
      const stuck = isFeeding ? taker : giver
      if (isFeeding ? this.#feed(stuck, usable) : this.#relieve(stuck, usable)) continue
      usable = usable.filter((domain) => domain !== stuck)
    }
  }

  /** One member to `taker`, from the fullest domain that can give one. */
  #feed(taker: number, usable: readonly number[]): boolean {
    const givers = this.#domains.fullestFirst(usable).filter((each) => this.#domains.canGive(each))
    for (const giver of givers) if (this.#transfer(giver, taker)) return true
    return givers.some((giver) => giver !== taker && this.#transferThrough(giver, taker))
  }

  /** One member from `giver`, to the emptiest domain that can take one. */
  #relieve(giver: number, usable: readonly number[]): boolean {
    const fullest = this.#domains.fullestFirst(usable)
    const takers = fullest.reverse().filter((each) => this.#domains.canTake(each))
    for (const taker of takers) if (this.#transfer(giver, taker)) return true
    return takers.some((taker) => this.#transferThrough(giver, taker))
  }

  /** A member of a group of `giver` that has none in `taker`. */
  #transfer(giver: number, taker: number): boolean {
    const place = giver === taker ? NOBODY : this.#movable(giver, taker)
    if (place === NOBODY) return false
    this.#assignment.replace(place, roomiestPeer(this.#assignment, this.#shares, taker))
    this.#moves++
    return true
  }

  /**
   * Two moves where one is impossible because `taker` is in all groups of `giver`: a third domain
   * takes from the one and gives to the other.
   */
  #transferThrough(giver: number, taker: number): boolean {
    const { groups, size, members, domains } = this.#assignment
    const tried = new Set([giver, taker])
    const start = (mixOther(this.#moves ^ taker) >>> 0) % groups
    for (let step = 0; step < groups && tried.size < MIDDLES_MAX; step++) {
      const group = (start + step) % groups
      if (this.#assignment.hasDomain(group, taker)) continue
      for (let place = group * size; place < (group + 1) * size; place++) {
        const peer = members[place]!
        if (peer === NOBODY || tried.has(domains.of[peer]!)) continue
        const middle = domains.of[peer]!
        tried.add(middle)
        if (this.#movable(giver, middle) === NOBODY) continue
        this.#assignment.replace(place, roomiestPeer(this.#assignment, this.#shares, taker))
        return this.#transfer(giver, middle)
      }
    }
    return false
  }

  /** A place of `giver` whose group has nothing in `taker`, of its fullest peer if possible. */
  #movable(giver: number, taker: number): number {
    const place = this.#movableOf(giver, taker, 'free')
    return place === NOBODY ? this.#movableOf(giver, taker, 'kept') : place
  }

  #movableOf(giver: number, taker: number, which: 'free' | 'kept'): number {
    const inside = this.#assignment.domains.peers[giver]!
    for (const peer of inside.length === 1 ? inside : this.#peers.fullestFirst(inside)) {
      const places = this.#assignment.placesOf(peer, which)
      const start = mixOther(this.#moves ^ (taker << 8)) >>> 0
      for (let step = 0; step < places.length; step++) {
        const place = places[(start + step) % places.length]!
        if (!this.#assignment.hasDomain(this.#assignment.groupOf(place), taker)) return place
      }
    }
    return NOBODY
  }

  *#levelPeers(inside: readonly number[]): Steps<void> {
    const loads = this.#peers
    if (this.#isLong(inside.length)) yield
    while (loads.choose(inside)) {
      if (this.#isLong(inside.length)) yield
      const { giver, taker } = loads
      if (giver === NOBODY || taker === NOBODY) return
      const free = this.#assignment.placesOf(giver, 'free')
      const places = free.length > 0 ? free : this.#assignment.placesOf(giver, 'kept')
      const place = places[(mixOther(this.#moves++ ^ (taker << 8)) >>> 0) % places.length]!
      this.#assignment.replace(place, taker)
    }
  }
}

/** Loads with the bounds they should keep, of domains or of peers. */
class Loads {
  /** Chosen last; NOBODY where there is none. */
  giver = NOBODY
  taker = NOBODY
  /** It is the taker that is out of bounds, not the giver. */
  isFeeding = false
  readonly #load: Int32Array
  readonly #share: Float64Array
  readonly #low: Int32Array
  readonly #high: Int32Array

  constructor(load: Int32Array, share: Float64Array, low: Int32Array, high: Int32Array) {
    this.#load = load
    this.#share = share
    this.#low = low
    this.#high = high
  }

  canGive(each: number): boolean {
    return this.#load[each]! > this.#low[each]!
  }

  canTake(each: number): boolean {
    return this.#load[each]! < this.#high[each]!
  }

  fullestFirst(some: readonly number[]): number[] {
    const room = (each: number): number => this.#share[each]! - this.#load[each]!
    return [...some].sort((a, b) => room(a) - room(b) || a - b)
  }

  /**
   * Chooses who is out of bounds, below them first, and who gives to it or takes from it without
   * leaving its own: every move leaves less to do. False when all are within bounds.
   */
  choose(some: readonly number[]): boolean {
    const [load, share, low, high] = [this.#load, this.#share, this.#low, this.#high]
    const room = { poor: 0, taker: -Infinity, rich: 0, giver: Infinity }
    const found = { poor: NOBODY, taker: NOBODY, rich: NOBODY, giver: NOBODY }
    for (let at = 0; at < some.length; at++) {
      const each = some[at]!
      const roomHere = share[each]! - load[each]!
      if (load[each]! < low[each]! && roomHere > room.poor) {
        room.poor = roomHere
        found.poor = each
      }
      if (load[each]! > high[each]! && roomHere < room.rich) {
        room.rich = roomHere
        found.rich = each
      }
      if (load[each]! < high[each]! && roomHere > room.taker) {
        room.taker = roomHere
        found.taker = each
      }
      if (load[each]! > low[each]! && roomHere < room.giver) {
        room.giver = roomHere
        found.giver = each
      }
    }
    this.isFeeding = found.poor !== NOBODY
    this.giver = this.isFeeding ? found.giver : found.rich
    this.taker = this.isFeeding ? found.poor : found.taker
    return this.isFeeding || found.rich !== NOBODY
  }
}
