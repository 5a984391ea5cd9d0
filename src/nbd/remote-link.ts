import { connect, isIP, type Socket } from 'node:net'
import tls from 'node:tls'
import type { StoreError } from '../core/errors.ts'
import type { ClientSession } from '../volume/block-device.ts'
import type { NbdEndpoint } from './client.ts'
import { ClientHandshake, type Settle, unavailable } from './client-handshake.ts'
import * as p from './protocol.ts'

const REQUEST_BYTES = 28
const REPLY_BYTES = 16
const TWO_32 = 2 ** 32

export interface RemoteLinkOptions {
  readonly endpoint: NbdEndpoint
  readonly exportName: string
  /** With it, TLS before anything else. */
  readonly tls: tls.ConnectionOptions | null
  /** For all until the export is open: another gateway's takeover is part of that. */
  readonly timeoutMs: number
  /** Of who would write again what it wrote; null: who would not. */
  readonly session?: ClientSession | null
}

/** What is sent; `cookie` comes back with the reply. */
export interface RemoteRequest {
  readonly cookie: number
  readonly command: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  /** Of a write. It stays as it is until the reply, or the end of the link. */
  readonly payload: Buffer | null
}

export interface RemoteListener {
  /** Where the payload of a read goes; null: no such request is out. */
  readTarget(cookie: number): { readonly bytes: Buffer; readonly length: number } | null
  /** `error` is 0 or an NBD error. */
  onReply(cookie: number, error: number): void
  /** Called once; nothing follows. */
  onLost(reason: string): void
}

/** One connection to an export of an NBD server, with simple replies. */
export class RemoteLink {
  sizeBytes = 0
  /** NBD_FLAG_… of the export. */
  flags = 0
  /** When something came last, monotonic. */
  heardMs: number = performance.now()
  readonly name: string
  #socket: Socket
  readonly #handshake: ClientHandshake
  readonly #options: RemoteLinkOptions
  #listener: RemoteListener | null = null
  readonly #header = Buffer.alloc(REPLY_BYTES)
  #headerFill = 0
  /** Of the reply at hand: cookie, where its payload goes, how much of that is there. */
  #cookie = 0
  #target: Buffer | null = null
  #targetFill = 0
  #corked = false
  #isOver = false

  private constructor(options: RemoteLinkOptions, settle: Settle) {
    const { endpoint } = options
    this.#options = options
    this.name = 'path' in endpoint ? endpoint.path : `${endpoint.host}:${endpoint.port}`
    const wantsTls = options.tls !== null
    const { exportName, session = null } = options
    this.#handshake = new ClientHandshake(exportName, this.name, settle, { wantsTls, session })
    this.#socket = connect({ ...endpoint, noDelay: true })
    this.#listen(this.#socket, settle)
  }

  /** @throws StoreError NotFound, Forbidden, Unavailable */
  static connect(options: RemoteLinkOptions): Promise<RemoteLink> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      const settle = (failure: StoreError | null): void => {
        clearTimeout(timer)
        if (failure === null) resolve(link)
        else {
          link.#isOver = true
          link.#socket.destroy()
          reject(failure)
        }
      }
      const link = new RemoteLink(options, settle)
      timer = setTimeout(() => {
        settle(unavailable(`no NBD handshake with ${link.name} in time`))
      }, options.timeoutMs)
    })
  }

  /** Did the server take part in keeping clients apart? */
  get knowsSessions(): boolean {
    return this.#handshake.knowsSessions
  }

  listen(listener: RemoteListener): void {
    this.#listener = listener
  }

  /** Requests go out in the order of `send`, those of one turn of the event loop together. */
  send(request: RemoteRequest): void {
    if (!this.#corked) {
      this.#corked = true
      this.#socket.cork()
      queueMicrotask(() => {
        this.#corked = false
        this.#socket.uncork()
      })
    }
    const header = Buffer.allocUnsafe(REQUEST_BYTES)
    header.writeUInt32BE(p.NBD_REQUEST_MAGIC, 0)
    header.writeUInt16BE(request.flags, 4)
    header.writeUInt16BE(request.command, 6)
    header.writeUInt32BE(0, 8)
    header.writeUInt32BE(request.cookie, 12)
    header.writeUInt32BE(Math.floor(request.offset / TWO_32), 16)
    header.writeUInt32BE(request.offset % TWO_32, 20)
    header.writeUInt32BE(request.length, 24)
    this.#socket.write(header)
    if (request.payload !== null) this.#socket.write(request.payload)
  }

  /** Says goodbye; nothing may be out that matters. */
  close(): void {
    if (this.#isOver) return
    this.send({
      cookie: 0,
      command: p.NBD_CMD_DISC,
      flags: 0,
      offset: 0,
      length: 0,
      payload: null
    })
    this.#isOver = true
    queueMicrotask(() => this.#socket.end())
    this.#socket.setTimeout(1000, () => this.#socket.destroy())
  }

  /** Breaks it off. */
  lose(reason: string): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#socket.destroy()
    this.#listener?.onLost(reason)
  }

  #listen(socket: Socket, settle: Settle): void {
    socket.on('data', (bytes: Buffer) => {
      this.heardMs = performance.now()
      if (!this.#handshake.done) this.#shake(bytes, settle)
      else this.#receive(bytes)
    })
    const end = (reason: string): void => {
      if (this.#handshake.done) this.lose(reason)
      else if (!this.#isOver) settle(unavailable(`NBD at ${this.name}: ${reason}`))
    }
    socket.on('error', (error) => end(error.message))
    socket.on('close', () => end('the server closed the connection'))
  }

  #shake(bytes: Buffer, settle: Settle): void {
    const answer = this.#handshake.take(bytes)
    this.sizeBytes = this.#handshake.sizeBytes
    this.flags = this.#handshake.flags
    if (this.#isOver) return
    if (answer !== null) this.#socket.write(answer)
    if (this.#handshake.waitsForTls) this.#secure(settle)
  }

  #secure(settle: Settle): void {
    const plain = this.#socket
    plain.removeAllListeners('data')
    plain.removeAllListeners('close')
    const { endpoint } = this.#options
    // Its certificate has to have the name or address by which it was asked for.
    const host = 'host' in endpoint ? endpoint.host : 'localhost'
    const servername = isIP(host) === 0 ? host : ''
    const secured = tls.connect({ ...this.#options.tls, host, servername, socket: plain })
    this.#socket = secured
    this.#listen(secured, settle)
    secured.once('secureConnect', () => secured.write(this.#handshake.secured()))
  }

  #receive(bytes: Buffer): void {
    let at = 0
    while (at < bytes.length && !this.#isOver) {
      if (this.#target !== null) {
        const part = Math.min(this.#target.length - this.#targetFill, bytes.length - at)
        bytes.copy(this.#target, this.#targetFill, at, at + part)
        at += part
        this.#targetFill += part
        if (this.#targetFill === this.#target.length) this.#finish(0)
        continue
      }
      const part = Math.min(REPLY_BYTES - this.#headerFill, bytes.length - at)
      bytes.copy(this.#header, this.#headerFill, at, at + part)
      at += part
      this.#headerFill += part
      if (this.#headerFill === REPLY_BYTES) this.#takeHeader()
    }
  }

  #takeHeader(): void {
    const header = this.#header
    this.#headerFill = 0
    const error = header.readUInt32BE(4)
    const cookie = header.readUInt32BE(12)
    const target = this.#listener?.readTarget(cookie) ?? null
    const isReply =
      header.readUInt32BE(0) === p.NBD_SIMPLE_REPLY_MAGIC && header.readUInt32BE(8) === 0
    if (!isReply || target === null) {
      this.lose('the server sent a reply that belongs to no request')
      return
    }
    this.#cookie = cookie
    if (error !== 0 || target.length === 0) this.#finish(error)
    else {
      this.#target = target.bytes.subarray(0, target.length)
      this.#targetFill = 0
    }
  }

  #finish(error: number): void {
    this.#target = null
    this.#listener?.onReply(this.#cookie, error)
  }
}

/** Does an NBD server answer there? It says its greeting without being asked. */
export function greets(endpoint: NbdEndpoint, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ ...endpoint })
    const end = (answer: boolean): void => {
      clearTimeout(timer)
      socket.destroy()
      resolve(answer)
    }
    const timer = setTimeout(() => end(false), timeoutMs)
    socket.once('data', () => end(true))
    socket.once('error', () => end(false))
    socket.once('close', () => end(false))
  })
}
