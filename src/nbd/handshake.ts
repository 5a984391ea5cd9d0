/**
 * Fixed newstyle negotiation: one call of `option` for each option of the client, one answer of
 * what to do next. Not on the hot path, so it may wait for the volume layer.
 */
import { ErrorCode, errorCodeName, StoreError, storeErrorOf } from '../core/errors.ts'
import type { ExportClient } from './access.ts'
import type { BlockDevice, ClientSession } from '../volume/block-device.ts'
import { optionErrorOf } from './errors.ts'
import { type ExportEntry, type Exports, transmissionFlags } from './exports.ts'
import { CONTEXTS_MAX, BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, PAYLOAD_BYTES_MAX } from './limits.ts'
import { contextIdOf, type MetaContext, matchContexts } from './meta-contexts.ts'
import { parseInfoOption, parseMetaOption, parseString } from './option-data.ts'
import * as p from './protocol.ts'
import { ReplyMode } from './replies.ts'
import type { RefusalFields } from './use.ts'

export type TlsMode = 'off' | 'allow' | 'require'

/** What happens after an option. */
export type Outcome =
  | { readonly kind: 'next' }
  /** The replies end the session. */
  | { readonly kind: 'close' }
  | { readonly kind: 'startTls' }
  | { readonly kind: 'transmit'; readonly device: BlockDevice; readonly entry: ExportEntry }

const NEXT: Outcome = { kind: 'next' }
const CLOSE: Outcome = { kind: 'close' }

/** Of a name that a client made up. */
const TOLD_NAME_CHARS_MAX = 255

export interface HandshakeParts {
  readonly exports: Exports
  /** What is known of the client now: TLS adds names. */
  readonly client: () => ExportClient
  readonly tls: TlsMode
  /** The server shuts down. */
  readonly closing: () => boolean
  /** Sends; resolves when the client may be sent more, or is gone. */
  readonly send: (bytes: Buffer) => Promise<void>
  readonly onRefused: (refused: RefusalFields) => void
}

export function greeting(): Buffer {
  const bytes = Buffer.alloc(18)
  bytes.writeUInt32BE(p.NBDMAGIC_HIGH, 0)
  bytes.writeUInt32BE(p.NBDMAGIC_LOW, 4)
  bytes.writeUInt32BE(p.IHAVEOPT_HIGH, 8)
  bytes.writeUInt32BE(p.IHAVEOPT_LOW, 12)
  bytes.writeUInt16BE(p.NBD_FLAG_FIXED_NEWSTYLE | p.NBD_FLAG_NO_ZEROES, 16)
  return bytes
}

export class Handshake {
  mode: ReplyMode = ReplyMode.Simple
  /** Selected metadata contexts; they hold for the export they were selected for only. */
  contexts: readonly MetaContext[] = []
  private readonly parts: HandshakeParts
  private contextsOf = ''
  private fixedNewstyle = false
  private noZeroes = false
  isSecure = false
  private session: ClientSession | null = null

  constructor(parts: HandshakeParts) {
    this.parts = parts
  }

  /** False: flags we do not know, so that the connection must be closed. */
  clientFlags(flags: number): boolean {
    this.fixedNewstyle = (flags & p.NBD_FLAG_C_FIXED_NEWSTYLE) !== 0
    this.noZeroes = (flags & p.NBD_FLAG_C_NO_ZEROES) !== 0
    return (flags & ~(p.NBD_FLAG_C_FIXED_NEWSTYLE | p.NBD_FLAG_C_NO_ZEROES)) === 0
  }

  /** TLS is on: "the server MUST NOT preserve any negotiation state". */
  secured(): void {
    this.isSecure = true
    this.session = null
    this.mode = ReplyMode.Simple
    this.contexts = []
    this.contextsOf = ''
  }

  /** `data` null: there was more of it than we look at. */
  async option(option: number, data: Buffer | null): Promise<Outcome> {
    if (option === p.NBD_OPT_EXPORT_NAME) return this.exportName(data)
    // The other options exist in fixed newstyle only.
    if (!this.fixedNewstyle) return CLOSE
    if (option === p.NBD_OPT_ABORT) {
      await this.reply(option, p.NBD_REP_ACK)
      return CLOSE
    }
    if (this.parts.closing()) return this.error(option, p.NBD_REP_ERR_SHUTDOWN)
    if (this.needsTls && option !== p.NBD_OPT_STARTTLS) {
      this.refusedPlain()
      return this.error(option, p.NBD_REP_ERR_TLS_REQD, 'this server talks TLS only')
    }
    if (data === null) return this.error(option, p.NBD_REP_ERR_TOO_BIG)
    switch (option) {
      case p.NBD_OPT_LIST:
        return data.length > 0 ? this.unwantedData(option) : this.list()
      case p.NBD_OPT_STARTTLS:
        return data.length > 0 ? this.unwantedData(option) : this.startTls()
      case p.NBD_OPT_INFO:
      case p.NBD_OPT_GO:
        return this.info(option, data)
      case p.NBD_OPT_STRUCTURED_REPLY:
        return data.length > 0 ? this.unwantedData(option) : this.structuredReply()
      case p.NBD_OPT_EXTENDED_HEADERS:
        if (data.length > 0) return this.unwantedData(option)
        this.mode = ReplyMode.Extended
        return this.ack(option)
      case p.NBD_OPT_SESSION:
        this.session = sessionOf(data)
        return this.session === null ? this.error(option, p.NBD_REP_ERR_INVALID) : this.ack(option)
      case p.NBD_OPT_LIST_META_CONTEXT:
      case p.NBD_OPT_SET_META_CONTEXT:
        return this.metaContext(option, data)
      default:
        return this.error(option, p.NBD_REP_ERR_UNSUP)
    }
  }

  private get needsTls(): boolean {
    return this.parts.tls === 'require' && !this.isSecure
  }

  /** It cannot be answered with an error: the session ends instead. */
  private async exportName(data: Buffer | null): Promise<Outcome> {
    if (this.needsTls) this.refusedPlain()
    if (data === null || this.needsTls || this.parts.closing()) return CLOSE
    // "Once extended headers are requested, a client MUST NOT use NBD_OPT_EXPORT_NAME".
    if (this.mode === ReplyMode.Extended) return CLOSE
    const name = parseString(data)
    if (name === null) return CLOSE
    try {
      const { entry, device } = await this.parts.exports.open(name, this.parts.client())
      this.keepContextsFor(entry)
      const bytes = Buffer.alloc(this.noZeroes ? 10 : 134)
      bytes.writeBigUInt64BE(BigInt(device.sizeBytes), 0)
      bytes.writeUInt16BE(this.flagsFor(device.readOnly), 8)
      await this.parts.send(bytes)
      return { kind: 'transmit', device, entry }
    } catch (thrown) {
      this.refused(name, thrown)
      return CLOSE
    }
  }

  private async list(): Promise<Outcome> {
    try {
      for (const entry of await this.parts.exports.listAll(this.parts.client())) {
        const name = Buffer.from(entry.name)
        const data = Buffer.concat([u32(name.length), name, textBytes(entry.description)])
        await this.reply(p.NBD_OPT_LIST, p.NBD_REP_SERVER, data)
      }
    } catch (thrown) {
      return this.failure(p.NBD_OPT_LIST, thrown)
    }
    return this.ack(p.NBD_OPT_LIST)
  }

  private async startTls(): Promise<Outcome> {
    const option = p.NBD_OPT_STARTTLS
    if (this.parts.tls === 'off') {
      return this.error(option, p.NBD_REP_ERR_POLICY, 'TLS is off on this server')
    }
    if (this.isSecure) return this.error(option, p.NBD_REP_ERR_INVALID, 'TLS is on already')
    await this.ack(option)
    return { kind: 'startTls' }
  }

  private structuredReply(): Promise<Outcome> {
    const option = p.NBD_OPT_STRUCTURED_REPLY
    if (this.mode === ReplyMode.Extended) {
      return this.error(option, p.NBD_REP_ERR_EXT_HEADER_REQD, 'extended headers are on already')
    }
    this.mode = ReplyMode.Structured
    return this.ack(option)
  }

  private async info(option: number, data: Buffer): Promise<Outcome> {
    const request = parseInfoOption(data)
    if (request === null) return this.error(option, p.NBD_REP_ERR_INVALID)
    const { exports, client } = this.parts
    let device: BlockDevice | null = null
    let entry: ExportEntry
    try {
      if (option === p.NBD_OPT_GO) {
        const opened = await exports.open(request.name, client(), this.session)
        entry = opened.entry
        device = opened.device
        this.keepContextsFor(entry)
      } else entry = await exports.find(request.name, client())
    } catch (thrown) {
      this.refused(request.name, thrown)
      return this.failure(option, thrown)
    }
    const hasContexts = this.contexts.length > 0 && this.contextsOf === entry.name
    const flags = transmissionFlags(device?.readOnly ?? entry.readOnly, this.mode, hasContexts)
    const sizeBytes = device?.sizeBytes ?? entry.sizeBytes
    for (const bytes of infoReplies(entry, sizeBytes, flags, request.wanted)) {
      await this.reply(option, p.NBD_REP_INFO, bytes)
    }
    await this.ack(option)
    return device === null ? NEXT : { kind: 'transmit', device, entry }
  }

  private async metaContext(option: number, data: Buffer): Promise<Outcome> {
    const listing = option === p.NBD_OPT_LIST_META_CONTEXT
    // "Replaces all previously-set metadata contexts (including when this command fails)".
    if (!listing) this.contexts = []
    if (this.mode === ReplyMode.Simple) {
      return this.error(option, p.NBD_REP_ERR_INVALID, 'structured replies come first')
    }
    const request = parseMetaOption(data)
    if (request === null) return this.error(option, p.NBD_REP_ERR_INVALID)
    const { exports, client } = this.parts
    const isQuery = (query: string): boolean => matchContexts([], query, listing) !== undefined
    if (!request.queries.every(isQuery)) return this.error(option, p.NBD_REP_ERR_INVALID)
    let entry: ExportEntry
    let all: readonly MetaContext[]
    try {
      entry = await exports.find(request.name, client())
      all = await exports.contextsOf(entry)
    } catch (thrown) {
      return this.failure(option, thrown)
    }
    const everything = listing && request.queries.length === 0
    const asked = request.queries.flatMap((query) => matchContexts(all, query, listing) ?? [])
    const matched = everything ? all : [...new Set(asked)]
    if (!listing && matched.length > CONTEXTS_MAX) {
      const text = `at most ${CONTEXTS_MAX} contexts at once`
      return this.error(option, p.NBD_REP_ERR_TOO_BIG, text)
    }
    for (const context of matched) {
      const id = u32(listing ? 0 : contextIdOf(matched, context))
      const name = Buffer.from(context.name)
      await this.reply(option, p.NBD_REP_META_CONTEXT, Buffer.concat([id, name]))
    }
    if (!listing) {
      this.contexts = matched
      this.contextsOf = entry.name
    }
    return this.ack(option)
  }

  /** Contexts that were selected for another export do not hold for this one. */
  private keepContextsFor(entry: ExportEntry): void {
    if (this.contextsOf !== entry.name) this.contexts = []
  }

  private flagsFor(readOnly: boolean): number {
    return transmissionFlags(readOnly, this.mode, this.contexts.length > 0)
  }

  private unwantedData(option: number): Promise<Outcome> {
    return this.error(option, p.NBD_REP_ERR_INVALID, 'this option has no data')
  }

  private refusedPlain(): void {
    const outcome = errorCodeName(ErrorCode.Forbidden)
    this.parts.onRefused({ kind: 'refuse', door: 'tls', volume: null, outcome, reason: 'no TLS' })
  }

  private refused(name: string, thrown: unknown): void {
    const error = storeErrorOf(thrown)
    // The client is not told that there is what it may not open; the operator is.
    const { code, message } = error.cause instanceof StoreError ? error.cause : error
    const outcome = errorCodeName(code)
    const volume = name.slice(0, TOLD_NAME_CHARS_MAX)
    this.parts.onRefused({ kind: 'refuse', door: 'export', volume, outcome, reason: message })
  }

  private failure(option: number, thrown: unknown): Promise<Outcome> {
    const error = storeErrorOf(thrown)
    return this.error(option, optionErrorOf[error.code], error.message)
  }

  private async error(option: number, type: number, message = ''): Promise<Outcome> {
    await this.reply(option, type, textBytes(message))
    return NEXT
  }

  private async ack(option: number): Promise<Outcome> {
    await this.reply(option, p.NBD_REP_ACK)
    return NEXT
  }

  // Option reply, 20 bytes, then its data:
  //
  //   offset  size  field
  //        0     8  magic
  //        8     4  option
  //       12     4  reply type
  //       16     4  length of data
  private reply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Promise<void> {
    const bytes = Buffer.alloc(20 + data.length)
    bytes.writeUInt32BE(p.NBD_REP_MAGIC_HIGH, 0)
    bytes.writeUInt32BE(p.NBD_REP_MAGIC_LOW, 4)
    bytes.writeUInt32BE(option, 8)
    bytes.writeUInt32BE(type, 12)
    bytes.writeUInt32BE(data.length, 16)
    data.copy(bytes, 20)
    return this.parts.send(bytes)
  }
}

/** Null when it makes no sense. */
function sessionOf(data: Buffer): ClientSession | null {
  if (data.length !== p.SESSION_OPTION_BYTES || data[0]! > 1) return null
  const id = data.toString('hex', 1)
  return id === '0'.repeat(16) ? null : { id, goesOn: data[0] === 1 }
}

/** Data of the NBD_REP_INFO replies: the mandatory one, then those the client asked for. */
function infoReplies(
  entry: ExportEntry,
  sizeBytes: number,
  flags: number,
  wanted: readonly number[]
): Buffer[] {
  const about = Buffer.alloc(12)
  about.writeUInt16BE(p.NBD_INFO_EXPORT, 0)
  about.writeBigUInt64BE(BigInt(sizeBytes), 2)
  about.writeUInt16BE(flags, 10)
  const replies = [about]
  if (wanted.includes(p.NBD_INFO_NAME)) {
    replies.push(Buffer.concat([u16(p.NBD_INFO_NAME), Buffer.from(entry.name)]))
  }
  if (wanted.includes(p.NBD_INFO_DESCRIPTION)) {
    replies.push(Buffer.concat([u16(p.NBD_INFO_DESCRIPTION), textBytes(entry.description)]))
  }
  if (wanted.includes(p.NBD_INFO_BLOCK_SIZE)) {
    const sizes = [BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, PAYLOAD_BYTES_MAX].map(u32)
    replies.push(Buffer.concat([u16(p.NBD_INFO_BLOCK_SIZE), ...sizes]))
  }
  return replies
}

/** As many whole characters as a string of the protocol may hold. */
function textBytes(text: string): Buffer {
  const bytes = Buffer.alloc(Math.min(p.NBD_STRING_BYTES_MAX, Buffer.byteLength(text)))
  return bytes.subarray(0, new TextEncoder().encodeInto(text, bytes).written)
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
