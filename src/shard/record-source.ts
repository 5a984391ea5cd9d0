/**
 * Reads the records of one segment, in the order in which they were appended: from its footer
 * where that verifies, else from the batch headers.
 */
import {
  BATCH_HEADER_PAGES_MAX,
  BATCH_PREFIX_BYTES,
  BatchHeader,
  BlockRecord,
  decodeBatchHeader,
  getRecord,
  RecordType,
  tagsAtOf
} from '../format/batch.ts'
import { PAGE_BYTES, viewOf } from '../format/fields.ts'
import { decodeFooter, FOOTER_PREFIX_BYTES, FOOTER_RECORD_PREFIX_BYTES } from '../format/segment.ts'
import { type FoundBatch, PageWindow, scanBatches } from './batch-scan.ts'
import type { Files } from './files.ts'
import { FooterBuffer } from './footer-buffer.ts'
import type { Segment, Segments } from './segments.ts'

/** Records as they stand in one buffer, with where and when they were appended. */
export class RecordCursor {
  readonly record = new BlockRecord()
  /** Page of the first payload block in the segment's file; 0 without payload. */
  page = 0
  lsn = 0
  /** Where the present record stands in `bytes`, and its length. */
  at = 0
  recordBytes = 0
  /** Something that is no record was met: the rest is unknown. */
  broken = false
  private bytes: Buffer = Buffer.alloc(0)
  view: DataView = viewOf(this.bytes)
  private next = 0
  private end = 0
  private left = 0
  private firstLsn = 0
  private fromFooter = false
  private payloadPage = 0

  /** Footer records behind the prefix. */
  openFooter(bytes: Buffer, firstLsn: number, recordCount: number, recordBytes: number): void {
    this.open(bytes, FOOTER_PREFIX_BYTES, recordBytes, recordCount)
    this.fromFooter = true
    this.firstLsn = firstLsn
  }

  /** Records of the batch whose header pages are `bytes`. */
  openBatch(bytes: Buffer, recordCount: number, recordBytes: number, batch: FoundBatch): void {
    this.open(bytes, BATCH_PREFIX_BYTES, recordBytes, recordCount)
    this.fromFooter = false
    this.lsn = batch.lsn
    this.payloadPage = batch.page + batch.headerPages
  }

  /** Brings the next record into `record`. False at the end. */
  advance(): boolean {
    if (this.left === 0) return false
    this.left--
    let { next } = this
    if (this.fromFooter) {
      if (next + FOOTER_RECORD_PREFIX_BYTES > this.end) return this.fail()
      this.page = this.view.getUint32(next)
      this.lsn = this.firstLsn + this.view.getUint32(next + 4)
      next += FOOTER_RECORD_PREFIX_BYTES
    }
    const after = getRecord(this.view, next, this.end, this.record)
    if (after < 0) return this.fail()
    this.at = next
    this.recordBytes = after - next
    this.next = after
    if (!this.fromFooter) {
      const isData = this.record.type === RecordType.Data
      this.page = isData ? this.payloadPage : 0
      if (isData) this.payloadPage += this.record.blockCount
    }
    return true
  }

  /** Copies the present data record's checksums to `crcs[0]`... */
  checksums(crcs: Uint32Array): void {
    const { record, view } = this
    let at = record.checksumsAt
    for (let i = 0; i < record.blockCount; i++, at += 4) crcs[i] = view.getUint32(at)
  }

  /** Copies the present data record's tags, if it has any. */
  tags(into: Buffer, at: number): void {
    const { record } = this
    const from = tagsAtOf(record)
    this.bytes.copy(into, at, from, from + record.tagBytes * record.blockCount)
  }

  private open(bytes: Buffer, start: number, recordBytes: number, recordCount: number): void {
    if (this.bytes !== bytes) {
      this.bytes = bytes
      this.view = viewOf(bytes)
    }
    this.next = start
    this.end = Math.min(start + recordBytes, bytes.length)
    this.left = recordCount
    this.broken = false
  }

  private fail(): boolean {
    this.broken = true
    this.left = 0
    return false
  }
}

/** Opens `cursor` on the segment's footer; false when there is none that verifies. */
export function openFooterRecords(
  files: Files,
  segments: Segments,
  segment: Segment,
  cursor: RecordCursor
): boolean {
  if (segment.footerPages === 0) return false
  const bytes = Buffer.allocUnsafeSlow(segment.footerPages * PAGE_BYTES)
  const offset = segment.footerPage * PAGE_BYTES
  const got = files.read(segments.open(segment), offset, bytes, 0, bytes.length)
  if (got < bytes.length) return false
  const footer = decodeFooter(bytes)
  if (footer === null) return false
  const isOurs =
    footer.saltHigh === segment.saltHigh &&
    footer.saltLow === segment.saltLow &&
    footer.endPage === segment.footerPage &&
    footer.firstLsn === segment.firstLsn
  if (!isOurs) return false
  cursor.openFooter(bytes, footer.firstLsn, footer.recordCount, footer.recordBytes)
  return true
}

/**
 * Opens `cursor` on all records of a segment that takes no appends: from the footer, else from the
 * batch headers in front of `segment.endPage`.
 * @throws StoreError DiskFailure
 */
export function openRecords(
  files: Files,
  segments: Segments,
  segment: Segment,
  cursor: RecordCursor
): void {
  if (openFooterRecords(files, segments, segment, cursor)) return
  const gathered = gatherRecords(files, segments, segment)
  const { recordCount, bytes } = gathered
  cursor.openFooter(gathered.copy(), segment.firstLsn, recordCount, bytes)
}

/**
 * What the footer of a segment without one should hold, from its batch headers.
 * @throws StoreError DiskFailure
 */
export function gatherRecords(files: Files, segments: Segments, segment: Segment): FooterBuffer {
  const window = new PageWindow(files)
  const scan = scanBatches(window, segments, segment, Number.POSITIVE_INFINITY)
  const gathered = new FooterBuffer()
  const bytes = Buffer.from(new ArrayBuffer(BATCH_HEADER_PAGES_MAX * PAGE_BYTES))
  const words = new Uint32Array(bytes.buffer)
  const view = viewOf(bytes)
  const header = new BatchHeader()
  const cursor = new RecordCursor()
  for (const batch of scan.batches) {
    if (batch.page >= segment.endPage) break
    const length = batch.headerPages * PAGE_BYTES
    files.read(segments.open(segment), batch.page * PAGE_BYTES, bytes, 0, length)
    if (!decodeBatchHeader(bytes, view, 0, header)) continue
    cursor.openBatch(bytes, header.recordCount, header.recordBytes, batch)
    while (cursor.advance()) {
      gathered.add(cursor.page, batch.lsn - segment.firstLsn, words, cursor.at, cursor.recordBytes)
    }
  }
  return gathered
}
