/** Answers what is asked of the index as a whole, by members that compare and copy, and others. */
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { isGroupCount } from '../placement/groups.ts'
import type { BlockReader } from './block-reader.ts'
import type { ExtentIndex } from './extent-index.ts'
import { AnswerWords, type IndexQueries, type SumsQuestion } from './index-queries.ts'
import {
  CHUNK_SUM_BYTES,
  DROP_BYTES,
  GROUP_BITS_PAGES,
  GROUP_SUM_BYTES,
  LAYER_BYTES,
  OpFlag,
  OpKind,
  READ_VERSIONS_BLOCKS_MAX,
  READ_VERSIONS_CRCS_AT,
  type ShardOp,
  VERSION_RUN_BYTES
} from './op.ts'
import { SpaceOps } from './space-ops.ts'

export class ReplicaOps {
  private readonly memory: Buffer
  private readonly words: Uint32Array
  private readonly reader: BlockReader
  private readonly queries: IndexQueries
  private readonly space: SpaceOps
  private readonly out = new AnswerWords()
  private readonly question: SumsQuestion = {
    familyHigh: 0,
    familyLow: 0,
    groups: 1,
    group: -1,
    withHoles: false,
    withChecksums: false
  }

  constructor(memory: Buffer, index: ExtentIndex, reader: BlockReader) {
    this.memory = memory
    this.words = new Uint32Array(memory.buffer, memory.byteOffset, Math.floor(memory.length / 4))
    this.reader = reader
    this.queries = index.queries()
    this.space = new SpaceOps(memory, index)
  }

  /** Sets the op's answer. False when its kind is none of these. */
  answer(op: ShardOp): boolean {
    switch (op.kind) {
      case OpKind.GroupSums:
      case OpKind.ChunkSums:
        this.sums(op)
        return true
      case OpKind.Versions:
        this.versions(op)
        return true
      case OpKind.ReadVersions:
        this.readVersions(op)
        return true
      case OpKind.ListChunks:
        this.listChunks(op)
        return true
      case OpKind.TakeDamage:
        this.reader.damage.take(op)
        return true
      case OpKind.FindChunks:
        this.queries.finds.answer(op, this.words)
        return true
      case OpKind.LayerSpace:
        this.space.answer(op)
        return true
      case OpKind.ListLayers:
        this.open(op)
        op.resultB = this.queries.listLayers(op.sequence, this.out)
        op.resultA = this.out.count(LAYER_BYTES / 4)
        return true
      default:
        return false
    }
  }

  private open(op: ShardOp): void {
    this.out.open(this.words, op.payload / 4, (op.blockCount * BLOCK_BYTES) / 4)
  }

  private sums(op: ShardOp): void {
    const { question } = this
    const isOfGroups = op.kind === OpKind.GroupSums
    const groups = op.chunk
    if (!isGroupCount(groups) || op.blockCount < 1 || op.sequence >= 2 ** 32) {
      op.error = ErrorCode.InvalidArgument
      return
    }
    question.familyHigh = op.familyHigh
    question.familyLow = op.familyLow
    question.groups = groups
    question.group = isOfGroups ? -1 : op.layerLow
    question.withHoles = (op.flags & OpFlag.WithHoles) !== 0
    question.withChecksums = (op.flags & OpFlag.WithChecksums) !== 0
    this.open(op)
    op.resultB = this.queries.sumUp(question, op.sequence, this.out)
    op.resultA = this.out.count((isOfGroups ? GROUP_SUM_BYTES : CHUNK_SUM_BYTES) / 4)
  }

  private listChunks(op: ShardOp): void {
    const { chunk: groups, payload, blockCount, sequence } = op
    if (!isGroupCount(groups) || blockCount < 1 || sequence >= 2 ** 32) {
      op.error = ErrorCode.InvalidArgument
      return
    }
    const bits = payload / 4
    const start = bits + (GROUP_BITS_PAGES * BLOCK_BYTES) / 4
    this.out.open(this.words, start, (blockCount * BLOCK_BYTES) / 4)
    op.resultB = this.queries.listChunks(groups, bits, sequence, this.out)
    op.resultA = this.out.count(DROP_BYTES / 4)
  }

  private isInside(op: ShardOp, blocksMax: number): boolean {
    const { firstBlock, blockCount } = op
    if (blockCount >= 1 && blockCount <= blocksMax && firstBlock + blockCount <= CHUNK_BLOCKS) {
      return true
    }
    op.error = ErrorCode.InvalidArgument
    return false
  }

  private versions(op: ShardOp): void {
    if (!this.isInside(op, CHUNK_BLOCKS)) return
    this.out.open(this.words, op.payload / 4, (op.blockCount * VERSION_RUN_BYTES) / 4)
    const layer = this.reader.layerOf(op)
    this.queries.versions(layer, op.chunk, op.firstBlock, op.blockCount, this.out)
    op.resultA = this.out.count(VERSION_RUN_BYTES / 4)
  }

  private readVersions(op: ShardOp): void {
    if (!this.isInside(op, READ_VERSIONS_BLOCKS_MAX)) return
    const { payload } = op
    this.memory.fill(0, payload, payload + BLOCK_BYTES)
    op.payload = payload + BLOCK_BYTES
    this.reader.read(op, true)
    op.payload = payload
    if (op.error === ErrorCode.Ok && (op.flags & OpFlag.Sealed) === 0 && this.reader.hasTags()) {
      op.error = ErrorCode.TagsWanted
    }
    if (op.error !== ErrorCode.Ok) return
    const crcsAt = (payload + READ_VERSIONS_CRCS_AT) / 4
    this.reader.copyChecksums(this.words, crcsAt)
    this.versions(op)
  }
}
