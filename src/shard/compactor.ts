/**
 * Gives space back: copies what is live in a segment to the active one and frees the segment.
 *
 *   pick a victim -> copy its records, slice by slice -> wait until the copies are durable
 *     -> write its free header -> wait until that is durable -> free
 *
 * Copies keep their version, so that replay takes them for what they are; a later lsn wins among
 * equals. Nothing of a victim is freed before everything that superseded its dead blocks is durable
 * too. A tombstone is copied while any other segment may hold something older than it, or a
 * checkpoint may; then it goes, and the holes it made go from the index.
 */
import { crc32c } from '../core/checksum.ts'
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { BlockRecord, RECORD_PREFIX_BYTES, RecordType } from '../format/batch.ts'
import { PAGE_BYTES } from '../format/fields.ts'
import { SegmentUse } from '../format/segment.ts'
import type { Appender } from './appender.ts'
import type { CheckpointWriter } from './checkpoint-writer.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { Files } from './files.ts'
import { BlockViews, pageAlignedBuffer } from './memory.ts'
import { blockName } from './problem.ts'
import { openRecords, RecordCursor } from './record-source.ts'
import { RunList } from './run-list.ts'
import { type Segment, SegmentState, type Segments } from './segments.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'

/** Compaction begins when more than this share of the pages in use holds nothing live … */
const WASTE_SHARE_START = 0.25
/** … and goes on until it is below this one. */
const WASTE_SHARE_STOP = 0.2
/** A victim gives back at least this share of a segment … */
const GARBAGE_SHARE_MIN = 0.1
/** … or this one when space is short or an operator asked. */
const GARBAGE_SHARE_MIN_PRESSED = 0.05
/** In the small segments of tests headers alone are more than that. */
const GARBAGE_PAGES_MIN = 3
/** Header and footer pages that a live block needs when it is packed well. */
const OVERHEAD_SHARE = 0.03
/** Pause after a failure: its cause may go away. */
const RETRY_MS = 1000
/** Blocks copied by one slice: 1 MiB read, 1 MiB written. */
export const SLICE_BLOCKS = 256
/** Records looked at by one slice, live or not. */
const SLICE_RECORDS = 2000
/** Victims that wait for their copies to become durable at once. */
const DRAINING_MAX = 4

interface CopyItem {
  readonly record: BlockRecord
  layer: number
  /** Data: where it stood. */
  from: number
  /** Data: its bytes in the copy buffer. */
  offset: number
}

export class Compactor {
  private readonly host: ShardHost
  private readonly config: ShardConfig
  private readonly files: Files
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly appender: Appender
  private readonly checkpoint: CheckpointWriter
  private readonly mayRotate: () => boolean
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
  private draining: { segment: Segment; waitLsn: number }[] = []
  private freeing: Segment[] = []
  private running = false
  /** Everything born before this is compacted if it has garbage, because an operator asked. */
  private forcedBirth = 0
  private retryAtMs = 0
  /** Below this lsn a tombstone in the present victim has nothing left to hide. */
  private tombstoneFloor = 0

  constructor(
    config: ShardConfig,
    host: ShardHost,
    parts: {
      segments: Segments
      index: ExtentIndex
      appender: Appender
      checkpoint: CheckpointWriter
      /** May another segment begin, for copies. */
      mayRotate: () => boolean
    }
  ) {
    this.config = config
    this.host = host
    this.files = host.files
    this.segments = parts.segments
    this.index = parts.index
    this.appender = parts.appender
    this.checkpoint = parts.checkpoint
    this.mayRotate = parts.mayRotate
  }

  /** Compacts everything that has garbage; what is active now is sealed for that. */
  force(): void {
    this.appender.seal()
    this.forcedBirth = this.segments.nextBirth
    const { stats } = this.host
    stats[shardStatIndex.compactionBytesDone] = 0
    stats[shardStatIndex.compactionBytesTotal] = this.segments.usedCount * this.config.segmentBytes
  }

  stop(): void {
    this.forcedBirth = 0
    this.running = false
  }

  get isForced(): boolean {
    return this.forcedBirth > 0
  }

  /** A slice. `pressed`: space is short, so that any gain is welcome. Returns: more to do now. */
  step(pressed: boolean): boolean {
    this.drain()
    try {
      if (this.victim === null && !this.choose(pressed)) {
        this.host.stats[shardStatIndex.compactionActive] = this.isWaiting ? 1 : 0
        return false
      }
      this.host.stats[shardStatIndex.compactionActive] = 1
      this.copySlice()
    } catch (thrown) {
      this.leaveVictim(storeErrorOf(thrown))
      return false
    }
    return true
  }

  /**
   * Copies everything out of the segments that hold a lsn above `durableLsn`, and removes their
   * files. For a start after a failed sync: on return the copies are durable.
   * @throws StoreError when a write or a sync fails; the segments stay then
   */
  evacuate(durableLsn: number): void {
    const { tracker } = this.host
    const victims = this.segments.used().filter(({ lastLsn }) => lastLsn > durableLsn)
    for (const victim of victims) {
      this.begin(victim)
      while (this.victim !== null) this.copySlice()
    }
    for (let round = 0; round < 2; round++) {
      tracker.syncNow()
      if (tracker.failure() !== '') throw new StoreError(ErrorCode.ShardFailed, tracker.failure())
      this.drain()
    }
    for (const segment of victims) {
      if (segment.state === SegmentState.Free) this.segments.remove(segment)
    }
  }

  /** Segments are emptied and wait for a sync. */
  get isWaiting(): boolean {
    return this.draining.length > 0 || this.freeing.length > 0
  }

  /** Victims that nothing speaks against, without a wait: frees what has become durable. */
  drain(): void {
    const durable = this.appender.durableLsn()
    if (this.freeing.length > 0) {
      this.freeing = this.freeing.filter((segment) => {
        if (segment.freeLsn > durable) return true
        this.segments.setFree(segment)
        return false
      })
      this.trimFree()
    }
    if (this.draining.length === 0) return
    const ready = this.draining.filter(({ waitLsn }) => waitLsn <= durable)
    if (ready.length === 0) return
    this.draining = this.draining.filter(({ waitLsn }) => waitLsn > durable)
    for (const { segment } of ready) this.release(segment)
  }

  /** Share of pages in use that holds nothing live. */
  wasteShare(): number {
    let pages = 0
    let waste = 0
    for (const segment of this.segments.bySlot) {
      if (segment === null || segment.state !== SegmentState.Sealed) continue
      pages += segment.endPage
      waste += this.garbagePages(segment, false)
    }
    return pages === 0 ? 0 : waste / pages
  }

  /**
   * What compaction of the segment would give back, about. Tombstones are taken for live, but for
   * those of the oldest segment that every checkpoint knows: these can go.
   */
  private garbagePages(segment: Segment, isOldest: boolean): number {
    const marksCanGo = isOldest && segment.lastLsn < this.checkpoint.coveredLsn
    const markPages = marksCanGo ? 0 : (segment.markRecords * RECORD_PREFIX_BYTES) / PAGE_BYTES
    const livePages = this.segments.live[segment.slot]! * (1 + OVERHEAD_SHARE)
    return segment.endPage - 1 - livePages - markPages
  }

  /** Picks the segment that gives back most. False when there is none worth it. */
  private choose(pressed: boolean): boolean {
    if (this.draining.length >= DRAINING_MAX) return false
    if (this.retryAtMs > this.host.clock.monotonicMs()) return false
    const hurry = pressed || this.isForced
    if (!hurry && !this.isWasteful()) return false
    const share = hurry ? GARBAGE_SHARE_MIN_PRESSED : GARBAGE_SHARE_MIN
    const garbageMin = Math.max(GARBAGE_PAGES_MIN, share * this.segments.pagesPerSegment)
    const durable = this.appender.durableLsn()
    const used = this.segments.used()
    let best: Segment | null = null
    let bestGarbage = garbageMin
    for (const segment of used) {
      if (segment.state !== SegmentState.Sealed || segment.lastLsn > durable) continue
      if (segment.damaged && this.segments.live[segment.slot]! > 0) continue
      if (this.draining.some((one) => one.segment === segment)) continue
      if (this.isForced && !pressed && segment.birth >= this.forcedBirth) continue
      const garbage = this.garbagePages(segment, segment === used[0])
      if (garbage <= bestGarbage) continue
      best = segment
      bestGarbage = garbage
    }
    if (best === null) {
      this.stop()
      return false
    }
    this.begin(best)
    return true
  }

  private isWasteful(): boolean {
    const waste = this.wasteShare()
    if (this.running) this.running = waste > WASTE_SHARE_STOP
    else this.running = waste > WASTE_SHARE_START
    return this.running
  }

  private begin(victim: Segment): void {
    this.victim = victim
    this.pendingRecord = false
    openRecords(this.files, this.segments, victim, this.cursor)
  }

  private copySlice(): void {
    const victim = this.victim!
    let done = false
    this.tombstoneFloor = this.floorWithout(victim)
    this.itemCount = 0
    this.blocks = 0
    for (let looked = 0; looked < SLICE_RECORDS && this.blocks < SLICE_BLOCKS; looked++) {
      if (!this.pendingRecord && !this.cursor.advance()) {
        done = true
        break
      }
      this.pendingRecord = !this.take(victim)
      if (this.pendingRecord) break
    }
    this.append()
    if (!done) return
    if (this.cursor.broken) victim.damaged = true
    this.victim = null
    this.draining.push({ segment: victim, waitLsn: this.appender.nextLsn - 1 })
    this.host.stats[shardStatIndex.compactionBytesDone]! += this.config.segmentBytes
    this.host.tracker.requestSync()
    this.drain()
  }

  /** Tombstones below the lsn hide nothing that stands outside of the victim. */
  private floorWithout(victim: Segment): number {
    let floor = this.checkpoint.coveredLsn
    for (const segment of this.segments.bySlot) {
      if (segment === null || segment === victim || segment.state === SegmentState.Free) continue
      floor = Math.min(floor, segment.oldestLsn)
    }
    return floor
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
    if (record.type === RecordType.Trim && hidesNothing) {
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
      if (!this.mayRotate()) throw new StoreError(ErrorCode.OutOfSpace, 'no segment to copy to')
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

  /** The copies are durable: the segment's records need not be found again. */
  private release(segment: Segment): void {
    if (this.segments.live[segment.slot]! > 0) {
      segment.damaged = true // blocks that could not be read keep it
      return
    }
    try {
      this.segments.writeHeader(segment, SegmentUse.Free)
      segment.freeLsn = this.appender.appendEmpty()
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      this.host.log('warn', 'a segment could not be freed', { why: error.message })
      this.retryAtMs = this.host.clock.monotonicMs() + RETRY_MS
      return
    }
    segment.state = SegmentState.Freeing
    this.host.tracker.appended(this.segments.open(segment), segment.freeLsn)
    this.freeing.push(segment)
    this.host.stats[shardStatIndex.compactedSegments]!++
    this.host.tracker.requestSync()
  }

  private trimFree(): void {
    for (const segment of this.segments.bySlot) {
      if (this.segments.freeCount <= this.config.freeSegmentsMax) return
      if (segment === null || segment.state !== SegmentState.Free) continue
      this.segments.remove(segment)
    }
  }

  private leaveVictim(error: StoreError): void {
    const victim = this.victim
    this.victim = null
    this.pendingRecord = false
    this.appender.dropPlan()
    this.host.log('warn', 'compaction stopped', { segment: victim?.slot, why: error.message })
    if (error.code !== ErrorCode.OutOfSpace && victim !== null) victim.damaged = true
    this.retryAtMs = this.host.clock.monotonicMs() + RETRY_MS
    this.stop()
  }
}

const dataBlocks = (record: BlockRecord): number =>
  record.type === RecordType.Data ? record.blockCount : 0
