/**
 * Carries out the mutating ops of one drained queue: as few batches as their limits allow, each
 * one gathered write; the index is changed once a batch was written, never before.
 */
import { ErrorCode, type StoreError, storeErrorOf } from '../core/errors.ts'
import { layerNumber } from '../core/layer-ids.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, PIECE_BLOCKS_MAX } from '../core/limits.ts'
import {
  BATCH_PAYLOAD_PAGES_MAX,
  BlockRecord,
  RecordType,
  SEAL_TAG_BYTES,
  SEQUENCE_MAX
} from '../format/batch.ts'
import type { SealKeys } from '../seal/key-table.ts'
import type { Appender } from './appender.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { IndexQueries } from './index-queries.ts'
import { type BlockViews, NativeChecksums, type Summing } from './memory.ts'
import { OpFlag, OpKind, type ShardOp } from './op.ts'
import { LOCATION_HOLE, LOCATION_ZERO } from './run-list.ts'
import { SEALED_BLOCKS_MAX, SealedWrites } from './sealed-writes.ts'
import type { Merges } from './merges.ts'
import type { Segments } from './segments.ts'
import type { ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'
import type { Voids } from './voids.ts'

/** What decides whether the shard takes more. */
export interface WriteGate {
  /** ErrorCode.Ok, or why no op that changes anything is taken. */
  refusal(): ErrorCode
  /** May another segment begin, for data (or for what gives space back). May make room first. */
  mayRotate(forData: boolean): boolean
  /** The present segment began for what gives space back: data is not for it. */
  readonly isInReserve: boolean
  /** Makes room, which may begin another segment. False: there is none for data. */
  leaveReserve(): boolean
  /** A batch could not be written. */
  writeFailed(error: StoreError): void
}

export class BlockWriter {
  private readonly memory: Buffer
  private readonly views: BlockViews
  private readonly sums: Summing
  private readonly keys: SealKeys | null
  private sealed: SealedWrites | null = null
  private readonly stats: Float64Array
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly queries: IndexQueries
  private readonly appender: Appender
  private readonly gate: WriteGate
  private readonly voids: Voids
  private readonly merges: Merges
  private readonly host: ShardHost
  private readonly record = new BlockRecord()
  private readonly crcs = new Uint32Array(BATCH_PAYLOAD_PAGES_MAX)
  /** By position in the ops of the present call: location of a written op's first block. */
  private locations = new Uint32Array(1024)

  constructor(
    host: ShardHost,
    parts: {
      segments: Segments
      index: ExtentIndex
      appender: Appender
      voids: Voids
      merges: Merges
      views: BlockViews
      gate: WriteGate
    }
  ) {
    this.host = host
    this.memory = host.memory
    this.keys = host.keys ?? null
    this.stats = host.stats
    this.segments = parts.segments
    this.index = parts.index
    this.queries = parts.index.queries()
    this.appender = parts.appender
    this.views = parts.views
    this.sums = host.sums ?? new NativeChecksums(parts.views)
    this.gate = parts.gate
    this.voids = parts.voids
    this.merges = parts.merges
  }

  /** Carries out all Write, Trim, WriteZeroes and DeleteLayer among `ops[0, count)`, in order. */
  execute(ops: readonly ShardOp[], count: number): void {
    if (this.locations.length < count) this.locations = new Uint32Array(2 * count)
    let at = 0
    while (at < count) at = this.executeBatch(ops, at, count)
  }

  /** One batch from `ops[start]` on. Returns the index of the first op that was not looked at. */
  private executeBatch(ops: readonly ShardOp[], start: number, count: number): number {
    const { appender } = this
    let at = start
    let sealedBlocks = 0
    for (; at < count; at++) {
      const op = ops[at]!
      if (!isMutation(op.kind)) continue
      const isConditional = (op.flags & OpFlag.SameVersion) !== 0
      // What is before it in this batch is not in the index yet.
      if (isConditional && !appender.isPlanEmpty) break
      const error = this.refusalOf(op)
      if (error !== ErrorCode.Ok) {
        op.error = error
        continue
      }
      if (appender.isPlanEmpty && this.isNoop(op)) {
        op.resultA = NOTHING_TO_DO
        continue
      }
      const blockCount = op.kind === OpKind.Write ? op.blockCount : 0
      if (op.keySlot !== 0) sealedBlocks += blockCount
      if (sealedBlocks > SEALED_BLOCKS_MAX) break
      if (isData(op) && this.gate.isInReserve) {
        if (!appender.isPlanEmpty) break
        if (!this.gate.leaveReserve()) {
          op.error = ErrorCode.OutOfSpace
          continue
        }
      }
      if (appender.plan(blockCount, tagBytesOf(op))) continue
      if (!appender.isPlanEmpty) break
      op.error = this.rotateFor(op, blockCount)
    }
    if (!appender.isPlanEmpty) this.writeBatch(ops, start, at)
    return at
  }

  private writeBatch(ops: readonly ShardOp[], start: number, end: number): void {
    const { appender, record } = this
    appender.start()
    this.sumBatch(ops, start, end)
    let crcAt = 0
    let sealedAt = 0
    for (let i = start; i < end; i++) {
      const op = ops[i]!
      if (!isMutation(op.kind) || op.error !== 0 || op.resultA === NOTHING_TO_DO) continue
      setRecordOf(record, op)
      if (op.kind === OpKind.Write) {
        this.locations[i] = this.addWrite(op, crcAt, sealedAt)
        crcAt += op.blockCount
        if (op.keySlot !== 0) sealedAt += op.blockCount
      } else {
        appender.addMark(record)
      }
    }
    let error: ErrorCode = ErrorCode.Ok
    try {
      appender.commit()
    } catch (thrown) {
      const failure = storeErrorOf(thrown)
      error = failure.code
      this.gate.writeFailed(failure)
      this.host.log('error', 'a batch could not be written', { why: failure.message })
    }
    this.applyBatch(ops, start, end, error)
  }

  /** Seals what is to be sealed, and takes the checksums of all blocks; neighbours together. */
  private sumBatch(ops: readonly ShardOp[], start: number, end: number): void {
    const { crcs } = this
    this.sealed?.clear()
    let from = 0
    let to = 0
    let wasSealed = false
    for (let i = start; i < end; i++) {
      const op = ops[i]!
      if (op.kind !== OpKind.Write || op.error !== 0) continue
      const isSealed = op.keySlot !== 0
      if (isSealed !== wasSealed) {
        this.sumsOf(wasSealed).of(crcs, from, to - from)
        from = to
        wasSealed = isSealed
      }
      let { payload } = op
      if (isSealed) {
        this.sealed ??= new SealedWrites()
        payload = this.sealed.add(op, this.keyOf(op)!, this.views) * BLOCK_BYTES
      }
      for (let block = 0; block < op.blockCount; block++) crcs[to++] = payload + block * BLOCK_BYTES
    }
    this.sumsOf(wasSealed).of(crcs, from, to - from)
  }

  private sumsOf(isSealed: boolean): Summing {
    return isSealed ? this.sealed!.sums : this.sums
  }

  /**
   * Adds the present record with the blocks of `op`, which stand at `sealedAt` of the sealed ones
   * if they are; returns where the first will stand.
   */
  private addWrite(op: ShardOp, crcAt: number, sealedAt: number): number {
    const { appender, crcs, record, sealed } = this
    if (op.keySlot === 0) {
      return appender.addData(record, crcs, crcAt, this.memory, op.payload, this.memory, op.tags)
    }
    const { memory, tags } = sealed!
    const payload = sealedAt * BLOCK_BYTES
    return appender.addData(record, crcs, crcAt, memory, payload, tags, sealedAt * SEAL_TAG_BYTES)
  }

  private keyOf(op: ShardOp): Buffer | null {
    return this.keys?.keyOf(op.keySlot, op.familyLow, op.writerEpoch) ?? null
  }

  private applyBatch(ops: readonly ShardOp[], start: number, end: number, error: ErrorCode): void {
    let crcAt = 0
    for (let i = start; i < end; i++) {
      const op = ops[i]!
      if (!isMutation(op.kind) || op.error !== 0) continue
      if (op.resultA === NOTHING_TO_DO) {
        op.resultA = 0
        continue
      }
      if (error !== ErrorCode.Ok) op.error = error
      else this.apply(op, this.locations[i]!, crcAt)
      if (op.kind === OpKind.Write) crcAt += op.blockCount
    }
  }

  private apply(op: ShardOp, location: number, crcAt: number): void {
    const { index } = this
    const isDelete = op.kind === OpKind.DeleteLayer
    const layer = index.layerIndex(
      op.familyHigh,
      op.familyLow,
      op.layerHigh,
      op.layerLow,
      !isDelete
    )
    if (isDelete) {
      if (layer >= 0) index.dropLayer(layer)
      return
    }
    const { chunk, firstBlock, blockCount, writerEpoch, sequence } = op
    if (op.kind === OpKind.Write) {
      this.stats[shardStatIndex.writes]!++
      this.stats[shardStatIndex.writeBytes]! += blockCount * BLOCK_BYTES
      const taken = index.put(
        layer,
        chunk,
        firstBlock,
        blockCount,
        writerEpoch,
        sequence,
        location,
        this.crcs,
        crcAt
      )
      const segment = this.segments.get(location >>> this.segments.pageShift)!
      // Something older than what a tombstone may hide is in this segment now.
      if (taken < blockCount) segment.oldestLsn = 0
      else if (blockCount === 1) {
        op.resultA = location
        op.resultB = this.crcs[crcAt]!
        op.resultC = segment.birth
      }
      return
    }
    this.stats[shardStatIndex.trims]!++
    const mark = isHole(op) ? LOCATION_HOLE : LOCATION_ZERO
    const keep = keepsHole(op)
    index.putMark(layer, chunk, firstBlock, blockCount, writerEpoch, sequence, mark, keep)
  }

  private refusalOf(op: ShardOp): ErrorCode {
    const refusal = this.gate.refusal()
    if (refusal !== ErrorCode.Ok) return refusal
    if (op.kind === OpKind.DeleteLayer) return ErrorCode.Ok
    const blocksMax = op.kind === OpKind.Write ? PIECE_BLOCKS_MAX : CHUNK_BLOCKS
    const valid =
      op.blockCount >= 1 &&
      op.blockCount <= blocksMax &&
      op.firstBlock + op.blockCount <= CHUNK_BLOCKS &&
      op.sequence <= SEQUENCE_MAX
    if (!valid) return ErrorCode.InvalidArgument
    if (op.kind === OpKind.Write && op.keySlot !== 0) {
      if ((op.flags & OpFlag.Sealed) !== 0) return ErrorCode.InvalidArgument
      if (this.keyOf(op) === null) return ErrorCode.Locked
    }
    if (this.voids.count > 0 && this.voids.touches(op)) return ErrorCode.StaleEpoch
    if ((op.flags & OpFlag.SameVersion) !== 0 && !this.isHeld(op)) return ErrorCode.Conflict
    return ErrorCode.Ok
  }

  /**
   * Nothing there that is not hidden already; asked only while the batch is empty. Else a client
   * that trims the same blocks again and again would fill a full shard with tombstones.
   */
  private isNoop(op: ShardOp): boolean {
    if (op.kind === OpKind.Write || (op.kind === OpKind.WriteZeroes && !isHole(op))) return false
    if (op.kind !== OpKind.DeleteLayer && keepsHole(op)) return false
    const layer = this.index.layerIndex(
      op.familyHigh,
      op.familyLow,
      op.layerHigh,
      op.layerLow,
      false
    )
    if (op.kind === OpKind.DeleteLayer) return layer < 0 && !this.merges.mayHide(op)
    if (layer < 0) return true
    return this.index.countFilled(layer, op.chunk, op.firstBlock, op.blockCount) === 0
  }

  /** Each block stands here as data of the op's version. */
  private isHeld(op: ShardOp): boolean {
    const { familyHigh, familyLow, layerHigh, layerLow } = op
    const layer = this.index.layerIndex(familyHigh, familyLow, layerHigh, layerLow, false)
    return this.queries.countOf(layer, op) === op.blockCount
  }

  /** Plans the op into a new segment, as the first of its batch. */
  private rotateFor(op: ShardOp, blockCount: number): ErrorCode {
    const mayRotate = this.gate.mayRotate(isData(op))
    const tagBytes = tagBytesOf(op)
    if (this.appender.plan(blockCount, tagBytes)) return ErrorCode.Ok // making room began a segment
    if (!mayRotate) return ErrorCode.OutOfSpace
    try {
      this.appender.rotate()
      // Larger than a whole segment: only with the tiny segments of tests.
      return this.appender.plan(blockCount, tagBytes) ? ErrorCode.Ok : ErrorCode.InvalidArgument
    } catch (thrown) {
      const failure = storeErrorOf(thrown)
      this.gate.writeFailed(failure)
      this.host.log('error', 'a segment could not begin', { why: failure.message })
      return failure.code
    }
  }
}

/** In `resultA` between planning and applying: the op needs no record. */
const NOTHING_TO_DO = -1

const isMutation = (kind: number): boolean =>
  kind === OpKind.Write ||
  kind === OpKind.Trim ||
  kind === OpKind.WriteZeroes ||
  kind === OpKind.DeleteLayer

const tagBytesOf = (op: ShardOp): number => {
  if (op.kind !== OpKind.Write) return 0
  return op.keySlot !== 0 || (op.flags & OpFlag.Sealed) !== 0 ? SEAL_TAG_BYTES : 0
}

/** It takes space, and gives none back. */
const isData = (op: ShardOp): boolean =>
  op.kind === OpKind.Write || (op.kind === OpKind.WriteZeroes && !isHole(op))

/** Something below it may show through, or come yet; on all members alike, whose sums count it. */
const keepsHole = (op: ShardOp): boolean =>
  (op.flags & OpFlag.KeepHole) !== 0 || layerNumber(op.layerLow) > 0

const isHole = (op: ShardOp): boolean => op.kind === OpKind.Trim || (op.flags & OpFlag.NoHole) === 0

function setRecordOf(record: BlockRecord, op: ShardOp): void {
  const isDelete = op.kind === OpKind.DeleteLayer
  record.type = isDelete
    ? RecordType.DeleteLayer
    : op.kind === OpKind.Write
      ? RecordType.Data
      : isHole(op)
        ? RecordType.Trim
        : RecordType.WriteZeroes
  record.flags = 0
  record.tagBytes = tagBytesOf(op)
  record.chunk = isDelete ? 0 : op.chunk
  record.familyHigh = op.familyHigh
  record.familyLow = op.familyLow
  record.layerHigh = op.layerHigh
  record.layerLow = op.layerLow
  record.firstBlock = isDelete ? 0 : op.firstBlock
  record.blockCount = isDelete ? 0 : op.blockCount
  record.writerEpoch = isDelete ? 0 : op.writerEpoch
  record.sequence = isDelete ? 0 : op.sequence
  record.originLsn = 0
}
