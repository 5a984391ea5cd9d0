/**
 * One shard of a peer: the blocks of the chunks that hash to it, in append-only segment files of
 * one directory. Everything is synchronous; one thread owns a shard.
 *
 *   execute      ops of a drained queue: one gathered write, index, reads
 *   background   compaction, checkpoint, scrub, in slices between drained queues
 *
 * A write is in the files when `execute` returns, and durable when the tracker's durableLsn has
 * reached its batch's lsn (a Flush op waits for that).
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { Appender } from './appender.ts'
import { BlockReader } from './block-reader.ts'
import { BlockWriter } from './block-writer.ts'
import { ExtentIndex } from './extent-index.ts'
import { BlockViews } from './memory.ts'
import { OpKind, type ShardOp } from './op.ts'
import type { Problem } from './problem.ts'
import { Recovery } from './recovery.ts'
import { Segments } from './segments.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'
import { formatShardSuperblock, requireShardSuperblock } from './superblock-file.ts'

const ShardState = { Recovering: 0, Serving: 1, Failed: 2, Stopped: 3 } as const
type ShardState = (typeof ShardState)[keyof typeof ShardState]

export class Shard {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly appender: Appender
  private readonly reader: BlockReader
  private readonly writer: BlockWriter
  private state: ShardState = ShardState.Recovering
  /** Why the shard takes no writes; '' while it does. */
  private failure = ''

  /**
   * Makes an empty shard in an empty directory.
   * @throws StoreError AlreadyExists when something is in it
   */
  static format(config: ShardConfig, host: ShardHost): void {
    const names = host.files.list()
    if (names.length > 0) {
      throw new StoreError(
        ErrorCode.AlreadyExists,
        `directory of shard ${config.shard} is not empty: it holds ${names[0]}`
      )
    }
    formatShardSuperblock(config, host)
  }

  /**
   * Recovers a shard from its files; returns when it can serve.
   * @throws StoreError Corrupt (foreign identity, no superblock), UnknownVersion, DiskFailure
   */
  static open(config: ShardConfig, host: ShardHost): Shard {
    requireShardSuperblock(config, host)
    const shard = new Shard(config, host)
    shard.recover()
    return shard
  }

  private constructor(config: ShardConfig, host: ShardHost) {
    this.config = config
    this.host = host
    this.segments = new Segments(config, host)
    this.index = new ExtentIndex(this.segments)
    this.appender = new Appender(config, host, this.segments)
    const views = new BlockViews(host.memory)
    this.reader = new BlockReader(host, this.segments, this.index, views)
    this.writer = new BlockWriter(host, {
      segments: this.segments,
      index: this.index,
      appender: this.appender,
      views,
      gate: this
    })
  }

  /**
   * Carries out `ops[0, count)` and sets their answers. Mutations come first, in their order; then
   * reads and status, then flushes: all of them were in flight together.
   */
  execute(ops: readonly ShardOp[], count: number): void {
    let mutations = 0
    for (let i = 0; i < count; i++) {
      const op = ops[i]!
      op.error = ErrorCode.Ok
      op.resultA = 0
      op.resultB = 0
      if (op.kind >= OpKind.Write && op.kind <= OpKind.WriteZeroes) mutations++
      else if (op.kind === OpKind.DeleteLayer) mutations++
    }
    if (mutations > 0) this.writer.execute(ops, count)
    if (mutations === count) return
    for (let i = 0; i < count; i++) {
      const op = ops[i]!
      if (op.kind === OpKind.Read) this.reader.read(op)
      else if (op.kind >= OpKind.Flush) this.control(op)
    }
  }

  /** Works for about `budgetMs`. Returns whether there is more to do now. */
  background(_budgetMs: number): boolean {
    this.noteFailure()
    this.refreshStats()
    return this.index.reclaim(64)
  }

  /** Milliseconds until background work may be wanted again. */
  nextWakeMs(): number {
    return 1000
  }

  /** Seals, syncs and closes the files. */
  close(): void {
    if (this.state === ShardState.Serving && !this.config.readOnly) {
      this.appender.seal()
      this.host.tracker.syncNow()
      this.noteFailure()
    }
    this.segments.closeAll()
    this.setState(ShardState.Stopped)
  }

  // WriteGate
  refusal(): ErrorCode {
    if (this.state === ShardState.Serving && this.host.tracker.failure() === '') return ErrorCode.Ok
    this.noteFailure()
    return this.state === ShardState.Stopped ? ErrorCode.Closed : ErrorCode.ShardFailed
  }

  mayRotate(_forData: boolean): boolean {
    const bytes = (this.segments.usedCount + 1) * this.config.segmentBytes
    return bytes <= this.config.capacityBytes
  }

  private control(op: ShardOp): void {
    switch (op.kind) {
      case OpKind.BlockStatus:
        this.reader.status(op)
        return
      case OpKind.Flush:
        this.host.tracker.syncNow()
        op.error = this.refusal()
        return
      case OpKind.DeleteLayer:
        return
      case OpKind.Compact:
      case OpKind.Scrub:
      case OpKind.Checkpoint:
        return
      default:
        op.error = ErrorCode.InvalidArgument
    }
  }

  private recover(): void {
    this.setState(ShardState.Recovering)
    const { stats, clock } = this.host
    const startMs = clock.monotonicMs()
    const recovery = new Recovery(this.config, this.host, {
      segments: this.segments,
      index: this.index,
      report: (problem) => this.report(problem)
    })
    const result = recovery.run()
    this.appender.nextLsn = result.lastLsn + 1
    this.appender.durableFloor = result.lastLsn
    stats[shardStatIndex.recoveryRecords] = result.records
    stats[shardStatIndex.recoveryMs] = clock.monotonicMs() - startMs
    stats[shardStatIndex.damagedBatches] = result.damagedBatches
    stats[shardStatIndex.appendedLsn] = result.lastLsn
    this.setState(ShardState.Serving)
    this.noteFailure()
    this.refreshStats()
  }

  private report(problem: Problem): void {
    this.host.log('error', 'damage found', { ...problem })
  }

  private noteFailure(): void {
    const failure = this.host.tracker.failure()
    if (failure === '' || this.failure !== '') return
    this.failure = failure
    this.host.stats[shardStatIndex.syncFailures]!++
    this.host.log('error', 'a sync failed: the shard takes no more writes', { why: failure })
    if (this.state === ShardState.Serving) this.setState(ShardState.Failed)
  }

  private setState(state: ShardState): void {
    this.state = state
    this.host.stats[shardStatIndex.state] = state
  }

  private refreshStats(): void {
    const { stats } = this.host
    const { segments } = this
    stats[shardStatIndex.capacityBytes] = this.config.capacityBytes
    stats[shardStatIndex.usedBytes] = segments.usedCount * this.config.segmentBytes
    stats[shardStatIndex.liveBytes] = segments.liveBlocks * BLOCK_BYTES
    stats[shardStatIndex.segments] = segments.usedCount
    stats[shardStatIndex.segmentsFree] = segments.freeCount
    stats[shardStatIndex.indexEntries] = this.index.entries
    stats[shardStatIndex.indexBytes] = this.index.bytes
    stats[shardStatIndex.durableLsn] = this.appender.durableLsn()
  }
}
