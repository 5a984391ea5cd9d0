/**
 * Copies what is live in one segment to the active one, slice by slice.
 *
 * Copies keep their version, so that replay takes them for what they are; a later lsn wins among
 * equals. A tombstone is copied while any other segment may hold something older than it, or a
 * checkpoint may; then it goes, and the holes it made go from the index.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { BlockRecord, RecordType } from '../format/batch.ts'
import type { Appender } from './appender.ts'
import type { CheckpointWriter } from './checkpoint-writer.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { Files } from './files.ts'
import { BlockViews, pageAlignedBuffer } from './memory.ts'
import { blockName } from './problem.ts'
import { openRecords, RecordCursor } from './record-source.ts'
import { RunList } from './run-list.ts'
import type { Segment, Segments } from './segments.ts'
import type { ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'

/** Blocks copied by one slice: 1 MiB read, 1 MiB written. */
export const SLICE_BLOCKS = 256
/** Records looked at by one slice, live or not. */
const SLICE_RECORDS = 2000
/** On a slow disk a slice ends sooner: requests wait for it. Looked at every few records. */
const SLICE_MS = 2
const RECORDS_PER_CLOCK = 64

interface CopyItem {
  readonly record: BlockRecord
  layer: number
  /** Data: where it stood. */
  from: number
  /** Data: its bytes in the copy buffer. */
  offset: number
}

export interface SegmentCopyParts {
  readonly segments: Segments
  readonly index: ExtentIndex
  readonly appender: Appender
  readonly checkpoint: CheckpointWriter
  /** May another segment begin, for copies, and leave so many more. */
  readonly hasRoom: (reserve: number) => boolean
}

export class SegmentCopy {
  private readonly host: ShardHost
  private readonly files: Files
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly appender: Appender
  private readonly checkpoint: CheckpointWriter
  private readonly hasRoom: (reserve: number) => boolean
  private readonly buffer = pageAlignedBuffer(SLICE_BLOCKS * BLOCK_BYTES)
  private readonly views = new BlockViews(this.buffer)
  private readonly cursor = new RecordCursor()
  private readonly runs = new RunList()
  private readonly checksums = new Uint32Array(CHUNK_BLOCKS)
  private readonly crcs = new Uint32Array(SLICE_BLOCKS)
  private readonly items: CopyItem[] = []
  private itemCount = 0
  private blocks = 0
  private victim: Segment | null = null
  /** A record that is not done: it had more live blocks than the slice had room for. */
  private pendingRecord = false
  /** See Compactor. */
  holdHoles = false
  /** Below this lsn a tombstone in the present victim has nothing left to hide. */
  private tombstoneFloor = 0

  constructor(host: ShardHost, parts: SegmentCopyParts) {
    this.host = host
    this.files = host.files
    this.segments = parts.segments
    this.index = parts.index
    this.appender = parts.appender
    this.checkpoint = parts.checkpoint
    this.hasRoom = parts.hasRoom
  }

  /** @throws StoreError when its records cannot be read */
  open(victim: Segment): void {
    this.victim = victim
    this.pendingRecord = false
    openRecords(this.files, this.segments, victim, this.cursor)
  }

  /**
   * Copies one slice. False when nothing live is left in the segment but what could not be read
   * (it is marked damaged then).
   * @throws StoreError when the disk fails, or no segment may begin
   */
  slice(): boolean {
    const victim = this.victim!
    const { clock } = this.host
    const endMs = clock.monotonicMs() + SLICE_MS
    let more = true
    this.tombstoneFloor = this.floorWithout(victim)
    this.itemCount = 0
    this.blocks = 0
    for (let looked = 0; looked < SLICE_RECORDS && this.blocks < SLICE_BLOCKS; looked++) {
      if (looked % RECORDS_PER_CLOCK === RECORDS_PER_CLOCK - 1) {
        if (clock.monotonicMs() >= endMs) break
      }
      if (!this.pendingRecord && !this.cursor.advance()) {
        more = false
        break
      }
      this.pendingRecord = !this.take(victim)
      if (this.pendingRecord) break
    }
    this.append()
    if (!more && this.cursor.broken) victim.damaged = true
    return more
  }

  /** Tombstones below the lsn hide nothing that stands outside of the victim. */
  private floorWithout(victim: Segment): number {
    return Math.min(this.checkpoint.coveredLsn, this.segments.oldestLsn(victim))
  }

  /** Gathers what is live of the present record. False when the slice has no room for all. */
  private take(victim: Segment): boolean {
    const { record } = this.cursor
    const layer = this.index.layerIndex(
      record.familyHigh,
      record.familyLow,
      record.layerHigh,
      record.layerLow,
      false
    )
    if (record.type === RecordType.Data) return this.takeData(victim, layer)
    if (record.type === RecordType.DeleteLayer) {
      if (record.originLsn >= this.tombstoneFloor) this.addItem(layer, 0)
    } else {
      this.takeMarks(layer)
    }
    return true
  }

  /**
   * Only the blocks that still have the mark are copied. What else the record covered may have a
   * newer tombstone that goes when this segment does, and would come back.
   */
  private takeMarks(layer: number): void {
    const { record } = this.cursor
    const { chunk, firstBlock: first, blockCount: count, writerEpoch, sequence } = record
    const { runs } = this
    if (this.index.markRuns(layer, chunk, first, count, writerEpoch, sequence, runs) === 0) return
    const hidesNothing = record.originLsn < this.tombstoneFloor
    if (record.type === RecordType.Trim && hidesNothing && !this.holdHoles) {
      this.index.dropHoles(layer, chunk, first, count, writerEpoch, sequence)
      return
    }
    for (let run = 0; run < runs.length; run++) {
      const item = this.addItem(layer, 0)
      item.record.firstBlock = runs.firsts[run]!
      item.record.blockCount = runs.counts[run]!
    }
  }

  private takeData(victim: Segment, layer: number): boolean {
    const { record, page } = this.cursor
    const location = this.segments.locationOf(victim.slot, page)
    const { runs, index } = this
    const live = index.liveRuns(
      layer,
      record.chunk,
      record.firstBlock,
      record.blockCount,
      location,
      runs
    )
    if (live === 0) return true
    if (this.blocks > 0 && this.blocks + live > SLICE_BLOCKS) return false
    this.cursor.checksums(this.checksums)
    let room = SLICE_BLOCKS - this.blocks
    for (let run = 0; run < runs.length && room > 0; run++) {
      const count = Math.min(runs.counts[run]!, room)
      this.readRun(victim, layer, runs.firsts[run]!, count, runs.locations[run]!)
      room -= count
    }
    return live <= SLICE_BLOCKS
  }

  /** Reads live blocks into the buffer; those that do not verify stay where they are. */
  private readRun(
    victim: Segment,
    layer: number,
    first: number,
    count: number,
    location: number
  ): void {
    const { record } = this.cursor
    const offset = this.blocks * BLOCK_BYTES
    const fileOffset = this.segments.pageOf(location) * BLOCK_BYTES
    const handle = this.segments.open(victim)
    const bytes = count * BLOCK_BYTES
    const got = this.files.read(handle, fileOffset, this.buffer, offset, bytes)
    this.host.stats[shardStatIndex.compactionReadBytes]! += bytes
    let start = 0
    for (let i = 0; i < count; i++) {
      const crc = this.checksums[first - record.firstBlock + i]!
      const at = offset + i * BLOCK_BYTES
      this.crcs[this.blocks + i] = crc
      if ((i + 1) * BLOCK_BYTES <= got && crc32c(this.views.at(at)) === crc) continue
      this.noteDamage(victim, layer, first + i)
      this.addData(layer, first + start, i - start, location + start, offset + start * BLOCK_BYTES)
      start = i + 1
    }
    this.addData(
      layer,
      first + start,
      count - start,
      location + start,
      offset + start * BLOCK_BYTES
    )
    this.blocks += count
  }

  private noteDamage(victim: Segment, layer: number, block: number): void {
    victim.damaged = true
    this.host.stats[shardStatIndex.checksumErrors]!++
    const name = blockName(this.index.layerKey(layer), this.cursor.record.chunk, block)
    this.host.log('error', 'compaction met a damaged block', { ...name, segment: victim.slot })
  }

  private addData(layer: number, first: number, count: number, from: number, offset: number): void {
    if (count === 0) return
    const item = this.addItem(layer, offset)
    item.record.firstBlock = first
    item.record.blockCount = count
    item.from = from
  }

  private addItem(layer: number, offset: number): CopyItem {
    if (this.itemCount === this.items.length) {
      this.items.push({ record: new BlockRecord(), layer: 0, from: 0, offset: 0 })
    }
    const item = this.items[this.itemCount++]!
    Object.assign(item.record, this.cursor.record)
    item.layer = layer
    item.offset = offset
    return item
  }

  /** Writes what was gathered, in as few batches as it takes, and moves the index entries. */
  private append(): void {
    let start = 0
    while (start < this.itemCount) start = this.appendBatch(start)
  }

  private appendBatch(start: number): number {
    const { appender, items } = this
    let end = start
    while (end < this.itemCount && appender.plan(dataBlocks(items[end]!.record))) end++
    if (end === start) {
      if (!this.hasRoom(0)) throw new StoreError(ErrorCode.OutOfSpace, 'no segment to copy to')
      appender.rotate()
      assert(appender.plan(dataBlocks(items[end]!.record)), 'what fitted a segment fits another')
      end++
      while (end < this.itemCount && appender.plan(dataBlocks(items[end]!.record))) end++
    }
    appender.start()
    const locations: number[] = []
    for (let i = start; i < end; i++) {
      const { record, offset } = items[i]!
      if (record.type !== RecordType.Data) appender.addMark(record)
      else {
        const crcAt = offset / BLOCK_BYTES
        locations[i] = appender.addData(record, this.crcs, crcAt, this.buffer, offset)
      }
    }
    appender.commit()
    for (let i = start; i < end; i++) {
      const { record, layer, from } = items[i]!
      if (record.type !== RecordType.Data) continue
      const { chunk, firstBlock, blockCount } = record
      this.index.move(layer, chunk, firstBlock, blockCount, from, locations[i]!)
      this.host.stats[shardStatIndex.compactionWrittenBytes]! += blockCount * BLOCK_BYTES
    }
    return end
  }
}

const dataBlocks = (record: BlockRecord): number =>
  record.type === RecordType.Data ? record.blockCount : 0
