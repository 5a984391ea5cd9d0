/** Failure domains of a ring's peers, as numbers. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { FailureDomain } from '../core/failure-domains.ts'
import type { RingPeer } from './ring-description.ts'

const NAMES_SHOWN = 5

export class Domains {
  readonly kind: FailureDomain
  /** Labels, sorted. Domains without any weight count too, but get nothing. */
  readonly names: readonly string[]
  /** Peer -> domain. */
  readonly of: Int32Array
  /** Domain -> its peers that have a weight. */
  readonly peers: readonly (readonly number[])[]
  /** Domains with a weight. */
  readonly usable: number

  /** @throws StoreError InvalidArgument when a peer has no label of that name */
  constructor(kind: FailureDomain, peers: readonly RingPeer[]) {
    this.kind = kind
    const labels = peers.map(({ id, labels }) => (kind === 'peer' ? id : (labels[kind] ?? '')))
    const unlabelled = peers.filter((_, peer) => labels[peer] === '').map(({ id }) => id)
    if (unlabelled.length > 0) {
      const text = `failure domain ${kind}: no label ${kind} on ${shown(unlabelled)}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    this.names = [...new Set(labels)].sort()
    const numbers = new Map(this.names.map((name, number) => [name, number]))
    this.of = Int32Array.from(labels, (label) => numbers.get(label)!)
    const members: number[][] = this.names.map(() => [])
    for (let peer = 0; peer < peers.length; peer++) {
      if (peers[peer]!.weight > 0) members[this.of[peer]!]!.push(peer)
    }
    this.peers = members
    this.usable = members.filter((inside) => inside.length > 0).length
  }

  /** Why groups of `members` cannot be placed in full, or null. */
  shortageFor(members: number): string | null {
    if (this.usable >= members) return null
    const names = this.names.filter((_, domain) => this.peers[domain]!.length > 0)
    const which = names.length === 0 ? '' : ` (${shown(names)})`
    const apart = this.kind === 'peer' ? '' : `, each in a ${this.kind} of its own`
    const things = `${this.kind}${this.usable === 1 ? '' : 's'}`
    return `${members} members${apart}: there ${this.usable === 1 ? 'is' : 'are'} ${
      this.usable
    } ${things} with a weight${which}, ${members - this.usable} missing`
  }
}

const shown = (names: readonly string[]): string =>
  names.length <= NAMES_SHOWN
    ? names.join(', ')
    : `${names.slice(0, NAMES_SHOWN).join(', ')} and ${names.length - NAMES_SHOWN} more`
