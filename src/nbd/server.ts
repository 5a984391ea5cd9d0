/**
 * The NBD server: listens on TCP and unix sockets and serves the volumes of a DeviceSource.
 * All on one thread; the volume layer behind the source does the bytes.
 */
import { lstat, unlink } from 'node:fs/promises'
import net from 'node:net'
import { type Clock, systemClock } from '../core/clock.ts'
import type { ClientInfo, DeviceSource } from '../volume/block-device.ts'
import { Batch } from './batch.ts'
import { Budget } from './budget.ts'
import { Connection, type ConnectionHost } from './connection.ts'
import { Exports, volumeNameOf } from './exports.ts'
import { defaultLimits, EVICTIONS_MIN, type NbdLimits } from './limits.ts'
import { NbdMetrics, type NbdSnapshot } from './metrics.ts'
import { Refusals } from './refusals.ts'
import { TlsContext, type NbdTlsFiles } from './tls-context.ts'
import type { NbdUse } from './use.ts'

export interface NbdOptions {
  readonly source: DeviceSource
  /** The export a client gets that names none; '' or absent: the only one there is. */
  readonly defaultExport?: string
  readonly tls?: NbdTlsFiles
  readonly limits?: Partial<NbdLimits>
  readonly clock?: Clock
  readonly log?: (level: 'debug' | 'info' | 'warn', message: string, fields: object) => void
  /** A client got a volume, has left it, or was refused. */
  readonly onUse?: (use: NbdUse) => void
}

export type NbdListen =
  | { readonly host: string; readonly port: number }
  /** `mode`: who may open the socket, as chmod takes it; its owner alone if not given. */
  | { readonly path: string; readonly mode?: number }

/** How often deadlines are looked at; a disconnect comes at most this much later. */
const SWEEP_MS = 500
/** Connections the kernel keeps for us while this thread is busy. */
const BACKLOG = 512

export class NbdServer implements ConnectionHost {
  readonly exports: Exports
  readonly tls: TlsContext
  readonly budget: Budget
  readonly batch: Batch
  readonly metrics: NbdMetrics = new NbdMetrics()
  readonly clock: Clock
  readonly refusals: Refusals
  readonly limits: NbdLimits
  readonly log: NonNullable<NbdOptions['log']>
  readonly onUse: NonNullable<NbdOptions['onUse']>
  closing = false
  private readonly connections = new Map<number, Connection>()
  private readonly listeners: net.Server[] = []
  private nextId = 1
  private evictions = EVICTIONS_MIN
  private onEmpty: (() => void) | null = null
  private sweeper: NodeJS.Timeout | null = null

  constructor(options: NbdOptions) {
    const { source } = options
    this.exports = new Exports(source, options.defaultExport ?? '')
    this.tls = new TlsContext(options.tls ?? { mode: 'off' })
    this.clock = options.clock ?? systemClock
    this.refusals = new Refusals(this.clock)
    this.limits = Object.freeze({ ...defaultLimits, ...options.limits })
    this.log = options.log ?? (() => {})
    this.onUse = options.onUse ?? (() => {})
    this.budget = new Budget(source.arena, this.limits, () => this.batch.noteFreed())
    this.batch = new Batch(
      this.clock,
      () => source.ring(),
      () => this.budget.serve()
    )
  }

  /**
   * Listens at one more place; returns where (the port may have been 0).
   * @throws the system's error (EADDRINUSE, EACCES, …), StoreError when certificates are unusable
   */
  async listen(at: NbdListen): Promise<NbdListen> {
    if (this.listeners.length === 0) await this.tls.load()
    const listener = net.createServer({ pauseOnConnect: true, allowHalfOpen: true })
    if ('path' in at) await removeStaleSocket(at.path)
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject)
      const options = 'path' in at ? { path: at.path } : { host: at.host, port: at.port }
      // A unix socket is bound inside the call: no moment exists in which others may open it.
      const mode = 'path' in at ? (at.mode ?? 0o600) : 0o777
      const before = process.umask(0o777 & ~mode)
      try {
        listener.listen({ ...options, backlog: BACKLOG }, () => {
          listener.off('error', reject)
          resolve()
        })
      } finally {
        process.umask(before)
      }
    })
    // Running out of descriptors is passed over: the next connection may be accepted again.
    listener.on('error', (error) => this.log('warn', `nbd: ${error.message}`, {}))
    listener.on('connection', (socket) => this.accept(socket, at))
    this.listeners.push(listener)
    this.sweeper ??= setInterval(() => this.sweep(), SWEEP_MS).unref()
    if ('path' in at) return at
    const address = listener.address() as net.AddressInfo
    return { host: at.host, port: address.port }
  }

  /** Reads the certificates again, for the connections to come. @throws StoreError */
  reloadTls(): Promise<void> {
    return this.tls.load()
  }

  listClients(): readonly ClientInfo[] {
    return [...this.connections.values()].map(({ info, exportName: volume }) => ({
      ...info,
      volume
    }))
  }

  /** Finishes what a client has in flight and disconnects it. False: there is no such client. */
  disconnect(id: number): boolean {
    const connection = this.connections.get(id)
    if (connection === undefined) return false
    this.log('info', 'client is being disconnected', { client: id })
    connection.drain()
    return true
  }

  /** The same for all clients of a volume and its snapshots; returns how many there were. */
  disconnectVolume(name: string): number {
    let count = 0
    for (const { info, exportName } of this.connections.values()) {
      if (volumeNameOf(exportName) === name && this.disconnect(info.id)) count++
    }
    return count
  }

  /** Rules of access changed: ends what clients may not have any more. @throws StoreError */
  async enforceAccess(): Promise<void> {
    for (const connection of [...this.connections.values()]) {
      if (connection.transmission === null) continue
      const entries = await this.exports.list(connection.client)
      if (!connection.isOutOf(entries)) continue
      const { info, exportName: volume } = connection
      const { id: client, address } = info
      const text = 'client may not have the volume so any more'
      this.log('info', text, { client, volume, address })
      connection.drain()
    }
  }

  snapshot(): NbdSnapshot {
    const { metrics, budget } = this
    let requestsInFlight = 0
    for (const { info } of this.connections.values()) requestsInFlight += info.inFlight
    return {
      operations: metrics.operations(),
      connectionsOpen: this.connections.size,
      connectionsTotal: metrics.connectionsTotal,
      connectionsRefused: metrics.connectionsRefused,
      connectionsTls: metrics.connectionsTls,
      handshakeFailures: metrics.handshakeFailures,
      protocolErrors: metrics.protocolErrors,
      stalledDisconnects: metrics.stalledDisconnects,
      requestsInFlight,
      replyBuffersInUse: budget.replyBuffers.inUse,
      memoryWaits: budget.waits
    }
  }

  /**
   * Takes no more connections and no more commands, answers what is in flight, and disconnects.
   * Who is not done after `graceMs` is cut off; the volume's side is always awaited.
   */
  async close(graceMs = 10_000): Promise<void> {
    this.closing = true
    await Promise.all(this.listeners.map((each) => new Promise((resolve) => each.close(resolve))))
    this.listeners.length = 0
    if (this.connections.size > 0) {
      const empty = new Promise<void>((resolve) => {
        this.onEmpty = resolve
      })
      for (const connection of this.connections.values()) connection.refuse()
      const timer = setTimeout(() => {
        for (const connection of this.connections.values()) connection.destroy()
      }, graceMs)
      await empty
      clearTimeout(timer)
    }
    if (this.sweeper !== null) clearInterval(this.sweeper)
    this.sweeper = null
  }

  forget(connection: Connection): void {
    this.connections.delete(connection.info.id)
    if (this.connections.size === 0) this.onEmpty?.()
  }

  private accept(socket: net.Socket, at: NbdListen): void {
    this.metrics.connectionsTotal++
    if (this.closing || this.connections.size >= this.limits.connections) {
      this.metrics.connectionsRefused++
      socket.destroy()
      return
    }
    const address =
      'path' in at ? at.path : `${socket.remoteAddress ?? '?'}:${socket.remotePort ?? 0}`
    const id = this.nextId++
    this.connections.set(id, new Connection(this, socket, id, address))
  }

  private sweep(): void {
    const nowMs = this.clock.monotonicMs()
    const stalled: { connection: Connection; pages: number }[] = []
    for (const connection of this.connections.values()) {
      connection.checkDeadlines(nowMs)
      const pages = connection.stalledPages(nowMs)
      if (pages > 0) stalled.push({ connection, pages })
    }
    if (!this.budget.wasShort()) {
      this.evictions = EVICTIONS_MIN
      return
    }
    // Those first that hold most, and more of them each time as long as that was not enough.
    stalled.sort((a, b) => b.pages - a.pages)
    for (const { connection } of stalled.slice(0, this.evictions)) connection.evict()
    this.evictions *= 2
  }
}

/** A socket file that nobody listens on any more is in the way of a new one. */
async function removeStaleSocket(path: string): Promise<void> {
  // Connecting to a file of any other kind is refused too.
  const status = await lstat(path).catch(() => null)
  if (status === null || !status.isSocket()) return
  const refused = await new Promise<boolean>((resolve) => {
    const probe = net.connect({ path })
    probe.once('connect', () => {
      probe.destroy()
      resolve(false)
    })
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'))
  })
  if (refused) await unlink(path)
}
