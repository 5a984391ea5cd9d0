/**
 * A batch: everything that one drained queue appended, as header pages that describe all records,
 * followed by the payload blocks of the data records in record order, each aligned to a page.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { getU64, isSafeU64, isZero, magicOf, PAGE_BYTES, setU64 } from './fields.ts'
import { FORMAT_VERSION } from './superblock.ts'

assert(PAGE_BYTES === BLOCK_BYTES, 'a payload block is a page')

/** More pages would only make a single header's loss cost more blocks. */
export const BATCH_HEADER_PAGES_MAX = 16
/** 8 MiB: what one gathered write moves at most. */
export const BATCH_PAYLOAD_PAGES_MAX = 2048
/** Sequences stay below this, so that (epoch, sequence, block) fits an index entry. */
export const SEQUENCE_MAX = 2 ** 40 - 1

// Batch header, 1..16 whole pages, big-endian: prefix, then records, then zeroes to the page's end.
//
//   offset  size  field
//        0     4  magic           'TBAT'
//        4     4  checksum        CRC-32C of bytes 8..headerPages * 4096
//        8     2  formatVersion
//       10     2  headerPages
//       12     4  payloadPages
//       16     4  recordCount
//       20     4  recordBytes
//       24     8  salt            of the segment's present life
//       32     4  page            own position in the file, in pages
//       36     4  reserved
//       40     8  lsn             number of the batch in its shard, only grows
//       48     8  durableLsn      every batch with lsn <= this one was known durable
//       56    16  stable version  writerEpoch u32, reserved u32, sequence u64; zero for now
//       72     8  reserved
//       80     -  records
export const BATCH_PREFIX_BYTES = 80
export const BATCH_MAGIC = magicOf('TBAT')
const AT_CHECKSUM = 4
const AT_VERSION = 8
export const AT_HEADER_PAGES = 10
const AT_PAYLOAD_PAGES = 12
const AT_RECORD_COUNT = 16
const AT_RECORD_BYTES = 20
const AT_SALT = 24
const AT_PAGE = 32
const AT_LSN = 40
const AT_DURABLE_LSN = 48
const AT_STABLE = 56
assert(AT_STABLE + 16 + 8 === BATCH_PREFIX_BYTES, 'batch prefix has no gap at its end')

/** A batch header's own fields; one object is reused for every batch that is read. */
export class BatchHeader {
  headerPages = 0
  payloadPages = 0
  recordCount = 0
  recordBytes = 0
  saltHigh = 0
  saltLow = 0
  page = 0
  lsn = 0
  durableLsn = 0
}

export const RecordType = { Data: 1, Trim: 2, WriteZeroes: 3, DeleteLayer: 4 } as const
export type RecordType = (typeof RecordType)[keyof typeof RecordType]

/** One record; one object is reused for every record that is read. */
export class BlockRecord {
  type = 0
  flags = 0
  /** Bytes per block that follow the checksums: SEAL_TAG_BYTES of sealed data, else 0. */
  tagBytes = 0
  chunk = 0
  familyHigh = 0
  familyLow = 0
  layerHigh = 0
  layerLow = 0
  firstBlock = 0
  blockCount = 0
  writerEpoch = 0
  sequence = 0
  /** Of a tombstone: lsn with which it was first appended; compaction copies keep it. Else 0. */
  originLsn = 0
  /** Where in the buffer the checksums stand (u32 each), set by `getRecord`. */
  checksumsAt = 0

  /** Becomes equal to `other`. */
  take(other: BlockRecord): void {
    this.type = other.type
    this.flags = other.flags
    this.tagBytes = other.tagBytes
    this.chunk = other.chunk
    this.familyHigh = other.familyHigh
    this.familyLow = other.familyLow
    this.layerHigh = other.layerHigh
    this.layerLow = other.layerLow
    this.firstBlock = other.firstBlock
    this.blockCount = other.blockCount
    this.writerEpoch = other.writerEpoch
    this.sequence = other.sequence
    this.originLsn = other.originLsn
    this.checksumsAt = other.checksumsAt
  }
}

// Record, big-endian.
//
//   offset  size  field
//        0     1  type         1 data, 2 trim, 3 write-zeroes (allocated), 4 delete layer
//        1     1  flags        zero
//        2     2  tagBytes     per block: 16 where the payload is sealed (data only), else 0
//        4     4  chunk
//        8     8  family       random id
//       16     8  layer        random id
//       24     2  firstBlock   within the chunk
//       26     2  blockCount   1..1024; 0 for delete layer
//       28     4  writerEpoch
//       32     8  sequence     below 2^40
//       40     8  originLsn    of a tombstone (types 2, 3, 4), else zero
//       48     -  data only: CRC-32C of each block, 4 bytes each; then the tags
export const RECORD_PREFIX_BYTES = 48
const AT_TYPE = 0
const AT_FLAGS = 1
const AT_TAG_BYTES = 2
const AT_CHUNK = 4
const AT_FAMILY = 8
const AT_LAYER = 16
const AT_FIRST_BLOCK = 24
const AT_BLOCK_COUNT = 26
const AT_WRITER_EPOCH = 28
const AT_SEQUENCE = 32
const AT_ORIGIN_LSN = 40
assert(AT_ORIGIN_LSN + 8 === RECORD_PREFIX_BYTES, 'record prefix has no gap at its end')

/** Poly1305 tag of a sealed block. */
export const SEAL_TAG_BYTES = 16

/** Bytes of a data record over `blockCount` blocks. */
export const dataRecordBytes = (blockCount: number, tagBytes: number): number =>
  RECORD_PREFIX_BYTES + (4 + tagBytes) * blockCount

/** Where the tags of a record stand that `getRecord` brought. */
export const tagsAtOf = (record: BlockRecord): number => record.checksumsAt + 4 * record.blockCount

export const headerPagesOf = (recordBytes: number): number =>
  Math.ceil((BATCH_PREFIX_BYTES + recordBytes) / PAGE_BYTES)

/** Writes the prefix of a record. The checksums of its blocks follow it, u32 each, and the tags. */
export function setRecord(view: DataView, at: number, record: BlockRecord): void {
  view.setUint8(at + AT_TYPE, record.type)
  view.setUint8(at + AT_FLAGS, record.flags)
  view.setUint16(at + AT_TAG_BYTES, record.tagBytes)
  view.setUint32(at + AT_CHUNK, record.chunk)
  view.setUint32(at + AT_FAMILY, record.familyHigh)
  view.setUint32(at + AT_FAMILY + 4, record.familyLow)
  view.setUint32(at + AT_LAYER, record.layerHigh)
  view.setUint32(at + AT_LAYER + 4, record.layerLow)
  view.setUint16(at + AT_FIRST_BLOCK, record.firstBlock)
  view.setUint16(at + AT_BLOCK_COUNT, record.blockCount)
  view.setUint32(at + AT_WRITER_EPOCH, record.writerEpoch)
  setU64(view, at + AT_SEQUENCE, record.sequence)
  setU64(view, at + AT_ORIGIN_LSN, record.originLsn)
}

/**
 * Reads the record at `at` into `record` and returns where the next one starts; -1 when it is not
 * a record, or reaches past `end`. The checksum over it was compared before; this guards against
 * what only a bug of a writer, or a later format, could have put there.
 */
export function getRecord(view: DataView, at: number, end: number, record: BlockRecord): number {
  if (at + RECORD_PREFIX_BYTES > end) return -1
  record.type = view.getUint8(at + AT_TYPE)
  record.flags = view.getUint8(at + AT_FLAGS)
  record.tagBytes = view.getUint16(at + AT_TAG_BYTES)
  record.chunk = view.getUint32(at + AT_CHUNK)
  record.familyHigh = view.getUint32(at + AT_FAMILY)
  record.familyLow = view.getUint32(at + AT_FAMILY + 4)
  record.layerHigh = view.getUint32(at + AT_LAYER)
  record.layerLow = view.getUint32(at + AT_LAYER + 4)
  record.firstBlock = view.getUint16(at + AT_FIRST_BLOCK)
  record.blockCount = view.getUint16(at + AT_BLOCK_COUNT)
  record.writerEpoch = view.getUint32(at + AT_WRITER_EPOCH)
  record.sequence = getU64(view, at + AT_SEQUENCE)
  record.originLsn = getU64(view, at + AT_ORIGIN_LSN)
  record.checksumsAt = at + RECORD_PREFIX_BYTES
  if (record.firstBlock + record.blockCount > CHUNK_BLOCKS) return -1
  if (record.sequence > SEQUENCE_MAX || record.flags !== 0) return -1
  if (record.tagBytes !== 0 && record.type !== RecordType.Data) return -1
  switch (record.type) {
    case RecordType.Data: {
      if (record.tagBytes !== 0 && record.tagBytes !== SEAL_TAG_BYTES) return -1
      const next = at + dataRecordBytes(record.blockCount, record.tagBytes)
      return record.blockCount === 0 || next > end ? -1 : next
    }
    case RecordType.Trim:
    case RecordType.WriteZeroes:
      return record.blockCount === 0 ? -1 : at + RECORD_PREFIX_BYTES
    case RecordType.DeleteLayer:
      return record.blockCount === 0 ? at + RECORD_PREFIX_BYTES : -1
    default:
      return -1
  }
}

/**
 * Fills in the prefix of the header that starts at `start` of `bytes` (records are in place),
 * zeroes what is behind the records, and sets the checksum.
 */
export function sealBatchHeader(
  bytes: Buffer,
  view: DataView,
  start: number,
  header: BatchHeader
): void {
  const end = start + header.headerPages * PAGE_BYTES
  bytes.fill(0, start, start + BATCH_PREFIX_BYTES)
  bytes.fill(0, start + BATCH_PREFIX_BYTES + header.recordBytes, end)
  view.setUint32(start, BATCH_MAGIC)
  view.setUint16(start + AT_VERSION, FORMAT_VERSION)
  view.setUint16(start + AT_HEADER_PAGES, header.headerPages)
  view.setUint32(start + AT_PAYLOAD_PAGES, header.payloadPages)
  view.setUint32(start + AT_RECORD_COUNT, header.recordCount)
  view.setUint32(start + AT_RECORD_BYTES, header.recordBytes)
  view.setUint32(start + AT_SALT, header.saltHigh)
  view.setUint32(start + AT_SALT + 4, header.saltLow)
  view.setUint32(start + AT_PAGE, header.page)
  setU64(view, start + AT_LSN, header.lsn)
  setU64(view, start + AT_DURABLE_LSN, header.durableLsn)
  view.setUint32(start + AT_CHECKSUM, crc32c(bytes.subarray(start + AT_VERSION, end)))
}

/**
 * Header pages that the bytes at `start` claim to need, 0 when they are no batch header of this
 * life of the segment at this position. Cheap: the checksum is not compared.
 */
export function peekHeaderPages(
  view: DataView,
  start: number,
  life: { saltHigh: number; saltLow: number; page: number }
): number {
  if (view.getUint32(start) !== BATCH_MAGIC) return 0
  if (view.getUint32(start + AT_SALT) !== life.saltHigh) return 0
  if (view.getUint32(start + AT_SALT + 4) !== life.saltLow) return 0
  if (view.getUint32(start + AT_PAGE) !== life.page) return 0
  if (view.getUint16(start + AT_VERSION) !== FORMAT_VERSION) return 0
  const pages = view.getUint16(start + AT_HEADER_PAGES)
  return pages >= 1 && pages <= BATCH_HEADER_PAGES_MAX ? pages : 0
}

/** Reads and checks the whole header at `start`; false when it does not verify. */
export function decodeBatchHeader(
  bytes: Buffer,
  view: DataView,
  start: number,
  header: BatchHeader
): boolean {
  if (view.getUint32(start) !== BATCH_MAGIC) return false
  const headerPages = view.getUint16(start + AT_HEADER_PAGES)
  const end = start + headerPages * PAGE_BYTES
  if (headerPages < 1 || headerPages > BATCH_HEADER_PAGES_MAX || end > bytes.length) return false
  if (view.getUint32(start + AT_CHECKSUM) !== crc32c(bytes.subarray(start + AT_VERSION, end))) {
    return false
  }
  header.headerPages = headerPages
  header.payloadPages = view.getUint32(start + AT_PAYLOAD_PAGES)
  header.recordCount = view.getUint32(start + AT_RECORD_COUNT)
  header.recordBytes = view.getUint32(start + AT_RECORD_BYTES)
  header.saltHigh = view.getUint32(start + AT_SALT)
  header.saltLow = view.getUint32(start + AT_SALT + 4)
  header.page = view.getUint32(start + AT_PAGE)
  if (!isSafeU64(view, start + AT_LSN) || !isSafeU64(view, start + AT_DURABLE_LSN)) return false
  header.lsn = getU64(view, start + AT_LSN)
  header.durableLsn = getU64(view, start + AT_DURABLE_LSN)
  const recordsEnd = start + BATCH_PREFIX_BYTES + header.recordBytes
  return recordsEnd <= end && isZero(bytes, recordsEnd, end)
}
