/**
 * Small reads of what the device has at hand: read straight into the output, without a request, a
 * page of the arena, or anybody to wait for.
 */
import { BLOCK_BYTES } from '../core/limits.ts'
import { COPY_REPLY_BYTES_MAX } from './limits.ts'
import { NBD_CMD_FLAG_DF, NBD_REPLY_FLAG_DONE } from './protocol.ts'
import {
  type Answered,
  CHUNK_ROOM,
  dataChunkSize,
  holeChunkSize,
  putDataChunk,
  putHoleChunk,
  putSimple,
  ReplyMode,
  SIMPLE_REPLY_SIZE
} from './replies.ts'
import type { Transmission } from './transmission.ts'
import { isZero } from './zeroes.ts'

export class QuickReads {
  private readonly transmission: Transmission
  private readonly headerSize: number

  constructor(transmission: Transmission) {
    const { mode } = transmission
    this.transmission = transmission
    this.headerSize = mode === ReplyMode.Simple ? SIMPLE_REPLY_SIZE : dataChunkSize(mode)
  }

  /** Answers a read that was checked; false: it has to become a request. */
  take(to: Answered, flags: number, offset: number, length: number): boolean {
    if (length > COPY_REPLY_BYTES_MAX || offset % BLOCK_BYTES !== 0) return false
    const { sender, device, mode, answers } = this.transmission
    if (device.readNow === undefined) return false
    if (this.transmission.reads.outputOwned || !sender.room(CHUNK_ROOM + length)) return false
    const bytes = this.headerSize + length
    const at = sender.reserve(bytes)
    const start = at + this.headerSize
    const ms = device.readNow(offset, length, sender.bytes, start)
    if (ms < 0) {
      sender.unreserve(bytes)
      return false
    }
    if (mode === ReplyMode.Simple) putSimple(sender.view, at, to, 0)
    else if ((flags & NBD_CMD_FLAG_DF) === 0 && isZero(sender.bytes, start, start + length)) {
      sender.unreserve(bytes - holeChunkSize(mode))
      putHoleChunk(mode, sender.view, at, to, NBD_REPLY_FLAG_DONE, offset, length)
    } else putDataChunk(mode, sender.view, at, to, NBD_REPLY_FLAG_DONE, offset, length)
    answers.noteRead(length, ms)
    return true
  }
}
