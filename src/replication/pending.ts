import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { OpFlag, OpKind } from '../shard/op.ts'
import type { Boot } from './boots.ts'
import { BlockOp, isDamage } from './block-store.ts'
import type { FamilyIo } from './family-io.ts'
import type { GroupIo } from './group-io.ts'

/** How an op stands with one member. */
export const Sent = { No: 0, Yes: 1, Acked: 2, Failed: 3 } as const

/**
 * A client's op and what became of it at the members of its group. Pooled. It may outlive the
 * client's op: a member that left answers late, or the client got an error meanwhile.
 */
export class Pending {
  /** The client's op; null once that was answered. */
  client: BlockOp | null = null
  /** What is asked: copied to one op for each member. */
  readonly request: BlockOp = new BlockOp()
  family: FamilyIo | null = null
  group: GroupIo | null = null
  isWrite = false
  /** Order of submission, over all ops. */
  ticket = 0
  submittedMs = 0
  /** Waits for its group, or for a member to read from. */
  isParked = false
  /** Members that were given the op, the copies that they have (null: answered), how it went. */
  readonly boots: Boot[] = []
  readonly copies: (BlockOp | null)[] = []
  readonly sent: number[] = []
  readonly errors: number[] = []
  /** Epochs of the group under which they were sent. */
  readonly epochs: number[] = []
  /** Copies that are out. */
  inFlight = 0
  /** Of a write: members of the present record, and those of them that acknowledged. */
  needed = 0
  acked = 0
  /** Answered, or given up: only copies are still out. */
  isOver = false
  /** It failed at all that are in sync: is the record the newest? */
  isDoubted = false
  /** Its page of the arena, whose run it holds for late copies; -1 for none. */
  heldRun = -1
  /** The copy of a read whose member was too slow: its answer is not wanted any more. */
  aside: BlockOp | null = null
  /** A read that was answered waits for writes with tickets up to this one. */
  horizon = 0
  /** The write that a read waits for now. */
  waitsFor: Pending | null = null
  // Links of the list of all, of its overlap bucket, and of the reads that wait for it.
  older: Pending | null = null
  newer: Pending | null = null
  bucket = -1
  bucketOlder: Pending | null = null
  bucketNewer: Pending | null = null
  firstReader: Pending | null = null
  nextReader: Pending | null = null

  indexOf(boot: Boot): number {
    const { boots } = this
    for (let at = 0; at < boots.length; at++) if (boots[at] === boot) return at
    return -1
  }

  /** Notes that `boot` has a copy now. */
  sentTo(boot: Boot, copy: BlockOp): void {
    let at = this.indexOf(boot)
    if (at < 0) {
      at = this.boots.length
      this.boots.push(boot)
      this.copies.push(null)
      this.sent.push(Sent.No)
      this.errors.push(0)
      this.epochs.push(0)
    }
    this.copies[at] = copy
    this.epochs[at] = copy.groupEpoch
    this.sent[at] = Sent.Yes
    this.inFlight++
  }

  /** Did `boot` acknowledge it, and was in the group ever since it was sent (R7)? */
  isAckedBy(boot: Boot): boolean {
    const at = this.indexOf(boot)
    return at >= 0 && this.sent[at] === Sent.Acked && this.group!.hadSince(boot, this.epochs[at]!)
  }

  /** Of a plain write: taken once for all members that its bytes are sent to; else -1. */
  payloadCrc(arena: Arena): number {
    const { request } = this
    const isPlain = request.keySlot === 0 && (request.flags & OpFlag.Sealed) === 0
    if (request.kind !== OpKind.Write || !isPlain) return -1
    if (request.payloadCrc < 0) {
      const end = request.payload + request.blockCount * BLOCK_BYTES
      request.payloadCrc = arena.checksum(arena.bytes.subarray(request.payload, end))
    }
    return request.payloadCrc
  }

  overlaps(b: BlockOp): boolean {
    const a = this.request
    return (
      a.chunk === b.chunk &&
      a.familyLow === b.familyLow &&
      a.familyHigh === b.familyHigh &&
      a.layerLow === b.layerLow &&
      a.layerHigh === b.layerHigh &&
      a.firstBlock < b.firstBlock + b.blockCount &&
      b.firstBlock < a.firstBlock + a.blockCount
    )
  }

  reset(): void {
    this.client = null
    this.request.payloadCrc = -1
    this.family = null
    this.group = null
    this.isParked = false
    this.boots.length = 0
    this.copies.length = 0
    this.sent.length = 0
    this.errors.length = 0
    this.epochs.length = 0
    this.needed = 0
    this.acked = 0
    this.isOver = false
    this.isDoubted = false
    this.heldRun = -1
    this.horizon = 0
  }

  /** The error when every member in sync failed, 0 while one has not. */
  worstError(): number {
    const { targets, inSyncCount } = this.group!
    let error = 0
    for (let i = 0; i < inSyncCount; i++) {
      const at = this.indexOf(targets[i]!)
      if (at < 0 || this.sent[at] !== Sent.Failed) return 0
      if (!isDamage(error)) error = this.errors[at]!
    }
    assert(error !== 0 || inSyncCount === 0, 'what failed has an error')
    return error
  }
}

/** All that is pending, in the order of submission. */
export class PendingList {
  oldest: Pending | null = null
  newest: Pending | null = null
  count = 0

  add(pending: Pending): void {
    pending.older = this.newest
    if (this.newest === null) this.oldest = pending
    else this.newest.newer = pending
    this.newest = pending
    this.count++
  }

  remove(pending: Pending): void {
    if (pending.older === null) this.oldest = pending.newer
    else pending.older.newer = pending.newer
    if (pending.newer === null) this.newest = pending.older
    else pending.newer.older = pending.older
    pending.older = null
    pending.newer = null
    this.count--
  }

  /** Is a write of the family under way that has a version of before its present writerEpoch? */
  hasOlder(family: FamilyIo): boolean {
    for (let at = this.oldest; at !== null; at = at.newer) {
      if (at.isWrite && at.family === family && at.request.writerEpoch < family.writerEpoch)
        return true
    }
    return false
  }

  /** Those for which `wanted` is so, oldest first; what comes or goes later changes nothing. */
  select(wanted: (pending: Pending) => boolean): Pending[] {
    const found: Pending[] = []
    for (let at = this.oldest; at !== null; at = at.newer) if (wanted(at)) found.push(at)
    return found
  }
}
