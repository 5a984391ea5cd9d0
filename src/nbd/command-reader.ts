/**
 * Takes commands out of the receive buffer: parses in place, checks, and starts what they ask for.
 * What cannot be started now leaves its bytes where they are, so that it is simply taken again.
 */
import { RequestFlag } from '../volume/request.ts'
import { NO_PAGES } from './budget.ts'
import { checkCommand, kindOfCommand, type Refusal, refusals } from './commands.ts'
import { PAYLOAD_BYTES_MAX, RECEIVE_BUFFER_BYTES, SMALL_PAYLOAD_BYTES_MAX } from './limits.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REPLY_FLAG_DONE,
  NBD_REQUEST_MAGIC
} from './protocol.ts'
import { QuickReads } from './quick-reads.ts'
import { type Answered, getU64, ReplyMode } from './replies.ts'
import type { NbdRequest } from './request.ts'
import type { Transmission } from './transmission.ts'

// Request, 28 bytes; with extended headers the length has 8 bytes, 32 in all.
//
//   offset  size  field
//        0     4  magic
//        4     2  command flags
//        6     2  type
//        8     8  cookie
//       16     8  offset
//       24  4, 8  length
const AT_FLAGS = 4
const AT_TYPE = 6
const AT_COOKIE = 8
const AT_OFFSET = 16
const AT_LENGTH = 24
const REQUEST_SIZE = 28
const EXTENDED_REQUEST_SIZE = 32

export class CommandReader {
  /** The server shuts down: commands are answered with NBD_ESHUTDOWN. */
  refusing = false
  /**
   * What the next read should bring. After a large write likely comes another: reading only its
   * header leaves the payload for a read straight into arena pages.
   */
  bytesWanted = RECEIVE_BUFFER_BYTES
  private readonly transmission: Transmission
  private readonly rules: { mode: ReplyMode; readOnly: boolean; statusContexts: boolean }
  private readonly extended: boolean
  private readonly requestSize: number
  private readonly magic: number
  /** Bytes of a refused payload still to be dropped. */
  private skip = 0
  private nowMs = 0
  /** Commands of this turn. */
  private taken = 0
  private readonly quick: QuickReads
  private readonly answered: Answered = { cookieHigh: 0, cookieLow: 0, offsetHigh: 0, offsetLow: 0 }

  constructor(transmission: Transmission, statusContexts: boolean) {
    const { mode, device } = transmission
    this.transmission = transmission
    this.quick = new QuickReads(transmission)
    this.extended = mode === ReplyMode.Extended
    this.requestSize = this.extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE
    this.magic = this.extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC
    this.rules = { mode, readOnly: device.readOnly, statusContexts }
  }

  /** Takes all it can; returns how many things that were. */
  takeAll(nowMs: number): number {
    this.nowMs = nowMs
    this.taken = 0
    let steps = 0
    while (this.step()) steps++
    return steps
  }

  /** Takes one thing; false: there is no whole one, or it must wait. */
  private step(): boolean {
    const { receiver, payload } = this.transmission
    if (this.skip > 0) {
      const count = Math.min(this.skip, receiver.available)
      this.skip -= count
      receiver.start += count
      return this.skip === 0
    }
    if (payload.active) return payload.take()
    if (receiver.available < this.requestSize) return false
    const { view, start } = receiver
    const command = view.getUint16(start + AT_TYPE)
    const mayBegin = command === NBD_CMD_DISC || this.transmission.mayBegin(this.nowMs, this.taken)
    if (!mayBegin) return false
    const length = this.lengthAt(start)
    if (!this.takeCommand()) return false
    this.taken++
    this.transmission.began(command, length)
    return true
  }

  private lengthAt(start: number): number {
    const { view } = this.transmission.receiver
    return this.extended ? getU64(view, start + AT_LENGTH) : view.getUint32(start + AT_LENGTH)
  }

  private takeCommand(): boolean {
    const { transmission } = this
    const { view, start: at } = transmission.receiver
    this.bytesWanted = RECEIVE_BUFFER_BYTES
    if (view.getUint32(at) !== this.magic) {
      transmission.broken('bad request magic')
      return false
    }
    const command = view.getUint16(at + AT_TYPE)
    if (command === NBD_CMD_DISC) {
      transmission.drain()
      return false
    }
    if (command === NBD_CMD_READ && this.readQuickly(view, at)) return true
    const { budget } = transmission
    if (transmission.inFlight >= budget.limits.requestsPerConnection) {
      return transmission.block(false)
    }
    const request = budget.acquireRequest(transmission)
    if (request === null) return transmission.block(true)
    const flags = view.getUint16(at + AT_FLAGS)
    const length = this.lengthAt(at)
    request.transmission = transmission
    request.command = command
    request.commandFlags = flags
    request.cookieHigh = view.getUint32(at + AT_COOKIE)
    request.cookieLow = view.getUint32(at + AT_COOKIE + 4)
    request.offsetHigh = view.getUint32(at + AT_OFFSET)
    request.offsetLow = view.getUint32(at + AT_OFFSET + 4)
    request.offset = getU64(view, at + AT_OFFSET)
    request.length = length
    request.commandOffset = request.offset
    request.commandLength = length
    request.acceptedMs = this.nowMs
    const hasPayload = this.extended
      ? (flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0
      : command === NBD_CMD_WRITE
    const taken = this.start(request, hasPayload ? length : 0)
    if (!taken) budget.putBackRequest(transmission, request)
    return taken
  }

  /** Whether the read at `at` was answered already. */
  private readQuickly(view: DataView, at: number): boolean {
    const { transmission, answered } = this
    const flags = view.getUint16(at + AT_FLAGS)
    const offset = getU64(view, at + AT_OFFSET)
    const length = this.lengthAt(at)
    if (this.refusing || this.refusalOf(NBD_CMD_READ, flags, offset, length) !== null) return false
    answered.cookieHigh = view.getUint32(at + AT_COOKIE)
    answered.cookieLow = view.getUint32(at + AT_COOKIE + 4)
    answered.offsetHigh = view.getUint32(at + AT_OFFSET)
    answered.offsetLow = view.getUint32(at + AT_OFFSET + 4)
    if (!this.quick.take(answered, flags, offset, length)) return false
    transmission.receiver.start += this.requestSize
    transmission.batch.add(transmission)
    return true
  }

  /** False: nothing was taken, and the request is not in use. */
  private start(request: NbdRequest, payloadBytes: number): boolean {
    const { transmission } = this
    const { receiver } = transmission
    const { command } = request
    if (payloadBytes > PAYLOAD_BYTES_MAX) {
      transmission.broken('a payload is longer than the maximum')
      return false
    }
    if (command === NBD_CMD_BLOCK_STATUS && payloadBytes > 0 && this.rules.statusContexts) {
      return this.startFilteredStatus(request, payloadBytes)
    }
    const refused = this.check(request)
    if (refused !== null) return this.refuse(request, refused, payloadBytes)
    request.kind = kindOfCommand[command]!
    if (command === NBD_CMD_READ) return transmission.reads.begin(request) && this.accept(0)
    if (command === NBD_CMD_BLOCK_STATUS) {
      return transmission.status.begin(request, null) && this.accept(0)
    }
    if ((request.commandFlags & NBD_CMD_FLAG_FUA) !== 0) request.flags |= RequestFlag.Fua
    if ((request.commandFlags & NBD_CMD_FLAG_NO_HOLE) !== 0) request.flags |= RequestFlag.NoHole
    if (command !== NBD_CMD_WRITE) {
      transmission.submit(request)
      return this.accept(0)
    }
    if (payloadBytes > SMALL_PAYLOAD_BYTES_MAX) {
      this.bytesWanted = this.requestSize
      transmission.payload.begin(request)
      return this.accept(0)
    }
    const { payload } = transmission
    if (receiver.available < this.requestSize + payloadBytes) return false
    const answer = payload.takeSmall(request, this.requestSize)
    if (answer >= 0) return this.accept(payloadBytes)
    if (answer !== NO_PAGES) return transmission.blockForPages(answer)
    // Not in one piece: perhaps in several.
    payload.begin(request)
    return this.accept(0)
  }

  /** Block status with a payload that says which contexts are wanted. */
  private startFilteredStatus(request: NbdRequest, payloadBytes: number): boolean {
    const { receiver, status } = this.transmission
    if (payloadBytes > status.filterBytesMax) {
      return this.refuse(request, refusals.contextFilter, payloadBytes)
    }
    if (receiver.available < this.requestSize + payloadBytes) return false
    const at = receiver.start + this.requestSize
    const filter = status.parseFilter(receiver.view, at, payloadBytes)
    if (filter === null) return this.refuse(request, refusals.contextFilter, payloadBytes)
    request.length = getU64(receiver.view, at)
    request.commandLength = request.length
    const refused = this.check(request)
    if (refused !== null) return this.refuse(request, refused, payloadBytes)
    return status.begin(request, filter) && this.accept(payloadBytes)
  }

  private check(request: NbdRequest): Refusal | null {
    if (this.refusing) return refusals.shutdown
    const { command, commandFlags, commandOffset, commandLength } = request
    return this.refusalOf(command, commandFlags, commandOffset, commandLength)
  }

  private refusalOf(
    command: number,
    flags: number,
    offset: number,
    length: number
  ): Refusal | null {
    const { sizeBytes } = this.transmission.device
    return checkCommand(this.rules, sizeBytes, command, flags, offset, length)
  }

  private accept(payloadBytes: number): true {
    this.transmission.receiver.start += this.requestSize + payloadBytes
    this.transmission.accepted()
    return true
  }

  /** Answers a command that is not carried out; its payload is dropped. */
  private refuse(request: NbdRequest, refusal: Refusal, payloadBytes: number): boolean {
    const { transmission } = this
    const { answers, batch, budget, receiver } = transmission
    const { error, message } = refusal
    // The output belongs to a read whose data is not all out yet.
    if (transmission.reads.outputOwned) return transmission.block(false)
    if (!answers.error(request, error, message, -1, NBD_REPLY_FLAG_DONE)) {
      return transmission.block(false)
    }
    batch.add(transmission)
    answers.note(request, true)
    receiver.start += this.requestSize
    this.skip = payloadBytes
    budget.putBackRequest(transmission, request)
    return true
  }
}
