/**
 * Layouts of replies in the transmission phase, big-endian, written in place.
 *
 *   simple, 16 bytes            structured chunk, 20 bytes    extended chunk, 32 bytes
 *   0  4  magic 0x67446698      0  4  magic 0x668e33ef        0  4  magic 0x6e8a278c
 *   4  4  error                 4  2  flags                   4  2  flags
 *   8  8  cookie                6  2  type                    6  2  type
 *                               8  8  cookie                  8  8  cookie
 *                              16  4  payload length         16  8  offset of the request
 *                                                            24  8  payload length
 */
import {
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC
} from './protocol.ts'

/** What was negotiated. */
export const ReplyMode = { Simple: 0, Structured: 1, Extended: 2 } as const
export type ReplyMode = (typeof ReplyMode)[keyof typeof ReplyMode]

export const SIMPLE_REPLY_SIZE = 16
const STRUCTURED_CHUNK_SIZE = 20
export const EXTENDED_CHUNK_SIZE = 32
/** Header of a chunk and the fixed part of its payload, in any mode. */
export const CHUNK_ROOM = EXTENDED_CHUNK_SIZE + 16

const TWO_32 = 2 ** 32

function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32))
  view.setUint32(at + 4, value >>> 0)
}

export const getU64 = (view: DataView, at: number): number =>
  view.getUint32(at) * TWO_32 + view.getUint32(at + 4)

/** What a chunk header answers: a request, or the scratch form of one that never became one. */
export interface Answered {
  cookieHigh: number
  cookieLow: number
  offsetHigh: number
  offsetLow: number
}

export function putSimple(view: DataView, at: number, to: Answered, error: number): void {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC)
  view.setUint32(at + 4, error)
  view.setUint32(at + 8, to.cookieHigh)
  view.setUint32(at + 12, to.cookieLow)
}

export const chunkSize = (mode: ReplyMode): number =>
  mode === ReplyMode.Extended ? EXTENDED_CHUNK_SIZE : STRUCTURED_CHUNK_SIZE

/** Writes a chunk header; its payload follows at `at + chunkSize(mode)`. */
export function putChunk(
  mode: ReplyMode,
  view: DataView,
  at: number,
  to: Answered,
  flags: number,
  type: number,
  payloadBytes: number
): void {
  view.setUint16(at + 4, flags)
  view.setUint16(at + 6, type)
  view.setUint32(at + 8, to.cookieHigh)
  view.setUint32(at + 12, to.cookieLow)
  if (mode === ReplyMode.Extended) {
    view.setUint32(at, NBD_EXTENDED_REPLY_MAGIC)
    view.setUint32(at + 16, to.offsetHigh)
    view.setUint32(at + 20, to.offsetLow)
    putU64(view, at + 24, payloadBytes)
  } else {
    view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC)
    view.setUint32(at + 16, payloadBytes)
  }
}

/** Bytes of an OFFSET_DATA chunk without its data. */
export const dataChunkSize = (mode: ReplyMode): number => chunkSize(mode) + 8

export function putDataChunk(
  mode: ReplyMode,
  view: DataView,
  at: number,
  to: Answered,
  flags: number,
  offset: number,
  length: number
): void {
  putChunk(mode, view, at, to, flags, NBD_REPLY_TYPE_OFFSET_DATA, 8 + length)
  putU64(view, at + chunkSize(mode), offset)
}

export const holeChunkSize = (mode: ReplyMode): number => chunkSize(mode) + 12

export function putHoleChunk(
  mode: ReplyMode,
  view: DataView,
  at: number,
  to: Answered,
  flags: number,
  offset: number,
  length: number
): void {
  putChunk(mode, view, at, to, flags, NBD_REPLY_TYPE_OFFSET_HOLE, 12)
  const payload = at + chunkSize(mode)
  putU64(view, payload, offset)
  view.setUint32(payload + 8, length)
}

/** `offset` < 0: an ERROR chunk; else ERROR_OFFSET. */
export const errorChunkSize = (mode: ReplyMode, message: Buffer, offset: number): number =>
  chunkSize(mode) + 6 + message.length + (offset < 0 ? 0 : 8)

export function putErrorChunk(
  mode: ReplyMode,
  view: DataView,
  at: number,
  to: Answered,
  flags: number,
  error: number,
  message: Buffer,
  offset: number
): void {
  const payloadBytes = 6 + message.length + (offset < 0 ? 0 : 8)
  const type = offset < 0 ? NBD_REPLY_TYPE_ERROR : NBD_REPLY_TYPE_ERROR_OFFSET
  putChunk(mode, view, at, to, flags, type, payloadBytes)
  let payload = at + chunkSize(mode)
  view.setUint32(payload, error)
  view.setUint16(payload + 4, message.length)
  payload += 6
  for (let index = 0; index < message.length; index++) {
    view.setUint8(payload + index, message[index]!)
  }
  if (offset >= 0) putU64(view, payload + message.length, offset)
}

export const statusChunkSize = (mode: ReplyMode, extents: number): number =>
  mode === ReplyMode.Extended ? EXTENDED_CHUNK_SIZE + 8 + extents * 16 : 24 + extents * 8

/** Block status of one metadata context. */
export function putStatusChunk(
  mode: ReplyMode,
  view: DataView,
  at: number,
  to: Answered,
  done: boolean,
  contextId: number,
  lengths: readonly number[],
  states: readonly number[]
): void {
  const flags = done ? NBD_REPLY_FLAG_DONE : 0
  const payloadBytes = statusChunkSize(mode, lengths.length) - chunkSize(mode)
  let to64 = at + chunkSize(mode)
  view.setUint32(to64, contextId)
  if (mode === ReplyMode.Extended) {
    putChunk(mode, view, at, to, flags, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, payloadBytes)
    view.setUint32(to64 + 4, lengths.length)
    to64 += 8
    for (let index = 0; index < lengths.length; index++, to64 += 16) {
      putU64(view, to64, lengths[index]!)
      putU64(view, to64 + 8, states[index]!)
    }
    return
  }
  putChunk(mode, view, at, to, flags, NBD_REPLY_TYPE_BLOCK_STATUS, payloadBytes)
  to64 += 4
  for (let index = 0; index < lengths.length; index++, to64 += 8) {
    view.setUint32(to64, lengths[index]!)
    view.setUint32(to64 + 4, states[index]!)
  }
}
