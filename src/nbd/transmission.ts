/**
 * The transmission phase of one connection: requests are parsed where they were received, turned
 * into volume requests, and answered when the volume is done with them.
 *
 *   Receiver -> consume() -> check -> VolumeRequest -> BlockDevice.submit, one ring per batch
 *   finished() -> Sender: gathered until the end of the batch, then one socket write
 *
 * What cannot go on now leaves its bytes in the receive buffer and stops the reading of this
 * socket (`blocked`). It is tried again at the end of a batch in which this client's own
 * requests moved, or in its turn when shared memory was given back (`proceed`).
 */
import type { Clock } from '../core/clock.ts'
import type { BlockDevice, ClientInfo } from '../volume/block-device.ts'
import { RequestFlag } from '../volume/request.ts'
import type { Batch, BatchMember } from './batch.ts'
import { type Budget, NO_SHARE, type Waiter } from './budget.ts'
import { checkCommand, kindOfCommand, type Refusal, refusals } from './commands.ts'
import { errorMessageByCode, nbdErrorByCode } from './errors.ts'
import { PAYLOAD_BYTES_MAX, SMALL_PAYLOAD_BYTES_MAX } from './limits.ts'
import type { MetaContext } from './meta-contexts.ts'
import type { NbdMetrics } from './metrics.ts'
import { PayloadReceiver } from './payload-receiver.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_NONE,
  NBD_REQUEST_MAGIC
} from './protocol.ts'
import { ReadReplies } from './read-replies.ts'
import type { Consumer, Receiver } from './receiver.ts'
import {
  EXTENDED_CHUNK_SIZE,
  errorChunkSize,
  getU64,
  putChunk,
  putErrorChunk,
  putSimple,
  ReplyMode,
  SIMPLE_REPLY_SIZE
} from './replies.ts'
import type { NbdRequest } from './request.ts'
import type { Sender } from './sender.ts'
import { StatusWalks } from './status-walks.ts'

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

export interface TransmissionParts {
  readonly device: BlockDevice
  readonly mode: ReplyMode
  readonly contexts: readonly MetaContext[]
  readonly receiver: Receiver
  readonly sender: Sender
  readonly budget: Budget
  readonly batch: Batch
  readonly metrics: NbdMetrics
  readonly clock: Clock
  readonly info: ClientInfo
  /** Everything accepted was answered, and no more is accepted. */
  readonly onDrained: () => void
  /** The client broke the protocol, or an answer cannot be completed: close at once. */
  readonly onBroken: (reason: string) => void
}

export class Transmission implements Consumer, Waiter, BatchMember {
  inBatch = false
  readonly device: BlockDevice
  readonly mode: ReplyMode
  readonly budget: Budget
  readonly batch: Batch
  readonly sender: Sender
  readonly receiver: Receiver
  readonly metrics: NbdMetrics
  readonly info: ClientInfo
  /** Commands accepted and not finished. */
  inFlight = 0
  /** Arena pages held for this client. */
  heldPages = 0
  /** open: commands are taken. draining: answers are finished. closed: the socket is gone. */
  state: 'open' | 'draining' | 'closed' = 'open'
  /** The server shuts down: new commands are answered with NBD_ESHUTDOWN. */
  refusing = false
  private readonly parts: TransmissionParts
  private readonly rules: { mode: ReplyMode; readOnly: boolean; statusContexts: boolean }
  private readonly requestSize: number
  private readonly magic: number
  private readonly payload: PayloadReceiver
  private readonly reads: ReadReplies
  private readonly walks: StatusWalks
  /** Bytes of a refused payload still to be dropped. */
  private skip = 0
  private blocked = false
  private inLine = false
  private steps = 0
  private nowMs = 0
  private readyHead: NbdRequest | null = null
  private readyTail: NbdRequest | null = null
  private onQuiet: (() => void) | null = null

  constructor(parts: TransmissionParts) {
    this.parts = parts
    this.device = parts.device
    this.mode = parts.mode
    this.budget = parts.budget
    this.batch = parts.batch
    this.sender = parts.sender
    this.receiver = parts.receiver
    this.metrics = parts.metrics
    this.info = parts.info
    const extended = parts.mode === ReplyMode.Extended
    this.requestSize = extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE
    this.magic = extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC
    this.rules = {
      mode: parts.mode,
      readOnly: parts.device.readOnly,
      statusContexts: parts.contexts.length > 0
    }
    this.payload = new PayloadReceiver(this)
    this.reads = new ReadReplies(this)
    this.walks = new StatusWalks(this, parts.contexts)
  }

  /** Reading is stopped, or a payload is on its way: what a stall is measured on. */
  get receivesPayload(): boolean {
    return this.payload.active
  }

  // Receiving

  consume(): boolean {
    if (this.state !== 'open') {
      this.receiver.start = this.receiver.end
      return true
    }
    this.blocked = false
    this.nowMs = this.parts.clock.monotonicMs()
    while (this.step()) this.steps++
    this.batch.ring()
    return !this.blocked
  }

  directTarget(): Buffer | null {
    return this.state === 'open' ? this.payload.target() : null
  }

  directArrived(count: number): void {
    this.payload.arrived(count)
  }

  proceed(): boolean {
    this.inLine = false
    const before = this.steps
    if (this.state === 'open' && this.consume()) this.receiver.resume()
    return this.steps !== before
  }

  /** Takes one thing from the receive buffer; false when it holds no whole one or must wait. */
  private step(): boolean {
    const receiver = this.receiver
    if (this.skip > 0) {
      const count = Math.min(this.skip, receiver.available)
      this.skip -= count
      receiver.start += count
      return this.skip === 0
    }
    if (this.payload.active) return this.payload.take()
    if (receiver.available < this.requestSize) return false
    return this.takeCommand()
  }

  private takeCommand(): boolean {
    const { view, start: at } = this.receiver
    if (view.getUint32(at) !== this.magic) {
      this.broken('bad request magic')
      return false
    }
    const command = view.getUint16(at + AT_TYPE)
    if (command === NBD_CMD_DISC) {
      this.receiver.start = this.receiver.end
      this.drain()
      return false
    }
    if (this.inFlight >= this.budget.limits.requestsPerConnection) return this.block(false)
    const request = this.budget.acquireRequest(this)
    if (request === null) return this.block(true)
    const extended = this.mode === ReplyMode.Extended
    const length = extended ? getU64(view, at + AT_LENGTH) : view.getUint32(at + AT_LENGTH)
    const flags = view.getUint16(at + AT_FLAGS)
    const offset = getU64(view, at + AT_OFFSET)
    request.transmission = this
    request.command = command
    request.commandFlags = flags
    request.cookieHigh = view.getUint32(at + AT_COOKIE)
    request.cookieLow = view.getUint32(at + AT_COOKIE + 4)
    request.offsetHigh = view.getUint32(at + AT_OFFSET)
    request.offsetLow = view.getUint32(at + AT_OFFSET + 4)
    request.offset = offset
    request.length = length
    request.commandOffset = offset
    request.commandLength = length
    request.acceptedMs = this.nowMs
    const hasPayload = extended
      ? (flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0
      : command === NBD_CMD_WRITE
    const taken = this.dispatch(request, hasPayload ? length : 0)
    if (!taken) this.budget.releaseRequest(request)
    return taken
  }

  /** False: nothing was consumed and the request is not in use. */
  private dispatch(request: NbdRequest, payloadBytes: number): boolean {
    if (payloadBytes > PAYLOAD_BYTES_MAX) {
      this.broken('payload longer than the maximum')
      return false
    }
    const command = request.command
    if (command === NBD_CMD_BLOCK_STATUS && payloadBytes > 0 && this.rules.statusContexts) {
      return this.takeFilteredStatus(request, payloadBytes)
    }
    const refused = this.check(request)
    if (refused !== null) return this.refuse(request, refused, payloadBytes)
    request.kind = kindOfCommand[command]!
    if (command === NBD_CMD_READ) return this.reads.begin(request) && this.accept(0)
    if (command === NBD_CMD_WRITE) {
      request.flags = (request.commandFlags & NBD_CMD_FLAG_FUA) !== 0 ? RequestFlag.Fua : 0
      if (payloadBytes > SMALL_PAYLOAD_BYTES_MAX) {
        this.payload.begin(request)
        return this.accept(0)
      }
      return this.payload.takeSmall(request, this.requestSize) && this.accept(payloadBytes)
    }
    if (command === NBD_CMD_BLOCK_STATUS) return this.walks.begin(request, null) && this.accept(0)
    if ((request.commandFlags & NBD_CMD_FLAG_FUA) !== 0) request.flags |= RequestFlag.Fua
    if ((request.commandFlags & NBD_CMD_FLAG_NO_HOLE) !== 0) request.flags |= RequestFlag.NoHole
    this.submit(request)
    return this.accept(0)
  }

  private check(request: NbdRequest): Refusal | null {
    if (this.refusing) return refusals.shutdown
    return checkCommand(
      this.rules,
      this.device.sizeBytes,
      request.command,
      request.commandFlags,
      request.commandOffset,
      request.commandLength
    )
  }

  /** Block status with a payload that says which contexts are wanted. */
  private takeFilteredStatus(request: NbdRequest, payloadBytes: number): boolean {
    const filterBytesMax = this.walks.filterBytesMax
    if (payloadBytes > filterBytesMax) {
      return this.refuse(request, refusals.contextFilter, payloadBytes)
    }
    if (this.receiver.available < this.requestSize + payloadBytes) return false
    const at = this.receiver.start + this.requestSize
    const filter = this.walks.parseFilter(this.receiver.view, at, payloadBytes)
    if (filter === null) return this.refuse(request, refusals.contextFilter, payloadBytes)
    request.length = getU64(this.receiver.view, at)
    request.commandLength = request.length
    const refused = this.check(request)
    if (refused !== null) return this.refuse(request, refused, payloadBytes)
    return this.walks.begin(request, filter) && this.accept(payloadBytes)
  }

  private accept(payloadBytes: number): true {
    this.receiver.start += this.requestSize + payloadBytes
    this.inFlight++
    this.info.inFlight = this.inFlight
    return true
  }

  /** Answers a command that is not carried out; its payload is dropped. */
  private refuse(request: NbdRequest, refusal: Refusal, payloadBytes: number): boolean {
    if (!this.replyError(request, refusal.error, refusal.message, -1)) return this.block(false)
    this.batch.add(this)
    this.noteReply(request, true)
    this.receiver.start += this.requestSize
    this.skip = payloadBytes
    this.budget.releaseRequest(request)
    return true
  }

  /** Stops reading until something this client waits for moves. `shared`: it stands in line. */
  block(shared: boolean): false {
    this.blocked = true
    if (shared && !this.inLine) {
      this.inLine = true
      this.budget.waitForInput(this)
    }
    return false
  }

  /** Blocks by the answer of `acquirePages`. */
  blockForPages(answer: number): false {
    return this.block(answer !== NO_SHARE)
  }

  // Memory and the volume

  acquirePages(pages: number): number {
    const offset = this.budget.acquirePages(this, pages, this.heldPages)
    if (offset >= 0) this.heldPages += pages
    return offset
  }

  releasePages(request: NbdRequest): void {
    if (request.pageCount === 0) return
    this.budget.arena.release(request.pages)
    this.heldPages -= request.pageCount
    request.pageCount = 0
  }

  submit(request: NbdRequest): void {
    this.device.submit(request)
    this.batch.noteSubmitted()
  }

  /** The command is over: answered, or nobody is there to be answered. */
  retire(request: NbdRequest): void {
    this.releasePages(request)
    this.budget.releaseRequest(request)
    this.inFlight--
    this.info.inFlight = this.inFlight
    this.batch.add(this)
    if (this.inFlight === 0 && this.onQuiet !== null) this.onQuiet()
  }

  // Answering

  /** The volume is done with a request. */
  finished(request: NbdRequest): void {
    this.batch.add(this)
    if (request.command === NBD_CMD_READ) this.reads.finished(request)
    else if (request.owner !== null) this.walks.finished(request)
    else if (request.parent !== null) this.payload.finished(request)
    else this.answer(request)
  }

  /** A slice of `request.pages` is out of the socket. */
  sent(request: NbdRequest): void {
    request.slicesOut--
    this.sender.sliceWritten()
    if (request.appended && request.slicesOut === 0) this.reads.recycle(request)
  }

  /** Answers now, or when there is room and its turn has come. */
  answer(request: NbdRequest): void {
    if (this.state === 'closed') {
      this.abandon(request)
      return
    }
    if (this.readyHead === null && this.deliver(request)) return
    if (this.readyTail === null) this.readyHead = request
    else this.readyTail.next = request
    this.readyTail = request
  }

  private deliver(request: NbdRequest): boolean {
    if (this.reads.outputOwned) return false
    if (request.command === NBD_CMD_READ) return this.reads.deliver(request)
    if (request.owner !== null) return this.walks.deliver(request)
    const failed = request.error !== 0
    if (failed) {
      // A flush has no range an offset could lie in.
      const flush = request.command === NBD_CMD_FLUSH
      const start = flush ? -1 : request.commandOffset
      const offset = request.failureOffset >= 0 ? request.failureOffset : start
      if (!this.replyFailure(request, offset, NBD_REPLY_FLAG_DONE)) return false
    } else if (!this.replyDone(request)) return false
    this.noteReply(request, failed)
    this.retire(request)
    return true
  }

  private abandon(request: NbdRequest): void {
    if (request.command === NBD_CMD_READ) this.reads.abandon(request)
    else if (request.owner !== null) this.walks.abandon(request)
    else this.retire(request)
  }

  /** Success without payload. */
  replyDone(request: NbdRequest): boolean {
    const sender = this.sender
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

  /** The volume's error, at `offset`. */
  replyFailure(request: NbdRequest, offset: number, flags: number): boolean {
    const code = request.error
    const error = nbdErrorByCode[code]!
    return this.replyError(request, error, errorMessageByCode[code]!, offset, flags)
  }

  private replyError(
    request: NbdRequest,
    error: number,
    message: Buffer,
    offset: number,
    flags: number = NBD_REPLY_FLAG_DONE
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

  noteReply(request: NbdRequest, failed: boolean): void {
    const { command, commandLength } = request
    const known = command < kindOfCommand.length && command !== NBD_CMD_DISC
    if (!known) return
    const latencyMs = this.batch.nowMs - request.acceptedMs
    this.metrics.note(command, failed, commandLength, Math.max(latencyMs, 0))
    if (failed) return
    if (command === NBD_CMD_READ) {
      this.info.reads++
      this.info.readBytes += commandLength
    } else if (command === NBD_CMD_WRITE) {
      this.info.writes++
      this.info.writtenBytes += commandLength
    }
  }

  endOfBatch(): void {
    if (this.state === 'closed') return
    this.reads.advance()
    while (this.readyHead !== null && this.deliverHead(this.readyHead)) {}
    if (this.blocked && !this.inLine && this.state === 'open') {
      if (this.consume()) this.receiver.resume()
    }
    this.sender.flush()
    if (this.refusing && this.inFlight === 0) this.drain()
    this.checkDrained()
  }

  private deliverHead(request: NbdRequest): boolean {
    // Unlinked first: once delivered it may serve another client.
    const next = request.next
    request.next = null
    if (!this.deliver(request)) {
      request.next = next
      return false
    }
    this.readyHead = next
    if (next === null) this.readyTail = null
    return true
  }

  // The end

  /** Takes no more commands, and finishes those that were taken. */
  drain(): void {
    if (this.state !== 'open') return
    this.state = 'draining'
    this.leaveLine()
    this.batch.add(this)
  }

  /** The socket is gone. Resolves when the volume holds nothing of this client any more. */
  close(): Promise<void> {
    this.state = 'closed'
    this.leaveLine()
    this.payload.abort()
    this.sender.close()
    for (let request = this.readyHead; request !== null; ) {
      const next: NbdRequest | null = request.next
      request.next = null
      this.abandon(request)
      request = next
    }
    this.readyHead = null
    this.readyTail = null
    this.reads.abandonOwner()
    if (this.inFlight === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.onQuiet = resolve
    })
  }

  broken(reason: string): void {
    this.state = 'draining'
    this.metrics.protocolErrors++
    this.parts.onBroken(reason)
  }

  private leaveLine(): void {
    this.inLine = false
    this.budget.input.leave(this)
  }

  private checkDrained(): void {
    if (this.state !== 'draining' || !this.sender.idle) return
    // A payload that was cut off is never finished; `close` drops it.
    if (this.inFlight === (this.payload.active ? 1 : 0)) this.parts.onDrained()
  }
}
