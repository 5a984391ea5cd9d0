/** Reads what is live in an old shard and writes it to the new ones. */
import { statfsSync } from 'node:fs'
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, PIECE_BLOCKS_MAX } from '../core/limits.ts'
import { RecordType, SEAL_TAG_BYTES } from '../format/batch.ts'
import type { Superblock } from '../format/superblock.ts'
import { hexOf } from './block-reader.ts'
import { offlineConfig, offlineHost, shardDirectory } from './check.ts'
import { DiskFiles } from './disk-files.ts'
import { readFailureMarker } from './failure-marker.ts'
import { BlockViews, pageAlignedBuffer } from './memory.ts'
import { OpFlag, OpKind, ShardOp } from './op.ts'
import type { Problem } from './problem.ts'
import { openRecords, RecordCursor } from './record-source.ts'
import { type RecoveredShard, recoverShard } from './recovery.ts'
import { RunList } from './run-list.ts'
import type { Segment } from './segments.ts'
import { Shard } from './shard.ts'
import { requireShardSuperblock } from './superblock-file.ts'

export interface ReshardOptions {
  /** Which of `shards` a chunk belongs to: the same rule that the server uses. */
  shardOf: (familyHigh: number, familyLow: number, chunk: number, shards: number) => number
  /** Blocks that cannot be read are left out (they read as zeroes then) instead of a refusal. */
  acceptLoss?: boolean
  onProgress?: (progress: ReshardProgress) => void
  /** A block or record that cannot be carried over. */
  onProblem?: (problem: Problem) => void
}

export interface ReshardProgress {
  readonly phase: 'copying' | 'renaming'
  /** Old shard that is being copied, of how many. */
  readonly shard: number
  readonly shards: number
  readonly blocksDone: number
  readonly blocksTotal: number
}

/** New shards gather this much before it is written. */
const GATHER_BLOCKS = PIECE_BLOCKS_MAX
/** Room for footers, headers and checkpoints on top of what is copied. */
const SPACE_FACTOR = 1.1

/** A new shard, with what waits to be written to it. */
export class ReshardTarget {
  readonly shard: Shard
  /** Blocks, then their tags. */
  private readonly memory = pageAlignedBuffer(GATHER_BLOCKS * (BLOCK_BYTES + SEAL_TAG_BYTES))
  private readonly ops: ShardOp[] = []
  private count = 0
  private blocks = 0

  constructor(directory: string, superblock: Superblock, shard: number) {
    const config = offlineConfig({ ...superblock, shards: superblock.reshardTo }, { shard })
    const files = new DiskFiles(shardDirectory(directory, shard))
    this.shard = Shard.open(
      config,
      offlineHost(files, this.memory, () => {})
    )
  }

  /** An op for `fill` to complete; its payload has room for `blockCount` blocks, and for tags. */
  add(
    blockCount: number,
    source: Buffer | null,
    offset: number,
    fill: (op: ShardOp) => void,
    tags: Buffer | null = null,
    tagsAt: number = 0
  ): void {
    assert(blockCount <= GATHER_BLOCKS, 'a record is no larger than a piece')
    if (this.blocks + blockCount > GATHER_BLOCKS || this.count >= GATHER_BLOCKS) this.write()
    if (this.count === this.ops.length) this.ops.push(new ShardOp())
    const op = this.ops[this.count++]!
    op.payload = this.blocks * BLOCK_BYTES
    op.tags = GATHER_BLOCKS * BLOCK_BYTES + this.blocks * SEAL_TAG_BYTES
    fill(op)
    if (source === null) return
    if (tags !== null) {
      op.flags |= OpFlag.Sealed
      tags.copy(this.memory, op.tags, tagsAt, tagsAt + blockCount * SEAL_TAG_BYTES)
    }
    source.copy(this.memory, op.payload, offset, offset + blockCount * BLOCK_BYTES)
    this.blocks += blockCount
  }

  flush(): void {
    this.write()
    const op = new ShardOp()
    op.kind = OpKind.Flush
    this.shard.execute([op], 1)
    throwIfFailed(op)
  }

  private write(): void {
    if (this.count === 0) return
    this.shard.execute(this.ops, this.count)
    for (let i = 0; i < this.count; i++) throwIfFailed(this.ops[i]!)
    this.shard.background(0)
    this.count = 0
    this.blocks = 0
  }
}

function throwIfFailed(op: ShardOp): void {
  if (op.error === ErrorCode.Ok) return
  const code = op.error as ErrorCode
  throw new StoreError(code, `a new shard refused a write: ${errorCodeName(code)}`)
}

/** Copies what is live in one old shard. Reads only. */
export class ShardCopy {
  private readonly superblock: Superblock
  private readonly directory: string
  private readonly number: number
  private readonly targets: readonly ReshardTarget[]
  private readonly options: ReshardOptions
  private readonly files: DiskFiles
  private readonly cursor = new RecordCursor()
  private readonly runs = new RunList()
  private readonly checksums = new Uint32Array(CHUNK_BLOCKS)
  private readonly tags = Buffer.alloc(CHUNK_BLOCKS * SEAL_TAG_BYTES)
  private readonly buffer = pageAlignedBuffer(CHUNK_BLOCKS * BLOCK_BYTES)
  private readonly views = new BlockViews(this.buffer)
  private blocksDone = 0
  private problems = 0

  constructor(
    directory: string,
    superblock: Superblock,
    shard: number,
    targets: readonly ReshardTarget[],
    options: ReshardOptions
  ) {
    this.directory = directory
    this.superblock = superblock
    this.number = shard
    this.targets = targets
    this.options = options
    this.files = new DiskFiles(shardDirectory(directory, shard))
  }

  run(): void {
    const config = offlineConfig(this.superblock, { shard: this.number, readOnly: true })
    const host = offlineHost(this.files, Buffer.alloc(0), () => {})
    requireShardSuperblock(config, host)
    const report = (problem: Problem): void => this.problem(problem)
    const marker = readFailureMarker(this.files)
    const old = recoverShard(config, host, { report, marker })
    this.refuseDamage()
    this.requireSpace(old)
    for (const segment of old.segments.used()) this.copySegment(old, segment)
    this.refuseDamage()
    for (const target of this.targets) target.flush()
    old.segments.closeAll()
  }

  private problem(problem: Problem): void {
    this.problems++
    this.options.onProblem?.(problem)
  }

  private refuseDamage(): void {
    if (this.problems === 0 || this.options.acceptLoss === true) return
    throw new StoreError(
      ErrorCode.ChecksumMismatch,
      `shard ${this.number} has ${this.problems} damaged places, which 'torus check' names; ` +
        'what they held would read as zeroes, and that has to be accepted first'
    )
  }

  private requireSpace(old: RecoveredShard): void {
    const needed = Math.ceil(old.segments.liveBlocks * BLOCK_BYTES * SPACE_FACTOR)
    const { bavail, bsize } = statfsSync(this.directory)
    if (bavail * bsize >= needed) return
    throw new StoreError(
      ErrorCode.OutOfSpace,
      `the filesystem has ${bavail * bsize} bytes free, ` +
        `the copy of shard ${this.number} needs ${needed}`
    )
  }

  private copySegment(old: RecoveredShard, segment: Segment): void {
    openRecords(this.files, old.segments, segment, this.cursor)
    while (this.cursor.advance()) {
      const { type } = this.cursor.record
      if (type === RecordType.Data) this.copyData(old, segment)
      else if (type === RecordType.WriteZeroes) this.copyMarks(old, OpFlag.NoHole)
      else if (type === RecordType.Trim) this.copyMarks(old, OpFlag.KeepHole)
    }
    this.options.onProgress?.({
      phase: 'copying',
      shard: this.number,
      shards: this.superblock.shards,
      blocksDone: this.blocksDone,
      blocksTotal: old.segments.liveBlocks
    })
  }

  private layerOf(old: RecoveredShard): number {
    const { familyHigh, familyLow, layerHigh, layerLow } = this.cursor.record
    return old.index.layerIndex(familyHigh, familyLow, layerHigh, layerLow, false)
  }

  private copyMarks(old: RecoveredShard, flag: number): void {
    const { chunk, firstBlock, blockCount, writerEpoch, sequence } = this.cursor.record
    const { runs } = this
    const layer = this.layerOf(old)
    old.index.markRuns(layer, chunk, firstBlock, blockCount, writerEpoch, sequence, runs)
    for (let run = 0; run < runs.length; run++) {
      this.target().add(0, null, 0, (op) => {
        this.fill(op, OpKind.WriteZeroes, runs.firsts[run]!, runs.counts[run]!)
        op.flags = flag
      })
    }
  }

  private copyData(old: RecoveredShard, segment: Segment): void {
    const { record, page } = this.cursor
    const { chunk, firstBlock, blockCount } = record
    const { runs } = this
    const location = old.segments.locationOf(segment.slot, page)
    old.index.liveRuns(this.layerOf(old), chunk, firstBlock, blockCount, location, runs)
    if (runs.length > 0) {
      this.cursor.checksums(this.checksums)
      this.cursor.tags(this.tags, 0)
    }
    for (let run = 0; run < runs.length; run++) {
      const first = runs.firsts[run]!
      const count = runs.counts[run]!
      const offset = old.segments.pageOf(runs.locations[run]!) * BLOCK_BYTES
      const handle = old.segments.open(segment)
      const got = this.files.read(handle, offset, this.buffer, 0, count * BLOCK_BYTES)
      this.copyRun(segment, first, count, offset, got)
      this.blocksDone += count
    }
  }

  /** Copies the blocks of a run that verify, as far as `got` bytes reach. */
  private copyRun(
    segment: Segment,
    first: number,
    count: number,
    offset: number,
    got: number
  ): void {
    let start = 0
    for (let i = 0; i <= count; i++) {
      const at = i * BLOCK_BYTES
      const isGood =
        i < count &&
        at + BLOCK_BYTES <= got &&
        crc32c(this.views.at(at)) === this.checksums[first + i - this.cursor.record.firstBlock]
      if (isGood) continue
      if (i > start) {
        const from = start
        const { firstBlock, tagBytes } = this.cursor.record
        const fill = (op: ShardOp): void => this.fill(op, OpKind.Write, first + from, i - from)
        const tags = tagBytes === 0 ? null : this.tags
        const tagsAt = (first + from - firstBlock) * tagBytes
        this.target().add(i - from, this.buffer, from * BLOCK_BYTES, fill, tags, tagsAt)
      }
      start = i + 1
      if (i < count) this.damaged(segment, first + i, offset + at)
    }
  }

  private damaged(segment: Segment, block: number, offset: number): void {
    const { familyHigh, familyLow, layerHigh, layerLow, chunk } = this.cursor.record
    this.problem({
      kind: 'payload',
      file: `segment ${segment.slot}`,
      offset,
      detail: 'the checksum does not match',
      block: {
        family: hexOf(familyHigh, familyLow),
        layer: hexOf(layerHigh, layerLow),
        chunk,
        block
      }
    })
  }

  private target(): ReshardTarget {
    const { familyHigh, familyLow, chunk } = this.cursor.record
    return this.targets[this.options.shardOf(familyHigh, familyLow, chunk, this.targets.length)]!
  }

  private fill(op: ShardOp, kind: number, first: number, count: number): void {
    const { record } = this.cursor
    op.kind = kind
    op.flags = 0
    op.familyHigh = record.familyHigh
    op.familyLow = record.familyLow
    op.layerHigh = record.layerHigh
    op.layerLow = record.layerLow
    op.chunk = record.chunk
    op.firstBlock = first
    op.blockCount = count
    op.writerEpoch = record.writerEpoch
    op.sequence = record.sequence
  }
}
