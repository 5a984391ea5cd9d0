/**
 * Writes checkpoints of the index in slices, while the shard goes on. It is *fuzzy*: each chunk is
 * saved as it is at some moment after `startLsn`, and the records from `startLsn` on are replayed
 * over it. It becomes valid (gets its end piece and its name) only once everything that any of its
 * pieces can refer to is durable.
 *
 * Two checkpoints are kept, `checkpoint-0` and `checkpoint-1`, by generation; the older one is for
 * the case that the newer is damaged.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import {
  CHECKPOINT_HEADER_BYTES,
  END_BODY_BYTES,
  encodeCheckpointHeader,
  PIECE_HEADER_BYTES,
  PieceKind,
  pieceBytesOf,
  SEGMENT_ENTRY_BYTES,
  sealPiece
} from '../format/checkpoint.ts'
import { PAGE_BYTES, setU64, viewOf } from '../format/fields.ts'
import type { Appender } from './appender.ts'
import { type ExtentIndex, SAVE_PIECE_BYTES_MIN } from './extent-index.ts'
import type { FileHandle, Files } from './files.ts'
import { pageAlignedBuffer } from './memory.ts'
import type { Segments } from './segments.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'

const CHECKPOINT_TEMPORARY = 'checkpoint.tmp'
export const checkpointName = (generation: number): string => `checkpoint-${generation % 2}`

/** One write of the file, and about what one slice costs. */
const BUFFER_BYTES = 1024 * 1024
/** A piece starts only where this much room is left in the buffer. */
const PIECE_ROOM_BYTES = 256 * 1024
/** Below this a checkpoint would save no time that matters. */
const RECORDS_MIN = 200_000
const RECORDS_SHARE_OF_ENTRIES = 0.25
/** After a failed one: the disk may be full. */
const RETRY_MS = 60_000
/** The segments piece must fit a buffer with its header. */
const SEGMENTS_PER_PIECE = Math.floor((BUFFER_BYTES - 2 * PAGE_BYTES) / SEGMENT_ENTRY_BYTES / 2)

type Phase = 'idle' | 'pieces' | 'durable' | 'end'

export class CheckpointWriter {
  /** Lsn where the newest valid checkpoint starts; 0 without one. */
  startLsn = 0
  /** One may begin here though its making failed, until this many others replaced it. */
  private doubtfulLsn = 0
  private doubtfulLeft = 0
  /** Of the other one; 0 without. */
  private olderStartLsn = 0
  generation = 0
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly files: Files
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly appender: Appender
  private buffer: Buffer | null = null
  private view: DataView = viewOf(Buffer.alloc(0))
  private filled = 0
  private phase: Phase = 'idle'
  private walk: ReturnType<ExtentIndex['save']> | null = null
  private handle: FileHandle = -1
  private offset = 0
  private pieces = 0
  private nextStartLsn = 0
  private waitLsn = 0
  private recordsAtLast = 0
  private retryAtMs = 0

  constructor(
    config: ShardConfig,
    host: ShardHost,
    parts: { segments: Segments; index: ExtentIndex; appender: Appender }
  ) {
    this.config = config
    this.host = host
    this.files = host.files
    this.segments = parts.segments
    this.index = parts.index
    this.appender = parts.appender
  }

  /** What recovery found; `records` were replayed since the newest one. */
  restore(found: {
    generation: number
    startLsn: number
    olderStartLsn: number
    records: number
  }): void {
    this.generation = found.generation
    this.startLsn = found.startLsn
    this.olderStartLsn = found.olderStartLsn
    this.recordsAtLast = this.appender.recordsTotal - found.records
    this.host.stats[shardStatIndex.checkpointLsn] = found.startLsn
  }

  /**
   * Records below this lsn are in every checkpoint that recovery may start from. A tombstone above
   * it must stay: a checkpoint may have the block as it was before.
   */
  get coveredLsn(): number {
    let covered = Number.POSITIVE_INFINITY
    if (this.startLsn > 0) covered = Math.min(covered, this.startLsn)
    if (this.olderStartLsn > 0) covered = Math.min(covered, this.olderStartLsn)
    if (this.doubtfulLeft > 0) covered = Math.min(covered, this.doubtfulLsn)
    if (this.phase !== 'idle') covered = Math.min(covered, this.nextStartLsn)
    return covered
  }

  get isRunning(): boolean {
    return this.phase !== 'idle'
  }

  get isDue(): boolean {
    const records = this.appender.recordsTotal - this.recordsAtLast
    return (
      records > Math.max(RECORDS_MIN, RECORDS_SHARE_OF_ENTRIES * this.index.entries) &&
      this.host.clock.monotonicMs() >= this.retryAtMs
    )
  }

  /** Records appended since the last one. */
  get recordsSince(): number {
    return this.appender.recordsTotal - this.recordsAtLast
  }

  start(): void {
    if (this.phase !== 'idle') return
    try {
      if (this.files.list().includes(CHECKPOINT_TEMPORARY)) this.files.remove(CHECKPOINT_TEMPORARY)
      this.handle = this.files.open(CHECKPOINT_TEMPORARY, 'create')
    } catch (thrown) {
      this.fail(thrown)
      return
    }
    this.buffer ??= pageAlignedBuffer(BUFFER_BYTES)
    this.view = viewOf(this.buffer)
    this.nextStartLsn = this.appender.nextLsn
    this.recordsAtLast = this.appender.recordsTotal
    this.pieces = 0
    this.offset = 0
    this.writeHeader()
    this.filled = CHECKPOINT_HEADER_BYTES
    this.addSegments()
    this.walk = this.index.save()
    this.phase = 'pieces'
  }

  /** One slice of at most BUFFER_BYTES. Returns whether there is more to do now. */
  step(): boolean {
    if (this.phase === 'idle') return false
    try {
      if (this.phase === 'pieces') return this.stepPieces()
      if (this.phase === 'durable') {
        if (this.appender.durableLsn() < this.waitLsn) return false
        this.phase = 'end'
      }
      this.finish()
    } catch (thrown) {
      this.fail(thrown)
    }
    return false
  }

  /** A whole one, at once; for a clean shutdown. */
  writeNow(): void {
    this.start()
    while (this.step());
    if (this.phase === 'durable') this.host.tracker.syncNow()
    this.step()
    this.cancel()
  }

  /** Ends one that runs; the valid ones stay. */
  cancel(): void {
    if (this.phase === 'idle') return
    this.walk?.close()
    this.walk = null
    this.phase = 'idle'
    if (this.handle >= 0) this.files.close(this.handle)
    this.handle = -1
  }

  private writeHeader(): void {
    const header = encodeCheckpointHeader({
      clusterId: this.config.clusterId,
      peerId: this.config.peerId,
      shard: this.config.shard,
      segmentBytes: this.config.segmentBytes,
      generation: this.generation + 1,
      startLsn: this.nextStartLsn
    })
    header.copy(this.buffer!, 0)
  }

  private addSegments(): void {
    const used = this.segments.used()
    for (let from = 0; from < used.length; from += SEGMENTS_PER_PIECE) {
      const some = used.slice(from, from + SEGMENTS_PER_PIECE)
      this.makeRoom(pieceBytesOf(some.length * SEGMENT_ENTRY_BYTES))
      let at = this.filled + PIECE_HEADER_BYTES
      for (const segment of some) {
        this.view.setUint32(at, segment.slot)
        this.view.setUint32(at + 4, 0)
        this.view.setUint32(at + 8, segment.saltHigh)
        this.view.setUint32(at + 12, segment.saltLow)
        at += SEGMENT_ENTRY_BYTES
      }
      this.addPiece(PieceKind.Segments, some.length * SEGMENT_ENTRY_BYTES)
    }
  }

  private stepPieces(): boolean {
    const { buffer, walk } = this
    assert(buffer !== null && walk !== null, 'a walk has its buffer')
    for (;;) {
      const bodyAt = this.filled + PIECE_HEADER_BYTES
      if (buffer.length - bodyAt < PIECE_ROOM_BYTES) {
        this.writeOut(false)
        return true
      }
      const body = buffer.subarray(bodyAt, buffer.length - PIECE_HEADER_BYTES)
      const bytes = walk.next(body)
      if (bytes === 0) break
      this.addPiece(PieceKind.Index, bytes)
    }
    this.walk = null
    this.waitLsn = this.appender.nextLsn - 1
    this.phase = 'durable'
    this.host.tracker.requestSync()
    return this.appender.durableLsn() >= this.waitLsn
  }

  private finish(): void {
    this.makeRoom(pieceBytesOf(END_BODY_BYTES))
    const bodyAt = this.filled + PIECE_HEADER_BYTES
    setU64(this.view, bodyAt, this.appender.durableLsn())
    setU64(this.view, bodyAt + 8, this.index.entries)
    this.addPiece(PieceKind.End, END_BODY_BYTES)
    this.writeOut(true)
    this.files.sync(this.handle)
    this.files.close(this.handle)
    this.handle = -1
    this.phase = 'idle'
    const generation = this.generation + 1
    // Whether a rename that fails, or one whose directory sync does, took place is not known.
    const covered = Math.min(this.coveredLsn, this.nextStartLsn)
    try {
      this.files.rename(CHECKPOINT_TEMPORARY, checkpointName(generation))
      this.files.syncDirectory()
    } catch (thrown) {
      this.doubtfulLsn = covered
      this.doubtfulLeft = 2
      throw thrown
    }
    if (this.doubtfulLeft > 0) this.doubtfulLeft--
    this.generation = generation
    this.olderStartLsn = this.startLsn
    this.startLsn = this.nextStartLsn
    this.host.stats[shardStatIndex.checkpoints]!++
    this.host.stats[shardStatIndex.checkpointBytes]! += this.offset
    this.host.stats[shardStatIndex.checkpointLsn] = this.startLsn
  }

  private addPiece(kind: number, bodyBytes: number): void {
    sealPiece(this.buffer!, this.view, this.filled, {
      kind,
      bodyBytes,
      generation: this.generation + 1,
      number: this.pieces++
    })
    this.filled += pieceBytesOf(bodyBytes)
  }

  private makeRoom(bytes: number): void {
    if (this.filled + bytes > this.buffer!.length) this.writeOut(false)
    assert(this.filled + bytes <= this.buffer!.length, 'a piece fits the buffer')
  }

  /** Writes whole pages, so that they can go past the page cache; all with `last`. */
  private writeOut(last: boolean): void {
    const buffer = this.buffer!
    const rest = last ? 0 : this.filled % PAGE_BYTES
    const bytes = this.filled - rest
    this.files.write(this.handle, this.offset, buffer, 0, bytes)
    this.offset += bytes
    buffer.copy(buffer, 0, bytes, bytes + rest)
    this.filled = rest
  }

  private fail(thrown: unknown): void {
    const error = storeErrorOf(thrown)
    const level = error.code === ErrorCode.OutOfSpace ? 'warn' : 'error'
    this.host.log(level, 'a checkpoint could not be written', { why: error.message })
    this.retryAtMs = this.host.clock.monotonicMs() + RETRY_MS
    this.cancel()
  }
}

assert(PIECE_ROOM_BYTES >= SAVE_PIECE_BYTES_MIN, 'a chunk fits a piece')
