/**
 * One accepted connection: first of a stranger, who may say little and not for long, then a
 * session of a gateway that proved who it is.
 *
 *   TLS if used -> hello -> proof -> (until the gateway's older connection is quiet) -> session
 */
import net from 'node:net'
import tls from 'node:tls'
import type { Timers } from '../core/clock.ts'
import { ErrorCode } from '../core/errors.ts'
import { GatherSender } from '../core/gather-sender.ts'
import type { Hello } from '../format/peer-hello.ts'
import { LINK_SENDER, type LinkBuffers } from './link-buffers.ts'
import type { Caller } from './member-service.ts'
import { MessageReader, type PeerIdentity, ServerHandshake } from './peer-handshake.ts'
import { PeerReceiver } from './peer-receiver.ts'
import { NO_BINDING, type PeerSecurity, tlsBinding } from './peer-security.ts'
import { PeerSession, type SessionHost } from './peer-session.ts'

export interface ConnectionHost extends SessionHost {
  readonly identity: PeerIdentity
  readonly security: PeerSecurity
  readonly buffers: LinkBuffers
  readonly timers: Timers
  /** Why a peer of the cluster is not let in all the same; null: it is. */
  readonly refusal: (peerId: string) => string | null
  /** It proved who it is: destroys its older connection, and calls `begin` when that is quiet. */
  admit(connection: PeerConnection, caller: Caller): void
  /** The connection is over. `reason`: what was wrong, or null. */
  ended(connection: PeerConnection, reason: string | null): void
}

/** Time for a last message to leave. */
const LINGER_MS = 1_000
const KEEP_ALIVE_MS = 60_000

export class PeerConnection {
  readonly address: string
  /** Null: a stranger. */
  caller: Caller | null = null
  session: PeerSession | null = null
  /** Ticks of the server since something moved. */
  quietTicks = 0
  private readonly host: ConnectionHost
  private readonly receiver = new PeerReceiver()
  /** Where bytes go: the plain socket, or TLS on top of it. */
  private readonly socket: net.Socket
  private sender: GatherSender | null = null
  private handshake: ServerHandshake | null = null
  private reason: string | null = null
  private state: 'open' | 'ending' | 'closed' = 'open'
  private movedMark = 0
  private cancelTimer: () => void

  constructor(host: ConnectionHost, accepted: net.Socket) {
    this.host = host
    this.address = `${accepted.remoteAddress ?? '?'}:${accepted.remotePort ?? 0}`
    const { limits, security, timers } = host
    this.cancelTimer = timers.start(limits.handshakeMs, () => {
      this.destroy('it did not prove itself in time')
    })
    const context = security.tlsContext
    this.socket = context === null ? this.takeOver(accepted) : this.secure(accepted, context)
    this.socket.on('error', (error) => {
      this.reason ??= error.message
    })
    this.socket.once('close', () => this.closed())
  }

  // Handshake

  /** Bytes of the handle behind `accepted` go where the receiver wants them. */
  private takeOver(accepted: net.Socket): net.Socket {
    const holder = accepted as unknown as { _handle?: unknown }
    const handle = holder._handle ?? null
    // It was reset before we came to it.
    if (handle === null) return accepted.destroy()
    holder._handle = null
    // Ends the accounting of the listening server for it; the handle lives on in the new socket.
    accepted.destroy()
    const { receiver } = this
    const onread = { buffer: receiver.nextTarget, callback: receiver.onRead }
    const socket = new net.Socket({ handle, onread } as net.SocketConstructorOpts)
    socket.setNoDelay(true)
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
    receiver.attachRaw(socket)
    this.startHandshake(NO_BINDING)
    socket.resume()
    socket.read(0)
    return socket
  }

  private secure(accepted: net.Socket, secureContext: tls.SecureContext): net.Socket {
    accepted.setNoDelay(true)
    accepted.setKeepAlive(true, KEEP_ALIVE_MS)
    // Of a handshake that fails; the TLS socket tells of it too.
    accepted.on('error', () => {})
    const options = { isServer: true, requestCert: true, rejectUnauthorized: true, secureContext }
    const socket = new tls.TLSSocket(accepted, options)
    socket.once('secure', () => {
      const { ssl } = socket as unknown as { ssl: { verifyError(): Error | null } | null }
      const error = ssl === null ? new Error('closed') : ssl.verifyError()
      if (error !== null) {
        this.destroy(`its certificate is not of the cluster: ${error.message}`)
        return
      }
      this.startHandshake(tlsBinding(socket))
      this.receiver.attachStream(socket)
    })
    socket.once('close', () => accepted.destroy())
    return socket
  }

  private startHandshake(binding: Buffer): void {
    this.handshake = new ServerHandshake(this.host.identity, this.host.security, binding)
    const onBroken = (reason: string): void => this.destroy(reason)
    this.receiver.consumer = new MessageReader(this.receiver, this.onMessage, onBroken)
  }

  private readonly onMessage = (message: Buffer): boolean => {
    if (this.state !== 'open' || this.caller !== null) return false
    const step = this.handshake!.receive(message)
    if (step.kind === 'reply') {
      this.socket.write(step.bytes)
      return true
    }
    if (step.kind === 'proved') return this.proved(step.hello)
    if (step.bytes === null) this.destroy(step.reason)
    else this.end(step.reason, step.bytes)
    return false
  }

  private proved(hello: Hello): boolean {
    const handshake = this.handshake!
    const refusal =
      handshake.refusal(hello) ?? this.stranger(hello.fromPeer) ?? this.unwanted(hello.fromPeer)
    if (refusal !== null) {
      const grants = { windowOps: 0, windowBytes: 0, idleMs: 0 }
      this.end(refusal.text, handshake.welcome({ ...refusal, ...grants }))
      return false
    }
    if (this.receiver.available > 0) {
      this.destroy('it went on without waiting for an answer')
      return false
    }
    this.caller = { peerId: hello.fromPeer, bootId: hello.fromBoot }
    this.cancelTimer()
    this.receiver.grow()
    this.host.admit(this, this.caller)
    return this.session !== null
  }

  /** It is of the cluster, and says that it is another than its certificate is of. */
  private stranger(peerId: string): { error: ErrorCode; text: string } | null {
    const text = this.host.security.strangerIn(this.socket, peerId)
    return text === null ? null : { error: ErrorCode.Forbidden, text }
  }

  /** It is of the cluster, and may not be used all the same. */
  private unwanted(peerId: string): { error: ErrorCode; text: string } | null {
    const text = this.host.refusal(peerId)
    return text === null ? null : { error: ErrorCode.Forbidden, text }
  }

  /** Nothing of the gateway's older connections is being done any more. */
  begin(onOps: (change: 1 | -1) => void): void {
    const { host, receiver, socket } = this
    if (this.state !== 'open') return
    const sender: GatherSender = new GatherSender(socket, host.buffers, LINK_SENDER, () =>
      this.session?.moved()
    )
    this.sender = sender
    const onEnd = (reason: string | null): void => this.end(reason, null)
    const onGone = (): void => this.destroy(null)
    const ways = { onEnd, onGone, onOps }
    this.session = new PeerSession({ host, caller: this.caller!, receiver, sender, ...ways })
    const { windowOps, windowBytes, idleMs } = host.limits
    const grants = { windowOps, windowBytes, idleMs }
    socket.write(this.handshake!.welcome({ error: ErrorCode.Ok, text: '', ...grants }))
    receiver.resume()
  }

  // The end

  /** Lets what was said leave, `last` included, and closes. */
  private end(reason: string | null, last: Buffer | null): void {
    if (this.state !== 'open') return
    this.state = 'ending'
    this.reason ??= reason
    this.cancelTimer()
    this.cancelTimer = this.host.timers.start(LINGER_MS, () => this.destroy(null))
    this.receiver.discard()
    if (last === null) this.socket.end()
    else this.socket.end(last)
  }

  /** At once: bytes that were not looked at are dropped. */
  destroy(reason: string | null): void {
    if (this.state === 'closed') return
    this.reason ??= reason
    this.socket.destroy()
    this.closed()
  }

  private closed(): void {
    if (this.state === 'closed') return
    this.state = 'closed'
    this.cancelTimer()
    this.receiver.close()
    this.session?.close()
    this.host.ended(this, this.reason)
  }

  /** Finishes what was taken, says goodbye and closes. */
  drain(): void {
    if (this.session === null) this.destroy(null)
    else this.session.drain()
  }

  /** Whether anything arrived or left since the last call. */
  hasMoved(): boolean {
    const mark = this.receiver.receivedBytes + (this.sender?.moved ?? 0)
    const moved = mark !== this.movedMark
    this.movedMark = mark
    return moved
  }
}
