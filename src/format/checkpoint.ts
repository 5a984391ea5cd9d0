/**
 * Checkpoint of a shard's index: a header page, then pieces one behind the other, each with its
 * own checksum; the last one says that it is complete. Body of an `Index` piece: as the extent
 * index writes it.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { getId, getU64, isSafeU64, magicOf, PAGE_BYTES, setId, setU64, viewOf } from './fields.ts'
import { FORMAT_VERSION } from './superblock.ts'

export interface CheckpointHeader {
  clusterId: string
  peerId: string
  shard: number
  segmentBytes: number
  /** Grows by one with each checkpoint of the shard. */
  generation: number
  /** Every record with a lower lsn is in the pieces; those from here on must be replayed. */
  startLsn: number
}

// Checkpoint header, one page, big-endian. Bytes not listed are zero.
//
//   offset  size  field
//        0     4  magic          'TCKP'
//        4     4  checksum       CRC-32C of bytes 8..4096
//        8     4  formatVersion
//       12     4  shard
//       16    16  clusterId
//       32    16  peerId
//       48     4  segmentBytes
//       52     4  reserved
//       56     8  generation
//       64     8  startLsn
export const CHECKPOINT_HEADER_BYTES = PAGE_BYTES
const HEADER_MAGIC = magicOf('TCKP')
const AT_CHECKSUM = 4
const AT_VERSION = 8
const AT_SHARD = 12
const AT_CLUSTER = 16
const AT_PEER = 32
const AT_SEGMENT_BYTES = 48
const AT_GENERATION = 56
const AT_START_LSN = 64
assert(AT_START_LSN + 8 === 72, 'checkpoint header ends at its table')

export function encodeCheckpointHeader(header: CheckpointHeader): Buffer {
  const bytes = Buffer.alloc(CHECKPOINT_HEADER_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, HEADER_MAGIC)
  view.setUint32(AT_VERSION, FORMAT_VERSION)
  view.setUint32(AT_SHARD, header.shard)
  setId(bytes, AT_CLUSTER, header.clusterId)
  setId(bytes, AT_PEER, header.peerId)
  view.setUint32(AT_SEGMENT_BYTES, header.segmentBytes)
  setU64(view, AT_GENERATION, header.generation)
  setU64(view, AT_START_LSN, header.startLsn)
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
  return bytes
}

export function decodeCheckpointHeader(bytes: Buffer): CheckpointHeader | null {
  if (bytes.length < CHECKPOINT_HEADER_BYTES) return null
  const view = viewOf(bytes)
  if (view.getUint32(0) !== HEADER_MAGIC) return null
  const checksum = crc32c(bytes.subarray(AT_VERSION, CHECKPOINT_HEADER_BYTES))
  if (view.getUint32(AT_CHECKSUM) !== checksum) return null
  if (view.getUint32(AT_VERSION) !== FORMAT_VERSION) return null
  if (!isSafeU64(view, AT_GENERATION) || !isSafeU64(view, AT_START_LSN)) return null
  return {
    shard: view.getUint32(AT_SHARD),
    clusterId: getId(bytes, AT_CLUSTER),
    peerId: getId(bytes, AT_PEER),
    segmentBytes: view.getUint32(AT_SEGMENT_BYTES),
    generation: getU64(view, AT_GENERATION),
    startLsn: getU64(view, AT_START_LSN)
  }
}

export const PieceKind = {
  /** Segments in use when the checkpoint began: SEGMENT_ENTRY_BYTES each. */
  Segments: 1,
  /** Part of the extent index. */
  Index: 2,
  /** Complete. */
  End: 3
} as const
export type PieceKind = (typeof PieceKind)[keyof typeof PieceKind]

// Piece header, 32 bytes, big-endian; the body follows, with zeroes up to a multiple of 32.
//
//   offset  size  field
//        0     4  magic        'TCPC'
//        4     4  checksum     CRC-32C of bytes 8..32 and the body
//        8     4  kind         1 segments, 2 index, 3 end
//       12     4  bodyBytes
//       16     8  generation   of the checkpoint
//       24     8  number       of pieces before this one
//
// Body of an end piece, 16 bytes: durableLsn u64, number of index entries u64.
// Body of a segments piece, per segment 16 bytes: slot u32, reserved u32, salt u64.
export const PIECE_HEADER_BYTES = 32
/** A writer gathers pieces in a buffer of this size; none is larger. */
export const PIECE_BODY_BYTES_MAX = 1024 * 1024
export const SEGMENT_ENTRY_BYTES = 16
export const END_BODY_BYTES = 16
const PIECE_MAGIC = magicOf('TCPC')
const AT_KIND = 8
const AT_BODY_BYTES = 12
const AT_PIECE_GENERATION = 16
const AT_NUMBER = 24
assert(AT_NUMBER + 8 === PIECE_HEADER_BYTES, 'piece header has no gap at its end')

export interface Piece {
  kind: number
  bodyBytes: number
  generation: number
  number: number
}

/** Bytes that a piece takes in the file. */
export const pieceBytesOf = (bodyBytes: number): number =>
  Math.ceil((PIECE_HEADER_BYTES + bodyBytes) / PIECE_HEADER_BYTES) * PIECE_HEADER_BYTES

/** Writes the header of the piece whose body stands in place behind it, and the zeroes after. */
export function sealPiece(bytes: Buffer, view: DataView, start: number, piece: Piece): void {
  const end = start + PIECE_HEADER_BYTES + piece.bodyBytes
  bytes.fill(0, end, start + pieceBytesOf(piece.bodyBytes))
  view.setUint32(start, PIECE_MAGIC)
  view.setUint32(start + AT_KIND, piece.kind)
  view.setUint32(start + AT_BODY_BYTES, piece.bodyBytes)
  setU64(view, start + AT_PIECE_GENERATION, piece.generation)
  setU64(view, start + AT_NUMBER, piece.number)
  view.setUint32(start + AT_CHECKSUM, crc32c(bytes.subarray(start + AT_KIND, end)))
}

/**
 * The header of the piece at `start`; null when it is none. `isPieceWhole` compares the checksum,
 * once the body is there too.
 */
export function decodePieceHeader(view: DataView, start: number): Piece | null {
  if (view.getUint32(start) !== PIECE_MAGIC) return null
  const bodyBytes = view.getUint32(start + AT_BODY_BYTES)
  if (bodyBytes > PIECE_BODY_BYTES_MAX) return null
  return {
    kind: view.getUint32(start + AT_KIND),
    bodyBytes,
    generation: getU64(view, start + AT_PIECE_GENERATION),
    number: getU64(view, start + AT_NUMBER)
  }
}

export function isPieceWhole(bytes: Buffer, view: DataView, start: number, piece: Piece): boolean {
  const end = start + PIECE_HEADER_BYTES + piece.bodyBytes
  const checksum = crc32c(bytes.subarray(start + AT_KIND, end))
  return end <= bytes.length && view.getUint32(start + AT_CHECKSUM) === checksum
}
