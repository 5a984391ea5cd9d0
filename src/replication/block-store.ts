/**
 * Where blocks of volumes are kept, as the volume layer sees it. `LocalStore` sends ops to the
 * shards of this peer; a replicated store sends them to the members of a group.
 */
import { ErrorCode } from '../core/errors.ts'
import { ShardOp } from '../shard/op.ts'
import type { ChunkFinder } from './chunk-finder.ts'

export { OpFlag, OpKind, StatusExtent } from '../shard/op.ts'

/** A shard op with who waits for it. Pooled: take with `acquireOp`, given back by the owner. */
export class BlockOp extends ShardOp {
  /** Called once on the main thread when the op is done; `error` and results are set then. */
  onDone: (op: BlockOp) => void = () => {}
  /** The store's own: `onDone` as it was submitted. */
  onChanged: (op: BlockOp) => void = () => {}
  /** The same of the store that has sealed blocks opened below it. */
  onOpened: (op: BlockOp) => void = () => {}
  /** Whatever the caller needs to find its way back (a VolumeRequest, usually). */
  owner: unknown = null
  /** Of replicated stores: where the chunk belongs, and the group epoch it was sent under. */
  pool: number = 0
  group: number = 0
  groupEpoch: number = 0
  /**
   * Of replicated stores: the writerEpoch that the sender holds, by which members admit the op
   * (R3). Not the version's, which may be older: a copy keeps the version of what it copies.
   * 0 for a resync, which is admitted by its group epoch alone.
   */
  fenceEpoch: number = 0
  /**
   * Of a write to members, or of a read that was answered at once: CRC-32C of the bytes where it
   * is known already, so that it is computed once; -1: it is not. Whoever sets it takes it back.
   */
  payloadCrc: number = -1
  /**
   * Of a read from members: called with the bytes of each before they count. What it answers is the
   * error of that member, with the block in `resultA`; Ok takes them.
   */
  verify: ((op: BlockOp) => number) | null = null
  /** When it was submitted, monotonic milliseconds; for latency and deadlines. */
  submittedMs: number = 0
}

/** The shards of this process, which can also be asked one by one. */
export interface ShardedStore extends BlockStore {
  readonly shardCount: number
  /** Ops that were submitted and not answered. */
  readonly inFlight: number
  /** Bytes that writes may still take, about. */
  readonly freeBytes: number
  /** As `submit`, to a shard of the caller's choice. */
  submitTo(shard: number, op: BlockOp): void
  /**
   * Asked before an op that its shard left unanswered is queued again, because no barrier knew of
   * it meanwhile (R3): Ok, or the error with which it ends.
   */
  readmit: (op: BlockOp) => number
}

export interface FamilyKey {
  readonly familyHigh: number
  readonly familyLow: number
}

export interface BlockStore {
  /** A free op, from a pool that grows to what was ever in flight. */
  acquireOp(): BlockOp
  releaseOp(op: BlockOp): void
  /**
   * Queues the op to the shard of (family, chunk). Payload pages must stay held until `onDone`.
   * Ops of one chunk are carried out in the order in which they were submitted. No `onDone` is
   * called from inside.
   */
  submit(op: BlockOp): void
  /**
   * Reads the blocks of `op`, which is not submitted and may be used again, into `into` from
   * `start` on, if they are at hand. Returns the milliseconds that took; below 0: submit a read.
   * `isRemote`: for another process, whose next request nobody should wait for awake.
   */
  readNow(op: BlockOp, into: Buffer, start: number, isRemote?: boolean): number
  /**
   * Tells the shards about all that was submitted since: once per batch of requests. Ops that are
   * done already may be answered from inside, unless the caller knows that others whom it waits for
   * take longer: then it is not the last.
   */
  ring(isLast?: boolean): void
  /**
   * Calls `done(error)` when every write completed before this call is on stable storage
   * (error is an ErrorCode, 0 for Ok). Concurrent flushes share syncs. Where families are flushed
   * apart only those of `whose` are meant, and the answer is Closed once it was given up here.
   */
  flush(done: (error: number) => void, whose?: FamilyKey): void
  /** Of replicated stores: what the flush of one family waits for may not concern another. */
  readonly flushesApart?: boolean
  /** Of replicated stores: writes of the family whose clients were told that they failed, and which
   * go on until all members have them. */
  hasDetached?(whose: FamilyKey): boolean
  /** Tells of many chunks at once where there is anything; without it each has to be asked. */
  readonly finder?: ChunkFinder | null
  /** Sends a copy of `op` (DeleteLayer, Compact, Scrub, Checkpoint) to every shard. */
  broadcast(op: ShardOp, done: (error: number) => void): void
}

/** The member is fine, and what it has is not: others may have better. */
export const isDamage = (error: number): boolean =>
  error === ErrorCode.ChecksumMismatch || error === ErrorCode.SealBroken

/** Everything that is asked with `from`; the answer is empty. Not who waits for it. */
export function copyRequest(from: ShardOp, to: BlockOp): void {
  to.kind = from.kind
  to.flags = from.flags
  to.familyHigh = from.familyHigh
  to.familyLow = from.familyLow
  to.layerHigh = from.layerHigh
  to.layerLow = from.layerLow
  to.chunk = from.chunk
  to.firstBlock = from.firstBlock
  to.blockCount = from.blockCount
  to.writerEpoch = from.writerEpoch
  to.sequence = from.sequence
  to.payload = from.payload
  to.tags = from.tags
  to.keySlot = from.keySlot
  to.error = 0
  to.resultA = 0
  to.resultB = 0
}
