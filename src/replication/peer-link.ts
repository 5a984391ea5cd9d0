/**
 * A connection to one boot of a peer, as a Member.
 *
 *   submit -> (window full: queue) -> LinkSlot and frame -> GatherSender, one write per `ring`
 *   FrameReader -> slot of the request id -> op.onDone
 *
 * Time is counted in ticks of a timer, so that a process that was stopped does not take its own
 * pause for the silence of others.
 */
import type net from 'node:net'
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import type { Timers } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { GatherSender } from '../core/gather-sender.ts'
import {
  FRAME_HEADER_BYTES,
  FrameKind,
  frameFreeBytes,
  frameJsonBytes,
  frameKind,
  frameRequestId,
  isPlainFrame,
  putOpFrame,
  putPlainFrame,
  takeAnswerFrame
} from '../format/peer-frames.ts'
import { OpKind } from '../shard/op.ts'
import { BlockOp } from './block-store.ts'
import { type FrameHandler, FrameReader } from './frame-reader.ts'
import { LINK_SENDER, type LinkBuffers } from './link-buffers.ts'
import { LinkCall, LinkFlush, type LinkRequest, type LinkSlot, LinkSlots } from './link-slots.ts'
import { CallBody, decodeFailure, encodeCall } from './member-call.ts'
import type { Member, MemberAnswer, MemberCall } from './member.ts'
import type { Dialed } from './peer-dial.ts'
import {
  CALL_WINDOW_BYTES,
  COPY_PAYLOAD_BYTES_MAX,
  GOODBYE_BYTES_MAX,
  type PeerLimits,
  TICKS_PER_REQUEST
} from './peer-limits.ts'
import { answerBytesOf, frameKindOfOp, payloadBytesOf, tagBytesOf } from './peer-request.ts'

export interface LinkParts {
  readonly dialed: Dialed
  readonly arena: Arena
  readonly buffers: LinkBuffers
  readonly limits: PeerLimits
  readonly timers: Timers
}

export class PeerLink implements Member, FrameHandler {
  readonly peerId: string
  readonly bootId: string
  readonly isLocal = false
  /** Room for data on the member, as its last answer told. */
  freeBytes = 0
  private readonly arena: Arena
  private readonly socket: net.Socket
  private readonly reader: FrameReader
  private readonly sender: GatherSender
  private readonly slots: LinkSlots
  private readonly windowBytes: number
  private readonly queuedMax: number
  private readonly timers: Timers
  private readonly tickMs: number
  private readonly ticksPerRequest: number = TICKS_PER_REQUEST
  private readonly pingTicks: number
  private readonly pingAnswerTicks: number
  /** What found no room in the window, in order; taken from `queueHead` on. */
  private queue: LinkRequest[] = []
  private queueHead = 0
  /** Why the link is lost; null while it is there. */
  private why: string | null = null
  private listeners: ((why: string) => void)[] = []
  /** Done with PeerLost, or LimitReached, from a microtask. */
  private refused: { request: LinkRequest; error: ErrorCode }[] = []
  /** Answer to a large read or call that is arriving. */
  private arriving: LinkSlot | null = null
  private arrivingBody: Buffer | null = null
  private arrivingJsonBytes = 0
  private arrivingError = 0
  private tick = 0
  private heardTick = 0
  private pinged = false
  private goodbye = 'the connection was closed'
  private cancelTick: () => void

  constructor(parts: LinkParts) {
    const { dialed, limits, timers } = parts
    const { socket, receiver, welcome } = dialed
    this.peerId = welcome.peerId
    this.bootId = welcome.bootId
    this.arena = parts.arena
    this.socket = socket
    this.timers = timers
    const windowOps = Math.max(1, Math.min(welcome.windowOps, limits.windowOps))
    this.windowBytes = Math.min(welcome.windowBytes, limits.windowBytes)
    this.queuedMax = limits.queuedRequests
    this.slots = new LinkSlots(windowOps, (slot) => this.sent(slot))
    this.tickMs = limits.requestMs / TICKS_PER_REQUEST
    const idleMs = Math.min(limits.pingMs, welcome.idleMs / 3)
    this.pingTicks = Math.max(1, Math.floor(idleMs / this.tickMs))
    this.pingAnswerTicks = Math.max(2, Math.ceil(limits.pingAnswerMs / this.tickMs))
    this.sender = new GatherSender(socket, parts.buffers, LINK_SENDER, () => this.moved())
    this.reader = new FrameReader(receiver, this, this.arena)
    receiver.consumer = this.reader
    socket.on('error', (error) => this.lose(error.message))
    socket.once('close', () => this.lose(this.goodbye))
    this.cancelTick = timers.start(this.tickMs, this.onTick)
  }

  get inFlight(): number {
    return this.slots.waiting + this.queued + this.refused.length
  }

  private get queued(): number {
    return this.queue.length - this.queueHead
  }

  // Sending

  submit(op: BlockOp): void {
    assert(frameKindOfOp[op.kind] !== 0, 'an op that goes to members is submitted')
    if (this.why !== null) this.refuse(op, ErrorCode.PeerLost)
    else if (this.queued > 0 || !this.sendOp(op)) this.enqueue(op)
  }

  putAside(op: BlockOp, payload: number): boolean {
    if (this.arriving?.op === op) return false
    op.payload = payload
    return true
  }

  ring(): void {
    if (this.why === null) this.sender.flush()
  }

  flush(done: (error: number) => void): void {
    this.give(new LinkFlush(done))
  }

  call(request: MemberCall): Promise<MemberAnswer> {
    return new Promise((resolve, reject) => {
      this.give(new LinkCall(encodeCall(request), resolve, reject))
    })
  }

  onLost(listener: (why: string) => void): void {
    const { why } = this
    if (why === null) this.listeners.push(listener)
    else queueMicrotask(() => listener(why))
  }

  private give(request: LinkFlush | LinkCall): void {
    if (this.why !== null) this.refuse(request, ErrorCode.PeerLost)
    else if (this.queued > 0 || !this.send(request)) this.enqueue(request)
    this.ring()
  }

  private enqueue(request: LinkRequest): void {
    if (this.queued >= this.queuedMax) this.refuse(request, ErrorCode.LimitReached)
    else this.queue.push(request)
  }

  /** Sends what waits, as far as the window goes. */
  private pump(): void {
    while (this.queueHead < this.queue.length && this.send(this.queue[this.queueHead]!)) {
      this.queueHead++
    }
    if (this.queueHead === this.queue.length) {
      this.queue.length = 0
      this.queueHead = 0
    } else if (this.queueHead > QUEUE_TRIM) {
      this.queue.splice(0, this.queueHead)
      this.queueHead = 0
    }
  }

  private send(request: LinkRequest): boolean {
    if (request instanceof BlockOp) return this.sendOp(request)
    return request instanceof LinkFlush ? this.sendFlush(request) : this.sendCall(request)
  }

  /** Whether the window has room for a request, and the output for `outBytes` of it. */
  private hasRoom(windowBytes: number, outBytes: number): boolean {
    const { slots } = this
    if (slots.full) return false
    if (slots.waiting > 0 && slots.windowBytes + windowBytes > this.windowBytes) return false
    return this.sender.room(outBytes)
  }

  /** False: not now. */
  private sendOp(op: BlockOp): boolean {
    const { sender } = this
    const { kind } = op
    const windowBytes = payloadBytesOf(op)
    const bytes = kind === OpKind.Write ? windowBytes : 0
    const tagBytes = bytes === 0 ? 0 : tagBytesOf(op)
    const copied = bytes <= COPY_PAYLOAD_BYTES_MAX
    if (!this.hasRoom(windowBytes, FRAME_HEADER_BYTES + (copied ? bytes : tagBytes))) return false
    const slot = this.slots.take(windowBytes, this.tick)
    slot.op = op
    const at = sender.reserve(FRAME_HEADER_BYTES)
    const frame = frameKindOfOp[kind]!
    if (bytes === 0) {
      putOpFrame(sender.view, at, frame, slot.requestId, op, 0, 0)
      return true
    }
    const payload = this.arena.bytes.subarray(op.payload, op.payload + bytes - tagBytes)
    const tags = this.arena.bytes.subarray(op.tags, op.tags + tagBytes)
    let crc = op.payloadCrc
    if (crc < 0) crc = this.arena.checksum(payload)
    if (op.payloadCrc < 0 && tagBytes > 0) crc = crc32c(tags, crc)
    putOpFrame(sender.view, at, frame, slot.requestId, op, bytes, crc)
    if (copied) sender.copy(payload)
    else {
      this.arena.retain(op.payload)
      slot.pages = op.payload
      slot.sending = true
      sender.slice(payload, slot.onSent)
    }
    if (tagBytes > 0) sender.copy(tags)
    return true
  }

  private sendFlush(flush: LinkFlush): boolean {
    if (!this.hasRoom(0, FRAME_HEADER_BYTES)) return false
    const slot = this.slots.take(0, this.tick)
    slot.flush = flush
    this.putPlain(FrameKind.Flush, slot.requestId, null)
    return true
  }

  private sendCall(call: LinkCall): boolean {
    const bytes = call.json.length
    const copied = bytes <= COPY_PAYLOAD_BYTES_MAX
    const windowBytes = Math.max(bytes, CALL_WINDOW_BYTES)
    if (!this.hasRoom(windowBytes, FRAME_HEADER_BYTES + (copied ? bytes : 0))) return false
    const slot = this.slots.take(windowBytes, this.tick)
    slot.call = call
    this.putPlain(FrameKind.Call, slot.requestId, call.json)
    if (copied) {
      this.sender.copy(call.json)
      return true
    }
    slot.sending = true
    this.sender.slice(call.json, slot.onSent)
    return true
  }

  private putPlain(kind: number, requestId: number, payload: Buffer | null): void {
    const { sender } = this
    const at = sender.reserve(FRAME_HEADER_BYTES)
    const bytes = payload === null ? 0 : payload.length
    putPlainFrame(sender.view, at, kind, requestId, bytes, payload === null ? 0 : crc32c(payload))
  }

  /** A payload is out of the socket, or never will be. */
  private sent(slot: LinkSlot): void {
    if (slot.pages >= 0) this.arena.release(slot.pages)
    slot.pages = -1
    this.slots.left(slot)
    this.sender.sliceWritten()
  }

  /** Bytes left the socket. */
  private moved(): void {
    if (this.why !== null || this.queued === 0) return
    this.pump()
    this.sender.flush()
  }

  // Receiving

  frame(view: DataView, at: number, payloadBytes: number): boolean {
    const kind = frameKind(view, at)
    if (kind !== FrameKind.Answer) return this.takeOther(view, at, kind, payloadBytes)
    const slot = this.slots.find(frameRequestId(view, at))
    if (slot === null) return this.fail('it answered what was not asked')
    const { op } = slot
    const from = at + FRAME_HEADER_BYTES
    if (op === null) {
      const { bytes } = this.reader.receiver
      const body = Buffer.from(bytes.subarray(from, from + payloadBytes))
      return this.takeBody(slot, view, at, body)
    }
    if (!this.takeResult(op, view, at, payloadBytes)) return false
    if (payloadBytes > 0) {
      this.reader.receiver.bytes.copy(this.arena.bytes, op.payload, from, from + payloadBytes)
    }
    this.slots.answered(slot)
    op.onDone(op)
    return true
  }

  largeFrame(view: DataView, at: number, payloadBytes: number): Buffer | null {
    const slot = this.slots.find(frameRequestId(view, at))
    if (frameKind(view, at) !== FrameKind.Answer || slot === null || slot.flush !== null) {
      this.fail('it answered what was not asked')
      return null
    }
    const { op } = slot
    if (op !== null) {
      if (!this.takeResult(op, view, at, payloadBytes)) return null
      this.arriving = slot
      return this.arena.bytes.subarray(op.payload, op.payload + payloadBytes)
    }
    if (!takeAnswerFrame(view, at, scratch)) {
      this.fail('its answer has fields of a later version')
      return null
    }
    this.arriving = slot
    this.arrivingError = scratch.error
    this.arrivingBody = Buffer.allocUnsafe(payloadBytes)
    this.arrivingJsonBytes = frameJsonBytes(view, at)
    return this.arrivingBody
  }

  largeDone(): void {
    const slot = this.arriving!
    const body = this.arrivingBody
    this.arriving = null
    this.arrivingBody = null
    const { op, call } = slot
    this.slots.answered(slot)
    if (op !== null) op.onDone(op)
    else if (call !== null) settle(call, this.arrivingError, body!, this.arrivingJsonBytes)
  }

  /** Puts an answer into its op; false: it is none. */
  private takeResult(op: BlockOp, view: DataView, at: number, payloadBytes: number): boolean {
    if (!takeAnswerFrame(view, at, op)) return this.fail('its answer has fields of a later version')
    op.resultC = 0
    this.freeBytes = frameFreeBytes(view, at)
    const wanted = op.error === 0 ? answerBytesOf(op) : 0
    const most = payloadBytesOf(op)
    if (payloadBytes === wanted && wanted <= most) return true
    return this.fail(`it answered with ${payloadBytes} bytes instead of ${wanted}`)
  }

  /** Answer of a flush or a call. */
  private takeBody(slot: LinkSlot, view: DataView, at: number, body: Buffer): boolean {
    if (!takeAnswerFrame(view, at, scratch)) {
      return this.fail('its answer has fields of a later version')
    }
    const { call, flush } = slot
    const { error } = scratch
    this.slots.answered(slot)
    if (flush !== null) flush.done(error)
    else if (call !== null) settle(call, error, body, frameJsonBytes(view, at))
    return true
  }

  private takeOther(view: DataView, at: number, kind: number, payloadBytes: number): boolean {
    if (kind === FrameKind.Pong && payloadBytes === 0 && isPlainFrame(view, at)) return true
    if (kind === FrameKind.Goodbye && payloadBytes <= GOODBYE_BYTES_MAX) {
      const from = at + FRAME_HEADER_BYTES
      const text = this.reader.receiver.bytes.toString('utf8', from, from + payloadBytes)
      return this.fail(`it said: ${text}`)
    }
    return this.fail(`it sent a frame of kind ${kind}`)
  }

  settled(): void {
    this.heardTick = this.tick
    this.pinged = false
    if (this.queued > 0) this.pump()
    this.sender.flush()
  }

  broken(reason: string): void {
    this.lose(reason)
  }

  private fail(reason: string): false {
    this.lose(reason)
    return false
  }

  // The end

  private readonly onTick = (): void => {
    if (this.why !== null) return
    this.cancelTick = this.timers.start(this.tickMs, this.onTick)
    this.tick++
    if (this.tick - this.slots.oldestTick(this.tick) > this.ticksPerRequest) {
      this.lose('a request was not answered in time')
      return
    }
    const silent = this.tick - this.heardTick
    if (silent < this.pingTicks) return
    if (silent > this.pingTicks + this.pingAnswerTicks) {
      this.lose('it did not answer a ping in time')
    } else if (!this.pinged && this.sender.room(FRAME_HEADER_BYTES)) {
      this.pinged = true
      this.putPlain(FrameKind.Ping, this.tick, null)
      this.sender.flush()
    }
  }

  /** Says goodbye. What is in flight is done with PeerLost. */
  close(why: string): void {
    if (this.why !== null) return
    if (this.sender.room(FRAME_HEADER_BYTES + GOODBYE_BYTES_MAX)) {
      const text = Buffer.from(why).subarray(0, GOODBYE_BYTES_MAX)
      this.putPlain(FrameKind.Goodbye, 0, text)
      this.sender.copy(text)
      this.sender.flush()
    }
    this.lose(why, true)
  }

  /** Everything unanswered is done with PeerLost, in the order in which it was given. */
  private lose(why: string, politely = false): void {
    if (this.why !== null) return
    this.why = why
    this.cancelTick()
    this.reader.close()
    this.sender.close()
    if (politely) {
      this.socket.destroySoon()
      this.timers.start(LINGER_MS, () => this.socket.destroy())
    } else this.socket.destroy()
    for (const slot of this.slots.inOrder()) {
      const request = slot.op ?? slot.call ?? slot.flush!
      this.slots.answered(slot)
      this.refuse(request, ErrorCode.PeerLost)
    }
    for (let at = this.queueHead; at < this.queue.length; at++) {
      this.refuse(this.queue[at]!, ErrorCode.PeerLost)
    }
    this.queue = []
    this.queueHead = 0
    const { listeners } = this
    this.listeners = []
    queueMicrotask(() => {
      for (const listener of listeners) listener(why)
    })
  }

  private refuse(request: LinkRequest, error: ErrorCode): void {
    if (this.refused.push({ request, error }) === 1) queueMicrotask(this.answerRefused)
  }

  private readonly answerRefused = (): void => {
    const { refused } = this
    this.refused = []
    const why = `peer ${this.peerId}: ${this.why ?? 'too much waits for it'}`
    for (const { request, error } of refused) {
      if (request instanceof BlockOp) {
        request.error = error
        request.resultA = 0
        request.resultB = 0
        request.resultC = 0
        request.onDone(request)
      } else if (request instanceof LinkFlush) request.done(error)
      else request.reject(new StoreError(error, why))
    }
  }
}

/** Time for a goodbye to leave. */
const LINGER_MS = 1_000
/** Answered places at the front of the queue that may wait to be cut off. */
const QUEUE_TRIM = 1024

/** Where the fields of an answer go that is of no op. */
const scratch = { error: 0, resultA: 0, resultB: 0 }

function settle(call: LinkCall, error: number, body: Buffer, jsonBytes: number): void {
  if (error !== 0) {
    call.reject(decodeFailure(error as ErrorCode, body))
    return
  }
  try {
    call.resolve(CallBody.decode(body, jsonBytes))
  } catch (thrown) {
    call.reject(thrown as StoreError)
  }
}
