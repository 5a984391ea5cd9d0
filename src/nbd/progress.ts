/** Whether bytes of a connection still move, while the other side owes some or is owed some. */
import type net from 'node:net'

export class Progress {
  readonly #socket: net.Socket
  #mark = 0
  #sinceMs = 0

  constructor(socket: net.Socket) {
    this.#socket = socket
  }

  /**
   * How long fewer than `bytes` moved, looked at from call to call; 0 when nothing is waited for.
   * `receivedBytes`: how many came in; `isOwed`: the other side began to send something.
   */
  stalledMs(
    nowMs: number,
    given: { readonly receivedBytes: number; readonly isOwed: boolean; readonly bytes: number }
  ): number {
    const handle = (this.#socket as unknown as { _handle: RawHandle | null })._handle
    if (handle === null) return 0
    const waits = given.isOwed || handle.writeQueueSize > 0
    const moved = given.receivedBytes + handle.bytesWritten - handle.writeQueueSize
    if (!waits || moved - this.#mark >= given.bytes) {
      this.#mark = moved
      this.#sinceMs = nowMs
      return 0
    }
    return nowMs - this.#sinceMs
  }
}

/** What Node keeps about the bytes of a socket. */
interface RawHandle {
  readonly bytesWritten: number
  readonly writeQueueSize: number
}
