/**
 * The receiving side of a connection between peers: bytes go into one buffer, where small frames
 * are parsed in place, or, for a large payload, straight to where the consumer wants them (arena
 * pages). A plain socket reads into the target that `nextTarget` names, without a buffer made by
 * Node; a TLS socket hands out chunks, which are copied to the same targets.
 *
 *   bytes  [ parsed | start … not parsed yet … end | free ]
 *
 * Reading stops when the consumer says so and goes on with `resume`. A plain socket then still
 * reads first into the target it was given before, so `bytes` is only compacted, or replaced, when
 * a new target is given out.
 */
import type net from 'node:net'
import { assert } from '../core/assert.ts'
import { RECEIVE_BUFFER_BYTES, RECEIVE_SPARE_BYTES, STRANGER_BUFFER_BYTES } from './peer-limits.ts'

export interface ByteConsumer {
  /** Takes what is in the buffer. Returns whether reading should go on. */
  consume(): boolean
  /** How many bytes the empty buffer should take: what follows them has a target of its own. */
  bytesWanted(): number
  /** Where the next bytes belong when not into the buffer: never empty. */
  directTarget(): Buffer | null
  /** `count` bytes were put into the last direct target. */
  directArrived(count: number): void
}

/** Until there is a consumer, and after: everything is dropped. */
const nobody: ByteConsumer = {
  consume: () => false,
  bytesWanted: () => STRANGER_BUFFER_BYTES,
  directTarget: () => null,
  directArrived: () => {}
}

export class PeerReceiver {
  bytes: Buffer
  view: DataView
  start = 0
  end = 0
  consumer: ByteConsumer = nobody
  /** Everything that ever arrived, to see whether the other side moves. */
  receivedBytes = 0
  private limit: number
  private empty: Buffer
  private header: Buffer
  private direct = false
  private reading = true
  private closed = false
  private socket: net.Socket | null = null
  /** TLS: what of the last chunk could not be taken yet. */
  private chunk: Buffer | null = null
  private chunkAt = 0

  constructor() {
    this.limit = STRANGER_BUFFER_BYTES
    this.bytes = Buffer.allocUnsafeSlow(STRANGER_BUFFER_BYTES + RECEIVE_SPARE_BYTES)
    this.view = new DataView(this.bytes.buffer)
    this.empty = this.bytes.subarray(0, this.limit)
    this.header = this.empty
  }

  get available(): number {
    return this.end - this.start
  }

  /** Who sends has proved who it is. Called from inside `consume`, with an empty buffer. */
  grow(): void {
    assert(this.start === this.end, 'the buffer is replaced when it is empty')
    this.limit = RECEIVE_BUFFER_BYTES
    this.bytes = Buffer.allocUnsafeSlow(RECEIVE_BUFFER_BYTES + RECEIVE_SPARE_BYTES)
    this.view = new DataView(this.bytes.buffer)
    this.empty = this.bytes.subarray(0, this.limit)
    this.start = 0
    this.end = 0
  }

  /** Bytes come by `onread` of `socket`. */
  attachRaw(socket: net.Socket): void {
    this.socket = socket
  }

  /** Bytes come from `socket`, which has no handle to read from (TLS). */
  attachStream(socket: net.Socket): void {
    this.socket = socket
    socket.on('data', this.onChunk)
  }

  /** Goes on reading after `consume` stopped it. */
  resume(): void {
    if (this.reading || this.closed || this.socket === null) return
    this.reading = true
    if (this.chunk !== null && !this.takeChunk()) return
    this.socket.resume()
  }

  /** What arrives is dropped: only the end of it is of interest. */
  discard(): void {
    if (this.closed) return
    this.consumer = {
      consume: () => {
        this.start = this.end
        return true
      },
      bytesWanted: () => this.limit,
      directTarget: () => null,
      directArrived: () => {}
    }
    // Once the callback that we may be in has stopped the reading.
    queueMicrotask(() => this.resume())
  }

  /** Nothing that arrives is looked at any more. */
  close(): void {
    this.closed = true
    this.consumer = nobody
    this.chunk = null
    this.start = this.end
  }

  readonly onRead = (count: number): boolean => {
    // A socket that is being closed reads no more.
    if (this.closed) return false
    this.reading = this.arrived(count)
    return this.reading
  }

  private readonly onChunk = (chunk: Buffer): void => {
    if (this.closed) return
    this.chunk = chunk
    this.chunkAt = 0
    if (!this.takeChunk()) this.socket?.pause()
  }

  private takeChunk(): boolean {
    let chunk = this.chunk
    while (chunk !== null && this.chunkAt < chunk.length) {
      const target = this.nextTarget()
      const count = Math.min(target.length, chunk.length - this.chunkAt)
      chunk.copy(target, 0, this.chunkAt, this.chunkAt + count)
      this.chunkAt += count
      if (!this.arrived(count)) {
        this.reading = false
        return false
      }
      // Closed meanwhile, perhaps.
      chunk = this.chunk
    }
    this.chunk = null
    return true
  }

  private arrived(count: number): boolean {
    this.receivedBytes += count
    if (this.direct) this.consumer.directArrived(count)
    else this.end += count
    return this.consumer.consume()
  }

  readonly nextTarget = (): Buffer => {
    const direct = this.start === this.end && !this.closed ? this.consumer.directTarget() : null
    this.direct = direct !== null
    if (direct !== null) return direct
    if (this.start === this.end) {
      this.start = 0
      this.end = 0
      const wanted = this.consumer.bytesWanted()
      if (wanted >= this.limit) return this.empty
      if (this.header.length !== wanted || this.header.buffer !== this.bytes.buffer) {
        this.header = this.bytes.subarray(0, wanted)
      }
      return this.header
    }
    if (this.start > 0) {
      this.bytes.copyWithin(0, this.start, this.end)
      this.end -= this.start
      this.start = 0
    }
    const limit = this.end < this.limit ? this.limit : this.bytes.length
    return this.bytes.subarray(this.end, limit)
  }
}
