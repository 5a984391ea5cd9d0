import { ErrorCode, StoreError } from '../core/errors.ts'
import { PAGE_BYTES, viewOf } from '../format/fields.ts'
import {
  encodeTrailer,
  FOOTER_PREFIX_BYTES,
  FOOTER_RECORD_PREFIX_BYTES,
  footerPagesOf,
  sealFooter
} from '../format/segment.ts'
import type { Files } from './files.ts'
import type { Segment, Segments } from './segments.ts'

/** Footer records of one segment while they are gathered. */
export class FooterBuffer {
  /** Bytes of the records, without the prefix. */
  bytes = 0
  recordCount = 0
  private buffer = Buffer.from(new ArrayBuffer(64 * 1024))
  private view = viewOf(this.buffer)
  private words = new Uint32Array(this.buffer.buffer)

  clear(): void {
    this.bytes = 0
    this.recordCount = 0
  }

  /** Copies the record that stands in `source` at byte `start`, as it is on disk. */
  add(page: number, lsnDelta: number, source: Uint32Array, start: number, bytes: number): void {
    const at = FOOTER_PREFIX_BYTES + this.bytes
    const end = at + FOOTER_RECORD_PREFIX_BYTES + bytes
    if (end > this.buffer.length) this.grow()
    this.view.setUint32(at, page)
    this.view.setUint32(at + 4, lsnDelta)
    const to = (at + FOOTER_RECORD_PREFIX_BYTES) / 4
    const from = start / 4
    const words = bytes / 4
    for (let i = 0; i < words; i++) this.words[to + i] = source[from + i]!
    this.bytes = end - FOOTER_PREFIX_BYTES
    this.recordCount++
  }

  /** The whole footer; good until the next `add` or `clear`. */
  finish(footer: Parameters<typeof sealFooter>[1]): Buffer {
    const length = footerPagesOf(this.bytes) * PAGE_BYTES
    if (length > this.buffer.length) this.grow()
    this.buffer.fill(0, 0, FOOTER_PREFIX_BYTES)
    this.buffer.fill(0, FOOTER_PREFIX_BYTES + this.bytes, length)
    const bytes = this.buffer.subarray(0, length)
    sealFooter(bytes, footer)
    return bytes
  }

  /** The records as a footer has them, for a cursor; the prefix is not filled in. */
  copy(): Buffer {
    return Buffer.from(this.buffer.subarray(0, FOOTER_PREFIX_BYTES + this.bytes))
  }

  private grow(): void {
    const larger = Buffer.from(new ArrayBuffer(this.buffer.length * 2))
    this.buffer.copy(larger)
    this.buffer = larger
    this.view = viewOf(larger)
    this.words = new Uint32Array(larger.buffer)
  }
}

/** Writes footer and trailer of a segment that takes no more, and notes where they are. */
export function writeFooter(
  files: Files,
  segments: Segments,
  segment: Segment,
  records: FooterBuffer,
  durableLsn: number
): void {
  const { saltHigh, saltLow, firstLsn, lastLsn, oldestLsn, endPage } = segment
  const trailerPage = segments.pagesPerSegment - 1
  const footerPages = footerPagesOf(records.bytes)
  if (endPage + footerPages > trailerPage) {
    throw new StoreError(ErrorCode.OutOfSpace, `no room for the footer of segment ${segment.slot}`)
  }
  const footer = records.finish({
    saltHigh,
    saltLow,
    firstLsn,
    lastLsn,
    durableLsn,
    oldestLsn,
    endPage,
    recordCount: records.recordCount,
    recordBytes: records.bytes
  })
  const trailer = encodeTrailer({
    saltHigh,
    saltLow,
    footerPage: endPage,
    footerPages,
    lastLsn,
    durableLsn,
    oldestLsn,
    hasTags: segment.hasTags
  })
  const handle = segments.open(segment)
  files.write(handle, endPage * PAGE_BYTES, footer, 0, footer.length)
  files.write(handle, trailerPage * PAGE_BYTES, trailer, 0, PAGE_BYTES)
  segment.footerPage = endPage
  segment.footerPages = footerPages
}
