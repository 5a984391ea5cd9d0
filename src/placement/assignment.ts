/** Which peer stands in which slot of which group, with the loads that follow from it. */
import { assert } from '../core/assert.ts'
import type { Domains } from './domains.ts'

/** Nobody: a slot that is to be filled, or cannot be. */
export const NOBODY = -1

export class Assignment {
  readonly groups: number
  /** Slots of a group. */
  readonly size: number
  /** Peer at `group * size + slot`. Invariant: no two of a group are in the same domain. */
  readonly members: Int32Array
  readonly domains: Domains
  readonly peerLoad: Int32Array
  readonly domainLoad: Int32Array
  /** Peer -> places in `members` where it stands and its group has data, in no order. */
  readonly #keptPlaces: number[][]
  /** The same for places that cost nothing to give to another. */
  readonly #freePlaces: number[][]
  /** Place -> 1 if it is among the first. */
  readonly #isKept: Uint8Array
  /** Place -> where it is in the list of its peer. */
  readonly #listedAt: Int32Array

  constructor(groups: number, size: number, domains: Domains) {
    this.groups = groups
    this.size = size
    this.domains = domains
    this.members = new Int32Array(groups * size).fill(NOBODY)
    this.peerLoad = new Int32Array(domains.of.length)
    this.domainLoad = new Int32Array(domains.names.length)
    this.#keptPlaces = Array.from(domains.of, () => [])
    this.#freePlaces = Array.from(domains.of, () => [])
    this.#isKept = new Uint8Array(groups * size)
    this.#listedAt = new Int32Array(groups * size)
  }

  /**
   * Where the peer stands: places that were planned just now, or those that it had before. Only
   * while the first are enough does a plan that was carried out in part stay what it was.
   */
  placesOf(peer: number, which: 'free' | 'kept'): readonly number[] {
    return (which === 'free' ? this.#freePlaces : this.#keptPlaces)[peer]!
  }

  /** As `put`, of a member that the group has already. */
  keep(place: number, peer: number): void {
    this.#isKept[place] = 1
    this.put(place, peer)
  }

  groupOf(place: number): number {
    return Math.floor(place / this.size)
  }

  hasDomain(group: number, domain: number): boolean {
    for (let place = group * this.size; place < (group + 1) * this.size; place++) {
      const peer = this.members[place]!
      if (peer !== NOBODY && this.domains.of[peer] === domain) return true
    }
    return false
  }

  put(place: number, peer: number): void {
    assert(this.members[place] === NOBODY, 'the slot is free')
    this.members[place] = peer
    this.peerLoad[peer]!++
    this.domainLoad[this.domains.of[peer]!]!++
    this.#listedAt[place] = this.#listOf(place, peer).push(place) - 1
  }

  replace(place: number, peer: number): void {
    const before = this.members[place]!
    assert(before !== NOBODY, 'somebody is replaced')
    const list = this.#listOf(place, before)
    const last = list.pop()!
    if (last !== place) {
      list[this.#listedAt[place]!] = last
      this.#listedAt[last] = this.#listedAt[place]!
    }
    this.peerLoad[before]!--
    this.domainLoad[this.domains.of[before]!]!--
    this.members[place] = NOBODY
    this.#isKept[place] = 0
    this.put(place, peer)
  }

  #listOf(place: number, peer: number): number[] {
    return (this.#isKept[place] === 1 ? this.#keptPlaces : this.#freePlaces)[peer]!
  }
}
