import type { SenderShape } from '../core/gather-sender.ts'
import { SendBuffer, type SendBufferPool } from '../core/send-buffer.ts'
import { SEND_BUFFER_BYTES, SEND_BUFFERS_PER_LINK } from './peer-limits.ts'

export const LINK_SENDER: SenderShape = {
  buffersMax: SEND_BUFFERS_PER_LINK,
  corksFull: false,
  turnBytes: Infinity
}

/** Send buffers of all links of a process: as many as were ever in use at once. */
export class LinkBuffers implements SendBufferPool {
  private readonly free: SendBuffer[] = []

  acquire(): SendBuffer {
    return this.free.pop() ?? new SendBuffer(SEND_BUFFER_BYTES)
  }

  release(buffer: SendBuffer): void {
    buffer.reset()
    this.free.push(buffer)
  }
}
