/** Rings: pure functions from a placement group to an ordered list of peers. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { Domains } from './domains.ts'
import { ketama } from './ketama.ts'
import { empty, mod, single } from './plain-rings.ts'
import { rendezvous } from './rendezvous.ts'
import type { LeafRing, RingDescription, RingPeer, UnionRing } from './ring-description.ts'
import type { RingKind, RingOrder } from './ring-kind.ts'

const kinds = new Map<string, RingKind>()
for (const kind of [ketama, rendezvous, mod, single, empty]) registerRingKind(kind)

export const DEFAULT_RING_KIND = ketama.name

/** Makes a kind known to every ring made later. @throws StoreError AlreadyExists */
export function registerRingKind(kind: RingKind): void {
  if (kinds.has(kind.name) || kind.name === 'union') {
    throw new StoreError(ErrorCode.AlreadyExists, `ring kind ${kind.name} is known already`)
  }
  kinds.set(kind.name, kind)
}

export const ringKinds = (): string[] => [...kinds.keys()]

/** A ring description with everything that follows from it alone. */
export class Ring {
  readonly description: LeafRing
  readonly groups: number
  readonly balanced: boolean
  /** Sorted by id. */
  readonly peers: readonly RingPeer[]
  readonly domains: Domains
  readonly order: RingOrder

  /** @throws StoreError InvalidArgument: unknown kind, wrong number of peers, missing labels */
  constructor(description: LeafRing) {
    const kind = kinds.get(description.kind)
    if (kind === undefined) {
      const text = `ring kind "${description.kind}" is unknown: there are ${ringKinds().join(', ')}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    this.description = description
    this.groups = description.groups
    this.balanced = kind.balanced
    this.peers = [...description.peers].sort((a, b) => (a.id < b.id ? -1 : 1))
    this.domains = new Domains(description.failureDomain, this.peers)
    this.order = kind.order(description, this.peers)
  }

  /**
   * The group's peers, most preferred first, no two of one failure domain: all, or as many as the
   * description's `replicas` or `limit`. Where members are evened out, see targets.ts.
   */
  peersOf(group: number, limit: number = this.description.replicas ?? Infinity): string[] {
    const found: string[] = []
    const domains = new Set<number>()
    this.order.walk(group, (peer) => {
      const domain = this.domains.of[peer]!
      if (!domains.has(domain)) {
        domains.add(domain)
        found.push(this.peers[peer]!.id)
      }
      return found.length >= limit
    })
    return found
  }
}

/** Both lists, the ring of before first, without repetitions. */
class Union {
  readonly #rings: readonly [Ring, Ring]

  constructor({ rings: [from, to] }: UnionRing) {
    this.#rings = [new Ring(from), new Ring(to)]
  }

  peersOf(group: number): string[] {
    return [...new Set(this.#rings.flatMap((ring) => ring.peersOf(group)))]
  }
}

/** Any description as a function of the group. @throws StoreError as `Ring` does */
export const ringOf = (description: RingDescription): { peersOf(group: number): string[] } =>
  'rings' in description ? new Union(description as UnionRing) : new Ring(description as LeafRing)
