/**
 * The server side of links: listens, lets in who proves that it is of the cluster, and hands
 * requests to the MemberService. All on one thread.
 *
 * R5 of PROTOCOL.md: a gateway boot has one connection. A new one destroys the older as soon as
 * it is authenticated, and is welcomed once every op that the older one submitted is done: so no
 * op of the new link can overlap one of the old.
 */
import net from 'node:net'
import type { Arena } from '../core/arena.ts'
import { type Clock, systemClock, systemTimers, type Timers } from '../core/clock.ts'
import type { Address } from '../core/options.ts'
import { TickBatch } from '../core/tick-batch.ts'
import { BlockOp } from './block-store.ts'
import { LinkBuffers } from './link-buffers.ts'
import type { Caller, MemberService } from './member-service.ts'
import { type ConnectionHost, PeerConnection } from './peer-connection.ts'
import type { PeerIdentity } from './peer-handshake.ts'
import { defaultPeerLimits, type PeerLimits } from './peer-limits.ts'
import { OnceAWhile, type PeerLogger } from './peer-log.ts'
import { PeerPages } from './peer-pages.ts'
import type { PeerRequest } from './peer-request.ts'
import type { PeerSecurity } from './peer-security.ts'
import { PeerCounters } from './peer-session.ts'

export interface PeerServerOptions {
  readonly identity: PeerIdentity
  readonly service: MemberService
  /** Nothing of it is taken yet. */
  readonly arena: Arena
  readonly security: PeerSecurity
  /** Room for data on this peer, in bytes: told to gateways with every answer. */
  readonly freeBytes?: () => number
  /** Why a peer that knows the secret is not let in all the same; null: it is. */
  readonly refusal?: (peerId: string) => string | null
  readonly limits?: Partial<PeerLimits>
  readonly clock?: Clock
  readonly timers?: Timers
  readonly log?: PeerLogger
}

/** A link, for those who look. */
export interface PeerLinkInfo {
  readonly peerId: string
  readonly bootId: string
  readonly address: string
  readonly inFlight: number
}

/** One boot of a gateway. */
interface GatewayBoot {
  current: PeerConnection | null
  /** Authenticated, and to be welcomed when `busy` is 0. */
  waiting: PeerConnection | null
  /** Ops that were submitted and are not done, of all its connections. */
  busy: number
}

const BACKLOG = 512
const TICK_MS = 1_000

export class PeerServer implements ConnectionHost {
  readonly identity: PeerIdentity
  readonly security: PeerSecurity
  readonly service: MemberService
  readonly limits: PeerLimits
  readonly timers: Timers
  readonly pages: PeerPages
  readonly batch: TickBatch
  readonly buffers: LinkBuffers = new LinkBuffers()
  readonly freeRequests: PeerRequest[] = []
  readonly near: BlockOp = new BlockOp()
  readonly counters: PeerCounters = new PeerCounters()
  readonly freeBytes: () => number
  readonly refusal: (peerId: string) => string | null
  /** Connections that did not prove who they are. */
  strangersRefused = 0
  private readonly log: PeerLogger
  private readonly onceAWhile: OnceAWhile
  private readonly listeners: net.Server[] = []
  private readonly connections = new Set<PeerConnection>()
  private readonly strangers = new Set<PeerConnection>()
  private readonly boots = new Map<string, GatewayBoot>()
  private closed: Promise<void> | null = null
  private onQuiet: (() => void) | null = null
  private cancelTick: () => void

  constructor(options: PeerServerOptions) {
    this.identity = options.identity
    this.security = options.security
    this.service = options.service
    this.limits = Object.freeze({ ...defaultPeerLimits, ...options.limits })
    this.timers = options.timers ?? systemTimers
    this.pages = new PeerPages(options.arena)
    this.batch = new TickBatch(() => options.service.ring())
    this.freeBytes = options.freeBytes ?? (() => 0)
    this.refusal = options.refusal ?? (() => null)
    this.log = options.log ?? (() => {})
    this.onceAWhile = new OnceAWhile(options.clock ?? systemClock, this.log)
    this.cancelTick = this.timers.start(TICK_MS, this.tick)
  }

  /**
   * Listens at one more place; returns where (the port may have been 0).
   * @throws the system's error (EADDRINUSE, EACCES, …)
   */
  async listen(at: Address): Promise<Address> {
    const listener = net.createServer({ pauseOnConnect: true })
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject)
      listener.listen({ host: at.host, port: at.port, backlog: BACKLOG }, () => {
        listener.off('error', reject)
        resolve()
      })
    })
    // Running out of descriptors is passed over: the next connection may be accepted again.
    listener.on('error', (error) => this.onceAWhile.warn('listener', error.message, {}))
    listener.on('connection', (socket) => this.accept(socket))
    this.listeners.push(listener)
    return { host: at.host, port: (listener.address() as net.AddressInfo).port }
  }

  listLinks(): PeerLinkInfo[] {
    const links: PeerLinkInfo[] = []
    for (const { caller, session, address } of this.connections) {
      if (caller !== null) links.push({ ...caller, address, inFlight: session?.inFlight ?? 0 })
    }
    return links
  }

  /** Ends the links of a peer: one that was removed from the cluster. It may connect again. */
  disconnect(peerId: string): void {
    for (const connection of [...this.connections]) {
      if (connection.caller?.peerId === peerId) connection.destroy('it was disconnected')
    }
  }

  /**
   * Takes no more connections and requests, answers what is in flight, says goodbye. Who is not
   * done after `graceMs` is cut off; what the service has is always awaited.
   */
  close(graceMs = 5_000): Promise<void> {
    this.closed ??= this.finish(graceMs)
    return this.closed
  }

  private async finish(graceMs: number): Promise<void> {
    for (const listener of this.listeners) listener.close()
    for (const connection of [...this.connections]) connection.drain()
    const cancel = this.timers.start(graceMs, () => {
      for (const connection of [...this.connections]) connection.destroy(null)
    })
    if (!this.quiet) {
      await new Promise<void>((resolve) => {
        this.onQuiet = resolve
      })
    }
    cancel()
    this.cancelTick()
    this.pages.close()
  }

  private get quiet(): boolean {
    return this.connections.size === 0 && this.boots.size === 0
  }

  private accept(socket: net.Socket): void {
    if (this.closed !== null || this.connections.size >= this.limits.connections) {
      socket.destroy()
      this.onceAWhile.warn('full', 'peer connection refused: too many', {
        limit: this.limits.connections
      })
      return
    }
    // Who is slow to prove itself makes room: a peer needs milliseconds.
    if (this.strangers.size >= this.limits.strangers) {
      const [oldest] = this.strangers
      oldest!.destroy('others came before it proved itself')
    }
    const connection = new PeerConnection(this, socket)
    this.connections.add(connection)
    this.strangers.add(connection)
  }

  admit(connection: PeerConnection, caller: Caller): void {
    this.strangers.delete(connection)
    const key = `${caller.peerId} ${caller.bootId}`
    const boot = this.boots.get(key) ?? { current: null, waiting: null, busy: 0 }
    const { current, waiting } = boot
    // Before, so that their end is no longer that of the gateway's link.
    boot.current = null
    boot.waiting = connection
    this.boots.set(key, boot)
    current?.destroy('the gateway connected again')
    waiting?.destroy('the gateway connected again')
    this.beginIfQuiet(key, boot)
  }

  private beginIfQuiet(key: string, boot: GatewayBoot): void {
    if (boot.busy > 0) return
    const { waiting } = boot
    if (waiting !== null) {
      boot.waiting = null
      boot.current = waiting
      this.log('debug', 'peer connected', { peer: waiting.caller?.peerId, from: waiting.address })
      waiting.begin((change) => {
        boot.busy += change
        if (boot.busy === 0 && boot.current !== waiting) this.beginIfQuiet(key, boot)
      })
    } else if (boot.current === null) {
      this.boots.delete(key)
      this.checkQuiet()
    }
  }

  ended(connection: PeerConnection, reason: string | null): void {
    this.connections.delete(connection)
    this.strangers.delete(connection)
    const { caller, address } = connection
    if (caller === null) {
      this.strangersRefused++
      const fields = { from: address, reason }
      if (reason !== null) this.onceAWhile.warn('stranger', 'peer connection refused', fields)
    } else {
      this.leave(connection, caller)
      const fields = { peer: caller.peerId, from: address, reason }
      if (reason === null) this.log('debug', 'peer disconnected', fields)
      else this.onceAWhile.warn(`lost ${caller.peerId}`, 'peer disconnected', fields)
    }
    this.checkQuiet()
  }

  private leave(connection: PeerConnection, caller: Caller): void {
    const key = `${caller.peerId} ${caller.bootId}`
    const boot = this.boots.get(key)
    if (boot === undefined) return
    if (boot.current === connection) boot.current = null
    if (boot.waiting === connection) boot.waiting = null
    this.beginIfQuiet(key, boot)
  }

  private checkQuiet(): void {
    if (this.quiet) this.onQuiet?.()
  }

  private readonly tick = (): void => {
    this.cancelTick = this.timers.start(TICK_MS, this.tick)
    for (const connection of [...this.connections]) this.look(connection)
  }

  private look(connection: PeerConnection): void {
    const { session } = connection
    if (session === null) return
    if (connection.hasMoved()) {
      connection.quietTicks = 0
      return
    }
    connection.quietTicks++
    const quietMs = connection.quietTicks * TICK_MS
    if (session.holds && this.pages.waiting && quietMs >= this.limits.stallMs) {
      connection.destroy('it held memory that others wait for and did not move')
    } else if (session.blocked) {
      session.sayAlive()
    } else if (quietMs >= this.limits.idleMs) {
      connection.destroy('it said nothing for too long')
    }
  }
}
