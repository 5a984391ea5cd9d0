/**
 * The sending side of a connection: what is made in a tick gathers in a buffer and leaves in one
 * write; large payloads are sent from where they are, between the pieces of the buffer. So many
 * buffers of a connection are in use at most: when the other side does not take its bytes `room`
 * says no, and what is to be sent waits where it is.
 */
import type net from 'node:net'
import type { SendBuffer, SendBufferPool } from './send-buffer.ts'

export interface SenderShape {
  readonly buffersMax: number
  /**
   * A full buffer leaves together with what follows in the tick; else at once, so that the other
   * side begins with it while the rest is made.
   */
  readonly corksFull: boolean
  /**
   * Of so many bytes sent from where they are the socket is done before more follow, in another
   * turn of the event loop: while a client takes them as fast as they come, one write of many
   * takes milliseconds, and nobody reads its next requests, or anybody else's.
   */
  readonly turnBytes: number
}

const NO_VIEW = new DataView(new ArrayBuffer(0))

export class GatherSender {
  /** Where `reserve` found room. */
  view: DataView = NO_VIEW
  /** Writes that left, to see whether the other side moves. */
  moved = 0
  private readonly socket: net.Socket
  private readonly pool: SendBufferPool
  private readonly buffersMax: number
  private readonly corksFull: boolean
  private readonly turnBytes: number
  /** Called when bytes left, so that what waits for room may try again. */
  private readonly onMoved: () => void
  private current: SendBuffer | null = null
  private buffers = 0
  private slicesOut = 0
  /** Bytes of slices since the turn began. */
  private sliceBytes = 0
  private corked = false

  constructor(socket: net.Socket, pool: SendBufferPool, shape: SenderShape, onMoved: () => void) {
    this.socket = socket
    this.pool = pool
    this.buffersMax = shape.buffersMax
    this.corksFull = shape.corksFull
    this.turnBytes = shape.turnBytes
    this.onMoved = onMoved
  }

  /** Everything appended is out of the socket. */
  get idle(): boolean {
    return this.buffers === 0 && this.slicesOut === 0
  }

  /** Whether `bytes` can be appended in one piece now. */
  room(bytes: number): boolean {
    if (this.sliceBytes >= this.turnBytes) return false
    if (this.current !== null) {
      if (this.current.room >= bytes) return true
      if (this.corksFull) this.cork()
      this.writeCurrent()
      this.current = null
    }
    if (this.buffers === this.buffersMax) return false
    // Without a further one it goes on when the first is out.
    const buffer = this.pool.acquire(this.buffers > 0)
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
  copy(source: Buffer, from: number = 0, to: number = source.length): void {
    const buffer = this.current!
    source.copy(buffer.bytes, buffer.length, from, to)
    buffer.length += to - from
  }

  /**
   * Sends `bytes` from where they are. `onSent` is called when the socket is done with them, and
   * calls `sliceWritten`.
   */
  slice(bytes: Buffer, onSent: () => void): void {
    this.cork()
    this.writeCurrent()
    this.slicesOut++
    this.sliceBytes += bytes.length
    this.socket.write(bytes, onSent)
  }

  /** A slice is out of the socket. */
  sliceWritten(): void {
    this.slicesOut--
    this.moved++
    if (this.slicesOut === 0 && this.sliceBytes >= this.turnBytes) setImmediate(this.nextTurn)
    else this.onMoved()
  }

  private readonly nextTurn = (): void => {
    this.sliceBytes = 0
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

  written(buffer: SendBuffer): void {
    if (!buffer.idle) return
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
