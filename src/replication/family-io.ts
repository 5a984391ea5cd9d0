import type { Claim } from '../cluster/group-table.ts'
import { parseId64 } from '../cluster/ids.ts'
import type { Boot } from './boots.ts'
import type { GroupIo, PoolIo } from './group-io.ts'

export interface FamilyOptions {
  /** 16 hex digits. */
  readonly family: string
  /** The fencing token; raised by `FamilyIo.raise` when it is taken anew. */
  readonly writerEpoch: number
  /** The gateway's writer record. */
  readonly claim: Claim
  /** Milliseconds after which a request that cannot be done ends with NoQuorum; null: it waits. */
  readonly unavailableMs: number | null
  /** Another gateway has the family: nothing is served any more. */
  readonly onFenced: () => void
  /** Writes that were answered and not flushed may be gone, R13: clients have to be dropped. */
  readonly onPowerLoss: () => void
}

/** A family that this gateway serves. */
export class FamilyIo {
  readonly id: string
  readonly high: number
  readonly low: number
  readonly pool: PoolIo
  readonly options: FamilyOptions
  writerEpoch: number
  /** Nothing older is submitted any more. */
  begunEpoch: number
  claim: Claim
  /** The lease is being taken anew: the claim may be behind. */
  isRetaken = false
  /** Answers nothing but Closed: another gateway has it, or it is to be opened anew. */
  isClosed = false
  /** A write ended with an error and may be on some members: the end is not clean. */
  isTainted = false
  /** As in the options, until somebody sets it anew. */
  unavailableMs: number | null
  /** What makes its groups equal, or did last: an older one does nothing more. */
  takeover: object | null = null
  /** Groups whose members are not known to be equal yet: their ops wait. */
  readonly unsettled = new Set<number>()
  /** By group, the flush round in which its last write was acknowledged. */
  #dirtyRound: Uint32Array
  /** Groups with acknowledged writes that no flush covered, perhaps more. */
  readonly dirtyGroups: Set<GroupIo> = new Set()
  /** Clients have it: what they flush covers what they were told before, by whichever gateway. */
  isServed = false
  pending = 0

  constructor(pool: PoolIo, options: FamilyOptions) {
    const { high, low } = parseId64(options.family)
    this.id = options.family
    this.high = high
    this.low = low
    this.pool = pool
    this.options = options
    this.unavailableMs = options.unavailableMs
    this.writerEpoch = options.writerEpoch
    this.begunEpoch = options.writerEpoch
    this.claim = options.claim
    this.#dirtyRound = new Uint32Array(pool.groups.length)
  }

  /** The gateway took the writer lease anew, and nobody had it in between. */
  raise(writerEpoch: number, claim: Claim): void {
    this.writerEpoch = writerEpoch
    this.claim = claim
  }

  /** Has `boot` acknowledged writes, in groups that it is still in, that no flush covered? */
  isOwedBy(boot: Boot): boolean {
    for (const group of this.dirtyGroups) if (group.targets.includes(boot)) return true
    return false
  }

  /**
   * R11: what another gateway left unflushed in a group is on disk once that is settled. R31: a
   * group with unflushed writes lost a member, and the others may forget that yet.
   */
  get holdsFlushes(): boolean {
    if (this.isServed && !this.isClosed && this.unsettled.size > 0) return true
    for (const group of this.dirtyGroups) if (group.unfenced.size > 0) return true
    return false
  }

  noteAcked(group: GroupIo, round: number): void {
    if (this.#dirtyRound[group.index] === round) return
    this.#dirtyRound[group.index] = round
    this.dirtyGroups.add(group)
  }

  /** R43: what is not flushed, or not settled, of a group may be in either half. */
  noteSplit(group: GroupIo, other: GroupIo): void {
    const { length } = this.#dirtyRound
    if (other.index >= length) {
      const longer = new Uint32Array(other.pool.groups.length)
      longer.set(this.#dirtyRound)
      this.#dirtyRound = longer
    }
    this.#dirtyRound[other.index] = this.#dirtyRound[group.index]!
    if (this.dirtyGroups.has(group)) this.dirtyGroups.add(other)
    if (this.unsettled.has(group.index)) this.unsettled.add(other.index)
  }

  /** Every write up to `round` is durable. */
  noteFlushed(round: number): void {
    for (const group of this.dirtyGroups) {
      if (this.#dirtyRound[group.index]! <= round) this.dirtyGroups.delete(group)
    }
  }
}
