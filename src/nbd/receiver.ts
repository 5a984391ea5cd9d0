/**
 * The receiving side of a connection.
 *
 * Bytes go into one buffer per connection, where requests are parsed in place, or, for a large
 * write payload, straight to where the consumer wants them (arena pages). A plain socket reads
 * into the target that `nextTarget` names, without a buffer made by Node; a TLS socket hands out
 * chunks, which are copied to the same targets.
 *
 *   bytes  [ parsed | start … not parsed yet … end | free ]
 *
 * Reading stops when the consumer says so and goes on with `resume`. A plain socket then still
 * reads first into the target it was given before, so `bytes` is only compacted when a new
 * target is given out.
 */
import net from 'node:net'
import type { Arena } from '../core/arena.ts'
import { RECEIVE_BUFFER_BYTES, RECEIVE_SPARE_BYTES } from './limits.ts'

export interface Consumer {
  /** Takes what is in the buffer. Returns whether reading should go on. */
  consume(): boolean
  /** How many bytes the empty buffer should take: what follows them has a target of its own. */
  bytesWanted(): number
  /** Where the next bytes belong when not into the buffer: never empty. */
  directTarget(): Buffer | null
  /** `count` bytes were put into the last direct target. Returns whether it is full. */
  directArrived(count: number): boolean
}

export class Receiver {
  readonly bytes: Buffer
  readonly view: DataView
  start = 0
  end = 0
  /** Everything that ever arrived, to see whether a client moves. */
  receivedBytes = 0
  private readonly consumer: Consumer
  private readonly arena: Arena
  private readonly empty: Buffer
  private header: Buffer
  private direct = false
  private reading = true
  private socket: net.Socket | null = null
  /** TLS: what of the last chunk could not be taken yet. */
  private chunk: Buffer | null = null
  private chunkAt = 0

  constructor(consumer: Consumer, arena: Arena) {
    this.consumer = consumer
    this.arena = arena
    this.bytes = arena.lend(RECEIVE_BUFFER_BYTES + RECEIVE_SPARE_BYTES)
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset)
    this.empty = this.bytes.subarray(0, RECEIVE_BUFFER_BYTES)
    this.header = this.empty
  }

  /** The socket is closed: nothing is received any more, and nobody looks at what was. */
  release(): void {
    this.arena.giveBack(this.bytes)
  }

  get available(): number {
    return this.end - this.start
  }

  /** Takes the handle of `accepted` over and reads from it; where it has none, its chunks. */
  attach(accepted: net.Socket): net.Socket {
    const holder = accepted as unknown as { _handle?: unknown }
    const handle = holder._handle ?? null
    if (handle === null) {
      this.attachStream(accepted)
      accepted.resume()
      return accepted
    }
    holder._handle = null
    // Ends the accounting of the listening server for it; the handle lives on in the new socket.
    accepted.destroy()
    const socket = new net.Socket({
      handle,
      // A client may close its side and still wait for answers.
      allowHalfOpen: true,
      onread: { buffer: this.nextTarget, callback: this.onRead }
    } as net.SocketConstructorOpts)
    this.socket = socket
    socket.resume()
    socket.read(0)
    return socket
  }

  /** From now on bytes come from `socket`, which has no handle to read from (TLS). */
  attachStream(socket: net.Socket): void {
    this.socket = socket
    this.start = 0
    this.end = 0
    this.direct = false
    this.reading = true
    socket.on('data', this.onChunk)
  }

  /** Goes on reading after `consume` stopped it. */
  resume(): void {
    if (this.reading || this.socket === null) return
    this.reading = true
    if (this.chunk !== null && !this.takeChunk()) return
    this.socket.resume()
  }

  private readonly onRead = (count: number): boolean => {
    this.reading = this.arrived(count)
    return this.reading
  }

  private readonly onChunk = (chunk: Buffer): void => {
    this.chunk = chunk
    this.chunkAt = 0
    if (!this.takeChunk()) this.socket?.pause()
  }

  private takeChunk(): boolean {
    const chunk = this.chunk!
    while (this.chunkAt < chunk.length) {
      const target = this.nextTarget()
      const count = Math.min(target.length, chunk.length - this.chunkAt)
      chunk.copy(target, 0, this.chunkAt, this.chunkAt + count)
      this.chunkAt += count
      if (!this.arrived(count)) {
        this.reading = false
        return false
      }
    }
    this.chunk = null
    return true
  }

  private arrived(count: number): boolean {
    this.receivedBytes += count
    if (!this.direct) this.end += count
    else if (!this.consumer.directArrived(count)) return true
    return this.consumer.consume()
  }

  private readonly nextTarget = (): Buffer => {
    const direct = this.start === this.end ? this.consumer.directTarget() : null
    this.direct = direct !== null
    if (direct !== null) return direct
    if (this.start === this.end) {
      this.start = 0
      this.end = 0
      const wanted = this.consumer.bytesWanted()
      if (wanted >= RECEIVE_BUFFER_BYTES) return this.empty
      if (this.header.length !== wanted) this.header = this.bytes.subarray(0, wanted)
      return this.header
    }
    if (this.start > 0) {
      const { bytes, start, end } = this
      this.arena.copy(bytes, 0, bytes, start, end - start)
      this.end -= this.start
      this.start = 0
    }
    const limit = this.end < RECEIVE_BUFFER_BYTES ? RECEIVE_BUFFER_BYTES : this.bytes.length
    return this.bytes.subarray(this.end, limit)
  }
}
