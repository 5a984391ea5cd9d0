/**
 * An NBD client that shows every byte: for golden bytes, hostile input, and for what no installed
 * client speaks (extended headers, the payload form of block status).
 */
import net from 'node:net'
import tls from 'node:tls'
import * as p from '../../src/nbd/protocol.ts'

export const IHAVEOPT = Buffer.from('IHAVEOPT')
const TIMEOUT_MS = 10_000

export interface OptionReply {
  readonly option: number
  readonly type: number
  readonly data: Buffer
}

export interface Chunk {
  readonly flags: number
  readonly type: number
  readonly cookie: bigint
  /** Extended headers only; else -1n. */
  readonly offset: bigint
  readonly payload: Buffer
}

export interface Command {
  readonly type: number
  readonly flags?: number
  readonly cookie?: bigint
  readonly offset?: bigint | number
  readonly length?: bigint | number
  readonly payload?: Buffer
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function u64(value: bigint | number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

export const optionBytes = (option: number, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([IHAVEOPT, u32(option), u32(data.length), data])

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export const infoData = (name: string, wanted: readonly number[] = []): Buffer =>
  Buffer.concat([
    u32(Buffer.byteLength(name)),
    Buffer.from(name),
    u16(wanted.length),
    ...wanted.map(u16)
  ])

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export const metaData = (name: string, queries: readonly string[]): Buffer =>
  Buffer.concat([
    u32(Buffer.byteLength(name)),
    Buffer.from(name),
    u32(queries.length),
    ...queries.flatMap((query) => [u32(Buffer.byteLength(query)), Buffer.from(query)])
  ])

export class NbdWireClient {
  extended = false
  structured = false
  closed = false
  private socket: net.Socket
  private chunks: Buffer[] = []
  private length = 0
  private wake: (() => void) | null = null

  private constructor(socket: net.Socket) {
    this.socket = socket
    this.follow(socket)
  }

  static connect(at: { port: number } | { path: string }): Promise<NbdWireClient> {
    return new Promise((resolve, reject) => {
      const socket = 'path' in at ? net.connect(at.path) : net.connect(at.port, '127.0.0.1')
      socket.once('error', reject)
      socket.once('connect', () => resolve(new NbdWireClient(socket)))
    })
  }

  private follow(socket: net.Socket): void {
    socket.on('data', (chunk: Buffer) => {
      this.chunks.push(chunk)
      this.length += chunk.length
      this.wake?.()
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.closed = true
      this.wake?.()
    })
  }

  /** Continues over TLS; returns the common name of the server's certificate. */
  async startTls(options: tls.ConnectionOptions): Promise<string> {
    this.socket.removeAllListeners('data')
    this.socket.removeAllListeners('close')
    const secure = tls.connect({ ...options, socket: this.socket })
    await new Promise<void>((resolve, reject) => {
      secure.once('secureConnect', resolve)
      secure.once('error', reject)
    })
    this.socket = secure
    this.follow(secure)
    return String(secure.getPeerCertificate().subject?.CN)
  }

  write(bytes: Buffer): void {
    this.socket.write(bytes)
  }

  pause(): void {
    this.socket.pause()
  }

  resume(): void {
    this.socket.resume()
  }

  /** Exactly `count` bytes; rejects when the server closes before or nothing comes. */
  async read(count: number): Promise<Buffer> {
    const bytes = await this.tryRead(count)
    if (bytes === null) throw new Error(`closed with ${this.length} of ${count} bytes`)
    return bytes
  }

  /** null when the server closes before. */
  async tryRead(count: number): Promise<Buffer | null> {
    await this.until(() => this.length >= count || this.closed)
    if (this.length < count) return null
    const all = this.chunks.length === 1 ? this.chunks[0]! : Buffer.concat(this.chunks)
    this.chunks = [all.subarray(count)]
    this.length -= count
    return all.subarray(0, count)
  }

  /** Everything until the server closes. */
  async readToEnd(): Promise<Buffer> {
    await this.until(() => this.closed)
    return Buffer.concat(this.chunks)
  }

  private async until(condition: () => boolean): Promise<void> {
    const deadline = Date.now() + TIMEOUT_MS
    while (!condition()) {
      const left = deadline - Date.now()
      if (left <= 0) throw new Error(`nothing came for ${TIMEOUT_MS} ms`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.wake = null
    }
  }

  // Handshake

  /** Reads the greeting and answers with flags. */
  async greet(flags = p.NBD_FLAG_C_FIXED_NEWSTYLE | p.NBD_FLAG_C_NO_ZEROES): Promise<Buffer> {
    const greeting = await this.read(18)
    this.write(u32(flags))
    return greeting
  }

  async optionReply(): Promise<OptionReply> {
    const header = await this.read(20)
    const data = await this.read(header.readUInt32BE(16))
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data }
  }

  /** Sends an option and reads its replies, the final one last. */
  async option(option: number, data?: Buffer): Promise<OptionReply[]> {
    this.write(optionBytes(option, data))
    const replies: OptionReply[] = []
    for (;;) {
      const reply = await this.optionReply()
      replies.push(reply)
      if (reply.type === p.NBD_REP_ACK || reply.type >= 2 ** 31) return replies
    }
  }

  /** Greets, negotiates and enters the transmission phase of `name`; returns size and flags. */
  async attach(
    name: string,
    options: { structured?: boolean; extended?: boolean; contexts?: readonly string[] } = {}
  ): Promise<{ sizeBytes: number; flags: number }> {
    await this.greet()
    if (options.structured) await this.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    if (options.extended) await this.mustAck(p.NBD_OPT_EXTENDED_HEADERS)
    if (options.contexts !== undefined) {
      await this.mustAck(p.NBD_OPT_SET_META_CONTEXT, metaData(name, options.contexts))
    }
    this.structured = options.structured ?? false
    this.extended = options.extended ?? false
    const replies = await this.mustAck(p.NBD_OPT_GO, infoData(name))
    const about = replies.find((reply) => reply.type === p.NBD_REP_INFO)!.data
    return { sizeBytes: Number(about.readBigUInt64BE(2)), flags: about.readUInt16BE(10) }
  }

  async mustAck(option: number, data?: Buffer): Promise<OptionReply[]> {
    const replies = await this.option(option, data)
    const last = replies.at(-1)!
    if (last.type !== p.NBD_REP_ACK) {
      throw new Error(`option ${option}: ${last.type - 2 ** 31} ${last.data.toString()}`)
    }
    return replies
  }

  // Transmission

  command(command: Command): void {
    this.write(this.commandBytes(command))
  }

  commandBytes(command: Command): Buffer {
    const { type, cookie = 1n, offset = 0, payload } = command
    const length = command.length ?? payload?.length ?? 0
    let flags = command.flags ?? 0
    if (this.extended && payload !== undefined) flags |= p.NBD_CMD_FLAG_PAYLOAD_LEN
    return Buffer.concat([
      u32(this.extended ? p.NBD_EXTENDED_REQUEST_MAGIC : p.NBD_REQUEST_MAGIC),
      u16(flags),
      u16(type),
      u64(cookie),
      u64(offset),
      this.extended ? u64(length) : u32(Number(length)),
      payload ?? Buffer.alloc(0)
    ])
  }

  /** A simple reply without payload. */
  async simpleReply(): Promise<{ error: number; cookie: bigint }> {
    const bytes = await this.read(16)
    if (bytes.readUInt32BE(0) !== p.NBD_SIMPLE_REPLY_MAGIC) {
      throw new Error(`not a simple reply: ${bytes.toString('hex')}`)
    }
    return { error: bytes.readUInt32BE(4), cookie: bytes.readBigUInt64BE(8) }
  }

  /** One chunk; a simple reply reads as a chunk of its own (type NONE, or ERROR). */
  async chunk(): Promise<Chunk> {
    const magic = (await this.read(4)).readUInt32BE(0)
    if (magic === p.NBD_SIMPLE_REPLY_MAGIC) {
      const bytes = await this.read(12)
      const error = bytes.readUInt32BE(0)
      const type = error === 0 ? p.NBD_REPLY_TYPE_NONE : p.NBD_REPLY_TYPE_ERROR
      const payload = error === 0 ? Buffer.alloc(0) : Buffer.concat([u32(error), u16(0)])
      const cookie = bytes.readBigUInt64BE(4)
      return { flags: p.NBD_REPLY_FLAG_DONE, type, cookie, offset: -1n, payload }
    }
    const expected = this.extended ? p.NBD_EXTENDED_REPLY_MAGIC : p.NBD_STRUCTURED_REPLY_MAGIC
    if (magic !== expected) throw new Error(`reply magic ${magic.toString(16)}`)
    const header = await this.read(this.extended ? 28 : 16)
    const length = this.extended ? Number(header.readBigUInt64BE(20)) : header.readUInt32BE(12)
    return {
      flags: header.readUInt16BE(0),
      type: header.readUInt16BE(2),
      cookie: header.readBigUInt64BE(4),
      offset: this.extended ? header.readBigUInt64BE(12) : -1n,
      payload: await this.read(length)
    }
  }

  /** Chunks up to the one that is flagged DONE. */
  async reply(): Promise<Chunk[]> {
    const chunks: Chunk[] = []
    for (;;) {
      const chunk = await this.chunk()
      chunks.push(chunk)
      if ((chunk.flags & p.NBD_REPLY_FLAG_DONE) !== 0) return chunks
    }
  }

  /** Sends a command and returns the NBD error of its reply (0 for success). */
  async errorOf(command: Command): Promise<number> {
    this.command(command)
    if (!this.structured && !this.extended) {
      const { error } = await this.simpleReply()
      if (error === 0 && command.type === p.NBD_CMD_READ) await this.read(Number(command.length))
      return error
    }
    const bad = (await this.reply()).find((chunk) => chunk.type >= 2 ** 15)
    return bad === undefined ? 0 : bad.payload.readUInt32BE(0)
  }

  /** Reads a range, whatever form the reply has. */
  async readRange(offset: number, length: number, flags = 0): Promise<Buffer> {
    this.command({ type: p.NBD_CMD_READ, offset, length, flags })
    if (!this.structured && !this.extended) {
      const { error } = await this.simpleReply()
      if (error !== 0) throw new Error(`read: error ${error}`)
      return this.read(length)
    }
    const data = Buffer.alloc(length, 0xee)
    let covered = 0
    for (const { type, payload, offset: echoed } of await this.reply()) {
      if (this.extended && echoed !== BigInt(offset)) throw new Error(`read: offset ${echoed}`)
      if (type >= 2 ** 15) throw new Error(`read: error ${payload.readUInt32BE(0)}`)
      if (type === p.NBD_REPLY_TYPE_NONE) continue
      const at = Number(payload.readBigUInt64BE(0)) - offset
      if (type === p.NBD_REPLY_TYPE_OFFSET_HOLE) {
        const hole = payload.readUInt32BE(8)
        data.fill(0, at, at + hole)
        covered += hole
      } else {
        payload.copy(data, at, 8)
        covered += payload.length - 8
      }
    }
    if (covered !== length) throw new Error(`read: ${covered} of ${length} bytes`)
    return data
  }

  async writeRange(offset: number, payload: Buffer, flags = 0): Promise<void> {
    const error = await this.errorOf({ type: p.NBD_CMD_WRITE, offset, payload, flags })
    if (error !== 0) throw new Error(`write: error ${error}`)
  }

  destroy(): void {
    this.socket.destroy()
  }

  end(): void {
    this.socket.end()
  }
}
