/**
 * Takes frames out of a receiver and verifies them: a header that fails its checksum, a length
 * beyond the limit, or a payload that fails its checksum ends the connection. What the handler
 * cannot take now leaves its bytes where they are, so that it is simply offered again.
 */
import type { Arena } from '../core/arena.ts'
import { crc32c } from '../core/checksum.ts'
import {
  FRAME_HEADER_BYTES,
  framePayloadBytes,
  framePayloadCrc,
  isFrameHeader
} from '../format/peer-frames.ts'
import { PAYLOAD_BYTES_MAX, RECEIVE_BUFFER_BYTES, SMALL_PAYLOAD_BYTES_MAX } from './peer-limits.ts'
import type { ByteConsumer, PeerReceiver } from './peer-receiver.ts'

export interface FrameHandler {
  /** A whole frame stands at `at` of the receiver, payload behind the header. False: not now. */
  frame(view: DataView, at: number, payloadBytes: number): boolean
  /** Where the large payload of the frame at `at` is to be received; null: not now. */
  largeFrame(view: DataView, at: number, payloadBytes: number): Buffer | null
  /** The payload of the last `largeFrame` is there. */
  largeDone(): void
  /** Everything that arrived was taken, as far as it could be. */
  settled(): void
  /** The bytes are none that a peer sends. Closes the reader. */
  broken(reason: string): void
}

export class FrameReader implements ByteConsumer {
  /** The handler could not take the frame that is next. */
  blocked = false
  readonly receiver: PeerReceiver
  private readonly handler: FrameHandler
  private readonly arena: Arena
  private closed = false
  /** The header at `start` is known to be whole, and so is its small payload. */
  private headerSeen = false
  private payloadSeen = false
  /** Of a large payload: where it goes, how much is there, its checksum as sent and so far. */
  private target: Buffer | null = null
  private got = 0
  private crcWanted = 0
  private crc = 0
  private afterLarge = false

  /** Most large payloads go to `arena`. */
  constructor(receiver: PeerReceiver, handler: FrameHandler, arena: Arena) {
    this.receiver = receiver
    this.arena = arena
    this.handler = handler
  }

  /** A large payload is half there. */
  get receiving(): boolean {
    return this.target !== null
  }

  /** Nothing more is taken; what was half there is dropped. */
  close(): void {
    this.closed = true
    this.target = null
    this.receiver.close()
  }

  consume(): boolean {
    this.blocked = false
    while (!this.closed && this.step()) {}
    if (this.closed) return true
    this.handler.settled()
    return !this.blocked
  }

  /** Offers again what could not be taken. */
  proceed(): void {
    if (this.blocked && !this.closed && this.consume()) this.receiver.resume()
  }

  bytesWanted(): number {
    // After a large frame likely comes another: reading only its header leaves the payload for a
    // read straight to its place.
    return this.afterLarge ? FRAME_HEADER_BYTES : RECEIVE_BUFFER_BYTES
  }

  directTarget(): Buffer | null {
    if (this.target === null) return null
    return this.got === 0 ? this.target : this.target.subarray(this.got)
  }

  directArrived(count: number): void {
    const target = this.target
    if (target !== null) this.partArrived(target, count)
  }

  private partArrived(target: Buffer, count: number): void {
    const part = count === target.length ? target : target.subarray(this.got, this.got + count)
    // While it is in the processor's cache.
    this.crc = this.arena.checksum(part, this.crc)
    this.got += count
    if (this.got < target.length) return
    this.target = null
    this.afterLarge = true
    if (this.crc === this.crcWanted) this.handler.largeDone()
    else this.handler.broken('a payload does not match its checksum')
  }

  /** Takes one thing; false: there is no whole one, or it must wait. */
  private step(): boolean {
    const { receiver } = this
    const { available } = receiver
    if (this.target !== null) return this.takePart(this.target, available)
    if (available < FRAME_HEADER_BYTES) return false
    const at = receiver.start
    const { view } = receiver
    if (!this.headerSeen && !this.checkHeader(view, at)) return false
    const payloadBytes = framePayloadBytes(view, at)
    if (payloadBytes > SMALL_PAYLOAD_BYTES_MAX) return this.startLarge(view, at, payloadBytes)
    const frameBytes = FRAME_HEADER_BYTES + payloadBytes
    if (available < frameBytes) return false
    if (!this.payloadSeen && !this.checkPayload(view, at, payloadBytes)) return false
    if (!this.handler.frame(view, at, payloadBytes)) return this.block()
    receiver.start = at + frameBytes
    this.headerSeen = false
    this.payloadSeen = false
    this.afterLarge = false
    return true
  }

  private block(): false {
    this.blocked = true
    return false
  }

  private checkHeader(view: DataView, at: number): boolean {
    if (!isFrameHeader(view, at)) return this.fail('a frame header does not match its checksum')
    const payloadBytes = framePayloadBytes(view, at)
    if (payloadBytes > PAYLOAD_BYTES_MAX) {
      return this.fail(`a payload has ${payloadBytes} bytes, the limit is ${PAYLOAD_BYTES_MAX}`)
    }
    this.headerSeen = true
    return true
  }

  private checkPayload(view: DataView, at: number, bytes: number): boolean {
    const from = at + FRAME_HEADER_BYTES
    const crc = bytes === 0 ? 0 : crc32c(this.receiver.bytes.subarray(from, from + bytes))
    if (crc !== framePayloadCrc(view, at)) {
      return this.fail('a payload does not match its checksum')
    }
    this.payloadSeen = true
    return true
  }

  private fail(reason: string): false {
    this.handler.broken(reason)
    return false
  }

  private startLarge(view: DataView, at: number, payloadBytes: number): boolean {
    const target = this.handler.largeFrame(view, at, payloadBytes)
    if (this.closed) return false
    if (target === null) return this.block()
    this.crcWanted = framePayloadCrc(view, at)
    this.receiver.start = at + FRAME_HEADER_BYTES
    this.headerSeen = false
    this.target = target
    this.got = 0
    this.crc = 0
    return true
  }

  private takePart(target: Buffer, available: number): boolean {
    if (available === 0) return false
    const { receiver } = this
    const count = Math.min(available, target.length - this.got)
    const from = receiver.start
    receiver.bytes.copy(target, this.got, from, from + count)
    receiver.start = from + count
    this.partArrived(target, count)
    return true
  }
}
