/**
 * Frames between a gateway (or a syncing member) and a member, once the hello is over: a header
 * of 64 bytes, then as many bytes of payload as it says. Requests go one way and answers the
 * other, in any order, matched by request id.
 *
 * Every byte is under a checksum: the header under its own, the payload under one that the sender
 * computed where the bytes came from and that the receiver compares before it uses them.
 */
import { assert } from '../core/assert.ts'
import { crc32cOfWords } from '../core/checksum.ts'
import { getU64, setU64 } from './fields.ts'

/** Published numbers: never used again for anything else. */
export const FrameKind = {
  Read: 1,
  /** Payload: the blocks. */
  Write: 2,
  Trim: 3,
  WriteZeroes: 4,
  /** Answered when everything answered before it is on the member's disk. */
  Flush: 5,
  /** Answer: pairs of u32, as the shard wrote them, little-endian. */
  BlockStatus: 6,
  /** A read that also tells the version of every block, for resync. */
  ReadVersions: 7,
  /** Payload: a MemberCall as JSON. */
  Call: 16,
  /** Answered with Pong at once. */
  Ping: 17,
  Pong: 18,
  /** The sender is about to close. Payload: why, as text. */
  Goodbye: 19,
  /** Answers whatever has its request id. */
  Answer: 32
} as const
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind]

// Frame header, 64 bytes, big-endian. Fields that a kind has no use for are zero.
//
//   offset  size  field
//        0     4  checksum      CRC-32C of bytes 4..64
//        4     1  kind
//        5     1  flags         of the op
//        6     2  sequenceHigh  of the op
//        8     4  requestId     chosen by the sender of the request, comes back in the answer
//       12     4  payloadBytes  that follow the header
//       16     4  payloadCrc    CRC-32C of them, 0 when there are none
//
// Requests that are ops go on with
//
//       20     4  chunk
//       24     8  family
//       32     8  layer
//       40     2  firstBlock
//       42     2  blockCount
//       44     4  writerEpoch
//       48     4  sequenceLow   40 bits with sequenceHigh
//       52     4  fenceEpoch
//       56     2  pool
//       58     2  group
//       60     4  groupEpoch
//
// and answers (and Goodbye, for its error) with
//
//       20     2  error         ErrorCode
//       22     2  reserved
//       24     4  resultA
//       28     4  resultB
//       32     8  freeBytes     room for data on the member
//       40     4  jsonBytes     of a call's answer: JSON comes first in the payload, then its data
//       44    20  reserved
export const FRAME_HEADER_BYTES = 64
const AT_KIND = 4
const AT_FLAGS = 5
const AT_SEQUENCE_HIGH = 6
const AT_REQUEST_ID = 8
const AT_PAYLOAD_BYTES = 12
const AT_PAYLOAD_CRC = 16
const AT_CHUNK = 20
const AT_FAMILY = 24
const AT_LAYER = 32
const AT_FIRST_BLOCK = 40
const AT_BLOCK_COUNT = 42
const AT_WRITER_EPOCH = 44
const AT_SEQUENCE_LOW = 48
const AT_FENCE_EPOCH = 52
const AT_POOL = 56
const AT_GROUP = 58
const AT_GROUP_EPOCH = 60
const AT_ERROR = 20
const AT_ERROR_RESERVED = 22
const AT_RESULT_A = 24
const AT_RESULT_B = 28
const AT_FREE_BYTES = 32
const AT_JSON_BYTES = 40
const AT_ANSWER_RESERVED = 44
assert(AT_GROUP_EPOCH + 4 === FRAME_HEADER_BYTES, 'a header has no gap at its end')

const HEADER_WORDS = FRAME_HEADER_BYTES / 4
const TWO_32 = 2 ** 32

/** What an op says in its frame: BlockOp of replication/, as this layout sees it. */
export interface FrameOp {
  flags: number
  familyHigh: number
  familyLow: number
  layerHigh: number
  layerLow: number
  chunk: number
  firstBlock: number
  blockCount: number
  writerEpoch: number
  sequence: number
  fenceEpoch: number
  pool: number
  group: number
  groupEpoch: number
}

/** What an answer says beside its payload. */
export interface FrameResult {
  error: number
  resultA: number
  resultB: number
}

export const frameKind = (view: DataView, at: number): number => view.getUint8(at + AT_KIND)

export const frameRequestId = (view: DataView, at: number): number =>
  view.getUint32(at + AT_REQUEST_ID)

export const framePayloadBytes = (view: DataView, at: number): number =>
  view.getUint32(at + AT_PAYLOAD_BYTES)

export const framePayloadCrc = (view: DataView, at: number): number =>
  view.getUint32(at + AT_PAYLOAD_CRC)

export const frameError = (view: DataView, at: number): number => view.getUint16(at + AT_ERROR)

export const frameFreeBytes = (view: DataView, at: number): number =>
  getU64(view, at + AT_FREE_BYTES)

export const frameJsonBytes = (view: DataView, at: number): number =>
  view.getUint32(at + AT_JSON_BYTES)

/** Whether the header is as it was sent. Nothing in it may be believed before. */
export const isFrameHeader = (view: DataView, at: number): boolean =>
  view.getUint32(at) === checksumOf(view, at)

const checksumOf = (view: DataView, at: number): number =>
  crc32cOfWords(view, at + AT_KIND, HEADER_WORDS - 1)

/** Writes a request that is an op. */
export function putOpFrame(
  view: DataView,
  at: number,
  kind: number,
  requestId: number,
  op: FrameOp,
  payloadBytes: number,
  payloadCrc: number
): void {
  const sequenceHigh = (op.sequence / TWO_32) & 0xffff
  view.setUint32(at + AT_KIND, (kind << 24) | (op.flags << 16) | sequenceHigh)
  view.setUint32(at + AT_REQUEST_ID, requestId)
  view.setUint32(at + AT_PAYLOAD_BYTES, payloadBytes)
  view.setUint32(at + AT_PAYLOAD_CRC, payloadCrc)
  view.setUint32(at + AT_CHUNK, op.chunk)
  view.setUint32(at + AT_FAMILY, op.familyHigh)
  view.setUint32(at + AT_FAMILY + 4, op.familyLow)
  view.setUint32(at + AT_LAYER, op.layerHigh)
  view.setUint32(at + AT_LAYER + 4, op.layerLow)
  view.setUint32(at + AT_FIRST_BLOCK, (op.firstBlock << 16) | op.blockCount)
  view.setUint32(at + AT_WRITER_EPOCH, op.writerEpoch)
  view.setUint32(at + AT_SEQUENCE_LOW, op.sequence)
  view.setUint32(at + AT_FENCE_EPOCH, op.fenceEpoch)
  view.setUint32(at + AT_POOL, (op.pool << 16) | op.group)
  view.setUint32(at + AT_GROUP_EPOCH, op.groupEpoch)
  view.setUint32(at, checksumOf(view, at))
}

/** Fills `op` from the frame. What the fields may be is for the caller to check. */
export function takeOpFrame(view: DataView, at: number, op: FrameOp): void {
  op.flags = view.getUint8(at + AT_FLAGS)
  op.chunk = view.getUint32(at + AT_CHUNK)
  op.familyHigh = view.getUint32(at + AT_FAMILY)
  op.familyLow = view.getUint32(at + AT_FAMILY + 4)
  op.layerHigh = view.getUint32(at + AT_LAYER)
  op.layerLow = view.getUint32(at + AT_LAYER + 4)
  op.firstBlock = view.getUint16(at + AT_FIRST_BLOCK)
  op.blockCount = view.getUint16(at + AT_BLOCK_COUNT)
  op.writerEpoch = view.getUint32(at + AT_WRITER_EPOCH)
  op.sequence =
    view.getUint16(at + AT_SEQUENCE_HIGH) * TWO_32 + view.getUint32(at + AT_SEQUENCE_LOW)
  op.fenceEpoch = view.getUint32(at + AT_FENCE_EPOCH)
  op.pool = view.getUint16(at + AT_POOL)
  op.group = view.getUint16(at + AT_GROUP)
  op.groupEpoch = view.getUint32(at + AT_GROUP_EPOCH)
}

/** Writes a request without fields of its own: Flush, Call, Ping, Pong. */
export function putPlainFrame(
  view: DataView,
  at: number,
  kind: number,
  requestId: number,
  payloadBytes: number,
  payloadCrc: number
): void {
  for (let word = at + AT_PAYLOAD_CRC + 4; word < at + FRAME_HEADER_BYTES; word += 4) {
    view.setUint32(word, 0)
  }
  view.setUint32(at + AT_KIND, kind << 24)
  view.setUint32(at + AT_REQUEST_ID, requestId)
  view.setUint32(at + AT_PAYLOAD_BYTES, payloadBytes)
  view.setUint32(at + AT_PAYLOAD_CRC, payloadCrc)
  view.setUint32(at, checksumOf(view, at))
}

/** Writes an answer, or a Goodbye with its error. */
export function putAnswerFrame(
  view: DataView,
  at: number,
  kind: number,
  requestId: number,
  result: FrameResult,
  freeBytes: number,
  jsonBytes: number,
  payloadBytes: number,
  payloadCrc: number
): void {
  view.setUint32(at + AT_KIND, kind << 24)
  view.setUint32(at + AT_REQUEST_ID, requestId)
  view.setUint32(at + AT_PAYLOAD_BYTES, payloadBytes)
  view.setUint32(at + AT_PAYLOAD_CRC, payloadCrc)
  view.setUint32(at + AT_ERROR, result.error << 16)
  view.setUint32(at + AT_RESULT_A, result.resultA)
  view.setUint32(at + AT_RESULT_B, result.resultB)
  setU64(view, at + AT_FREE_BYTES, freeBytes)
  view.setUint32(at + AT_JSON_BYTES, jsonBytes)
  for (let word = at + AT_ANSWER_RESERVED; word < at + FRAME_HEADER_BYTES; word += 4) {
    view.setUint32(word, 0)
  }
  view.setUint32(at, checksumOf(view, at))
}

/** Fills `result` from an answer; false: it holds what an answer of this version never does. */
export function takeAnswerFrame(view: DataView, at: number, result: FrameResult): boolean {
  result.error = view.getUint16(at + AT_ERROR)
  result.resultA = view.getUint32(at + AT_RESULT_A)
  result.resultB = view.getUint32(at + AT_RESULT_B)
  return (
    view.getUint32(at + AT_KIND) === FrameKind.Answer << 24 &&
    view.getUint16(at + AT_ERROR_RESERVED) === 0 &&
    isZeroFrom(view, at + AT_ANSWER_RESERVED, at)
  )
}

/** Whether a frame without fields of its own has none. */
export const isPlainFrame = (view: DataView, at: number): boolean =>
  (view.getUint32(at + AT_KIND) & 0xff_ffff) === 0 && isZeroFrom(view, at + AT_CHUNK, at)

function isZeroFrom(view: DataView, from: number, at: number): boolean {
  for (let word = from; word < at + FRAME_HEADER_BYTES; word += 4) {
    if (view.getUint32(word) !== 0) return false
  }
  return true
}
