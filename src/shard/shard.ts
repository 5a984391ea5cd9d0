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
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { Appender } from './appender.ts'
import { BlockReader } from './block-reader.ts'
import { BlockWriter } from './block-writer.ts'
import { CheckpointWriter } from './checkpoint-writer.ts'
import { Compactor } from './compactor.ts'
import type { ExtentIndex } from './extent-index.ts'
import { BlockViews } from './memory.ts'
import { OpFlag, OpKind, type ShardOp } from './op.ts'
import { type RecoveredShard, type RecoveryResult, recoverShard } from './recovery.ts'
import type { Segments } from './segments.ts'
import { RESERVE_SEGMENTS, type ShardConfig, type ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'
import { formatShardSuperblock, requireShardSuperblock } from './superblock-file.ts'

const ShardState = { Recovering: 0, Serving: 1, Failed: 2, Stopped: 3 } as const
type ShardState = (typeof ShardState)[keyof typeof ShardState]

/** How long a sleeping worker may leave background work unlooked at. */
const WAKE_MS = 250
const IDLE_WAKE_MS = 10_000
/** Chunks of dropped layers whose memory is given back in one slice. */
const RECLAIM_CHUNKS = 64
/** One compaction slice for each of these written while space is short: copies run twice ahead. */
const PACE_BLOCKS = 128
/** Fewer records are replayed faster than a checkpoint is written. */
const CLOSE_RECORDS_MIN = 10_000

export class Shard {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly appender: Appender
  private readonly reader: BlockReader
  private readonly writer: BlockWriter
  private readonly checkpoint: CheckpointWriter
  private readonly compactor: Compactor
  private state: ShardState = ShardState.Recovering
  private makingRoom = false
  /** Blocks written while space was short and compaction did not yet answer for. */
  private debtBlocks = 0
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
    host.stats[shardStatIndex.state] = ShardState.Recovering
    const startMs = host.clock.monotonicMs()
    const recovered = recoverShard(config, host, (problem) =>
      host.log('error', 'damage found', { ...problem })
    )
    const shard = new Shard(config, host, recovered)
    host.stats[shardStatIndex.recoveryMs] = host.clock.monotonicMs() - startMs
    return shard
  }

  private constructor(config: ShardConfig, host: ShardHost, recovered: RecoveredShard) {
    this.config = config
    this.host = host
    this.segments = recovered.segments
    this.index = recovered.index
    this.appender = new Appender(config, host, this.segments)
    const parts = { segments: this.segments, index: this.index, appender: this.appender }
    this.checkpoint = new CheckpointWriter(config, host, parts)
    this.compactor = new Compactor(config, host, {
      ...parts,
      checkpoint: this.checkpoint,
      mayRotate: () => this.hasRoom(false)
    })
    const views = new BlockViews(host.memory)
    this.reader = new BlockReader(host, this.segments, this.index, views)
    this.writer = new BlockWriter(host, {
      segments: this.segments,
      index: this.index,
      appender: this.appender,
      views,
      gate: this
    })
    this.begin(recovered.result)
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
    if (mutations > 0) {
      this.writer.execute(ops, count)
      this.pace(ops, count)
    }
    if (mutations === count) return
    for (let i = 0; i < count; i++) {
      const op = ops[i]!
      if (op.kind === OpKind.Read) this.reader.read(op)
      else if (op.kind >= OpKind.Flush) this.control(op)
    }
  }

  /** Works for about `budgetMs`. Returns whether there is more to do now. */
  background(budgetMs: number): boolean {
    const { clock } = this.host
    const endMs = clock.monotonicMs() + budgetMs
    this.noteFailure()
    let more = true
    while (more) {
      more = this.backgroundSlice()
      if (clock.monotonicMs() >= endMs) break
    }
    this.refreshStats()
    return more
  }

  /** Milliseconds until background work may be wanted again. */
  nextWakeMs(): number {
    return this.state === ShardState.Serving ? WAKE_MS : IDLE_WAKE_MS
  }

  /** Ends background work, writes a checkpoint if it saves time, seals, syncs, closes the files. */
  close(): void {
    if (this.state === ShardState.Serving && !this.config.readOnly) {
      this.checkpoint.cancel()
      this.appender.seal()
      this.host.tracker.syncNow()
      this.noteFailure()
      if (this.failure === '' && this.checkpoint.recordsSince > CLOSE_RECORDS_MIN) {
        this.checkpoint.writeNow()
      }
    }
    this.refreshStats()
    this.segments.closeAll()
    this.setState(ShardState.Stopped)
  }

  // WriteGate
  refusal(): ErrorCode {
    if (this.state === ShardState.Serving && this.host.tracker.failure() === '') return ErrorCode.Ok
    this.noteFailure()
    return this.state === ShardState.Stopped ? ErrorCode.Closed : ErrorCode.ShardFailed
  }

  mayRotate(forData: boolean): boolean {
    if (this.hasRoom(forData)) return true
    if (this.makingRoom) return false
    this.makingRoom = true
    try {
      return this.makeRoom(forData)
    } finally {
      this.makingRoom = false
    }
  }

  /** Compacts until another segment may begin, or nothing more is to be had. */
  private makeRoom(forData: boolean): boolean {
    for (;;) {
      if (!this.compactor.step(true)) {
        if (!this.compactor.isWaiting) return this.hasRoom(forData)
        const freed = this.segments.usedCount
        this.host.tracker.syncNow()
        this.compactor.drain() // copies durable: free headers written
        this.host.tracker.syncNow()
        this.compactor.drain() // free headers durable
        if (this.segments.usedCount >= freed && !this.compactor.step(true)) return false
      }
      if (this.hasRoom(forData)) return true
    }
  }

  private hasRoom(forData: boolean): boolean {
    const { segmentBytes, capacityBytes } = this.config
    const reserve = forData ? RESERVE_SEGMENTS : 0
    const segmentsMax = Math.floor(capacityBytes / segmentBytes)
    if (this.segments.usedCount + 1 + reserve > segmentsMax) return false
    if (this.segments.freeCount > reserve) return true
    try {
      return this.host.files.freeBytes() >= (1 + reserve) * segmentBytes
    } catch (thrown) {
      storeErrorOf(thrown)
      return true // the write itself will tell
    }
  }

  /** Space is short: compaction takes its share of every call, however busy the shard is. */
  private get isPressed(): boolean {
    const segmentsMax = Math.floor(this.config.capacityBytes / this.config.segmentBytes)
    const soft = Math.max(2, Math.floor(segmentsMax / 16))
    return this.segments.usedCount + RESERVE_SEGMENTS + soft >= segmentsMax
  }

  private pace(ops: readonly ShardOp[], count: number): void {
    if (!this.isPressed) return
    for (let i = 0; i < count; i++) {
      if (ops[i]!.kind === OpKind.Write) this.debtBlocks += ops[i]!.blockCount
    }
    while (this.debtBlocks >= PACE_BLOCKS && this.compactor.step(true)) {
      this.debtBlocks -= PACE_BLOCKS
    }
    this.debtBlocks = Math.min(this.debtBlocks, PACE_BLOCKS)
  }

  /** One slice of whatever is most wanted. */
  private backgroundSlice(): boolean {
    if (this.state !== ShardState.Serving || this.config.readOnly) return false
    if (this.index.reclaim(RECLAIM_CHUNKS)) return true
    if (this.checkpoint.isRunning) {
      if (this.checkpoint.step()) return true
    } else if (this.checkpoint.isDue) {
      this.checkpoint.start()
      return true
    }
    return this.compactor.step(this.isPressed)
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
        if ((op.flags & OpFlag.Stop) !== 0) this.compactor.stop()
        else this.compactor.force()
        return
      case OpKind.Checkpoint:
        this.checkpoint.start()
        return
      case OpKind.Scrub:
        return
      default:
        op.error = ErrorCode.InvalidArgument
    }
  }

  private begin(result: RecoveryResult): void {
    const { stats } = this.host
    this.appender.nextLsn = result.lastLsn + 1
    this.appender.durableFloor = result.lastLsn
    this.checkpoint.restore({
      generation: result.checkpointGeneration,
      startLsn: result.startLsn,
      olderStartLsn: result.olderStartLsn,
      records: result.records
    })
    stats[shardStatIndex.recoveryRecords] = result.records
    stats[shardStatIndex.damagedBatches] = result.damagedBatches
    stats[shardStatIndex.appendedLsn] = result.lastLsn
    this.setState(ShardState.Serving)
    this.noteFailure()
    this.refreshStats()
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
    let usedPages = 0
    for (const segment of segments.bySlot) if (segment !== null) usedPages += segment.endPage
    stats[shardStatIndex.deadBytes] = Math.max(0, usedPages - segments.liveBlocks) * BLOCK_BYTES
    stats[shardStatIndex.segments] = segments.usedCount
    stats[shardStatIndex.segmentsFree] = segments.freeCount
    stats[shardStatIndex.indexEntries] = this.index.entries
    stats[shardStatIndex.indexBytes] = this.index.bytes
    stats[shardStatIndex.durableLsn] = this.appender.durableLsn()
  }
}
