/**
 * The client's end of NBD, as small as a load test needs it: fixed newstyle, NBD_OPT_GO, simple
 * replies, no TLS, many requests in flight. What it reads is counted and thrown away.
 *
 * A request has a slot, which is also its cookie. Requests submitted while replies are looked at
 * go out together: headers and small payloads gathered in one of two buffers, large payloads as
 * they are. One buffer is in the socket while the other is filled, and no more requests than slots
 * are in flight, so memory is bounded whatever the server does.
 */
import { connect, type Socket } from 'node:net'
import { assert } from '../core/assert.ts'
import { ClientHandshake, type Settle, unavailable } from './client-handshake.ts'
import * as p from './protocol.ts'

export type NbdEndpoint =
  | { readonly host: string; readonly port: number }
  | { readonly path: string }

export interface NbdClientOptions {
  readonly endpoint: NbdEndpoint
  readonly exportName: string
  /** Requests in flight at most. */
  readonly slots: number
  /** Largest payload of a write. */
  readonly payloadBytesMax: number
  /** Time for the server to answer the handshake. */
  readonly handshakeMs?: number
}

const REQUEST_BYTES = 28
const REPLY_BYTES = 16
const RECEIVE_BYTES = 256 * 1024
/** A payload up to this is copied behind its header: cheaper than another piece of the write. */
const COPY_BYTES_MAX = 32 * 1024
const HANDSHAKE_MS = 10_000
const TWO_32 = 2 ** 32

/** Requests of one round of sending. */
class Outbox {
  readonly bytes: Buffer
  readonly view: DataView
  fill = 0
  /** Before here everything is in `pieces`. */
  cut = 0
  pieces: Buffer[] = []
  constructor(size: number) {
    this.bytes = Buffer.allocUnsafeSlow(size)
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, size)
  }

  /** Ends the piece of gathered bytes. */
  finishPiece(): void {
    if (this.fill > this.cut) this.pieces.push(this.bytes.subarray(this.cut, this.fill))
    this.cut = this.fill
  }

  clear(): void {
    this.fill = 0
    this.cut = 0
    this.pieces = []
  }
}

export class NbdClient {
  sizeBytes = 0
  /** NBD_FLAG_… of the export. */
  flags = 0
  /** Called for each reply; `error` is 0 or an NBD error. May submit the next request. */
  onReply: (slot: number, error: number) => void = () => {}
  /** Called once when the connection ended before `close`. */
  onLost: (reason: string) => void = () => {}

  readonly #socket: Socket
  readonly #name: string
  readonly #handshake: ClientHandshake
  readonly #header = Buffer.alloc(REPLY_BYTES)
  #headerFill = 0
  /** Payload of the reply at hand that is still to come. */
  #skip = 0
  /** Slot of that reply. */
  #slot = 0
  /** Bytes that the reply to each slot brings when it is no error. */
  readonly #replyBytes: Float64Array
  readonly #busy: Uint8Array
  #outbox: Outbox
  #spare: Outbox
  #sending = false
  #closed = false

  private constructor(options: NbdClientOptions, settle: Settle) {
    const { endpoint, slots, payloadBytesMax } = options
    this.#name = 'path' in endpoint ? endpoint.path : `${endpoint.host}:${endpoint.port}`
    const each = REQUEST_BYTES + Math.min(payloadBytesMax, COPY_BYTES_MAX)
    this.#outbox = new Outbox(slots * each)
    this.#spare = new Outbox(slots * each)
    this.#replyBytes = new Float64Array(slots)
    this.#busy = new Uint8Array(slots)
    this.#handshake = new ClientHandshake(options.exportName, this.#name, settle)
    const onread = {
      buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
      callback: (count: number, bytes: Uint8Array): boolean => {
        this.#receive(bytes as Buffer, count)
        return true
      }
    }
    this.#socket = connect({ ...endpoint, onread, noDelay: true })
    this.#socket.on('error', (error) => this.#end(error.message, settle))
    this.#socket.on('close', () => this.#end('the server closed the connection', settle))
  }

  /** @throws StoreError NotFound, Forbidden, Unavailable: nobody answers, or not as we need it */
  static connect(options: NbdClientOptions): Promise<NbdClient> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      const settle: Settle = (failure) => {
        clearTimeout(timer)
        if (failure === null) resolve(client)
        else {
          client.#closed = true
          client.#socket.destroy()
          reject(failure)
        }
      }
      const client = new NbdClient(options, settle)
      timer = setTimeout(() => {
        settle(unavailable(`no NBD handshake with ${client.#name} in time`))
      }, options.handshakeMs ?? HANDSHAKE_MS)
    })
  }

  /**
   * Queues a request; `send` sends it. The slot is free again, and `source` may change, once
   * `onReply` was called for it. `source` holds the payload of a write from `sourceAt`.
   */
  submit(
    slot: number,
    command: number,
    offset: number,
    length: number,
    source: Buffer | null = null,
    sourceAt = 0
  ): void {
    assert(this.#busy[slot] === 0, 'a slot has one request')
    this.#busy[slot] = 1
    this.#replyBytes[slot] = command === p.NBD_CMD_READ ? length : 0
    const outbox = this.#outbox
    writeRequest(outbox, command, slot, offset, length)
    if (source === null) return
    if (length <= COPY_BYTES_MAX) {
      source.copy(outbox.bytes, outbox.fill, sourceAt, sourceAt + length)
      outbox.fill += length
    } else {
      outbox.finishPiece()
      outbox.pieces.push(source.subarray(sourceAt, sourceAt + length))
    }
  }

  /** Sends what was submitted; while earlier requests are in the socket, after them. */
  send(): void {
    if (this.#sending || this.#closed) return
    const outbox = this.#outbox
    outbox.finishPiece()
    const last = outbox.pieces.length - 1
    if (last < 0) return
    this.#sending = true
    this.#outbox = this.#spare
    this.#spare = outbox
    if (last > 0) this.#socket.cork()
    for (let at = 0; at < last; at++) this.#socket.write(outbox.pieces[at]!)
    this.#socket.write(outbox.pieces[last]!, () => {
      outbox.clear()
      this.#sending = false
      this.send()
    })
    if (last > 0) this.#socket.uncork()
  }

  /** Says goodbye; nothing may be in flight that matters. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    const outbox = new Outbox(REQUEST_BYTES)
    writeRequest(outbox, p.NBD_CMD_DISC, 0, 0, 0)
    this.#socket.end(outbox.bytes)
    // Whether the server closes its side or not.
    this.#socket.on('finish', () => this.#socket.destroy())
    this.#socket.setTimeout(1000, () => this.#socket.destroy())
  }

  #end(reason: string, settle: Settle): void {
    if (this.#closed) return
    this.#closed = true
    if (this.#handshake.done) this.onLost(reason)
    else settle(unavailable(`NBD at ${this.#name}: ${reason}`))
  }

  #receive(bytes: Buffer, count: number): void {
    if (this.#closed) return
    if (!this.#handshake.done) {
      const answer = this.#handshake.take(bytes.subarray(0, count))
      this.sizeBytes = this.#handshake.sizeBytes
      this.flags = this.#handshake.flags
      if (answer !== null && !this.#closed) this.#socket.write(answer)
      return
    }
    let at = 0
    while (at < count) {
      if (this.#skip > 0) {
        const taken = Math.min(this.#skip, count - at)
        at += taken
        this.#skip -= taken
        if (this.#skip === 0) this.#finish(0)
        continue
      }
      const taken = Math.min(REPLY_BYTES - this.#headerFill, count - at)
      bytes.copy(this.#header, this.#headerFill, at, at + taken)
      at += taken
      this.#headerFill += taken
      if (this.#headerFill === REPLY_BYTES && !this.#takeHeader()) return
    }
    this.send()
  }

  /** False when the server does not speak NBD any more. */
  #takeHeader(): boolean {
    this.#headerFill = 0
    const header = this.#header
    const error = header.readUInt32BE(4)
    const slot = header.readUInt32BE(12)
    if (
      header.readUInt32BE(0) !== p.NBD_SIMPLE_REPLY_MAGIC ||
      header.readUInt32BE(8) !== 0 ||
      this.#busy[slot] !== 1
    ) {
      this.#closed = true
      this.#socket.destroy()
      this.onLost('the server sent a reply that belongs to no request')
      return false
    }
    this.#slot = slot
    this.#skip = error === 0 ? this.#replyBytes[slot]! : 0
    if (this.#skip === 0) this.#finish(error)
    return true
  }

  #finish(error: number): void {
    this.#busy[this.#slot] = 0
    this.onReply(this.#slot, error)
  }
}

function writeRequest(
  outbox: Outbox,
  command: number,
  slot: number,
  offset: number,
  length: number
): void {
  const { view, fill } = outbox
  view.setUint32(fill, p.NBD_REQUEST_MAGIC)
  view.setUint16(fill + 4, 0)
  view.setUint16(fill + 6, command)
  view.setUint32(fill + 8, 0)
  view.setUint32(fill + 12, slot)
  view.setUint32(fill + 16, Math.floor(offset / TWO_32))
  view.setUint32(fill + 20, offset % TWO_32)
  view.setUint32(fill + 24, length)
  outbox.fill = fill + REQUEST_BYTES
}

const errorNames: Readonly<Record<number, string>> = {
  [p.NBD_EPERM]: 'EPERM, the volume is read-only',
  [p.NBD_EIO]: 'EIO, the log of the peer names the block',
  [p.NBD_ENOMEM]: 'ENOMEM',
  [p.NBD_EINVAL]: 'EINVAL, outside of the volume as it is now',
  [p.NBD_ENOSPC]: 'ENOSPC, the capacity of the peer is used up',
  [p.NBD_ENOTSUP]: 'ENOTSUP',
  [p.NBD_ESHUTDOWN]: 'ESHUTDOWN, the server is shutting down'
}

/** An error of a reply in words. */
export const nbdErrorText = (error: number): string => errorNames[error] ?? `NBD error ${error}`
