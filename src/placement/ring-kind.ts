import type { Steps } from '../core/steps.ts'
import type { LeafRing, RingPeer } from './ring-description.ts'

/** A ring at work: for each group, peers in order of preference. */
export interface RingOrder {
  /**
   * Calls `visit` with indices into the peers the order was made of, the most preferred first and
   * none twice, until it returns true or all were visited. Peers of weight 0 do not appear.
   */
  walk(group: number, visit: (peer: number) => boolean): void
  /** What the first walk would do for itself, if that takes long. */
  prepare?(): Steps<void>
  /** Hashes that the walk of one group takes; absent: a few. */
  readonly walkHashes?: number
}

/** New kinds plug in with `registerRingKind`. */
export interface RingKind {
  readonly name: string
  /** Whether loads are evened out after the order was followed, or the order is all there is. */
  readonly balanced: boolean
  /** `peers` are those of the description, sorted by id. @throws StoreError InvalidArgument */
  order(description: LeafRing, peers: readonly RingPeer[]): RingOrder
}
