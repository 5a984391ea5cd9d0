/**
 * A member's side of one link, once the gateway has proved who it is.
 *
 *   FrameReader -> PeerRequest -> MemberService.submit, one ring per batch
 *   finished() -> GatherSender: one socket write per batch
 *
 * What cannot go on now (no pages, a full window, no room for answers) stops the reading of this
 * socket alone. Ops that were submitted are finished whatever becomes of the link.
 */
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { GatherSender } from '../core/gather-sender.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { BatchMember, TickBatch } from '../core/tick-batch.ts'
import {
  FRAME_HEADER_BYTES,
  FrameKind,
  frameKind,
  frameRequestId,
  isPlainFrame,
  putAnswerFrame,
  putPlainFrame,
  takeOpFrame
} from '../format/peer-frames.ts'
import { OpKind } from '../shard/op.ts'
import type { BlockOp } from './block-store.ts'
import { type FrameHandler, FrameReader } from './frame-reader.ts'
import { CallBody, decodeCall, encodeFailure } from './member-call.ts'
import type { Caller, MemberService } from './member-service.ts'
import {
  CALL_JSON_BYTES_MAX,
  CALL_WINDOW_BYTES,
  COPY_PAYLOAD_BYTES_MAX,
  GOODBYE_BYTES_MAX,
  type PeerLimits
} from './peer-limits.ts'
import type { PageWaiter, PeerPages } from './peer-pages.ts'
import type { PeerReceiver } from './peer-receiver.ts'
import {
  answerBytesOf,
  opKindOfFrame,
  opProblem,
  payloadBytesOf,
  PeerRequest,
  plainBytesOf
} from './peer-request.ts'

/** What sessions share, and what they tell their server. */
export interface SessionHost {
  readonly service: MemberService
  readonly pages: PeerPages
  readonly batch: TickBatch
  readonly limits: PeerLimits
  readonly freeRequests: PeerRequest[]
  /** A read that is answered at once, used for one after the other. */
  readonly near: BlockOp
  readonly counters: PeerCounters
  /** Room for data, told with every answer. */
  freeBytes(): number
}

/** Sums over all links of a server, since its start. */
export class PeerCounters {
  ops = 0
  readBytes = 0
  writtenBytes = 0
  flushes = 0
  calls = 0
  errors = 0
}

export interface SessionParts {
  readonly host: SessionHost
  readonly caller: Caller
  readonly receiver: PeerReceiver
  readonly sender: GatherSender
  /** Nothing more can be said on this connection: close it. `reason`: what was wrong, or null. */
  readonly onEnd: (reason: string | null) => void
  /** The gateway said goodbye. */
  readonly onGone: () => void
  /** An op of this link was submitted, or is done. */
  readonly onOps: (change: 1 | -1) => void
}

export class PeerSession implements FrameHandler, BatchMember, PageWaiter {
  inBatch = false
  readonly reader: FrameReader
  readonly caller: Caller
  /** Requests taken and not answered. */
  inFlight = 0
  private readonly parts: SessionParts
  private readonly host: SessionHost
  private readonly receiver: PeerReceiver
  private readonly sender: GatherSender
  private windowBytes = 0
  private state: 'open' | 'draining' | 'closed' = 'open'
  /** Whose large payload is arriving. */
  private arriving: PeerRequest | null = null
  private firstReady: PeerRequest | null = null
  private lastReady: PeerRequest | null = null
  private inLine = false
  /** Goodbye is said when all is answered. */
  private leaving = false
  /** Requests taken since the start. */
  private taken = 0
  private pongs = 0
  private lastPong = 0

  constructor(parts: SessionParts) {
    this.parts = parts
    this.host = parts.host
    this.caller = parts.caller
    this.receiver = parts.receiver
    this.sender = parts.sender
    this.reader = new FrameReader(parts.receiver, this, parts.host.pages.arena)
    parts.receiver.consumer = this.reader
  }

  // Receiving

  frame(view: DataView, at: number, payloadBytes: number): boolean {
    if (this.state !== 'open') return false
    const kind = frameKind(view, at)
    if (kind === FrameKind.Read && payloadBytes === 0 && this.answerNow(view, at)) return true
    if (opKindOfFrame[kind] !== 0) {
      const request = this.takeOp(view, at, opKindOfFrame[kind]!, payloadBytes)
      if (request === null) return false
      if (payloadBytes > 0) {
        const from = at + FRAME_HEADER_BYTES
        const { bytes } = this.receiver
        bytes.copy(this.host.pages.arena.bytes, request.pages, from, from + payloadBytes)
      }
      this.submit(request)
      return true
    }
    if (!isPlainFrame(view, at)) return this.refuse(`a frame of kind ${kind}`)
    if (kind === FrameKind.Call) {
      const from = at + FRAME_HEADER_BYTES
      const request = this.takeRequest(view, at, CALL_WINDOW_BYTES)
      if (request === null) return false
      this.startCall(request, Buffer.from(this.receiver.bytes.subarray(from, from + payloadBytes)))
      return true
    }
    return this.takePlain(view, at, kind, payloadBytes)
  }

  private takePlain(view: DataView, at: number, kind: number, payloadBytes: number): boolean {
    if (kind === FrameKind.Goodbye && payloadBytes <= GOODBYE_BYTES_MAX) {
      this.parts.onGone()
      return false
    }
    if (payloadBytes > 0) return this.refuse(`a frame of kind ${kind} with a payload`)
    if (kind === FrameKind.Ping) {
      this.pongs++
      this.lastPong = frameRequestId(view, at)
      this.host.batch.add(this)
      return true
    }
    if (kind !== FrameKind.Flush) return this.refuse(`a frame of kind ${kind}`)
    const request = this.takeRequest(view, at, 0)
    if (request === null) return false
    request.kind = OpKind.Flush
    this.host.counters.flushes++
    this.host.service.flush(request.onFlushed)
    return true
  }

  largeFrame(view: DataView, at: number, payloadBytes: number): Buffer | null {
    if (this.state !== 'open') return null
    const kind = frameKind(view, at)
    if (kind === FrameKind.Write) {
      const request = this.takeOp(view, at, OpKind.Write, payloadBytes)
      this.arriving = request
      if (request === null) return null
      const { pages } = request
      return this.host.pages.arena.bytes.subarray(pages, pages + payloadBytes)
    }
    if (kind !== FrameKind.Call || !isPlainFrame(view, at) || payloadBytes > CALL_JSON_BYTES_MAX) {
      this.refuse(`a frame of kind ${kind} with ${payloadBytes} bytes`)
      return null
    }
    const request = this.takeRequest(view, at, payloadBytes)
    this.arriving = request
    if (request === null) return null
    request.body = Buffer.allocUnsafe(payloadBytes)
    return request.body
  }

  largeDone(): void {
    const request = this.arriving!
    this.arriving = null
    const { body } = request
    request.body = null
    if (body === null) this.submit(request)
    else this.startCall(request, body)
  }

  settled(): void {
    this.host.batch.ring()
  }

  broken(reason: string): void {
    this.refuse(reason)
  }

  /** Memory may be there now. */
  proceed(): boolean {
    this.inLine = false
    const before = this.taken
    if (this.state === 'open') this.reader.proceed()
    return this.taken !== before
  }

  /** Holds memory for bytes that the gateway has yet to send, or to take. */
  get holds(): boolean {
    return this.arriving !== null || !this.sender.idle
  }

  get blocked(): boolean {
    return this.reader.blocked
  }

  /** A Pong nobody asked for: a gateway whose requests wait here shall know that we are there. */
  sayAlive(): void {
    this.pongs++
    this.lastPong = 0
    this.host.batch.add(this)
  }

  private refuse(what: string): false {
    if (this.state !== 'open') return false
    this.state = 'draining'
    this.sayGoodbye(what)
    this.parts.onEnd(what)
    return false
  }

  /** The request of the frame, or null: the window is full. */
  private takeRequest(view: DataView, at: number, windowBytes: number): PeerRequest | null {
    const { limits, freeRequests } = this.host
    // Twice: what the gateway has the answer of may still be on its way out of our socket.
    const bytes = this.windowBytes + windowBytes
    if (this.inFlight >= 2 * limits.windowOps) return null
    if (this.windowBytes > 0 && bytes > 2 * limits.windowBytes) return null
    const request = freeRequests.pop() ?? new PeerRequest()
    request.session = this
    request.requestId = frameRequestId(view, at)
    request.windowBytes = windowBytes
    this.windowBytes = bytes
    this.inFlight++
    return request
  }

  private takeOp(
    view: DataView,
    at: number,
    kind: number,
    payloadBytes: number
  ): PeerRequest | null {
    if (this.inLine) return null
    const request = this.takeRequest(view, at, 0)
    if (request === null) return null
    request.kind = kind
    takeOpFrame(view, at, request)
    const problem = opProblem(request, payloadBytes)
    if (problem !== null) {
      this.release(request)
      this.refuse(problem)
      return null
    }
    const bytes = payloadBytesOf(request)
    if (bytes === 0) return request
    const full = this.windowBytes > 0 && this.windowBytes + bytes > 2 * this.host.limits.windowBytes
    const pages = full ? -1 : this.host.pages.acquire(this, Math.ceil(bytes / BLOCK_BYTES))
    if (pages < 0) {
      this.inLine = !full
      this.release(request)
      return null
    }
    request.pages = pages
    request.payload = pages
    request.tags = pages + plainBytesOf(request)
    request.windowBytes = bytes
    this.windowBytes += bytes
    return request
  }

  private submit(request: PeerRequest): void {
    const { host } = this
    this.taken++
    request.error = 0
    request.resultA = 0
    request.resultB = 0
    request.resultC = 0
    this.parts.onOps(1)
    host.batch.noteSubmitted()
    host.service.submit(request)
  }

  private startCall(request: PeerRequest, json: Buffer): void {
    request.kind = 0
    this.host.counters.calls++
    // Calls begin in the order of their frames: all is synchronous up to the service.
    this.answerCall(request, json).catch((thrown: unknown) => {
      // A bug: the process ends with it.
      queueMicrotask(() => {
        throw thrown
      })
    })
  }

  private async answerCall(request: PeerRequest, json: Buffer): Promise<void> {
    try {
      const answer = await this.host.service.call(decodeCall(json), this.caller)
      const body = CallBody.encode(answer)
      request.error = ErrorCode.Ok
      request.body = body.bytes
      request.jsonBytes = body.jsonBytes
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      request.error = thrown.code
      request.body = encodeFailure(thrown)
      request.jsonBytes = request.body.length
    }
    this.finished(request)
  }

  // Answering

  /** Answers a small read of what the service has at hand; false: it has to become a request. */
  private answerNow(view: DataView, at: number): boolean {
    const { host, sender } = this
    const { service, near } = host
    if (service.readNow === undefined || this.inLine || this.firstReady !== null) return false
    near.kind = OpKind.Read
    takeOpFrame(view, at, near)
    const bytes = near.blockCount * BLOCK_BYTES
    if (bytes > COPY_PAYLOAD_BYTES_MAX || opProblem(near, 0) !== null) return false
    const frameBytes = FRAME_HEADER_BYTES + bytes
    if (!sender.room(frameBytes)) return false
    const start = sender.reserve(frameBytes)
    const from = start + FRAME_HEADER_BYTES
    host.batch.add(this)
    if (service.readNow(near, sender.bytes, from, true) < 0) {
      sender.unreserve(frameBytes)
      return false
    }
    const known = near.payloadCrc
    const crc = known < 0 ? crc32c(sender.bytes.subarray(from, from + bytes)) : known
    const id = frameRequestId(view, at)
    putAnswerFrame(sender.view, start, FrameKind.Answer, id, near, host.freeBytes(), 0, bytes, crc)
    this.taken++
    host.counters.ops++
    host.counters.readBytes += bytes
    return true
  }

  /** The service is done with a request. */
  finished(request: PeerRequest): void {
    if (request.kind !== 0 && request.kind !== OpKind.Flush) {
      this.count(request)
      this.parts.onOps(-1)
    }
    if (this.state === 'closed') {
      this.release(request)
      return
    }
    this.host.batch.add(this)
    if (this.firstReady === null && this.deliver(request)) return
    if (this.lastReady === null) this.firstReady = request
    else this.lastReady.next = request
    this.lastReady = request
  }

  private count(request: PeerRequest): void {
    const { counters } = this.host
    counters.ops++
    if (request.error !== 0) counters.errors++
    else if (request.kind === OpKind.Write) counters.writtenBytes += request.windowBytes
    else if (request.kind === OpKind.Read) counters.readBytes += request.windowBytes
  }

  /** Puts an answer into the output; false: there is no room now. */
  private deliver(request: PeerRequest): boolean {
    const { sender, host } = this
    const { body, pages } = request
    const bytes =
      body !== null ? body.length : pages < 0 || request.error !== 0 ? 0 : answerBytesOf(request)
    const copied = bytes <= COPY_PAYLOAD_BYTES_MAX
    if (!sender.room(FRAME_HEADER_BYTES + (copied ? bytes : 0))) return false
    const at = sender.reserve(FRAME_HEADER_BYTES)
    const kind = FrameKind.Answer
    const { view } = sender
    const free = host.freeBytes()
    if (bytes === 0) {
      putAnswerFrame(view, at, kind, request.requestId, request, free, 0, 0, 0)
      this.release(request)
      return true
    }
    const payload = body ?? host.pages.arena.bytes.subarray(pages, pages + bytes)
    const crc = host.pages.arena.checksum(payload)
    const { requestId, jsonBytes } = request
    putAnswerFrame(view, at, kind, requestId, request, free, jsonBytes, bytes, crc)
    if (copied) {
      sender.copy(payload)
      this.release(request)
    } else sender.slice(payload, request.onSent)
    return true
  }

  /** The payload of an answer is out of the socket. */
  sent(request: PeerRequest): void {
    this.release(request)
    this.sender.sliceWritten()
  }

  /** Bytes left the socket. */
  moved(): void {
    if (this.state === 'closed') return
    if (this.firstReady !== null || this.pongs > 0 || this.reader.blocked) this.host.batch.add(this)
  }

  endOfBatch(): void {
    if (this.state === 'closed') return
    while (this.firstReady !== null && this.deliverFirst(this.firstReady)) {}
    if (this.pongs > 0) this.sendPong()
    if (this.reader.blocked && !this.inLine && this.state === 'open') this.reader.proceed()
    this.sender.flush()
    if (this.state !== 'draining' || !this.quiet) return
    if (this.leaving) this.sayGoodbye('the peer is shutting down')
    this.leaving = false
    this.parts.onEnd(null)
  }

  /** Everything taken was answered. A payload that is half there never is. */
  private get quiet(): boolean {
    return this.inFlight === (this.arriving === null ? 0 : 1)
  }

  private deliverFirst(request: PeerRequest): boolean {
    const { next } = request
    // Once delivered it may serve another link.
    request.next = null
    if (!this.deliver(request)) {
      request.next = next
      return false
    }
    this.firstReady = next
    if (next === null) this.lastReady = null
    return true
  }

  /** One answers all pings of a tick. */
  private sendPong(): void {
    if (!this.sender.room(FRAME_HEADER_BYTES)) return
    this.pongs = 0
    const at = this.sender.reserve(FRAME_HEADER_BYTES)
    putPlainFrame(this.sender.view, at, FrameKind.Pong, this.lastPong, 0, 0)
  }

  sayGoodbye(why: string): void {
    const text = Buffer.from(why).subarray(0, GOODBYE_BYTES_MAX)
    if (!this.sender.room(FRAME_HEADER_BYTES + text.length)) return
    const at = this.sender.reserve(FRAME_HEADER_BYTES)
    putPlainFrame(this.sender.view, at, FrameKind.Goodbye, 0, text.length, crc32c(text))
    this.sender.copy(text)
    this.sender.flush()
  }

  private release(request: PeerRequest): void {
    if (request.pages >= 0) this.host.pages.release(request.pages)
    this.windowBytes -= request.windowBytes
    this.inFlight--
    request.session = null
    request.pages = -1
    request.windowBytes = 0
    request.body = null
    request.jsonBytes = 0
    this.host.freeRequests.push(request)
    if (this.reader.blocked && this.state === 'open') this.host.batch.add(this)
  }

  // The end

  /** Takes no more requests; ends when those taken are answered. */
  drain(): void {
    if (this.state !== 'open') return
    this.state = 'draining'
    this.leaving = true
    this.host.batch.add(this)
  }

  /** The connection is gone: what the service still does is finished silently. */
  close(): void {
    if (this.state === 'closed') return
    this.state = 'closed'
    this.reader.close()
    this.host.pages.leave(this)
    if (this.arriving !== null) this.release(this.arriving)
    this.arriving = null
    this.sender.close()
    for (let request = this.firstReady; request !== null; ) {
      const { next } = request
      request.next = null
      this.release(request)
      request = next
    }
    this.firstReady = null
    this.lastReady = null
  }
}
