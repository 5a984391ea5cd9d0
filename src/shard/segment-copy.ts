/**
 * Copies what is live in one segment to the active one, slice by slice.
 *
 * Copies keep their version, so that replay takes them for what they are; a later lsn wins among
 * equals. A tombstone is copied while any other segment may hold something older than it, or a
 * checkpoint may; then it goes, and the holes it made go from the index.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { layerNumber } from '../core/layer-ids.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { BlockRecord, RecordType, SEAL_TAG_BYTES } from '../format/batch.ts'
import type { Appender } from './appender.ts'
import type { CheckpointWriter } from './checkpoint-writer.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { Files } from './files.ts'
import { SummedBlocks } from './memory.ts'
import { blockName } from './problem.ts'
import { openRecords, RecordCursor } from './record-source.ts'
import { RunList } from './run-list.ts'
import type { Segment, Segments } from './segments.ts'
import type { ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'

/** Blocks copied by one slice: as many as one header page describes, and a fraction of a ms. */
export const SLICE_BLOCKS = 64
/** Pages of the victim at hand: 512 KiB, read at once where much of the rest of it is live … */
const WINDOW_PAGES = 128
/** … which it is from this share on. Elsewhere each run is read alone, at the price of six. */
const DENSE_SHARE = 1 / 6
/** Records looked at by one slice, live or not. */
const SLICE_RECORDS = 2000
/** On a slow disk a slice ends sooner: requests wait for it. Looked at every few records. */
const SLICE_MS = 1
const RECORDS_PER_CLOCK = 64

interface CopyItem {
  readonly record: BlockRecord
  layer: number
  /** Data: where it stood. */
  from: number
  /** Data: its bytes in the window. */
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
  private readonly summed = new SummedBlocks(WINDOW_PAGES)
  private readonly window = this.summed.bytes
  /** Of the victim: where the window begins. -1: nowhere yet. */
  private windowPage = -1
  /** Bytes that were read of it; 0 when it is filled run by run. */
  private windowBytes = 0
  private readonly cursor = new RecordCursor()
  private readonly runs = new RunList()
  private readonly checksums = new Uint32Array(CHUNK_BLOCKS)
  /** Of each block in the window that is copied. */
  private readonly crcs = new Uint32Array(WINDOW_PAGES)
  /** What the blocks of a slice have. */
  private readonly sums = new Uint32Array(SLICE_BLOCKS)
  private readonly recordTags = Buffer.alloc(CHUNK_BLOCKS * SEAL_TAG_BYTES)
  /** Of each sealed block in the window. */
  private readonly tags = Buffer.alloc(WINDOW_PAGES * SEAL_TAG_BYTES)
  private readonly items: CopyItem[] = []
  private itemCount = 0
  private blocks = 0
  private victim: Segment | null = null
  /** A record that is not done: it had more live blocks than the slice had room for. */
  private pendingRecord = false
  /** See Compactor. */
  releasedLsn = Number.POSITIVE_INFINITY
  /** First blocks of the record that were looked at by slices before. */
  private takenBlocks = 0
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
    this.windowPage = -1
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
      if (!this.pendingRecord) {
        this.takenBlocks = 0
        if (!this.cursor.advance()) {
          more = false
          break
        }
      }
      this.pendingRecord = !this.take(victim)
      if (this.pendingRecord) break
    }
    this.verify(victim)
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
    // In a layer that stands on others it hides what these have, wherever that is.
    const hidesNothing =
      record.originLsn < this.tombstoneFloor && layerNumber(record.layerLow) === 0
    const isReleased = record.originLsn <= this.releasedLsn
    if (record.type === RecordType.Trim && hidesNothing && isReleased) {
      this.index.dropHoles(layer, chunk, first, count, writerEpoch, sequence)
      return
    }
    for (let run = 0; run < runs.length; run++) {
      const item = this.addItem(layer, 0)
      item.record.firstBlock = runs.firsts[run]!
      item.record.blockCount = runs.counts[run]!
    }
  }

  /** False when the slice has no room for the rest of the record. */
  private takeData(victim: Segment, layer: number): boolean {
    const { record, page } = this.cursor
    const { runs, takenBlocks } = this
    const location = this.segments.locationOf(victim.slot, page) + takenBlocks
    const first = record.firstBlock + takenBlocks
    const left = record.blockCount - takenBlocks
    const live = this.index.liveRuns(layer, record.chunk, first, left, location, runs)
    if (live === 0) return true
    if (this.blocks > 0 && this.blocks + live > SLICE_BLOCKS) return false
    this.cursor.checksums(this.checksums)
    if (record.tagBytes > 0) this.cursor.tags(this.recordTags, 0)
    for (let run = 0; run < runs.length; run++) {
      const start = runs.firsts[run]!
      const from = runs.locations[run]!
      const count = Math.min(runs.counts[run]!, SLICE_BLOCKS - this.blocks)
      if (count === 0 || !this.moveWindow(victim, this.segments.pageOf(from), count)) return false
      this.readRun(victim, layer, start, count, from)
      this.takenBlocks = start + count - record.firstBlock
      if (count < runs.counts[run]!) return false
    }
    return true
  }

  /** False when the window holds what this slice copies, and the run is not in it. */
  private moveWindow(victim: Segment, page: number, count: number): boolean {
    const start = this.windowPage
    const pagesHere = this.windowBytes > 0 ? this.windowBytes / BLOCK_BYTES : WINDOW_PAGES
    if (start >= 0 && page >= start && page + count <= start + pagesHere) return true
    if (this.blocks > 0) return false
    this.windowPage = page
    this.windowBytes = 0
    // What was copied of it is live there no more.
    if (this.segments.live[victim.slot]! < DENSE_SHARE * (victim.endPage - page)) return true
    const pages = Math.min(WINDOW_PAGES, victim.endPage - page)
    this.windowBytes = this.read(victim, page, 0, pages)
    return true
  }

  /** Bytes that were read, into the window at `offset`. */
  private read(victim: Segment, page: number, offset: number, pages: number): number {
    const bytes = pages * BLOCK_BYTES
    this.host.stats[shardStatIndex.compactionReadBytes]! += bytes
    const handle = this.segments.open(victim)
    return this.files.read(handle, page * BLOCK_BYTES, this.window, offset, bytes)
  }

  /** Takes live blocks that the window can hold. */
  private readRun(
    victim: Segment,
    layer: number,
    first: number,
    count: number,
    location: number
  ): void {
    const { record } = this.cursor
    const page = this.segments.pageOf(location)
    const offset = (page - this.windowPage) * BLOCK_BYTES
    const end =
      this.windowBytes > 0 ? this.windowBytes : offset + this.read(victim, page, offset, count)
    const tagAt = (first - record.firstBlock) * record.tagBytes
    const tagEnd = tagAt + count * record.tagBytes
    this.recordTags.copy(this.tags, (offset / BLOCK_BYTES) * SEAL_TAG_BYTES, tagAt, tagEnd)
    // Zeroes that were not read do not verify, unless they are what was written.
    if (end < offset + count * BLOCK_BYTES) this.window.fill(0, end, offset + count * BLOCK_BYTES)
    for (let i = 0; i < count; i++) {
      this.crcs[offset / BLOCK_BYTES + i] = this.checksums[first - record.firstBlock + i]!
    }
    const item = this.addItem(layer, offset)
    item.record.firstBlock = first
    item.record.blockCount = count
    item.from = location
    this.blocks += count
  }

  /** All blocks of the slice at once. Those that do not verify stay where they are. */
  private verify(victim: Segment): void {
    const { items, itemCount, sums } = this
    let blocks = 0
    for (let i = 0; i < itemCount; i++) {
      const { record, offset } = items[i]!
      const end = offset + dataBlocks(record) * BLOCK_BYTES
      for (let at = offset; at < end; at += BLOCK_BYTES) sums[blocks++] = at
    }
    this.summed.sums.of(sums, 0, blocks)
    let isWhole = true
    blocks = 0
    for (let i = 0; i < itemCount; i++) {
      const { record, offset } = items[i]!
      const page = offset / BLOCK_BYTES
      for (let block = 0; block < dataBlocks(record); block++) {
        if (sums[blocks++] !== this.crcs[page + block]) isWhole = false
      }
    }
    if (!isWhole) this.leaveDamaged(victim)
  }

  /** Takes items apart at the blocks whose `sums` are others. */
  private leaveDamaged(victim: Segment): void {
    const left: CopyItem[] = []
    let block = 0
    for (const item of this.items.splice(0, this.itemCount)) {
      if (item.record.type !== RecordType.Data) left.push(item)
      const { layer, from, offset } = item
      const { firstBlock } = item.record
      let last: CopyItem | null = null
      for (let i = 0; i < dataBlocks(item.record); i++, block++) {
        if (this.sums[block] !== this.crcs[offset / BLOCK_BYTES + i]) {
          this.noteDamage(victim, item, i)
          last = null
        } else if (last !== null) {
          last.record.blockCount++
        } else {
          const record = new BlockRecord()
          record.take(item.record)
          record.firstBlock = firstBlock + i
          record.blockCount = 1
          last = { record, layer, from: from + i, offset: offset + i * BLOCK_BYTES }
          left.push(last)
        }
      }
    }
    this.items.unshift(...left)
    this.itemCount = left.length
  }

  private noteDamage(victim: Segment, { record, layer }: CopyItem, block: number): void {
    victim.damaged = true
    this.host.stats[shardStatIndex.checksumErrors]!++
    const name = blockName(this.index.layerKey(layer), record.chunk, record.firstBlock + block)
    this.host.log('error', 'compaction met a damaged block', { ...name, segment: victim.slot })
  }

  private addItem(layer: number, offset: number): CopyItem {
    if (this.itemCount === this.items.length) {
      this.items.push({ record: new BlockRecord(), layer: 0, from: 0, offset: 0 })
    }
    const item = this.items[this.itemCount++]!
    item.record.take(this.cursor.record)
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
    while (end < this.itemCount && this.planItem(end)) end++
    if (end === start) {
      if (!this.hasRoom(0)) throw new StoreError(ErrorCode.OutOfSpace, 'no segment to copy to')
      appender.rotate()
      assert(this.planItem(end), 'what fitted a segment fits another')
      end++
      while (end < this.itemCount && this.planItem(end)) end++
    }
    appender.start()
    const locations: number[] = []
    for (let i = start; i < end; i++) {
      const { record, offset } = items[i]!
      if (record.type !== RecordType.Data) appender.addMark(record)
      else {
        const at = offset / BLOCK_BYTES
        const { crcs, window, tags } = this
        const tagsAt = at * SEAL_TAG_BYTES
        locations[i] = appender.addData(record, crcs, at, window, offset, tags, tagsAt)
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

  private planItem(item: number): boolean {
    const { type, blockCount, tagBytes } = this.items[item]!.record
    return this.appender.plan(type === RecordType.Data ? blockCount : 0, tagBytes)
  }
}

const dataBlocks = ({ type, blockCount }: BlockRecord): number =>
  type === RecordType.Data ? blockCount : 0
