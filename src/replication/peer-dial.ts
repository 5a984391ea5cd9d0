/** Connects to a peer and goes through the handshake. */
import net from 'node:net'
import tls from 'node:tls'
import type { Timers } from '../core/clock.ts'
import type { Address } from '../core/options.ts'
import type { Welcome } from '../format/peer-hello.ts'
import { ClientHandshake, MessageReader, type PeerIdentity } from './peer-handshake.ts'
import type { PeerLimits } from './peer-limits.ts'
import { PeerReceiver } from './peer-receiver.ts'
import { NO_BINDING, type PeerSecurity, tlsBinding } from './peer-security.ts'

/** Where a peer is said to be. */
export interface PeerAddress extends Address {
  /** The boot that runs there; null: whichever does. */
  readonly bootId: string | null
}

export interface DialOptions {
  readonly own: PeerIdentity
  readonly peerId: string
  readonly at: PeerAddress
  readonly security: PeerSecurity
  readonly limits: PeerLimits
  readonly timers: Timers
}

/** An authenticated connection. The caller gives the receiver its consumer, from inside. */
export interface Dialed {
  readonly socket: net.Socket
  readonly receiver: PeerReceiver
  readonly welcome: Welcome
}

/** One of both is called, once. */
export interface DialDone {
  connected(dialed: Dialed): void
  failed(reason: string): void
}

const KEEP_ALIVE_MS = 60_000

/** Returns a function that gives up; nothing is called then. */
export function dial(options: DialOptions, done: DialDone): () => void {
  const attempt = new Dial(options, done)
  return () => attempt.cancel()
}

class Dial {
  private readonly options: DialOptions
  private readonly receiver = new PeerReceiver()
  private readonly socket: net.Socket
  private readonly cancelDeadline: () => void
  private done: DialDone | null
  private handshake: ClientHandshake | null = null
  private lastError = ''

  constructor(options: DialOptions, done: DialDone) {
    this.options = options
    this.done = done
    const { limits, security, timers } = options
    this.cancelDeadline = timers.start(limits.handshakeMs, () => {
      this.fail(`no answer in ${limits.handshakeMs} ms`)
    })
    const context = security.tlsContext
    this.socket = context === null ? this.connectPlain() : this.connectTls(context)
    this.socket.setNoDelay(true)
    this.socket.setKeepAlive(true, KEEP_ALIVE_MS)
    this.socket.on('error', (error) => {
      this.lastError = error.message
    })
    this.socket.once('close', this.onClose)
  }

  cancel(): void {
    this.done = null
    this.cancelDeadline()
    this.receiver.close()
    this.socket.destroy()
  }

  private connectPlain(): net.Socket {
    const { host, port } = this.options.at
    const { receiver } = this
    const onread = { buffer: receiver.nextTarget, callback: receiver.onRead }
    // The option is there for functions too, which its type does not know.
    const socket = net.connect({ host, port, onread } as unknown as net.NetConnectOpts)
    receiver.attachRaw(socket)
    socket.once('connect', () => this.begin(NO_BINDING))
    return socket
  }

  private connectTls(secureContext: tls.SecureContext): net.Socket {
    const { host, port } = this.options.at
    const socket = tls.connect({
      host,
      port,
      secureContext,
      rejectUnauthorized: true,
      // Addresses change and say nothing: names are compared with the peer below.
      checkServerIdentity: () => undefined
    })
    socket.once('secureConnect', () => {
      const stranger = this.options.security.strangerIn(socket, this.options.peerId)
      if (stranger !== null) {
        this.fail(stranger)
        return
      }
      this.receiver.attachStream(socket)
      this.begin(tlsBinding(socket))
    })
    return socket
  }

  private begin(binding: Buffer): void {
    const { own, peerId, at, security } = this.options
    this.handshake = new ClientHandshake(own, peerId, at.bootId, security, binding)
    const onBroken = (reason: string): void => this.fail(reason)
    this.receiver.consumer = new MessageReader(this.receiver, this.onMessage, onBroken)
    this.socket.write(this.handshake.hello)
  }

  private readonly onMessage = (message: Buffer): boolean => {
    const step = this.handshake!.receive(message)
    if (step.kind === 'failed') {
      this.fail(step.reason)
      return false
    }
    if (step.kind === 'welcome') {
      this.succeed(step.welcome)
      return true
    }
    if (this.receiver.available > 0) {
      this.fail('it went on without waiting for an answer')
      return false
    }
    this.receiver.grow()
    this.socket.write(step.bytes)
    return true
  }

  private succeed(welcome: Welcome): void {
    const { done, receiver, socket } = this
    this.done = null
    this.cancelDeadline()
    socket.off('close', this.onClose)
    done?.connected({ socket, receiver, welcome })
  }

  private readonly onClose = (): void => {
    const silent = 'it closed the connection: is the cluster secret the same on both?'
    this.fail(this.lastError === '' ? silent : this.lastError)
  }

  private fail(reason: string): void {
    const { done } = this
    this.cancel()
    done?.failed(reason)
  }
}
