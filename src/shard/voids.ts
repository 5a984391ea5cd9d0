/**
 * Versions of blocks that are void in this shard (PROTOCOL.md, R21): a resync found that no member
 * in sync has them, so they must never be seen, though their records stand in the segments until
 * compaction drops these. There are none of them as long as no writer dies in the middle of a
 * write, so everything here may be slow but the question whether there are any.
 */
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import { CHUNK_BLOCKS, SEQUENCE_MAX, VOIDS_MAX } from '../core/limits.ts'
import type { BlockRecord } from '../format/batch.ts'
import { decodeVoids, encodeVoids, type VoidRun } from '../format/voids.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { Files } from './files.ts'
import { type ShardOp, VOID_BYTES } from './op.ts'
import { replaceFile } from './replace-file.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { readShardTable } from './shard-table.ts'

const VOIDS_NAME = 'voids'

/** What a record and a request have in common. */
type Versioned = Pick<
  BlockRecord,
  'familyHigh' | 'familyLow' | 'layerHigh' | 'layerLow' | 'chunk' | 'writerEpoch' | 'sequence'
>

export class Voids {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly files: Files
  private runs: readonly VoidRun[] = []
  private readonly byChunk = new Map<number, VoidRun[]>()
  /** By block, for `markOf`. */
  private readonly marks = new Uint8Array(CHUNK_BLOCKS)

  /** @throws StoreError Corrupt, UnknownVersion, DiskFailure */
  constructor(config: ShardConfig, host: ShardHost) {
    this.config = config
    this.host = host
    this.files = host.files
    this.take(readShardTable(this.files, VOIDS_NAME, config, decodeVoids))
  }

  get count(): number {
    return this.runs.length
  }

  /** Whether any block of the op's range is void in the op's version. */
  touches(op: ShardOp): boolean {
    return this.some(op, op.firstBlock, op.blockCount)
  }

  /**
   * Whether any block of the record is void; `isVoid` then tells which, by block of the chunk,
   * until the next call.
   */
  mark(record: BlockRecord): boolean {
    if (!this.some(record, record.firstBlock, record.blockCount)) return false
    this.marks.fill(0)
    for (const run of this.byChunk.get(keyOf(record))!) {
      if (!isOf(run, record) || !isIn(run, record)) continue
      this.marks.fill(1, run.firstBlock, run.firstBlock + run.blockCount)
    }
    return true
  }

  isVoid(block: number): boolean {
    return this.marks[block] === 1
  }

  /**
   * For what a checkpoint brought: blocks that hold a void version hold nothing. Nor do those whose
   * segment is gone, at `lost`: it could be freed because the void version had taken its place.
   */
  applyTo(index: ExtentIndex, lost: number): void {
    for (const run of this.runs) drop(index, run, lost)
  }

  /**
   * Carries out an op with entries in its payload page: durable, then done in the index. `lsn` is
   * that of the next batch.
   */
  add(op: ShardOp, index: ExtentIndex, lsn: number): void {
    const added = runsOf(op, this.host.memory, lsn)
    if (added === null) {
      op.error = ErrorCode.InvalidArgument
      return
    }
    if (this.runs.length + added.length > VOIDS_MAX) {
      op.error = ErrorCode.LimitReached
      this.host.log('error', 'too many void versions: compact the shard', { limit: VOIDS_MAX })
      return
    }
    const runs = [...this.runs, ...added]
    try {
      this.write(runs)
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      op.error = error.code
      this.host.log('error', 'void versions could not be recorded', { why: error.message })
      return
    }
    this.take(runs)
    for (const run of added) drop(index, run)
  }

  /**
   * Recovery finds nothing from before `lsn` any more: voids of that time are forgotten. One of
   * that very lsn stays: a checkpoint that begins there may have been begun before the void.
   */
  forgetBelow(lsn: number): void {
    const kept = this.runs.filter((run) => run.lsn >= lsn)
    if (kept.length === this.runs.length) return
    try {
      this.write(kept)
    } catch (thrown) {
      const why = storeErrorOf(thrown).message
      this.host.log('warn', 'void versions could not be forgotten yet', { why })
      return
    }
    this.take(kept)
  }

  private some(what: Versioned, firstBlock: number, blockCount: number): boolean {
    const runs = this.byChunk.get(keyOf(what))
    if (runs === undefined) return false
    return runs.some(
      (run) =>
        isOf(run, what) &&
        isIn(run, what) &&
        run.firstBlock < firstBlock + blockCount &&
        firstBlock < run.firstBlock + run.blockCount
    )
  }

  private take(runs: readonly VoidRun[]): void {
    this.runs = runs
    this.byChunk.clear()
    for (const run of runs) {
      const key = keyOf(run)
      const known = this.byChunk.get(key)
      if (known === undefined) this.byChunk.set(key, [run])
      else known.push(run)
    }
  }

  /** Replaces the file; durable on return. */
  private write(runs: readonly VoidRun[]): void {
    const { files } = this
    if (runs.length === 0) {
      files.remove(VOIDS_NAME)
      files.syncDirectory()
      return
    }
    const { clusterId, peerId, shard } = this.config
    const bytes = encodeVoids({ clusterId, peerId, shard, runs })
    replaceFile(files, VOIDS_NAME, bytes)
    files.syncDirectory()
  }
}

/** Ids are random, so this spreads well; those that meet are told apart by `isOf`. */
const keyOf = (what: Versioned): number =>
  (what.layerLow ^ what.familyHigh ^ Math.imul(what.chunk, 0x9e3779b1)) >>> 0

const isOf = (run: VoidRun, what: Versioned): boolean =>
  run.chunk === what.chunk &&
  run.layerLow === what.layerLow &&
  run.layerHigh === what.layerHigh &&
  run.familyLow === what.familyLow &&
  run.familyHigh === what.familyHigh

function isIn(run: VoidRun, { writerEpoch, sequence }: Versioned): boolean {
  const isAboveFloor =
    writerEpoch === run.floorEpoch ? sequence > run.floorSequence : writerEpoch > run.floorEpoch
  const isBelowEnd =
    writerEpoch === run.writerEpoch ? sequence <= run.sequence : writerEpoch < run.writerEpoch
  return isAboveFloor && isBelowEnd
}

function drop(index: ExtentIndex, run: VoidRun, lost?: number): void {
  const { familyHigh, familyLow, layerHigh, layerLow, chunk, firstBlock, blockCount } = run
  const layer = index.layerIndex(familyHigh, familyLow, layerHigh, layerLow, false)
  index.dropVersions(layer, chunk, firstBlock, blockCount, run, lost)
}

/** Null when an entry makes no sense. */
function runsOf(op: ShardOp, memory: Buffer, lsn: number): VoidRun[] | null {
  const runs: VoidRun[] = []
  for (let i = 0; i < op.blockCount; i++) {
    const at = op.payload + i * VOID_BYTES
    const run: VoidRun = {
      familyHigh: op.familyHigh,
      familyLow: op.familyLow,
      layerHigh: op.layerHigh,
      layerLow: op.layerLow,
      chunk: op.chunk,
      firstBlock: memory.readUInt16LE(at),
      blockCount: memory.readUInt16LE(at + 2),
      writerEpoch: memory.readUInt32LE(at + 8),
      floorEpoch: memory.readUInt32LE(at + 12),
      sequence: Number(memory.readBigUInt64LE(at + 16)),
      floorSequence: Number(memory.readBigUInt64LE(at + 24)),
      lsn
    }
    const isRange = run.blockCount >= 1 && run.firstBlock + run.blockCount <= CHUNK_BLOCKS
    if (!isRange || run.sequence > SEQUENCE_MAX || run.floorSequence > SEQUENCE_MAX) return null
    runs.push(run)
  }
  return runs.length > 0 ? runs : null
}
