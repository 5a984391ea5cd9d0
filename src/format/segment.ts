/**
 * A segment file: header page, batches, and once sealed a footer (an index of all records, so that
 * recovery need not scan) with a trailer page at the very end of the file that tells where it is.
 *
 *   page 0     header   identity, slot, salt of this life, first lsn
 *   page 1..   batches  see batch.ts
 *   page e..   footer   behind the last batch
 *   last page  trailer  at segmentBytes - 4096
 *
 * `salt` is random and new each time a slot's file begins a new life; batches, footer and trailer
 * carry it, so that what an earlier life left in a recycled file never verifies.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { getId, getU64, isSafeU64, magicOf, PAGE_BYTES, setId, setU64, viewOf } from './fields.ts'
import { FORMAT_VERSION } from './superblock.ts'

export const SegmentUse = { Used: 1, Free: 2 } as const
export type SegmentUse = (typeof SegmentUse)[keyof typeof SegmentUse]

export interface SegmentHeader {
  use: SegmentUse
  clusterId: string
  peerId: string
  shard: number
  slot: number
  segmentBytes: number
  saltHigh: number
  saltLow: number
  /**
   * Lsn that the first batch of this life has. Batches of segments born earlier have lower ones;
   * one there with this lsn or a higher one is what a failed write left behind, and is void.
   */
  firstLsn: number
  /** Grows by one with each life that any segment of the shard begins. */
  birth: number
}

// The header's fields stand in the first 512 bytes and the rest of the page is the same in every
// life, so that a write torn between sectors leaves the old header or the new one, never neither.
//
// Segment header, one page, big-endian. Bytes not listed are zero.
//
//   offset  size  field
//        0     4  magic          'TSEG'
//        4     4  checksum       CRC-32C of bytes 8..4096
//        8     4  formatVersion
//       12     4  use            1 used, 2 free (may be overwritten; nothing in it counts)
//       16    16  clusterId
//       32    16  peerId
//       48     4  shard
//       52     4  slot           number in the file's name
//       56     4  segmentBytes
//       60     4  reserved
//       64     8  salt
//       72     8  firstLsn
//       80     8  birth
//       88     -  reserved
export const SEGMENT_HEADER_BYTES = PAGE_BYTES
const SEGMENT_MAGIC = magicOf('TSEG')
const AT_CHECKSUM = 4
const AT_VERSION = 8
const AT_USE = 12
const AT_CLUSTER = 16
const AT_PEER = 32
const AT_SHARD = 48
const AT_SLOT = 52
const AT_SEGMENT_BYTES = 56
const AT_SALT = 64
const AT_FIRST_LSN = 72
const AT_BIRTH = 80
const SECTOR_BYTES = 512
assert(AT_BIRTH + 8 <= SECTOR_BYTES, 'segment header fields stand in one sector')

export function encodeSegmentHeader(header: SegmentHeader): Buffer {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, SEGMENT_MAGIC)
  view.setUint32(AT_VERSION, FORMAT_VERSION)
  view.setUint32(AT_USE, header.use)
  setId(bytes, AT_CLUSTER, header.clusterId)
  setId(bytes, AT_PEER, header.peerId)
  view.setUint32(AT_SHARD, header.shard)
  view.setUint32(AT_SLOT, header.slot)
  view.setUint32(AT_SEGMENT_BYTES, header.segmentBytes)
  view.setUint32(AT_SALT, header.saltHigh)
  view.setUint32(AT_SALT + 4, header.saltLow)
  setU64(view, AT_FIRST_LSN, header.firstLsn)
  setU64(view, AT_BIRTH, header.birth)
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
  return bytes
}

/** Null when the page is no header of this format version. Identity is for the caller to judge. */
export function decodeSegmentHeader(bytes: Buffer): SegmentHeader | null {
  if (bytes.length < SEGMENT_HEADER_BYTES) return null
  const view = viewOf(bytes)
  if (view.getUint32(0) !== SEGMENT_MAGIC) return null
  const checksum = crc32c(bytes.subarray(AT_VERSION, SEGMENT_HEADER_BYTES))
  if (view.getUint32(AT_CHECKSUM) !== checksum) return null
  if (view.getUint32(AT_VERSION) !== FORMAT_VERSION) return null
  const use = view.getUint32(AT_USE)
  if (use !== SegmentUse.Used && use !== SegmentUse.Free) return null
  if (!isSafeU64(view, AT_FIRST_LSN) || !isSafeU64(view, AT_BIRTH)) return null
  return {
    use,
    clusterId: getId(bytes, AT_CLUSTER),
    peerId: getId(bytes, AT_PEER),
    shard: view.getUint32(AT_SHARD),
    slot: view.getUint32(AT_SLOT),
    segmentBytes: view.getUint32(AT_SEGMENT_BYTES),
    saltHigh: view.getUint32(AT_SALT),
    saltLow: view.getUint32(AT_SALT + 4),
    firstLsn: getU64(view, AT_FIRST_LSN),
    birth: getU64(view, AT_BIRTH)
  }
}

export interface SegmentFooter {
  saltHigh: number
  saltLow: number
  firstLsn: number
  /** Lsn of the last batch; firstLsn - 1 when there is none. */
  lastLsn: number
  /** Every batch up to this one was known durable when the footer was written. */
  durableLsn: number
  /**
   * Lsn of the oldest write that a record here may stand for: firstLsn, or 0 when a record was
   * older than what the index held. A tombstone must outlive all segments whose oldestLsn is
   * below its own lsn.
   */
  oldestLsn: number
  /** Pages in front of the footer: where it starts. */
  endPage: number
  recordCount: number
  /** Bytes of footer records behind the prefix. */
  recordBytes: number
}

// Footer, whole pages, big-endian: prefix, then records, then zeroes to the end of the page.
//
//   offset  size  field
//        0     4  magic          'TFTR'
//        4     4  checksum       CRC-32C of bytes 8..end of the last page
//        8     4  formatVersion
//       12     4  endPage        page in the file where the footer starts
//       16     8  salt
//       24     8  firstLsn
//       32     8  lastLsn
//       40     8  durableLsn
//       48     8  oldestLsn
//       56     4  recordCount
//       60     4  recordBytes
//       64     -  records, each:
//                    0   4  page      of the first payload block in the file (0: no payload)
//                    4   4  lsnDelta  lsn of its batch - firstLsn
//                    8   -  the record as in the batch header, see batch.ts
export const FOOTER_PREFIX_BYTES = 64
export const FOOTER_RECORD_PREFIX_BYTES = 8
const FOOTER_MAGIC = magicOf('TFTR')
const AT_FOOTER_END_PAGE = 12
const AT_FOOTER_SALT = 16
const AT_FOOTER_FIRST_LSN = 24
const AT_FOOTER_LAST_LSN = 32
const AT_FOOTER_DURABLE_LSN = 40
const AT_FOOTER_OLDEST_LSN = 48
const AT_FOOTER_RECORD_COUNT = 56
const AT_FOOTER_RECORD_BYTES = 60
assert(AT_FOOTER_RECORD_BYTES + 4 === FOOTER_PREFIX_BYTES, 'footer prefix has no gap at its end')

export const footerPagesOf = (recordBytes: number): number =>
  Math.ceil((FOOTER_PREFIX_BYTES + recordBytes) / PAGE_BYTES)

/** Fills in prefix and checksum of `bytes`: whole pages, records in place, zeroes behind. */
export function sealFooter(bytes: Buffer, footer: SegmentFooter): void {
  assert(
    bytes.length === footerPagesOf(footer.recordBytes) * PAGE_BYTES,
    'a footer fills its pages'
  )
  const view = viewOf(bytes)
  view.setUint32(0, FOOTER_MAGIC)
  view.setUint32(AT_VERSION, FORMAT_VERSION)
  view.setUint32(AT_FOOTER_END_PAGE, footer.endPage)
  view.setUint32(AT_FOOTER_SALT, footer.saltHigh)
  view.setUint32(AT_FOOTER_SALT + 4, footer.saltLow)
  setU64(view, AT_FOOTER_FIRST_LSN, footer.firstLsn)
  setU64(view, AT_FOOTER_LAST_LSN, footer.lastLsn)
  setU64(view, AT_FOOTER_DURABLE_LSN, footer.durableLsn)
  setU64(view, AT_FOOTER_OLDEST_LSN, footer.oldestLsn)
  view.setUint32(AT_FOOTER_RECORD_COUNT, footer.recordCount)
  view.setUint32(AT_FOOTER_RECORD_BYTES, footer.recordBytes)
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
}

/** A footer of this life begins at `start`, whole or not. */
export const isFooterStart = (
  view: DataView,
  start: number,
  life: { saltHigh: number; saltLow: number }
): boolean =>
  view.getUint32(start) === FOOTER_MAGIC &&
  view.getUint32(start + AT_FOOTER_SALT) === life.saltHigh &&
  view.getUint32(start + AT_FOOTER_SALT + 4) === life.saltLow

/** Null unless `bytes` is a whole, valid footer. Salt and position are the caller's to compare. */
export function decodeFooter(bytes: Buffer): SegmentFooter | null {
  if (bytes.length < FOOTER_PREFIX_BYTES || bytes.length % PAGE_BYTES !== 0) return null
  const view = viewOf(bytes)
  if (view.getUint32(0) !== FOOTER_MAGIC) return null
  if (view.getUint32(AT_CHECKSUM) !== crc32c(bytes.subarray(AT_VERSION))) return null
  if (view.getUint32(AT_VERSION) !== FORMAT_VERSION) return null
  const recordBytes = view.getUint32(AT_FOOTER_RECORD_BYTES)
  if (footerPagesOf(recordBytes) * PAGE_BYTES !== bytes.length) return null
  return {
    endPage: view.getUint32(AT_FOOTER_END_PAGE),
    saltHigh: view.getUint32(AT_FOOTER_SALT),
    saltLow: view.getUint32(AT_FOOTER_SALT + 4),
    firstLsn: getU64(view, AT_FOOTER_FIRST_LSN),
    lastLsn: getU64(view, AT_FOOTER_LAST_LSN),
    durableLsn: getU64(view, AT_FOOTER_DURABLE_LSN),
    oldestLsn: getU64(view, AT_FOOTER_OLDEST_LSN),
    recordCount: view.getUint32(AT_FOOTER_RECORD_COUNT),
    recordBytes
  }
}

export interface SegmentTrailer {
  saltHigh: number
  saltLow: number
  footerPage: number
  footerPages: number
  // The same as in the footer, so that recovery need not read every footer to know them.
  lastLsn: number
  durableLsn: number
  oldestLsn: number
  /** A record of the segment has tags. */
  hasTags: boolean
}

// Trailer, the last page of a sealed segment's file, big-endian. Bytes not listed are zero.
//
//   offset  size  field
//        0     4  magic          'TTRL'
//        4     4  checksum       CRC-32C of bytes 8..56
//        8     4  formatVersion
//       12     4  footerPage
//       16     4  footerPages
//       20     4  hasTags        1 when a record has tags, else 0
//       24     8  salt
//       32     8  lastLsn
//       40     8  durableLsn
//       48     8  oldestLsn
const TRAILER_MAGIC = magicOf('TTRL')
const AT_TRAILER_FOOTER_PAGE = 12
const AT_TRAILER_FOOTER_PAGES = 16
const AT_TRAILER_HAS_TAGS = 20
const AT_TRAILER_SALT = 24
const AT_TRAILER_LAST_LSN = 32
const AT_TRAILER_DURABLE_LSN = 40
const AT_TRAILER_OLDEST_LSN = 48
const TRAILER_FIELD_BYTES = 56
assert(AT_TRAILER_OLDEST_LSN + 8 === TRAILER_FIELD_BYTES, 'trailer has no gap at its end')

export function encodeTrailer(trailer: SegmentTrailer): Buffer {
  const bytes = Buffer.alloc(PAGE_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, TRAILER_MAGIC)
  view.setUint32(AT_VERSION, FORMAT_VERSION)
  view.setUint32(AT_TRAILER_FOOTER_PAGE, trailer.footerPage)
  view.setUint32(AT_TRAILER_FOOTER_PAGES, trailer.footerPages)
  view.setUint32(AT_TRAILER_HAS_TAGS, trailer.hasTags ? 1 : 0)
  view.setUint32(AT_TRAILER_SALT, trailer.saltHigh)
  view.setUint32(AT_TRAILER_SALT + 4, trailer.saltLow)
  setU64(view, AT_TRAILER_LAST_LSN, trailer.lastLsn)
  setU64(view, AT_TRAILER_DURABLE_LSN, trailer.durableLsn)
  setU64(view, AT_TRAILER_OLDEST_LSN, trailer.oldestLsn)
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION, TRAILER_FIELD_BYTES)))
  return bytes
}

export function decodeTrailer(bytes: Buffer): SegmentTrailer | null {
  if (bytes.length < PAGE_BYTES) return null
  const view = viewOf(bytes)
  if (view.getUint32(0) !== TRAILER_MAGIC) return null
  const checksum = crc32c(bytes.subarray(AT_VERSION, TRAILER_FIELD_BYTES))
  if (view.getUint32(AT_CHECKSUM) !== checksum) return null
  if (view.getUint32(AT_VERSION) !== FORMAT_VERSION) return null
  return {
    footerPage: view.getUint32(AT_TRAILER_FOOTER_PAGE),
    footerPages: view.getUint32(AT_TRAILER_FOOTER_PAGES),
    saltHigh: view.getUint32(AT_TRAILER_SALT),
    saltLow: view.getUint32(AT_TRAILER_SALT + 4),
    lastLsn: getU64(view, AT_TRAILER_LAST_LSN),
    durableLsn: getU64(view, AT_TRAILER_DURABLE_LSN),
    oldestLsn: getU64(view, AT_TRAILER_OLDEST_LSN),
    hasTags: view.getUint32(AT_TRAILER_HAS_TAGS) === 1
  }
}
