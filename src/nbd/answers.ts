/** Answers of a connection: those that wait for room in the output, and how each is written. */
import type { ErrorCode } from '../core/errors.ts'
import type { GatherSender } from '../core/gather-sender.ts'
import type { ClientInfo } from '../volume/block-device.ts'
import type { Batch } from './batch.ts'
import { kindOfCommand } from './commands.ts'
import { errorMessageByCode, nbdErrorByCode } from './errors.ts'
import type { NbdMetrics } from './metrics.ts'
import {
  NBD_CMD_DISC,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_NONE
} from './protocol.ts'
import {
  EXTENDED_CHUNK_SIZE,
  errorChunkSize,
  putChunk,
  putErrorChunk,
  putSimple,
  ReplyMode,
  SIMPLE_REPLY_SIZE
} from './replies.ts'
import type { NbdRequest } from './request.ts'

/** First come, first served; linked through the requests themselves. */
export class ReadyList {
  private head: NbdRequest | null = null
  private tail: NbdRequest | null = null

  get empty(): boolean {
    return this.head === null
  }

  push(request: NbdRequest): void {
    if (this.tail === null) this.head = request
    else this.tail.next = request
    this.tail = request
  }

  /** Hands out the first; it stays first if `take` returns false. */
  shift(take: (request: NbdRequest) => boolean): boolean {
    const request = this.head
    if (request === null) return false
    // Unlinked before: once taken it may serve another client.
    const next = request.next
    request.next = null
    if (!take(request)) {
      request.next = next
      return false
    }
    this.head = next
    if (next === null) this.tail = null
    return true
  }
}

export class Answers {
  private readonly mode: ReplyMode
  private readonly sender: GatherSender
  private readonly metrics: NbdMetrics
  private readonly batch: Batch
  private readonly info: ClientInfo

  constructor(
    mode: ReplyMode,
    parts: { sender: GatherSender; metrics: NbdMetrics; batch: Batch; info: ClientInfo }
  ) {
    this.mode = mode
    this.sender = parts.sender
    this.metrics = parts.metrics
    this.batch = parts.batch
    this.info = parts.info
  }

  /** The whole answer of a command without data; false: no room now. */
  plain(request: NbdRequest): boolean {
    const failed = request.error !== 0
    if (failed) {
      // A flush has no range an offset could lie in.
      const start = request.command === NBD_CMD_FLUSH ? -1 : request.commandOffset
      const offset = request.failureOffset >= 0 ? request.failureOffset : start
      if (!this.failure(request, request.error as ErrorCode, offset, NBD_REPLY_FLAG_DONE)) {
        return false
      }
    } else if (!this.success(request)) return false
    this.note(request, failed)
    return true
  }

  private success(request: NbdRequest): boolean {
    const { sender } = this
    if (this.mode === ReplyMode.Extended) {
      if (!sender.room(EXTENDED_CHUNK_SIZE)) return false
      const at = sender.reserve(EXTENDED_CHUNK_SIZE)
      const flags = NBD_REPLY_FLAG_DONE
      putChunk(this.mode, sender.view, at, request, flags, NBD_REPLY_TYPE_NONE, 0)
      return true
    }
    if (!sender.room(SIMPLE_REPLY_SIZE)) return false
    putSimple(sender.view, sender.reserve(SIMPLE_REPLY_SIZE), request, 0)
    return true
  }

  /** The volume's error at `offset`; false: no room now. */
  failure(request: NbdRequest, code: number, offset: number, flags: number): boolean {
    return this.error(request, nbdErrorByCode[code]!, errorMessageByCode[code]!, offset, flags)
  }

  /** `offset` < 0: none is told. With simple replies only the error is. False: no room now. */
  error(
    request: NbdRequest,
    error: number,
    message: Buffer,
    offset: number,
    flags: number
  ): boolean {
    const { sender, mode } = this
    const simple = mode === ReplyMode.Simple
    const size = simple ? SIMPLE_REPLY_SIZE : errorChunkSize(mode, message, offset)
    if (!sender.room(size)) return false
    const at = sender.reserve(size)
    if (simple) putSimple(sender.view, at, request, error)
    else putErrorChunk(mode, sender.view, at, request, flags, error, message, offset)
    return true
  }

  /** Counts a read that never became a request. */
  noteRead(length: number, latencyMs: number): void {
    this.metrics.note(NBD_CMD_READ, false, length, latencyMs)
    this.info.reads++
    this.info.readBytes += length
  }

  /** Counts an answered command. */
  note(request: NbdRequest, failed: boolean): void {
    const { command, commandLength } = request
    if (command >= kindOfCommand.length || command === NBD_CMD_DISC) return
    const latencyMs = this.batch.nowMs - request.acceptedMs
    this.metrics.note(command, failed, commandLength, Math.max(latencyMs, 0))
    if (failed) return
    const { info } = this
    if (command === NBD_CMD_READ) {
      info.reads++
      info.readBytes += commandLength
    } else if (command === NBD_CMD_WRITE) {
      info.writes++
      info.writtenBytes += commandLength
    }
  }
}
