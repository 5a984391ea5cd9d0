/**
 * Appends batches to the active segment. A batch is made in two passes over its records, because
 * the payload follows the header at once and its position depends on how long that will be:
 *
 *   plan (each record)  ->  start  ->  add (each record, same order)  ->  commit
 *
 * Small payloads are copied behind the header into one staging buffer, so that a batch of many is
 * one write; large ones are written from where they are.
 */
import { assert } from '../core/assert.ts'
import { storeErrorOf } from '../core/errors.ts'
import {
  BATCH_HEADER_PAGES_MAX,
  BATCH_PAYLOAD_PAGES_MAX,
  BATCH_PREFIX_BYTES,
  BatchHeader,
  type BlockRecord,
  dataRecordBytes,
  headerPagesOf,
  RECORD_PREFIX_BYTES,
  RecordType,
  sealBatchHeader,
  setRecord
} from '../format/batch.ts'
import { PAGE_BYTES, viewOf } from '../format/fields.ts'
import { FOOTER_RECORD_PREFIX_BYTES, footerPagesOf } from '../format/segment.ts'
import type { Files, SyncTracker } from './files.ts'
import { FooterBuffer, writeFooter } from './footer-buffer.ts'
import { pageAlignedBuffer } from './memory.ts'
import { PartList } from './part-list.ts'
import { gatherRecords } from './record-source.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { type Segment, SegmentState, type Segments } from './segments.ts'
import { shardStatIndex } from './stats.ts'
import type { TagTable } from './tag-table.ts'

/** From this size on a payload is written from the caller's memory, not copied: 64 KiB. */
const UNSTAGED_PAGES_MIN = 16
/** What is written in smaller pieces is no stream: 256 KiB. */
const STREAM_PAGES_MIN = 64
/** Payload pages copied behind the header of one batch. */
const STAGED_PAGES_MAX = 256
/** Zeroes are written this far ahead, as soon as fewer than AHEAD_PAGES_MIN are left: 1 MiB. */
const AHEAD_PAGES = 256
const AHEAD_PAGES_MIN = 16
/** Syncs are frequent when at most so many batches are not durable. */
const AHEAD_UNSYNCED_LSNS_MAX = 4
const NO_TAGS = Buffer.alloc(0)
const zeroes = pageAlignedBuffer(AHEAD_PAGES * PAGE_BYTES)
const HEADER_BYTES_MAX = BATCH_HEADER_PAGES_MAX * PAGE_BYTES
const HEADER_RECORD_BYTES_MAX = HEADER_BYTES_MAX - BATCH_PREFIX_BYTES
const RECORDS_MAX = Math.floor(HEADER_RECORD_BYTES_MAX / RECORD_PREFIX_BYTES)

export class Appender {
  /** Lsn of the next batch. */
  nextLsn = 1
  active: Segment | null = null
  /** Last batch that has records, and what the last header says is durable. */
  recordsLsn = 0
  notedLsn = 0
  /** Records appended since the start. */
  recordsTotal = 0
  /** Everything up to this lsn was made durable by recovery, before the tracker began. */
  durableFloor = 0
  /** No tombstone was first appended above it. */
  tombstoneLsn = 0
  /** Whatever the tracker says: it knows nothing of what syncs before this start left out. */
  durableCap = Number.POSITIVE_INFINITY
  private readonly config: ShardConfig
  private readonly files: Files
  private readonly tracker: SyncTracker
  private readonly segments: Segments
  private readonly tags: TagTable
  private readonly stats: Float64Array
  private readonly header = new BatchHeader()
  /** Header pages end at HEADER_BYTES_MAX, where staged payload begins. */
  private readonly staging = pageAlignedBuffer(HEADER_BYTES_MAX + STAGED_PAGES_MAX * PAGE_BYTES)
  private readonly view = viewOf(this.staging)
  private readonly words = new Uint32Array(this.staging.buffer)

  // The plan.
  private plannedRecords = 0
  private plannedRecordBytes = 0
  private plannedPayloadPages = 0
  private plannedStagedPages = 0
  // The batch that is being added to.
  private headerStart = 0
  private recordAt = 0
  private stagedAt = 0
  private payloadPage = 0
  private readonly recordStarts = new Uint32Array(RECORDS_MAX + 1)
  private readonly recordPages = new Uint32Array(RECORDS_MAX)
  private recordCount = 0
  private readonly parts = new PartList()
  /** Footer records of the active segment, behind room for the prefix. */
  private footer = new FooterBuffer()
  private unsyncedBytes = 0
  /** Sealed segments whose footer could not be written. */
  private footerless: Segment[] = []
  /**
   * Lsn of a batch that could not be written, but may stand in part behind the end of the segment
   * left then: the next segment says that it begins with this lsn, which voids the remains.
   */
  private voidLsn = 0

  constructor(config: ShardConfig, host: ShardHost, segments: Segments, tags: TagTable) {
    this.config = config
    this.files = host.files
    this.tracker = host.tracker
    this.stats = host.stats
    this.segments = segments
    this.tags = tags
  }

  durableLsn(): number {
    return Math.min(this.durableCap, Math.max(this.durableFloor, this.tracker.durableLsn()))
  }

  get isPlanEmpty(): boolean {
    return this.plannedRecords === 0
  }

  /**
   * Takes a record into the plan: a data record of `blockCount` blocks with tags of `tagBytes`, or
   * with 0 one without payload. False when it does not fit in this batch (start it), or, with an
   * empty plan, in the active segment (rotate it).
   */
  plan(blockCount: number, tagBytes: number): boolean {
    const segment = this.active
    if (segment === null) return false
    const recordBytes = this.plannedRecordBytes + dataRecordBytes(blockCount, tagBytes)
    const payloadPages = this.plannedPayloadPages + blockCount
    const stagedPages = this.plannedStagedPages + (blockCount < UNSTAGED_PAGES_MIN ? blockCount : 0)
    if (recordBytes > HEADER_RECORD_BYTES_MAX) return false
    if (payloadPages > BATCH_PAYLOAD_PAGES_MAX || stagedPages > STAGED_PAGES_MAX) return false
    const footerBytes = this.footer.bytes + footerBytesOf(this.plannedRecords + 1, recordBytes)
    const end = segment.endPage + headerPagesOf(recordBytes) + payloadPages
    if (end + footerPagesOf(footerBytes) >= this.segments.pagesPerSegment) return false
    this.plannedRecords++
    this.plannedRecordBytes = recordBytes
    this.plannedPayloadPages = payloadPages
    this.plannedStagedPages = stagedPages
    return true
  }

  /** Seals the active segment, if there is one, and begins another. */
  rotate(): void {
    assert(this.plannedRecords === 0, 'a segment is rotated between batches')
    this.seal()
    this.active = this.segments.begin(this.voidLsn > 0 ? this.voidLsn : this.nextLsn)
    this.voidLsn = 0
    this.footer.clear()
  }

  /** Opens the planned batch. */
  start(): void {
    const headerPages = headerPagesOf(this.plannedRecordBytes)
    this.header.headerPages = headerPages
    this.header.payloadPages = this.plannedPayloadPages
    this.header.recordCount = this.plannedRecords
    this.header.recordBytes = this.plannedRecordBytes
    this.headerStart = HEADER_BYTES_MAX - headerPages * PAGE_BYTES
    this.recordAt = this.headerStart + BATCH_PREFIX_BYTES
    this.stagedAt = HEADER_BYTES_MAX
    this.payloadPage = this.active!.endPage + headerPages
    this.recordCount = 0
    this.parts.clear()
    this.parts.add(this.staging, this.headerStart, headerPages * PAGE_BYTES)
  }

  /** Adds a record without payload. A tombstone without an origin gets this batch's lsn. */
  addMark(record: BlockRecord): void {
    if (record.originLsn === 0) record.originLsn = this.nextLsn
    this.tombstoneLsn = Math.max(this.tombstoneLsn, record.originLsn)
    this.active!.markRecords++
    this.addPrefix(record, 0)
    this.recordAt += RECORD_PREFIX_BYTES
  }

  /**
   * Adds a data record with `record.blockCount` blocks, whose checksums are `crcs[crcAt]`.., whose
   * bytes stand in `from` at `offset`, and whose tags, if it has any, in `tags` at `tagsAt`.
   * Returns the location of its first block.
   */
  addData(
    record: BlockRecord,
    crcs: Uint32Array,
    crcAt: number,
    from: Buffer,
    offset: number,
    tags: Buffer = NO_TAGS,
    tagsAt: number = 0
  ): number {
    const { blockCount, tagBytes } = record
    const page = this.payloadPage
    record.originLsn = 0
    this.addPrefix(record, page)
    let at = this.recordAt + RECORD_PREFIX_BYTES
    for (let i = 0; i < blockCount; i++, at += 4) this.view.setUint32(at, crcs[crcAt + i]!)
    if (tagBytes > 0) {
      tags.copy(this.staging, at, tagsAt, tagsAt + tagBytes * blockCount)
      this.active!.hasTags = true
      this.tags.put(this.active!, page, blockCount, tags, tagsAt)
    }
    this.recordAt = at + tagBytes * blockCount
    this.payloadPage = page + blockCount
    const bytes = blockCount * PAGE_BYTES
    if (blockCount < STREAM_PAGES_MIN) this.parts.isStream = false
    if (blockCount < UNSTAGED_PAGES_MIN) {
      from.copy(this.staging, this.stagedAt, offset, offset + bytes)
      this.parts.add(this.staging, this.stagedAt, bytes)
      this.stagedAt += bytes
    } else {
      this.parts.add(from, offset, bytes)
    }
    return this.segments.locationOf(this.active!.slot, page)
  }

  /**
   * Writes the batch and returns its lsn. After a failed write nothing of the batch counts: the
   * segment is left, and the next one's header, which begins with the same lsn, voids what may
   * stand there.
   * @throws StoreError OutOfSpace, DiskFailure
   */
  commit(): number {
    const segment = this.active!
    const { header } = this
    assert(this.recordCount === this.plannedRecords, 'a batch holds what was planned')
    assert(
      this.payloadPage === segment.endPage + header.headerPages + header.payloadPages,
      'as planned'
    )
    const lsn = this.nextLsn
    header.saltHigh = segment.saltHigh
    header.saltLow = segment.saltLow
    header.page = segment.endPage
    header.lsn = lsn
    header.durableLsn = this.durableLsn()
    sealBatchHeader(this.staging, this.view, this.headerStart, header)
    this.dropPlan()
    const handle = this.segments.open(segment)
    try {
      this.files.writeGathered(handle, segment.endPage * PAGE_BYTES, this.parts)
    } catch (thrown) {
      this.abandon()
      throw storeErrorOf(thrown)
    }
    this.nextLsn = lsn + 1
    this.recordStarts[this.recordCount] = this.recordAt
    for (let i = 0; i < this.recordCount; i++) {
      const start = this.recordStarts[i]!
      const bytes = this.recordStarts[i + 1]! - start
      this.footer.add(this.recordPages[i]!, lsn - segment.firstLsn, this.words, start, bytes)
    }
    segment.endPage = this.payloadPage
    this.recordsTotal += this.recordCount
    this.notedLsn = header.durableLsn
    if (this.recordCount > 0) this.recordsLsn = lsn
    segment.lastLsn = lsn
    this.tracker.appended(handle, lsn)
    this.segments.trackNames(lsn)
    this.account(header.headerPages, header.payloadPages, lsn)
    if (header.payloadPages < STREAM_PAGES_MIN) this.allocateAhead(segment, lsn)
    return lsn
  }

  /**
   * While small batches are synced one by one, zeroes are written ahead of them: a sync of
   * overwritten blocks takes two thirds of one that must also record where new blocks are.
   */
  private allocateAhead(segment: Segment, lsn: number): void {
    if (segment.endPage + AHEAD_PAGES_MIN <= segment.allocatedPages) return
    if (this.tracker.durableLsn() + AHEAD_UNSYNCED_LSNS_MAX < lsn) return
    const from = Math.max(segment.allocatedPages, segment.endPage)
    const to = Math.min(from + AHEAD_PAGES, this.segments.pagesPerSegment - 1)
    if (from >= to) return
    segment.allocatedPages = to
    try {
      this.files.write(
        this.segments.open(segment),
        from * PAGE_BYTES,
        zeroes,
        0,
        (to - from) * PAGE_BYTES
      )
    } catch (thrown) {
      storeErrorOf(thrown) // only slower without
    }
  }

  /** Forgets a plan that will not be written. */
  dropPlan(): void {
    this.plannedRecords = 0
    this.plannedRecordBytes = 0
    this.plannedPayloadPages = 0
    this.plannedStagedPages = 0
  }

  /**
   * Appends a batch without records and returns its lsn: a place in the order of lsns for a write
   * to another file that must become durable.
   */
  appendEmpty(): number {
    assert(this.plannedRecords === 0, 'an empty batch stands alone')
    const segment = this.active
    const end = segment === null ? 0 : segment.endPage + 1 + footerPagesOf(this.footer.bytes)
    if (segment === null || end >= this.segments.pagesPerSegment) this.rotate()
    this.start()
    return this.commit()
  }

  /**
   * Closes the active segment with a footer. The footer takes an lsn of its own, so that the
   * tracker has it synced; the next segment begins behind that.
   */
  seal(): void {
    const segment = this.active
    if (segment === null) return
    this.active = null
    if (segment.lastLsn < segment.firstLsn) {
      // Nothing was appended to it. What its header voids must stay void.
      this.segments.setFree(segment)
      this.voidLsn = segment.firstLsn
      return
    }
    segment.state = SegmentState.Sealed
    if (this.segments.live[segment.slot] === 0) this.segments.emptied.push(segment.slot)
    try {
      writeFooter(this.files, this.segments, segment, this.footer, this.durableLsn())
    } catch (thrown) {
      storeErrorOf(thrown) // without it the segment is scanned; see `mendFooters`
      segment.footerPage = 0
      segment.footerPages = 0
      this.footerless.push(segment)
      return
    }
    this.tracker.appended(segment.handle, this.nextLsn++)
    this.tracker.requestSync()
  }

  private addPrefix(record: BlockRecord, page: number): void {
    this.recordStarts[this.recordCount] = this.recordAt
    this.recordPages[this.recordCount] = page
    this.recordCount++
    setRecord(this.view, this.recordAt, record)
  }

  /**
   * Where neither a batch nor the footer could be written, only the header of the segment born next
   * voids what the batch left behind. So before any segment but `freed` is freed, those without a
   * footer must have one, durably. Returns whether that is so; tries to make it so.
   */
  mendFooters(freed: Segment): boolean {
    let mended = true
    for (const segment of [...this.footerless]) {
      if (segment === freed) continue
      const isBare = segment.state === SegmentState.Sealed && segment.footerPages === 0
      if (isBare && !this.mendFooter(segment)) mended = false
      // The lsn of the footer, or of the free header where it was freed instead.
      if (this.durableLsn() < segment.freeLsn) mended = false
    }
    if (mended) this.footerless = this.footerless.filter((segment) => segment === freed)
    return mended
  }

  private mendFooter(segment: Segment): boolean {
    try {
      const records = gatherRecords(this.files, this.segments, segment)
      writeFooter(this.files, this.segments, segment, records, this.durableLsn())
      segment.freeLsn = this.appendEmpty()
    } catch (thrown) {
      storeErrorOf(thrown)
      segment.footerPages = 0
      return false
    }
    this.tracker.appended(this.segments.open(segment), segment.freeLsn)
    this.tracker.requestSync()
    return true
  }

  /** Leaves the active segment after a failed write. */
  private abandon(): void {
    this.voidLsn = this.nextLsn++
    this.seal() // an empty one hands on its own first lsn instead, which voids more
  }

  private account(headerPages: number, payloadPages: number, lsn: number): void {
    this.stats[shardStatIndex.batches]!++
    this.stats[shardStatIndex.headerBytes]! += headerPages * PAGE_BYTES
    this.stats[shardStatIndex.appendedLsn] = lsn
    this.unsyncedBytes += (headerPages + payloadPages) * PAGE_BYTES
    if (this.unsyncedBytes < this.config.syncBytes) return
    this.unsyncedBytes = 0
    this.tracker.requestSync()
  }
}

const footerBytesOf = (recordCount: number, recordBytes: number): number =>
  recordCount * FOOTER_RECORD_PREFIX_BYTES + recordBytes

assert(BATCH_PREFIX_BYTES % 4 === 0 && RECORD_PREFIX_BYTES % 4 === 0, 'records are whole words')
assert(RecordType.Data === 1, 'a record without a type is none')
