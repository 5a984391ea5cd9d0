/**
 * One client from accept to close: greeting, options, perhaps TLS, then the transmission phase.
 *
 *   flags -> options <-> (waiting for an answer to one) -> transmission -> lingering -> closed
 */
import type net from 'node:net'
import type { Clock } from '../core/clock.ts'
import { ErrorCode, errorCodeName, storeErrorOf } from '../core/errors.ts'
import { GatherSender } from '../core/gather-sender.ts'
import type { BlockDevice, ClientInfo } from '../volume/block-device.ts'
import type { ExportClient } from './access.ts'
import type { Batch } from './batch.ts'
import type { Budget } from './budget.ts'
import { type ExportEntry, type Exports, volumeNameOf } from './exports.ts'
import { greeting, Handshake, type Outcome } from './handshake.ts'
import {
  type NbdLimits,
  OPTION_BYTES_MAX,
  OPTION_SKIP_BYTES_MAX,
  RECEIVE_BUFFER_BYTES
} from './limits.ts'
import type { NbdMetrics } from './metrics.ts'
import { Progress } from './progress.ts'
import { IHAVEOPT_HIGH, IHAVEOPT_LOW } from './protocol.ts'
import { type Consumer, Receiver } from './receiver.ts'
import type { Refusals } from './refusals.ts'
import { REPLY_SENDER } from './reply-buffers.ts'
import { type TlsContext, tlsReasonOf } from './tls-context.ts'
import { Transmission } from './transmission.ts'
import type { NbdOpenOrClose, NbdUse, RefusalFields } from './use.ts'

/** What a connection needs of its server. */
export interface ConnectionHost {
  readonly exports: Exports
  readonly tls: TlsContext
  readonly budget: Budget
  readonly batch: Batch
  readonly metrics: NbdMetrics
  readonly refusals: Refusals
  readonly clock: Clock
  readonly limits: NbdLimits
  readonly closing: boolean
  log(level: 'debug' | 'info' | 'warn', message: string, fields: object): void
  onUse(use: NbdUse): void
  /** The connection is over and the volume holds nothing of it any more. */
  forget(connection: Connection): void
}

// Option, 16 bytes, then its data:
//
//   offset  size  field
//        0     8  magic 'IHAVEOPT'
//        8     4  option
//       12     4  length of data
const OPTION_SIZE = 16
const CLIENT_FLAGS_SIZE = 4

export class Connection implements Consumer {
  readonly info: ClientInfo
  transmission: Transmission | null = null
  private readonly host: ConnectionHost
  private readonly receiver: Receiver
  private readonly handshake: Handshake
  /** Where reads and writes go: the plain socket, or TLS on top of it. */
  private socket: net.Socket
  private readonly rawSocket: net.Socket
  private phase: 'flags' | 'options' | 'waiting' | 'transmission' | 'lingering' = 'flags'
  private device: BlockDevice | null = null
  /** The answer to the last option. */
  private answering: Promise<void> = Promise.resolve()
  private closed = false
  /** In the client's certificate, or with its key. */
  private tlsName: string | null = null
  /** As exports know it. */
  client: ExportClient
  /** When the phase must be over, monotonic milliseconds; moves along while commands are taken. */
  private deadlineMs: number
  private options = 0
  private skip = 0
  private skippedOption = 0
  private readonly progress: Progress

  constructor(host: ConnectionHost, accepted: net.Socket, id: number, address: string) {
    this.host = host
    this.client = { address: accepted.remoteAddress ?? null, names: [] }
    this.info = {
      id,
      protocol: 'nbd',
      address,
      tls: false,
      connectedAtMs: host.clock.wallMs(),
      volume: '',
      inFlight: 0,
      reads: 0,
      writes: 0,
      readBytes: 0,
      writtenBytes: 0
    }
    this.handshake = new Handshake({
      exports: host.exports,
      client: () => this.client,
      tls: host.tls.mode,
      closing: () => host.closing,
      send: (bytes) => this.send(bytes),
      onRefused: (refused) => this.tellRefused(refused)
    })
    this.deadlineMs = host.clock.monotonicMs() + host.limits.handshakeMs
    this.receiver = new Receiver(this, host.budget.arena)
    this.rawSocket = this.receiver.attach(accepted)
    this.socket = this.rawSocket
    this.progress = new Progress(this.rawSocket)
    // Replies are gathered here already; waiting for more of them would only add latency.
    this.rawSocket.setNoDelay(true)
    this.rawSocket.setKeepAlive(true, KEEP_ALIVE_MS)
    this.rawSocket.on('error', () => {})
    this.rawSocket.once('end', () => this.drain())
    this.rawSocket.once('close', () => this.onClose())
    this.socket.write(greeting())
  }

  // Handshake

  consume(): boolean {
    if (this.transmission !== null) return this.transmission.consume()
    if (this.phase === 'lingering') {
      this.receiver.start = this.receiver.end
      return true
    }
    while (this.step()) {}
    return this.phase !== 'waiting'
  }

  bytesWanted(): number {
    return this.transmission === null ? RECEIVE_BUFFER_BYTES : this.transmission.bytesWanted()
  }

  directTarget(): Buffer | null {
    return this.transmission === null ? null : this.transmission.directTarget()
  }

  directArrived(count: number): boolean {
    return this.transmission?.directArrived(count) ?? true
  }

  private step(): boolean {
    const { receiver } = this
    if (this.phase === 'flags') {
      if (receiver.available < CLIENT_FLAGS_SIZE) return false
      const flags = receiver.view.getUint32(receiver.start)
      receiver.start += CLIENT_FLAGS_SIZE
      if (!this.handshake.clientFlags(flags)) return this.fail('unknown client flags')
      this.phase = 'options'
      return true
    }
    if (this.phase !== 'options') return false
    if (this.skip > 0) return this.skipData()
    return this.takeOption()
  }

  private takeOption(): boolean {
    const { receiver } = this
    if (receiver.available < OPTION_SIZE) return false
    const { view, start: at } = receiver
    if (view.getUint32(at) !== IHAVEOPT_HIGH || view.getUint32(at + 4) !== IHAVEOPT_LOW) {
      return this.fail('bad option magic')
    }
    const option = view.getUint32(at + 8)
    const length = view.getUint32(at + 12)
    if (length > OPTION_BYTES_MAX) {
      if (length > OPTION_SKIP_BYTES_MAX) return this.fail('option data too long')
      receiver.start += OPTION_SIZE
      this.skip = length
      this.skippedOption = option
      return true
    }
    if (receiver.available < OPTION_SIZE + length) return false
    const from = at + OPTION_SIZE
    // A copy: the buffer is compacted while the answer is awaited.
    const data = Buffer.from(receiver.bytes.subarray(from, from + length))
    receiver.start += OPTION_SIZE + length
    this.answer(option, data)
    return true
  }

  private skipData(): boolean {
    const count = Math.min(this.skip, this.receiver.available)
    this.receiver.start += count
    this.skip -= count
    if (this.skip > 0) return false
    this.answer(this.skippedOption, null)
    return true
  }

  private answer(option: number, data: Buffer | null): void {
    this.phase = 'waiting'
    this.options++
    if (this.options > this.host.limits.handshakeOptions) {
      this.fail('too many options')
      return
    }
    this.answering = this.handshake.option(option, data).then((outcome) => this.follow(outcome))
  }

  private follow(outcome: Outcome): void {
    if (outcome.kind === 'transmit') this.device = outcome.device
    if (this.closed || this.phase !== 'waiting') return
    const { clock, limits, closing } = this.host
    this.deadlineMs = clock.monotonicMs() + (closing ? limits.lingerMs : limits.handshakeMs)
    switch (outcome.kind) {
      case 'close':
        this.end()
        return
      case 'startTls':
        this.startTls()
        return
      case 'transmit':
        this.startTransmission(outcome.device)
        break
      default:
        this.phase = 'options'
    }
    if (this.consume()) this.receiver.resume()
  }

  private send(bytes: Buffer): Promise<void> {
    if (this.closed || this.socket.write(bytes)) return Promise.resolve()
    const { socket } = this
    return new Promise((resolve) => {
      const done = () => {
        socket.off('drain', done)
        socket.off('close', done)
        resolve()
      }
      socket.on('drain', done)
      socket.on('close', done)
    })
  }

  private startTls(): void {
    // Bytes sent before TLS must not be taken for bytes sent under it.
    if (this.receiver.available > 0) {
      this.fail('data behind NBD_OPT_STARTTLS')
      return
    }
    const session = this.host.tls.start(this.rawSocket)
    const { socket: secure } = session
    this.socket = secure
    secure.on('error', (error) => {
      const reason = tlsReasonOf(error)
      if (!this.handshake.isSecure) this.refuseTls(reason)
      this.fail(`TLS: ${reason}`)
    })
    secure.once('end', () => this.drain())
    secure.once('close', () => this.rawSocket.destroy())
    secure.once('secure', () => {
      const names = session.names()
      if (names === null) {
        this.refuseTls('no valid certificate')
        this.fail('TLS: the client has no valid certificate')
        return
      }
      this.handshake.secured()
      this.host.metrics.connectionsTls++
      this.tlsName = names[0] ?? null
      this.client = { ...this.client, names }
      Object.assign(this.info, { tls: true })
      this.phase = 'options'
    })
    this.receiver.attachStream(secure)
  }

  private refuseTls(reason: string): void {
    const outcome = errorCodeName(ErrorCode.Forbidden)
    this.tellRefused({ kind: 'refuse', door: 'tls', volume: null, outcome, reason })
  }

  // Transmission

  private startTransmission(device: BlockDevice): void {
    const { host } = this
    this.phase = 'transmission'
    this.deadlineMs = host.clock.monotonicMs() + host.limits.drainMs
    const { replyBuffers } = host.budget
    const sender: GatherSender = new GatherSender(this.socket, replyBuffers, REPLY_SENDER, () =>
      this.transmission?.outputMoved()
    )
    this.transmission = new Transmission({
      device,
      mode: this.handshake.mode,
      contexts: this.handshake.contexts,
      receiver: this.receiver,
      sender,
      budget: host.budget,
      batch: host.batch,
      metrics: host.metrics,
      clock: host.clock,
      info: this.info,
      onDrained: () => this.end(),
      onBroken: (reason) => {
        this.fail(reason)
      }
    })
    if (host.closing) this.transmission.refuse()
    this.host.log('info', 'client attached', this.fields())
    this.tellUse('open')
  }

  // The end

  /** Finishes what is in flight, then disconnects. */
  drain(): void {
    if (this.transmission !== null) this.transmission.drain()
    else this.end()
  }

  /** New commands and options are refused; disconnects once the others are answered. */
  refuse(): void {
    if (this.transmission === null) {
      this.deadlineMs = this.host.clock.monotonicMs() + this.host.limits.lingerMs
      return
    }
    this.transmission.refuse()
  }

  /** As it is called now, for it may be renamed; '' before one was chosen. */
  get exportName(): string {
    return this.device?.name ?? ''
  }

  /** Whether what it has open is another than what it may open now. */
  isOutOf(entries: readonly ExportEntry[]): boolean {
    if (this.transmission === null || this.device === null) return false
    const volume = volumeNameOf(this.exportName)
    const entry = entries.find(({ name }) => name === volume)
    return entry === undefined || (entry.readOnly && !this.device.readOnly)
  }

  destroy(): void {
    this.socket.destroy()
    this.rawSocket.destroy()
  }

  /** Everything was said: closes our side and gives the client a moment to close its own. */
  private end(): void {
    if (this.phase === 'lingering') return
    this.phase = 'lingering'
    this.deadlineMs = this.host.clock.monotonicMs() + this.host.limits.lingerMs
    this.socket.end()
    this.receiver.resume()
  }

  private fail(reason: string): false {
    if (this.closed) return false
    if (this.transmission === null) this.host.metrics.handshakeFailures++
    this.host.log('warn', `client disconnected: ${reason}`, this.fields())
    this.phase = 'lingering'
    this.destroy()
    return false
  }

  private onClose(): void {
    this.closed = true
    this.socket.destroy()
    if (this.transmission !== null) {
      this.host.log('info', 'client detached', this.fields())
      this.tellUse('close')
    }
    void this.settle()
  }

  /** Waits for what the volume layer still does for this client. */
  private async settle(): Promise<void> {
    await this.transmission?.close()
    await this.answering
    try {
      await this.device?.close()
    } catch (thrown) {
      const { message } = storeErrorOf(thrown)
      this.host.log('warn', `closing the volume failed: ${message}`, this.fields())
    }
    this.receiver.release()
    this.host.forget(this)
  }

  /** Called every now and then: ends what takes too long. */
  checkDeadlines(nowMs: number): void {
    if (this.phase === 'transmission') {
      if (this.transmission?.state === 'open') this.deadlineMs = nowMs + this.host.limits.drainMs
      else if (nowMs > this.deadlineMs) this.fail('it did not take its last replies')
    } else if (nowMs > this.deadlineMs) {
      if (this.phase === 'lingering') this.destroy()
      else this.fail('the handshake took too long')
    }
  }

  /**
   * Arena pages held by a client that neither takes its bytes nor sends what it began to, and has
   * not for a while; 0 for any other. Called regularly: the while is measured from call to call.
   */
  stalledPages(nowMs: number): number {
    const { transmission, receiver, host } = this
    if (transmission === null) return 0
    const { receivedBytes } = receiver
    const isOwed = transmission.payload.receiving
    const bytes = host.limits.stallBytes
    const stalledMs = this.progress.stalledMs(nowMs, { receivedBytes, isOwed, bytes })
    return stalledMs > host.limits.stallMs ? transmission.pageShare.held : 0
  }

  /** Others wait for the memory it holds. */
  evict(): void {
    this.host.metrics.stalledDisconnects++
    this.fail('it held memory that others wait for and did not move')
  }

  private tellUse(kind: NbdOpenOrClose['kind']): void {
    const { tlsName, device, exportName: volume } = this
    const { address } = this.info
    this.host.onUse({ kind, volume, address, tlsName, readOnly: device?.readOnly ?? false })
  }

  private tellRefused(refused: RefusalFields): void {
    const { tlsName, host } = this
    const { address } = this.info
    const from = this.client.address ?? address
    const untold = host.refusals.take(`${from} ${refused.door} ${refused.outcome}`)
    if (untold !== null) host.onUse({ ...refused, address, tlsName, untold })
  }

  private fields(): object {
    const { id, address } = this.info
    return { client: id, address, volume: this.exportName }
  }
}

/** A client whose machine is gone is noticed after this and a few probes. */
const KEEP_ALIVE_MS = 60_000
