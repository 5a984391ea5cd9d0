/**
 * A plain NBD client with many requests in flight: fixed newstyle, NBD_OPT_EXPORT_NAME, simple
 * replies. A connection that breaks rejects whatever was in flight, with `Disconnected`.
 */
import { connect, type Socket } from 'node:net'
import * as p from '../../src/nbd/protocol.ts'

export class Disconnected extends Error {}

interface Pending {
  readonly readInto: Buffer | null
  resolve(): void
  reject(error: Error): void
}

const SIMPLE_REPLY_MAGIC = 0x67446698
const REQUEST_BYTES = 28
const REPLY_BYTES = 16
const GREETING_BYTES = 18
const EXPORT_BYTES = 10

export class NbdClient {
  sizeBytes = 0
  readonly #socket: Socket
  readonly #pending = new Map<number, Pending>()
  #received: Buffer = Buffer.alloc(0)
  #nextCookie = 1
  #phase: 'greeting' | 'export' | 'transmission' = 'greeting'
  #closed = false
  #ready: Pick<Pending, 'resolve' | 'reject'> = { resolve: () => {}, reject: () => {} }

  private constructor(socket: Socket, exportName: string) {
    this.#socket = socket
    socket.setNoDelay(true)
    socket.on('data', (bytes: Buffer) => {
      this.#received = this.#received.length === 0 ? bytes : Buffer.concat([this.#received, bytes])
      while (this.#take(exportName)) {
        // As many whole messages as there are.
      }
    })
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', () => this.#end())
  }

  static connect(port: number, exportName: string): Promise<NbdClient> {
    const client = new NbdClient(connect(port, '127.0.0.1'), exportName)
    return new Promise((resolve, reject) => {
      client.#ready = { resolve: () => resolve(client), reject }
    })
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const into = Buffer.allocUnsafe(length)
    await this.#request({ command: p.NBD_CMD_READ, flags: 0, offset, length }, into)
    return into
  }

  write(offset: number, bytes: Buffer, fua: boolean): Promise<void> {
    const flags = fua ? p.NBD_CMD_FLAG_FUA : 0
    const head = { command: p.NBD_CMD_WRITE, flags, offset, length: bytes.length }
    return this.#request(head, null, bytes)
  }

  trim(offset: number, length: number): Promise<void> {
    return this.#request({ command: p.NBD_CMD_TRIM, flags: 0, offset, length }, null)
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#request({ command: p.NBD_CMD_WRITE_ZEROES, flags: 0, offset, length }, null)
  }

  flush(): Promise<void> {
    return this.#request({ command: p.NBD_CMD_FLUSH, flags: 0, offset: 0, length: 0 }, null)
  }

  /** Breaks the connection off; nothing is waited for. */
  destroy(): void {
    this.#socket.destroy()
  }

  #request(
    head: { command: number; flags: number; offset: number; length: number },
    readInto: Buffer | null,
    payload?: Buffer
  ): Promise<void> {
    if (this.#closed) return Promise.reject(new Disconnected('the connection is closed'))
    const bytes = Buffer.alloc(REQUEST_BYTES)
    const cookie = this.#nextCookie++
    bytes.writeUInt32BE(p.NBD_REQUEST_MAGIC, 0)
    bytes.writeUInt16BE(head.flags, 4)
    bytes.writeUInt16BE(head.command, 6)
    bytes.writeBigUInt64BE(BigInt(cookie), 8)
    bytes.writeBigUInt64BE(BigInt(head.offset), 16)
    bytes.writeUInt32BE(head.length, 24)
    this.#socket.write(payload === undefined ? bytes : Buffer.concat([bytes, payload]))
    return new Promise((resolve, reject) => {
      this.#pending.set(cookie, { readInto, resolve, reject })
    })
  }

  /** Carries out one whole message of the server; false when there is none yet. */
  #take(exportName: string): boolean {
    if (this.#phase === 'transmission') return this.#takeReply()
    const length = this.#phase === 'greeting' ? GREETING_BYTES : EXPORT_BYTES
    if (this.#received.length < length) return false
    const message = this.#received.subarray(0, length)
    this.#received = this.#received.subarray(length)
    if (this.#phase === 'greeting') {
      this.#sendOption(exportName)
      this.#phase = 'export'
    } else {
      this.sizeBytes = Number(message.readBigUInt64BE(0))
      this.#phase = 'transmission'
      this.#ready.resolve()
    }
    return true
  }

  #sendOption(exportName: string): void {
    const name = Buffer.from(exportName)
    const bytes = Buffer.alloc(20)
    bytes.writeUInt32BE(p.NBD_FLAG_C_FIXED_NEWSTYLE | p.NBD_FLAG_C_NO_ZEROES, 0)
    bytes.write('IHAVEOPT', 4, 'latin1')
    bytes.writeUInt32BE(p.NBD_OPT_EXPORT_NAME, 12)
    bytes.writeUInt32BE(name.length, 16)
    this.#socket.write(Buffer.concat([bytes, name]))
  }

  #takeReply(): boolean {
    if (this.#received.length < REPLY_BYTES) return false
    const error = this.#received.readUInt32BE(4)
    const cookie = Number(this.#received.readBigUInt64BE(8))
    const pending = this.#pending.get(cookie)
    if (this.#received.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC || pending === undefined) {
      throw new Error(`the server sent no reply to anything: cookie ${cookie}`)
    }
    const dataBytes = error === 0 ? (pending.readInto?.length ?? 0) : 0
    if (this.#received.length < REPLY_BYTES + dataBytes) return false
    pending.readInto?.set(this.#received.subarray(REPLY_BYTES, REPLY_BYTES + dataBytes))
    this.#received = this.#received.subarray(REPLY_BYTES + dataBytes)
    this.#pending.delete(cookie)
    if (error === 0) pending.resolve()
    else if (error === p.NBD_ESHUTDOWN) pending.reject(new Disconnected('the server shuts down'))
    else pending.reject(new Error(`the server answered with NBD error ${error}`))
    return true
  }

  #end(): void {
    this.#closed = true
    const broken = new Disconnected('the server closed the connection')
    this.#ready.reject(broken)
    for (const { reject } of this.#pending.values()) reject(broken)
    this.#pending.clear()
  }
}
