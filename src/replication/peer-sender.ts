/**
 * The sending side of a connection between peers: frames of a tick gather in a buffer and leave
 * in one write; large payloads are sent from where they are, between the pieces of the buffer. At
 * most SEND_BUFFERS_PER_LINK are in use: when the other side does not take its bytes `room` says
 * no, and frames wait where they are.
 */
import type net from 'node:net'
import { SEND_BUFFER_BYTES, SEND_BUFFERS_PER_LINK } from './peer-limits.ts'

/** Bytes on their way to a socket, with the one long-lived view they are written by. */
class SendBuffer {
  readonly bytes: Buffer = Buffer.allocUnsafeSlow(SEND_BUFFER_BYTES)
  readonly view: DataView = new DataView(this.bytes.buffer)
  /** Filled up to here. */
  length: number = 0
  /** Given to the socket up to here. */
  flushed: number = 0
  /** Socket writes out. */
  writes: number = 0
  owner: PeerSender | null = null
  readonly onWritten: () => void = () => {
    this.writes--
    this.owner?.written(this)
  }
}

/** Send buffers of all links of a process: as many as were ever in use at once. */
export class SendBuffers {
  private readonly free: SendBuffer[] = []

  acquire(): SendBuffer {
    return this.free.pop() ?? new SendBuffer()
  }

  release(buffer: SendBuffer): void {
    buffer.length = 0
    buffer.flushed = 0
    buffer.owner = null
    this.free.push(buffer)
  }
}

const NO_VIEW = new DataView(new ArrayBuffer(0))

export class PeerSender {
  /** Where `reserve` found room. */
  view: DataView = NO_VIEW
  /** Writes that left, to see whether the other side moves. */
  moved = 0
  private readonly socket: net.Socket
  private readonly pool: SendBuffers
  /** Called when bytes left, so that what waits for room may try again. */
  private readonly onMoved: () => void
  private current: SendBuffer | null = null
  private buffers = 0
  private slicesOut = 0
  private corked = false

  constructor(socket: net.Socket, pool: SendBuffers, onMoved: () => void) {
    this.socket = socket
    this.pool = pool
    this.onMoved = onMoved
  }

  /** Everything appended is out of the socket. */
  get idle(): boolean {
    return this.buffers === 0 && this.slicesOut === 0
  }

  /** Whether `bytes` can be appended in one piece now. */
  room(bytes: number): boolean {
    if (this.current !== null) {
      if (SEND_BUFFER_BYTES - this.current.length >= bytes) return true
      // At once: the other side begins with it while the rest is made.
      this.writeCurrent()
      this.current = null
    }
    if (this.buffers === SEND_BUFFERS_PER_LINK) return false
    const buffer = this.pool.acquire()
    this.buffers++
    buffer.owner = this
    this.current = buffer
    this.view = buffer.view
    return true
  }

  /** Takes `bytes` of the room; returns where in `view` they start. */
  reserve(bytes: number): number {
    const buffer = this.current!
    const at = buffer.length
    buffer.length = at + bytes
    return at
  }

  /** Where `reserve` found room, as bytes. */
  get bytes(): Buffer {
    return this.current!.bytes
  }

  /** Gives back the last `bytes` that `reserve` took. */
  unreserve(bytes: number): void {
    this.current!.length -= bytes
  }

  /** Appends a copy of `source`. There is room. */
  copy(source: Buffer): void {
    const buffer = this.current!
    buffer.bytes.set(source, buffer.length)
    buffer.length += source.length
  }

  /** Sends `bytes` from where they are; `onSent` is called when the socket is done with them. */
  slice(bytes: Buffer, onSent: () => void): void {
    this.cork()
    this.writeCurrent()
    this.slicesOut++
    this.socket.write(bytes, onSent)
  }

  /** A slice is out of the socket: its owner says so. */
  sliceWritten(): void {
    this.slicesOut--
    this.moved++
    this.onMoved()
  }

  /** Gives to the socket what gathered. */
  flush(): void {
    this.writeCurrent()
    const { current } = this
    // Room that was made and not used.
    if (current !== null && current.writes === 0 && current.length === 0) this.written(current)
    if (!this.corked) return
    this.corked = false
    this.socket.uncork()
  }

  written(buffer: SendBuffer): void {
    if (buffer.writes > 0 || buffer.flushed < buffer.length) return
    if (buffer === this.current) this.current = null
    this.buffers--
    this.pool.release(buffer)
    this.moved++
    this.onMoved()
  }

  /** The connection is over: nothing more is appended; what is in the socket comes back. */
  close(): void {
    const buffer = this.current
    if (buffer === null) return
    // Bytes that were never given to the socket are dropped.
    buffer.length = buffer.flushed
    if (buffer.writes === 0) this.written(buffer)
  }

  private cork(): void {
    if (this.corked) return
    this.corked = true
    this.socket.cork()
  }

  private writeCurrent(): void {
    const buffer = this.current
    if (buffer === null || buffer.flushed === buffer.length) return
    const from = buffer.flushed
    buffer.flushed = buffer.length
    buffer.writes++
    this.socket.write(buffer.bytes.subarray(from, buffer.length), buffer.onWritten)
  }
}
