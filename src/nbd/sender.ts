/**
 * The sending side of a connection in its transmission phase.
 *
 * Replies of a tick gather in a reply buffer and leave in one write. Large read data is sent from
 * the arena without a copy, between the pieces of the buffer. At most
 * REPLY_BUFFERS_PER_CONNECTION are in use: when the client does not take its replies `room`
 * says no, and the answers wait where they are.
 */
import type net from 'node:net'
import type { Budget } from './budget.ts'
import { REPLY_BUFFERS_PER_CONNECTION } from './limits.ts'
import type { ReplyBuffer } from './reply-buffer.ts'
import type { NbdRequest } from './request.ts'

export class Sender {
  /** Where `reserve` found room. */
  view: DataView
  private readonly socket: net.Socket
  private readonly budget: Budget
  /** Called when bytes left, so that what waits for room may try again. */
  private readonly onMoved: () => void
  private current: ReplyBuffer | null = null
  private buffers = 0
  private corked = false
  private slicesOut = 0
  private static readonly noView: DataView = new DataView(new ArrayBuffer(0))

  constructor(socket: net.Socket, budget: Budget, onMoved: () => void) {
    this.socket = socket
    this.budget = budget
    this.onMoved = onMoved
    this.view = Sender.noView
  }

  /** Everything appended is out of the socket. */
  get idle(): boolean {
    return this.buffers === 0 && this.slicesOut === 0
  }

  /** Whether `bytes` can be appended in one piece now. */
  room(bytes: number): boolean {
    if (this.current !== null) {
      if (this.current.room >= bytes) return true
      this.cork()
      this.writeCurrent()
      this.current = null
    }
    if (this.buffers === REPLY_BUFFERS_PER_CONNECTION) return false
    // Without a second one it goes on when the first is out.
    const buffer = this.budget.acquireBuffer(this.buffers > 0)
    if (buffer === null) return false
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

  /** Appends a copy of `source[from, to)`. There is room. */
  copy(source: Buffer, from: number, to: number): void {
    const buffer = this.current!
    source.copy(buffer.bytes, buffer.length, from, to)
    buffer.length += to - from
  }

  /** Sends `length` bytes of the arena; `request.onSent` is called when the socket is done. */
  slice(offset: number, length: number, request: NbdRequest): void {
    this.cork()
    this.writeCurrent()
    this.slicesOut++
    request.slicesOut++
    this.socket.write(this.budget.arena.bytes.subarray(offset, offset + length), request.onSent)
  }

  /** A slice is out of the socket. */
  sliceWritten(): void {
    this.slicesOut--
    this.onMoved()
  }

  /** Gives to the socket what gathered. */
  flush(): void {
    this.writeCurrent()
    // Room that was made and not used.
    if (this.current?.idle) this.written(this.current)
    if (!this.corked) return
    this.corked = false
    this.socket.uncork()
  }

  written(buffer: ReplyBuffer): void {
    if (!buffer.idle) return
    if (buffer === this.current) this.current = null
    this.buffers--
    this.budget.releaseBuffer(buffer)
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
    buffer.writes++
    const from = buffer.flushed
    buffer.flushed = buffer.length
    this.socket.write(buffer.bytes.subarray(from, buffer.length), buffer.onWritten)
  }
}
