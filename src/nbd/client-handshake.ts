import { ErrorCode, StoreError } from '../core/errors.ts'
import type { ClientSession } from '../volume/block-device.ts'
import * as p from './protocol.ts'

const GREETING_BYTES = 18
const OPTION_REPLY_BYTES = 20
/** A server that says more than this in its handshake is none. */
const HANDSHAKE_BYTES_MAX = 64 * 1024
const TWO_32 = 2 ** 32

/** Ends the handshake: well, or with why not. */
export type Settle = (failure: StoreError | null) => void

export const unavailable = (message: string): StoreError =>
  new StoreError(ErrorCode.Unavailable, message)

/** Greeting, our flags with NBD_OPT_GO (TLS before it where that is wanted), and the answers. */
export class ClientHandshake {
  done = false
  sizeBytes = 0
  flags = 0
  /** The server waits for the first bytes of TLS; `secured` goes on behind it. */
  waitsForTls = false
  readonly #exportName: string
  readonly #server: string
  readonly #settle: Settle
  #greeted = false
  #pending: Buffer = Buffer.alloc(0)
  readonly #wantsTls: boolean
  #isSecured = false
  readonly #session: ClientSession | null
  #isSessionAsked = false
  /** The server keeps clients apart by their sessions. */
  knowsSessions = false

  constructor(
    exportName: string,
    server: string,
    settle: Settle,
    {
      wantsTls = false,
      session = null
    }: { wantsTls?: boolean; session?: ClientSession | null } = {}
  ) {
    this.#wantsTls = wantsTls
    this.#session = session
    this.#exportName = exportName
    this.#server = server
    this.#settle = settle
  }

  /** TLS is on; returns what is to be sent. */
  secured(): Buffer {
    this.waitsForTls = false
    this.sizeBytes = 0
    this.flags = 0
    return this.#firstOption()
  }

  /** Takes what the server sent; returns what is to be answered. */
  take(bytes: Buffer): Buffer | null {
    this.#pending = Buffer.concat([this.#pending, bytes])
    try {
      if (this.#pending.length > HANDSHAKE_BYTES_MAX) throw this.#noNbd()
      return this.#step()
    } catch (thrown) {
      this.#settle(thrown as StoreError)
      return null
    }
  }

  #step(): Buffer | null {
    if (!this.#greeted) {
      if (this.#pending.length < GREETING_BYTES) return null
      this.#checkGreeting(this.#pending)
      this.#greeted = true
      this.#pending = this.#pending.subarray(GREETING_BYTES)
      return Buffer.concat([clientFlags(), this.#wantsTls ? startTls() : this.#firstOption()])
    }
    while (!this.done && !this.waitsForTls && this.#pending.length >= OPTION_REPLY_BYTES) {
      const length = this.#pending.readUInt32BE(16)
      if (length > HANDSHAKE_BYTES_MAX) throw this.#noNbd()
      if (this.#pending.length < OPTION_REPLY_BYTES + length) break
      const type = this.#pending.readUInt32BE(12)
      const data = this.#pending.subarray(OPTION_REPLY_BYTES, OPTION_REPLY_BYTES + length)
      const isAboutSession = this.#pending.readUInt32BE(8) === p.NBD_OPT_SESSION
      this.#pending = this.#pending.subarray(OPTION_REPLY_BYTES + length)
      if (isAboutSession && this.#isSessionAsked) {
        this.#isSessionAsked = false
        this.knowsSessions = type === p.NBD_REP_ACK
        return this.#goOption()
      }
      this.#takeReply(type, data)
    }
    if (this.waitsForTls && this.#pending.length > 0) throw this.#unsealed()
    return null
  }

  #checkGreeting(bytes: Buffer): void {
    const isNbd =
      bytes.readUInt32BE(0) === p.NBDMAGIC_HIGH &&
      bytes.readUInt32BE(4) === p.NBDMAGIC_LOW &&
      bytes.readUInt32BE(8) === p.IHAVEOPT_HIGH &&
      (bytes.readUInt16BE(16) & p.NBD_FLAG_FIXED_NEWSTYLE) !== 0
    if (!isNbd) throw this.#noNbd()
  }

  /** Whoever is in between could say there what the server seems to say under TLS. */
  #unsealed = (): StoreError => unavailable(`${this.#server} goes on in the clear before TLS`)

  #noNbd = (): StoreError => unavailable(`what answers at ${this.#server} is no NBD server`)

  #firstOption(): Buffer {
    if (this.#session === null) return this.#goOption()
    this.#isSessionAsked = true
    const { id, goesOn } = this.#session
    return optionOf(p.NBD_OPT_SESSION, Buffer.from(`${goesOn ? '01' : '00'}${id}`, 'hex'))
  }

  #goOption(): Buffer {
    const name = Buffer.from(this.#exportName)
    const data = Buffer.alloc(4 + name.length + 2)
    data.writeUInt32BE(name.length, 0)
    name.copy(data, 4)
    return optionOf(p.NBD_OPT_GO, data)
  }

  #takeReply(type: number, data: Buffer): void {
    if (type === p.NBD_REP_INFO) {
      if (data.length < 12 || data.readUInt16BE(0) !== p.NBD_INFO_EXPORT) return
      this.sizeBytes = data.readUInt32BE(2) * TWO_32 + data.readUInt32BE(6)
      this.flags = data.readUInt16BE(10)
    } else if (type === p.NBD_REP_ACK && this.#wantsTls && !this.#isSecured) {
      this.#isSecured = true
      this.waitsForTls = true
    } else if (type === p.NBD_REP_ACK) {
      this.done = true
      this.#settle(null)
    } else {
      throw this.#refusal(type, data.toString('utf8'))
    }
  }

  #refusal(type: number, said: string): StoreError {
    const name = `volume "${this.#exportName}"`
    if (type === p.NBD_REP_ERR_UNKNOWN) {
      return new StoreError(ErrorCode.NotFound, `${name} is not served over NBD: ${said}`)
    }
    if (type === p.NBD_REP_ERR_SESSION_OVER) return new StoreError(ErrorCode.StaleEpoch, said)
    if (type === p.NBD_REP_ERR_TLS_REQD) {
      const message = `${this.#server} serves NBD only with TLS, which this client does not speak`
      return new StoreError(ErrorCode.Forbidden, message)
    }
    return unavailable(`${this.#server} refuses ${name} (NBD reply ${type}): ${said}`)
  }
}

function clientFlags(): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(p.NBD_FLAG_C_FIXED_NEWSTYLE | p.NBD_FLAG_C_NO_ZEROES, 0)
  return bytes
}

const startTls = (): Buffer => optionOf(p.NBD_OPT_STARTTLS, Buffer.alloc(0))

function optionOf(option: number, data: Buffer): Buffer {
  const bytes = Buffer.alloc(16)
  bytes.writeUInt32BE(p.IHAVEOPT_HIGH, 0)
  bytes.writeUInt32BE(p.IHAVEOPT_LOW, 4)
  bytes.writeUInt32BE(option, 8)
  bytes.writeUInt32BE(data.length, 12)
  return Buffer.concat([bytes, data])
}
