import type { SenderShape } from '../core/gather-sender.ts'
import { SendBuffer, type SendBufferPool } from '../core/send-buffer.ts'
import {
  type NbdLimits,
  REPLY_BUFFER_BYTES,
  REPLY_BUFFERS_PER_CONNECTION,
  SMALL_REPLY_BUFFER_BYTES
} from './limits.ts'

export const REPLY_SENDER: SenderShape = {
  buffersMax: REPLY_BUFFERS_PER_CONNECTION,
  corksFull: true,
  turnBytes: 1024 * 1024
}

/**
 * Reply buffers of all clients: one for every client, a small one where the large are in use; a
 * further one of the large while half of them are free.
 */
export class ReplyBuffers implements SendBufferPool {
  private readonly limits: NbdLimits
  private readonly free: SendBuffer[] = []
  private made = 0
  private readonly freeSmall: SendBuffer[] = []
  private smallMade = 0

  constructor(limits: NbdLimits) {
    this.limits = limits
  }

  get inUse(): number {
    return this.made + this.smallMade - this.free.length - this.freeSmall.length
  }

  acquire(isFurther: boolean): SendBuffer | null {
    const { replyBuffers, connections } = this.limits
    const inUse = this.made - this.free.length
    if (inUse < (isFurther ? replyBuffers / 2 : replyBuffers)) {
      const buffer = this.free.pop()
      if (buffer !== undefined) return buffer
      this.made++
      return new SendBuffer(REPLY_BUFFER_BYTES)
    }
    if (isFurther) return null
    const small = this.freeSmall.pop()
    if (small !== undefined) return small
    if (this.smallMade === connections) return null
    this.smallMade++
    return new SendBuffer(SMALL_REPLY_BUFFER_BYTES)
  }

  release(buffer: SendBuffer): void {
    buffer.reset()
    const isLarge = buffer.bytes.length === REPLY_BUFFER_BYTES
    if (isLarge) this.free.push(buffer)
    else this.freeSmall.push(buffer)
  }
}
