/** Finds a shard's segments at start: what each header and trailer says. Reads only. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  AT_HEADER_PAGES,
  BATCH_HEADER_PAGES_MAX,
  BATCH_MAGIC,
  BatchHeader,
  decodeBatchHeader,
  peekHeaderPages
} from '../format/batch.ts'
import { PAGE_BYTES } from '../format/fields.ts'
import {
  decodeSegmentHeader,
  decodeTrailer,
  type SegmentHeader,
  SegmentUse
} from '../format/segment.ts'
import type { PageWindow, SegmentScan } from './batch-scan.ts'
import type { Files } from './files.ts'
import type { Problem } from './problem.ts'
import { Segment, SegmentState, type Segments, segmentName, slotOfName } from './segments.ts'
import type { ShardConfig } from './shard-config.ts'

/** A segment in use, and what is known of it before its records are read. */
export interface Candidate {
  readonly segment: Segment
  scan: SegmentScan | null
  /** Batches from this lsn on are void: the next-born segment's first one. */
  voidLsn: number
  /** Its header page was unreadable; only what is below the mark is believed. */
  readonly adopted: boolean
}

export class SegmentFinder {
  /** Highest lsn that a trailer says is durable. */
  mark = 0
  /** Highest lsn that a header or trailer shows was given out. */
  highestLsn = 0
  /** Whose free header may be in the page cache only. */
  readonly free: Segment[] = []
  private readonly config: ShardConfig
  private readonly files: Files
  private readonly segments: Segments
  private readonly window: PageWindow
  private readonly report: (problem: Problem) => void
  private readonly page = Buffer.alloc(PAGE_BYTES)
  private readonly header = new BatchHeader()

  constructor(
    config: ShardConfig,
    files: Files,
    parts: { segments: Segments; window: PageWindow; report: (problem: Problem) => void }
  ) {
    this.config = config
    this.files = files
    this.segments = parts.segments
    this.window = parts.window
    this.report = parts.report
  }

  /** All segments in use, oldest first. Free ones are put into the table at once. */
  find(): Candidate[] {
    const candidates: Candidate[] = []
    for (const name of this.files.list()) {
      const slot = slotOfName(name)
      if (slot < 0) continue
      if (slot >= this.segments.lostSlot) {
        throw new StoreError(ErrorCode.Corrupt, `${name} is beyond the last slot of a shard`)
      }
      const candidate = this.readSegmentHeader(slot)
      if (candidate !== null) candidates.push(candidate)
    }
    candidates.sort((a, b) => {
      const byLsn = a.segment.firstLsn - b.segment.firstLsn
      return byLsn !== 0 ? byLsn : a.segment.birth - b.segment.birth
    })
    let voidLsn = Number.POSITIVE_INFINITY
    for (let i = candidates.length - 1; i >= 0; i--) {
      const candidate = candidates[i]!
      candidate.voidLsn = voidLsn
      // An adopted one may itself be remains, of failed writes whose header never became durable:
      // it was born before the segment that voids it, though its first batch that is left has a
      // higher lsn than that one's.
      if (!candidate.adopted) voidLsn = Math.min(voidLsn, candidate.segment.firstLsn)
      this.highestLsn = Math.max(this.highestLsn, candidate.segment.firstLsn)
    }
    this.voidRemains(candidates)
    return candidates
  }

  /**
   * Nor does the order of lsns show what voids an adopted one: the segment born next begins below
   * the lsn that was found, by its header, and above it with its first batch. No lsn is given
   * twice.
   */
  private voidRemains(candidates: readonly Candidate[]): void {
    let last: Segment | null = null
    for (const candidate of candidates) {
      const { segment, adopted } = candidate
      if (!adopted) last = segment
      else if (last !== null && this.firstBatchLsn(last) > segment.firstLsn) {
        candidate.voidLsn = Math.min(candidate.voidLsn, last.firstLsn)
      }
    }
  }

  /** 0 when there is none. */
  private firstBatchLsn(segment: Segment): number {
    const { window, header } = this
    window.reset(this.segments.open(segment))
    const at = window.at(1, 1)
    if (at < 0) return 0
    const pages = peekHeaderPages(window.view, at, {
      saltHigh: segment.saltHigh,
      saltLow: segment.saltLow,
      page: 1
    })
    const start = pages === 0 ? -1 : window.at(1, pages)
    if (start < 0 || !decodeBatchHeader(window.buffer, window.view, start, header)) return 0
    return header.lsn
  }

  /** Null when the segment is free. */
  private readSegmentHeader(slot: number): Candidate | null {
    const segment = new Segment(slot)
    const got = this.files.read(this.segments.open(segment), 0, this.page, 0, PAGE_BYTES)
    this.page.fill(0, got) // of a new file only the first sectors may have survived
    const header = decodeSegmentHeader(this.page)
    const candidate = header === null ? this.adopt(segment) : this.takeHeader(segment, header)
    if (candidate !== null) this.readTrailer(segment)
    this.segments.tryClose(segment) // there may be more segments than descriptors
    return candidate
  }

  private takeHeader(segment: Segment, header: SegmentHeader): Candidate | null {
    const { slot } = segment
    const { clusterId, peerId, shard, segmentBytes } = this.config
    const isOurs =
      header.clusterId === clusterId &&
      header.peerId === peerId &&
      header.shard === shard &&
      header.slot === slot &&
      header.segmentBytes === segmentBytes
    if (!isOurs) {
      throw new StoreError(
        ErrorCode.Corrupt,
        `${segmentName(slot)} belongs to cluster ${header.clusterId} peer ${header.peerId} ` +
          `shard ${header.shard} slot ${header.slot}`
      )
    }
    segment.birth = header.birth
    if (header.use === SegmentUse.Free) {
      this.segments.add(segment)
      // Before a new life overwrites it: it may be in the page cache only.
      this.free.push(segment)
      return null
    }
    segment.saltHigh = header.saltHigh
    segment.saltLow = header.saltLow
    segment.firstLsn = header.firstLsn
    return this.candidateOf(segment, false)
  }

  /**
   * A segment whose header does not verify. New files of which nothing was ever durable look like
   * that, and are free. Else the header was damaged: the first batch has the salt, and an lsn.
   */
  private adopt(segment: Segment): Candidate | null {
    const isBlank = this.page.every((byte) => byte === 0)
    this.window.reset(segment.handle)
    const { header } = this
    if (!this.findAnyBatch()) {
      if (!isBlank) {
        const detail = 'no header and no batch verifies'
        this.report({ kind: 'segmentHeader', file: segmentName(segment.slot), offset: 0, detail })
      }
      this.segments.add(segment)
      return null
    }
    segment.saltHigh = header.saltHigh
    segment.saltLow = header.saltLow
    segment.firstLsn = header.lsn
    segment.birth = 0 // unknown; its lsn says where in the order it belongs
    return this.candidateOf(segment, true)
  }

  /** Brings the first batch header of the window's file that verifies into `header`. */
  private findAnyBatch(): boolean {
    const { window, header } = this
    for (let page = 1; page < this.segments.pagesPerSegment; page++) {
      const at = window.at(page, 1)
      if (at < 0) return false
      if (window.view.getUint32(at) !== BATCH_MAGIC) continue
      const pages = window.view.getUint16(at + AT_HEADER_PAGES)
      const start = pages < 1 || pages > BATCH_HEADER_PAGES_MAX ? -1 : window.at(page, pages)
      if (start < 0 || !decodeBatchHeader(window.buffer, window.view, start, header)) continue
      if (header.page === page) return true
    }
    return false
  }

  private candidateOf(segment: Segment, adopted: boolean): Candidate {
    segment.state = SegmentState.Sealed
    segment.lastLsn = segment.firstLsn - 1
    segment.oldestLsn = segment.firstLsn
    this.segments.add(segment)
    return { segment, scan: null, voidLsn: Number.POSITIVE_INFINITY, adopted }
  }

  private readTrailer(segment: Segment): void {
    const trailerPage = this.segments.pagesPerSegment - 1
    const offset = trailerPage * PAGE_BYTES
    const got = this.files.read(this.segments.open(segment), offset, this.page, 0, PAGE_BYTES)
    const trailer = got < PAGE_BYTES ? null : decodeTrailer(this.page)
    const isOurs =
      trailer !== null &&
      trailer.saltHigh === segment.saltHigh &&
      trailer.saltLow === segment.saltLow &&
      trailer.footerPage + trailer.footerPages <= trailerPage
    if (!isOurs) return
    segment.footerPage = trailer.footerPage
    segment.footerPages = trailer.footerPages
    segment.endPage = trailer.footerPage
    segment.lastLsn = trailer.lastLsn
    segment.oldestLsn = trailer.oldestLsn
    segment.hasTags = trailer.hasTags
    this.mark = Math.max(this.mark, trailer.durableLsn)
    this.highestLsn = Math.max(this.highestLsn, trailer.lastLsn + 1)
  }
}
