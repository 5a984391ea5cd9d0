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
import { ErrorCode, type StoreError, storeErrorOf } from '../core/errors.ts'
import { Appender } from './appender.ts'
import { BlockReader } from './block-reader.ts'
import { BlockWriter } from './block-writer.ts'
import { CheckpointWriter } from './checkpoint-writer.ts'
import { Compactor } from './compactor.ts'
import type { ExtentIndex, LayerKey } from './extent-index.ts'
import { BlockViews } from './memory.ts'
import { Evacuation } from './evacuation.ts'
import { readFailureMarker, writeFailureMarker } from './failure-marker.ts'
import { Forgetting, isForgetting } from './forgetting.ts'
import { OpFlag, OpKind, type ShardOp } from './op.ts'
import type { Merges } from './merges.ts'
import type { Problem } from './problem.ts'
import { type RecoveredShard, type RecoveryResult, recoverShard } from './recovery.ts'
import { ReplicaOps } from './replica-ops.ts'
import type { Segments } from './segments.ts'
import { listMissing } from './missing-blocks.ts'
import { Scrubber } from './scrubber.ts'
import { COMPACTION_SEGMENTS, type ShardConfig, type ShardHost } from './shard-config.ts'
import { Space } from './space.ts'
import { shardStatIndex } from './stats.ts'
import { formatShardSuperblock, requireShardSuperblock } from './superblock-file.ts'
import { TagTable } from './tag-table.ts'
import { noteUsage, usageOf } from './usage.ts'

const ShardState = { Recovering: 0, Serving: 1, Failed: 2, Stopped: 3 } as const
type ShardState = (typeof ShardState)[keyof typeof ShardState]

/** How long a sleeping worker may leave background work unlooked at. */
const WAKE_MS = 250
const IDLE_WAKE_MS = 10_000
/** Chunks of dropped layers whose memory is given back in one slice. */
const RECLAIM_CHUNKS = 64
/** Fewer records are replayed faster than a checkpoint of a large index is written. */
const CLOSE_RECORDS_MIN = 10_000
const SMALL_INDEX = 1_000_000
/** Without appends for this long, what became durable is noted in a batch of its own. */
const NOTE_DURABLE_MS = 1000

export class Shard {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly merges: Merges
  private readonly appender: Appender
  private readonly tags: TagTable
  private readonly reader: BlockReader
  private readonly replica: ReplicaOps
  private readonly forgetting: Forgetting
  private readonly writer: BlockWriter
  private readonly checkpoint: CheckpointWriter
  private readonly compactor: Compactor
  private readonly space: Space
  private readonly scrubber: Scrubber
  private state: ShardState = ShardState.Recovering
  /** Lsn at the last look, and since when it is that. */
  private idleLsn = 0
  private idleSinceMs = 0
  /** Why the shard takes no writes; '' while it does. */
  private failure = ''
  private evacuation: Evacuation | null = null

  /**
   * Makes an empty shard in an empty directory, or in one where that was begun and not finished.
   * @throws StoreError AlreadyExists when something else is in it
   */
  static format(config: ShardConfig, host: ShardHost): void {
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
    const shard = Shard.recover(config, host)
    host.stats[shardStatIndex.recoveryMs] = host.clock.monotonicMs() - startMs
    return shard
  }

  private static recover(config: ShardConfig, host: ShardHost): Shard {
    const report = (problem: Problem): void => host.log('error', 'damage found', { ...problem })
    const marker = readFailureMarker(host.files)
    try {
      const recovered = recoverShard(config, host, { report, marker })
      const shard = new Shard(config, host, recovered)
      if (marker !== null) shard.beginEvacuation(recovered.result.provenLsn, marker.why)
      return shard
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      if (config.readOnly || !isReadOnlyError(error)) throw error
      const readOnly = { ...config, readOnly: true }
      const shard = new Shard(readOnly, host, recoverShard(readOnly, host, { report, marker }))
      shard.fail(error.message)
      return shard
    }
  }

  private constructor(config: ShardConfig, host: ShardHost, recovered: RecoveredShard) {
    this.config = config
    this.host = host
    this.segments = recovered.segments
    this.index = recovered.index
    this.merges = recovered.merges
    this.tags = new TagTable(host.files, this.segments, config.tagBytesMax)
    this.segments.onFree = (slot) => this.tags.drop(slot)
    this.appender = new Appender(config, host, this.segments, this.tags)
    const parts = { segments: this.segments, index: this.index, appender: this.appender }
    this.checkpoint = new CheckpointWriter(config, host, parts)
    this.compactor = new Compactor(config, host, {
      ...parts,
      checkpoint: this.checkpoint,
      hasRoom: (reserve) => this.space.hasRoom(reserve)
    })
    this.space = new Space(config, host, {
      segments: this.segments,
      compactor: this.compactor,
      reclaim: () => this.index.drops.reclaim(RECLAIM_CHUNKS)
    })
    const { voids, drops } = recovered
    const { checkpoint, compactor } = this
    this.forgetting = new Forgetting({ ...parts, voids, drops, checkpoint, compactor })
    const views = new BlockViews(host.memory)
    this.reader = new BlockReader(host, {
      segments: this.segments,
      index: this.index,
      tags: this.tags,
      views
    })
    this.replica = new ReplicaOps(host.memory, this.index, this.reader)
    this.scrubber = new Scrubber(config, host, { ...parts, damage: this.reader.damage })
    this.writer = new BlockWriter(host, {
      segments: this.segments,
      index: this.index,
      appender: this.appender,
      voids: recovered.voids,
      merges: this.merges,
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
    let firsts = 0
    for (let i = 0; i < count; i++) {
      const op = ops[i]!
      op.error = ErrorCode.Ok
      op.resultA = 0
      op.resultB = 0
      op.resultC = 0
      if (op.kind >= OpKind.Write && op.kind <= OpKind.WriteZeroes) mutations++
      else if (op.kind === OpKind.DeleteLayer) mutations++
      else if (isForgetting(op.kind)) firsts++
    }
    if (firsts > 0) this.forget(ops, count)
    if (mutations > 0) {
      this.writer.execute(ops, count)
      this.space.pace(ops, count)
    }
    if (mutations === count) return
    for (let i = 0; i < count; i++) {
      const op = ops[i]!
      if (op.kind === OpKind.Read) this.reader.read(op)
      else if (op.kind >= OpKind.Flush) this.control(op)
    }
  }

  /** Before any write of the same call: an older version may follow at once. */
  private forget(ops: readonly ShardOp[], count: number): void {
    for (let i = 0; i < count; i++) {
      const op = ops[i]!
      if (!isForgetting(op.kind)) continue
      op.error = this.refusal()
      if (op.error === ErrorCode.Ok) this.forgetting.execute(op)
      if (this.forgetting.failure !== '') this.fail(this.forgetting.failure)
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
    const isWaiting = this.state === ShardState.Serving || this.evacuation !== null
    return isWaiting ? WAKE_MS : IDLE_WAKE_MS
  }

  /** Ends background work, writes a checkpoint if it saves time, seals, syncs, closes the files. */
  close(): void {
    if (this.state === ShardState.Serving && !this.config.readOnly) {
      this.checkpoint.cancel()
      this.appender.seal()
      this.host.tracker.syncNow()
      this.noteFailure()
      if (this.failure === '' && this.isCheckpointWorthClosing) this.checkpoint.writeNow()
    }
    this.refreshStats()
    this.segments.closeAll()
    this.setState(ShardState.Stopped)
  }

  /** It saves replay, and it tells for certain how far the segments reached. */
  private get isCheckpointWorthClosing(): boolean {
    const { recordsSince } = this.checkpoint
    return (
      recordsSince > CLOSE_RECORDS_MIN || (recordsSince > 0 && this.index.entries < SMALL_INDEX)
    )
  }

  // WriteGate
  refusal(): ErrorCode {
    if (this.failure === '' && this.state === ShardState.Serving && !this.config.readOnly) {
      if (this.host.tracker.failure() === '') return ErrorCode.Ok
    }
    this.noteFailure()
    return this.state === ShardState.Stopped ? ErrorCode.Closed : ErrorCode.ShardFailed
  }

  mayRotate(forData: boolean): boolean {
    return this.space.mayRotate(forData)
  }

  get isInReserve(): boolean {
    return this.space.isInReserve
  }

  leaveReserve(): boolean {
    return this.space.leaveReserve()
  }

  writeFailed(error: StoreError): void {
    if (isReadOnlyError(error)) this.fail(error.message)
  }

  /** One slice of whatever is most wanted. */
  private backgroundSlice(): boolean {
    if (this.evacuation !== null) return this.evacuate(this.evacuation)
    if (this.state !== ShardState.Serving || this.config.readOnly) return false
    if (this.index.drops.reclaim(RECLAIM_CHUNKS)) return true
    if (this.index.merges.step(RECLAIM_CHUNKS)) return true
    if (this.checkpoint.isRunning) {
      if (this.checkpoint.step()) return true
    } else if (this.checkpoint.isDue) {
      this.checkpoint.start()
      return true
    }
    if (this.compactor.step(this.space.isPressed)) return true
    this.noteDurable()
    this.forgetting.step()
    if (!this.scrubber.isDue) return false
    this.scrubber.step()
    return true
  }

  /**
   * A batch's header tells what was durable before it. When none follows, recovery could not tell
   * damage in the last ones from a torn tail: an empty one follows then.
   */
  private noteDurable(): void {
    const { appender, host } = this
    if (appender.nextLsn - 1 !== this.idleLsn) {
      this.idleLsn = appender.nextLsn - 1
      this.idleSinceMs = host.clock.monotonicMs()
      return
    }
    if (appender.notedLsn >= appender.recordsLsn) return
    if (appender.durableLsn() < appender.recordsLsn) return
    if (host.clock.monotonicMs() - this.idleSinceMs < NOTE_DURABLE_MS) return
    if (!this.space.hasRoom(COMPACTION_SEGMENTS)) return
    try {
      appender.appendEmpty()
    } catch (thrown) {
      this.writeFailed(storeErrorOf(thrown))
    }
  }

  private control(op: ShardOp): void {
    switch (op.kind) {
      case OpKind.BlockStatus:
        this.reader.status(op)
        return
      case OpKind.Locate:
        this.reader.locate(op)
        return
      case OpKind.Usage:
        op.resultA = usageOf(this.index, op)
        return
      case OpKind.MergeLayers:
        op.error = this.refusal()
        if (op.error === ErrorCode.Ok) this.merges.add(op, this.index)
        return
      case OpKind.SetBase:
        this.index.setBase(op, baseOf(op))
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
        if ((op.flags & OpFlag.Stop) !== 0) this.scrubber.stop()
        else this.scrubber.force()
        return
      case OpKind.Barrier:
        return // what came before it is done
      case OpKind.HoldHoles:
        this.compactor.releasedLsn = op.sequence
        op.resultA = this.appender.tombstoneLsn >>> 0
        op.resultB = Math.floor(this.appender.tombstoneLsn / 2 ** 32)
        return
      case OpKind.Void:
      case OpKind.DropChunks:
        return // done before
      default:
        if (!this.replica.answer(op)) op.error = ErrorCode.InvalidArgument
    }
  }

  private begin(result: RecoveryResult): void {
    const { stats } = this.host
    this.appender.nextLsn = result.lastLsn + 1
    this.appender.durableFloor = result.lastLsn
    this.appender.tombstoneLsn = result.lastLsn
    this.checkpoint.restore({
      generation: result.checkpointGeneration,
      startLsn: result.startLsn,
      olderStartLsn: result.olderStartLsn,
      records: result.records
    })
    stats[shardStatIndex.recoveryRecords] = result.records
    stats[shardStatIndex.damagedBatches] = result.damagedBatches
    stats[shardStatIndex.appendedLsn] = result.lastLsn
    const { segments, index } = this
    listMissing({ segments, index, damage: this.reader.damage })
    this.setState(ShardState.Serving)
    this.noteFailure()
    this.refreshStats()
  }

  /** The process before saw a sync fail. */
  private beginEvacuation(provenLsn: number, why: string): void {
    if (this.config.readOnly || this.failure !== '') return
    try {
      const { segments, appender, compactor } = this
      this.evacuation = new Evacuation(this.host, { segments, appender, compactor }, provenLsn)
    } catch (thrown) {
      this.fail(storeErrorOf(thrown).message)
      return
    }
    this.host.log('warn', 'a sync had failed: what may not be on disk is written again', { why })
    while (this.evacuate(this.evacuation));
  }

  /** A slice. Returns whether there is more to do now. */
  private evacuate(evacuation: Evacuation): boolean {
    try {
      const state = evacuation.step()
      if (state === 'more') return true
      if (state === 'later') {
        this.fail('a sync had failed, and the disk has no room to write anew what was not durable')
        return false
      }
      this.failure = ''
      this.setState(ShardState.Serving)
      this.host.log('warn', 'what was not durable was written again', {})
    } catch (thrown) {
      this.noteFailure()
      this.fail(storeErrorOf(thrown).message)
    }
    this.evacuation = null
    return false
  }

  private noteFailure(): void {
    const failure = this.host.tracker.failure()
    if (failure === '' || this.failure !== '') return
    this.host.stats[shardStatIndex.syncFailures]!++
    this.fail(`a sync failed: ${failure}`)
    try {
      const durableLsn = this.appender.durableLsn()
      writeFailureMarker(this.host.files, { durableLsn, why: failure })
    } catch (thrown) {
      const why = storeErrorOf(thrown).message
      this.host.log('error', 'the failure could not be recorded', { why })
    }
  }

  /** No more writes; reads go on. */
  private fail(why: string): void {
    if (this.failure !== '') return
    this.failure = why
    this.host.log('error', 'the shard takes no more writes', { why })
    if (this.state !== ShardState.Stopped) this.setState(ShardState.Failed)
  }

  private setState(state: ShardState): void {
    this.state = state
    this.host.stats[shardStatIndex.state] = state
  }

  private refreshStats(): void {
    const { stats } = this.host
    stats[shardStatIndex.capacityBytes] = this.config.capacityBytes
    noteUsage(stats, this.segments, this.config.segmentBytes)
    stats[shardStatIndex.missingBlocks] = this.segments.missingBlocks
    stats[shardStatIndex.indexEntries] = this.index.entries
    stats[shardStatIndex.indexBytes] = this.index.bytes
    stats[shardStatIndex.tagBytes] = this.tags.bytes
    stats[shardStatIndex.durableLsn] = this.appender.durableLsn()
  }
}

const isReadOnlyError = (error: StoreError): boolean => error.message.endsWith('EROFS')

/** Of a SetBase op. */
function baseOf(op: ShardOp): LayerKey | null {
  const { chunk: familyHigh, writerEpoch: familyLow, sequence: layerHigh, layerLow } = op
  return familyHigh === 0 && familyLow === 0 ? null : { familyHigh, familyLow, layerHigh, layerLow }
}
