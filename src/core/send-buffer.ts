/** Bytes on their way to a socket, with the one long-lived view they are written by. */
export class SendBuffer {
  readonly bytes: Buffer
  readonly view: DataView
  /** Filled up to here. */
  length: number = 0
  /** Given to the socket up to here. */
  flushed: number = 0
  /** Socket writes out. */
  writes: number = 0
  /** Who is told that a write is over. */
  owner: { written(buffer: SendBuffer): void } | null = null
  readonly onWritten: () => void

  constructor(size: number) {
    this.bytes = Buffer.allocUnsafeSlow(size)
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, size)
    this.onWritten = () => {
      this.writes--
      this.owner?.written(this)
    }
  }

  get room(): number {
    return this.bytes.length - this.length
  }

  /** All that was put in is out of the socket. */
  get idle(): boolean {
    return this.writes === 0 && this.flushed === this.length
  }

  reset(): void {
    this.length = 0
    this.flushed = 0
    this.owner = null
  }
}

/** Where connections have their buffers from. */
export interface SendBufferPool {
  /** Null: none now. `isFurther`: the connection has one already. */
  acquire(isFurther: boolean): SendBuffer | null
  release(buffer: SendBuffer): void
}
