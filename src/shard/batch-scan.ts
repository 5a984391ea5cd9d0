/**
 * Walks the batches of one segment's present life by their headers: for segments without a usable
 * footer, and to verify what may not have been durable.
 *
 * Where no valid header stands, the walk looks on page by page: a header that carries the right
 * salt, its own position and a checksum can only be one of this life. So a damaged header costs
 * its own batch and nothing behind it.
 */
import { BatchHeader, decodeBatchHeader, peekHeaderPages } from '../format/batch.ts'
import { PAGE_BYTES, viewOf } from '../format/fields.ts'
import type { Files } from './files.ts'
import type { Segment, Segments } from './segments.ts'

/** One batch that a walk found. */
export interface FoundBatch {
  readonly page: number
  readonly headerPages: number
  readonly payloadPages: number
  readonly lsn: number
  readonly durableLsn: number
}

export interface SegmentScan {
  /** Valid headers in order of position, and so of lsn. */
  readonly batches: FoundBatch[]
  /** Pages where a valid header should stand but does not, with a valid one behind them. */
  readonly damagedPages: number[]
  /** Behind the last batch. */
  readonly endPage: number
}

const WINDOW_PAGES = 256
/** Whoever skips more pages than this goes from header to header, and wants no payload. */
const SKIP_PAGES = 8
const HEADER_WINDOW_PAGES = 4

/** Reads a file through a window: of 1 MiB, or a few pages where most of the file is skipped. */
export class PageWindow {
  readonly buffer = Buffer.alloc(WINDOW_PAGES * PAGE_BYTES)
  readonly view = viewOf(this.buffer)
  private readonly files: Files
  private handle = -1
  private startPage = 0
  private pages = 0
  private lastPage = 0

  constructor(files: Files) {
    this.files = files
  }

  reset(handle: number): void {
    this.handle = handle
    this.startPage = 0
    this.pages = 0
    this.lastPage = 0
  }

  /** Byte position in `buffer` of pages [page, page + count), or -1 when the file has fewer. */
  at(page: number, count: number): number {
    const isSkip = page - this.lastPage > SKIP_PAGES
    this.lastPage = page
    if (page < this.startPage || page + count > this.startPage + this.pages) {
      const pages = isSkip ? Math.max(count, HEADER_WINDOW_PAGES) : WINDOW_PAGES
      const length = pages * PAGE_BYTES
      const bytes = this.files.read(this.handle, page * PAGE_BYTES, this.buffer, 0, length)
      this.startPage = page
      this.pages = Math.floor(bytes / PAGE_BYTES)
      if (count > this.pages) return -1
    }
    return (page - this.startPage) * PAGE_BYTES
  }
}

/** `voidLsn`: batches from this lsn on are remains of a failed write. */
export function scanBatches(
  window: PageWindow,
  segments: Segments,
  segment: Segment,
  voidLsn: number
): SegmentScan {
  const header = new BatchHeader()
  const batches: FoundBatch[] = []
  const damagedPages: number[] = []
  const lastPage = segments.pagesPerSegment
  let page = 1
  let endPage = 1
  let expectedLsn = segment.firstLsn
  window.reset(segments.open(segment))
  while (page < lastPage) {
    if (!readHeader(window, segment, page, header)) {
      if (window.at(page, 1) < 0) break // the file ends
      page++
      continue
    }
    const next = page + header.headerPages + header.payloadPages
    const fits = header.lsn >= expectedLsn && header.lsn < voidLsn && next < lastPage
    if (!fits) {
      page++
      continue
    }
    if (page > endPage) damagedPages.push(endPage)
    batches.push({
      page,
      headerPages: header.headerPages,
      payloadPages: header.payloadPages,
      lsn: header.lsn,
      durableLsn: header.durableLsn
    })
    expectedLsn = header.lsn + 1
    page = next
    endPage = next
  }
  return { batches, damagedPages, endPage }
}

/** Brings a valid header of `segment`'s life at `page` into `header`. */
function readHeader(
  window: PageWindow,
  segment: Segment,
  page: number,
  header: BatchHeader
): boolean {
  const first = window.at(page, 1)
  if (first < 0) return false
  const { saltHigh, saltLow } = segment
  const pages = peekHeaderPages(window.view, first, { saltHigh, saltLow, page })
  if (pages === 0) return false
  const start = window.at(page, pages)
  return start >= 0 && decodeBatchHeader(window.buffer, window.view, start, header)
}
