/** A raw connection to a peer server, for what no PeerLink would say. */
import net from 'node:net'
import type { Address } from '../../src/core/options.ts'
import { crc32c } from '../../src/core/checksum.ts'
import { viewOf } from '../../src/format/fields.ts'
import {
  FRAME_HEADER_BYTES,
  frameError,
  type FrameOp,
  frameKind,
  framePayloadBytes,
  frameRequestId,
  putOpFrame,
  putPlainFrame
} from '../../src/format/peer-frames.ts'
import { handshakeMessageBytes } from '../../src/format/peer-hello.ts'
import { ClientHandshake, type PeerIdentity } from '../../src/replication/peer-handshake.ts'
import { NO_BINDING, type PeerSecurity } from '../../src/replication/peer-security.ts'
import { until } from './peer-serving.ts'

export interface WireFrame {
  readonly kind: number
  readonly requestId: number
  readonly error: number
  readonly payload: Buffer
}

export class PeerWire {
  closed = false
  received: Buffer = Buffer.alloc(0)
  readonly socket: net.Socket

  private constructor(socket: net.Socket) {
    this.socket = socket
    socket.on('data', (bytes) => {
      this.received = Buffer.concat([this.received, bytes])
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.closed = true
    })
  }

  static connect(at: Address): Promise<PeerWire> {
    return new Promise((resolve, reject) => {
      const socket = net.connect({ host: at.host, port: at.port, noDelay: true })
      socket.once('error', reject)
      socket.once('connect', () => resolve(new PeerWire(socket)))
    })
  }

  write(bytes: Buffer): void {
    if (!this.socket.destroyed) this.socket.write(bytes)
  }

  /** The next message of the handshake; null: the connection was closed instead. */
  async message(): Promise<Buffer | null> {
    const length = (): number =>
      this.received.length < 6 ? Infinity : handshakeMessageBytes(viewOf(this.received), 0)
    await until(() => this.closed || this.received.length >= length(), 'a message')
    if (this.received.length < length()) return null
    const bytes = length()
    const message = Buffer.from(this.received.subarray(0, bytes))
    this.received = this.received.subarray(bytes)
    return message
  }

  /** Goes through the handshake as a gateway does. */
  async enter(
    own: PeerIdentity,
    to: PeerIdentity,
    security: PeerSecurity
  ): Promise<'welcome' | string> {
    const handshake = new ClientHandshake(own, to.peerId, to.bootId, security, NO_BINDING)
    this.write(handshake.hello)
    for (;;) {
      const message = await this.message()
      if (message === null) return 'closed'
      const step = handshake.receive(message)
      if (step.kind === 'failed') return step.reason
      if (step.kind === 'welcome') return 'welcome'
      this.write(step.bytes)
    }
  }

  /** The next frame; null: the connection was closed instead. */
  async frame(): Promise<WireFrame | null> {
    const bytes = (): number =>
      this.received.length < FRAME_HEADER_BYTES
        ? Infinity
        : FRAME_HEADER_BYTES + framePayloadBytes(viewOf(this.received), 0)
    await until(() => this.closed || this.received.length >= bytes(), 'a frame')
    if (this.received.length < bytes()) return null
    const view = viewOf(this.received)
    const end = bytes()
    const frame = {
      kind: frameKind(view, 0),
      requestId: frameRequestId(view, 0),
      error: frameError(view, 0),
      payload: Buffer.from(this.received.subarray(FRAME_HEADER_BYTES, end))
    }
    this.received = this.received.subarray(end)
    return frame
  }

  destroy(): void {
    this.socket.destroy()
  }
}

/** An op as a gateway sends it. */
export function opFrame(
  kind: number,
  requestId: number,
  fields: Partial<FrameOp>,
  payload: Buffer = Buffer.alloc(0)
): Buffer {
  const zeroes = { flags: 0, familyHigh: 0, layerHigh: 0, chunk: 0, firstBlock: 0, blockCount: 1 }
  const ids = { familyLow: 1, layerLow: 1, writerEpoch: 1, sequence: 1, fenceEpoch: 1 }
  const op = { ...zeroes, ...ids, pool: 1, group: 1, groupEpoch: 1, ...fields }
  const header = Buffer.alloc(FRAME_HEADER_BYTES)
  const crc = payload.length === 0 ? 0 : crc32c(payload)
  putOpFrame(viewOf(header), 0, kind, requestId, op, payload.length, crc)
  return Buffer.concat([header, payload])
}

export function plainFrame(
  kind: number,
  requestId: number,
  payload: Buffer = Buffer.alloc(0)
): Buffer {
  const header = Buffer.alloc(FRAME_HEADER_BYTES)
  const crc = payload.length === 0 ? 0 : crc32c(payload)
  putPlainFrame(viewOf(header), 0, kind, requestId, payload.length, crc)
  return Buffer.concat([header, payload])
}
