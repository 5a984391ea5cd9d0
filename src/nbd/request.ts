import { VolumeRequest } from '../volume/request.ts'
import type { Transmission } from './transmission.ts'

/**
 * One command of a client, or one piece of a large one. A fixed set of these serves all clients
 * (`RequestPool`); each is a VolumeRequest, so that nothing is made per command.
 *
 * A command that moves more than one piece is a parent: it is not submitted itself, its pieces
 * are requests of their own that point to it.
 */
export class NbdRequest extends VolumeRequest {
  transmission: Transmission | null = null
  /** NBD_CMD_… and its flags, as sent. */
  command: number = 0
  commandFlags: number = 0
  cookieHigh: number = 0
  cookieLow: number = 0
  /** As sent, to be echoed in extended replies. */
  offsetHigh: number = 0
  offsetLow: number = 0
  /** Range of the whole command. */
  commandOffset: number = 0
  commandLength: number = 0
  acceptedMs: number = 0
  /** Pages held at `pages`; 0 when none are. */
  pageCount: number = 0
  /** The command this is a piece of. */
  parent: NbdRequest | null = null
  /** The volume answered; what follows from that waits for its turn or for room in the output. */
  done: boolean = false
  /** All of its answer is in the output, from where `slicesOut` slices of `pages` still leave. */
  appended: boolean = false
  slicesOut: number = 0
  /** Link of the list of answers that wait. */
  next: NbdRequest | null = null
  /** Of a parent: where the next piece starts, and where the next one to send starts. */
  nextOffset: number = 0
  sendOffset: number = 0
  /** Of a parent: pieces that exist now. Its `error` is the first of theirs. */
  pieces: NbdRequest[] = []
  /** Of a parent: where the piece starts that failed first. */
  failureOffset: number = -1
  /** Given to the socket with the last bytes sent from `pages`. */
  readonly onSent: () => void

  constructor() {
    super()
    this.onDone = finished
    this.onSent = () => {
      const transmission = this.transmission
      if (transmission !== null) transmission.sent(this)
    }
  }
}

/** One function for all requests: the volume calls it when a request is done. */
function finished(request: VolumeRequest): void {
  const own = request as NbdRequest
  const transmission = own.transmission
  if (transmission !== null) transmission.finished(own)
}

/** Every request of the server. Grows to what was ever in flight, up to `limit`. */
export class RequestPool {
  readonly limit: number
  private readonly free: NbdRequest[] = []
  private made = 0

  constructor(limit: number) {
    this.limit = limit
  }

  get inUse(): number {
    return this.made - this.free.length
  }

  get available(): number {
    return this.limit - this.inUse
  }

  acquire(): NbdRequest | null {
    const request = this.free.pop()
    if (request !== undefined) return request
    if (this.made === this.limit) return null
    this.made++
    return new NbdRequest()
  }

  /** The caller has given its pages back. */
  release(request: NbdRequest): void {
    request.transmission = null
    request.parent = null
    request.next = null
    request.owner = null
    request.done = false
    request.appended = false
    request.error = 0
    request.flags = 0
    request.failureOffset = -1
    this.free.push(request)
  }
}
