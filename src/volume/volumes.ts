import type { Arena } from '../core/arena.ts'
import type { HistogramSnapshot } from '../core/histogram.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { parseId64 } from '../cluster/ids.ts'
import { checkVolumeSize } from '../cluster/names.ts'
import type { DeletedRecord, VolumeRecord } from '../cluster/records.ts'
import type { Session } from '../cluster/session.ts'
import { VolumeDirectory } from '../cluster/volume-directory.ts'
import { Writers } from '../cluster/writers.ts'
import { type BlockStore, OpKind } from '../replication/block-store.ts'
import type { BlockDevice, DeviceSource } from './block-device.ts'
import { BlockVolume } from './block-volume.ts'
import { Locks } from './locks.ts'
import { OpenVolume } from './open-volume.ts'
import { RequestFlag, RequestKind, VolumeRequest } from './request.ts'
import { VolumeIo } from './volume-io.ts'
import { VolumeTypes } from './volume-types.ts'

export interface VolumesOptions {
  readonly cluster: Cluster
  readonly session: Session
  readonly store: BlockStore
  readonly arena: Arena
  readonly types?: VolumeTypes
  /** Ends the connections of a volume's clients, when it is deleted by force. */
  readonly disconnect?: (volume: string) => void | Promise<void>
  /** Something failed that nobody waits for. */
  readonly onTrouble?: (what: string, error: unknown) => void
  readonly scratchPages?: number
}

/** A volume as it is shown. Sizes are bytes, times ISO 8601, ids hex. */
export interface VolumeInfo {
  readonly name: string
  readonly type: string
  readonly sizeBytes: number
  readonly family: string
  readonly readOnly: boolean
  readonly description: string
  readonly labels: Readonly<Record<string, string>>
  readonly createdAt: string
  /** Opens by clients of this process. */
  readonly clients: number
}

export interface VolumeCounters {
  readonly volume: string
  readonly inFlight: number
  readonly operations: readonly {
    readonly kind: RequestKind
    readonly count: number
    readonly errors: number
    readonly bytes: number
    readonly latency: HistogramSnapshot
  }[]
}

/** A volume that was opened in this process, with all opens of it. */
interface Managed {
  record: VolumeRecord
  readonly volume: BlockVolume
  readonly opens: Set<OpenVolume>
}

/**
 * The volumes of this process: makes, opens, changes and removes them. The writer lease of a
 * volume is taken when it is first opened for writing and kept while the process lives.
 */
export class Volumes implements DeviceSource {
  readonly arena: Arena
  readonly types: VolumeTypes
  readonly #cluster: Cluster
  readonly #directory: VolumeDirectory
  readonly #writers: Writers
  readonly #store: BlockStore
  readonly #io: VolumeIo
  readonly #options: VolumesOptions
  readonly #managed = new Map<string, Managed>()
  readonly #locks = new Locks()
  #closed = false

  constructor(options: VolumesOptions) {
    this.#options = options
    this.arena = options.arena
    this.types = options.types ?? new VolumeTypes()
    this.#cluster = options.cluster
    this.#store = options.store
    this.#directory = new VolumeDirectory(options.cluster)
    this.#writers = new Writers(options.cluster, options.session)
    const { store, arena, scratchPages } = options
    const { clock } = options.cluster
    const base = { store, arena, clock }
    this.#io = new VolumeIo(scratchPages === undefined ? base : { ...base, scratchPages })
    options.session.onReplaced(() => this.#retakeWriters())
  }

  // ---- for protocols

  async list(): Promise<
    readonly { name: string; sizeBytes: number; readOnly: boolean; description: string }[]
  > {
    const records = await this.#directory.list()
    return records
      .filter(({ type, state }) => state === 'ready' && this.types.find(type)?.attach !== undefined)
      .map(({ name, sizeBytes, readOnly, description }) => {
        return { name, sizeBytes, readOnly, description }
      })
  }

  /**
   * @throws StoreError NotFound, Busy when another peer writes the volume, Forbidden when its type
   * has no block interface, Unavailable when its type is not loaded
   */
  async open(name: string, options: { readOnly?: boolean }): Promise<BlockDevice> {
    const { managed, device } = await this.openPlain(name, options.readOnly ?? false)
    try {
      const { record } = managed
      const type = this.#typeOf(record)
      if (type.attach === undefined) {
        const text = `volume ${name}: type ${type.name} has no block interface`
        throw new StoreError(ErrorCode.Forbidden, text)
      }
      return await type.attach(device, record)
    } catch (thrown) {
      await device.close()
      throw thrown
    }
  }

  ring(): void {
    this.#io.flushes.start()
    this.#store.ring()
  }

  // ---- for operators

  /** @throws StoreError InvalidArgument, AlreadyExists */
  async create(volume: {
    readonly name: string
    readonly sizeBytes: number
    readonly type?: string
    readonly description?: string
    readonly labels?: Readonly<Record<string, string>>
  }): Promise<VolumeInfo> {
    this.#checkOpen()
    const type = this.types.get(volume.type ?? 'block').name
    return this.#info(await this.#directory.create({ ...volume, type }))
  }

  /** Sorted by name. */
  async listAll(): Promise<VolumeInfo[]> {
    return (await this.#directory.list()).map((record) => this.#info(record))
  }

  /** @throws StoreError NotFound */
  async show(name: string): Promise<VolumeInfo> {
    return this.#info(await this.#directory.get(name))
  }

  /** The sum of all sizes: what was promised, however little of it is written. */
  async promisedBytes(): Promise<number> {
    const records = await this.#directory.list()
    return records.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  }

  /** Clients keep their opens. @throws StoreError NotFound, AlreadyExists, InvalidArgument */
  rename(name: string, newName: string): Promise<VolumeInfo> {
    return this.#exclusively(name, async () => {
      const record = await this.#directory.rename(name, newName)
      const managed = this.#managed.get(record.id)
      if (managed !== undefined) {
        managed.record = record
        managed.volume.name = newName
      }
      return this.#info(record)
    })
  }

  /**
   * A shrink takes effect at once for clients; it resolves when what was behind the new end is
   * gone durably.
   * @throws StoreError NotFound, InvalidArgument (a bad size, or smaller and not `shrink`)
   */
  resize(
    name: string,
    sizeBytes: number,
    options: { readonly shrink?: boolean } = {}
  ): Promise<VolumeInfo> {
    checkVolumeSize(sizeBytes)
    return this.#exclusively(name, async (found) => {
      const smaller = sizeBytes < found.sizeBytes
      if (smaller && options.shrink !== true) {
        const loss = `shrinking it to ${sizeBytes} loses its end`
        const text = `volume ${name} has ${found.sizeBytes} bytes: ${loss}`
        throw new StoreError(ErrorCode.InvalidArgument, text)
      }
      const managed = this.#manage(found)
      if (smaller || managed.record.touchedBytes > managed.record.sizeBytes) {
        await this.#ensureWriter(managed)
      }
      await this.#update(managed, (record) => ({
        sizeBytes,
        touchedBytes: Math.max(record.touchedBytes, sizeBytes)
      }))
      managed.volume.sizeBytes = sizeBytes
      if (smaller) {
        // Requests that were let in under the old size may still get versions above the trim's.
        await managed.volume.drain()
        await this.#trimLeftovers(managed)
      }
      return this.#info(managed.record)
    })
  }

  /**
   * From its return on the volume is gone for ever; its blocks follow at once, or at the next
   * start. @throws StoreError NotFound, Busy when it is open and not `force`
   */
  async delete(name: string, options: { readonly force?: boolean } = {}): Promise<void> {
    const force = options.force ?? false
    const deleted = await this.#exclusively(name, async (found) => {
      const managed = this.#managed.get(found.id)
      const clients = managed?.opens.size ?? 0
      if (clients > 0 && !force) {
        const text = `volume ${name} is in use by ${clients} client${clients > 1 ? 's' : ''}`
        throw new StoreError(ErrorCode.Busy, text)
      }
      if (managed !== undefined) await this.#shutOpens(managed)
      const record = await this.#directory.delete(name, { force })
      managed?.volume.ops.fence()
      this.#managed.delete(found.id)
      return record
    })
    await this.#reclaim(deleted).catch((thrown: unknown) => {
      this.#trouble(`reclaiming the space of deleted volume ${name}`, thrown)
    })
  }

  /** Counters of the volumes that were opened. Cheap. */
  counters(): VolumeCounters[] {
    return [...this.#managed.values()].map(({ volume }) => ({
      volume: volume.name,
      inFlight: volume.inFlight,
      operations: Object.values(RequestKind).map((kind) => ({
        kind,
        ...volume.stats.snapshot(kind)
      }))
    }))
  }

  get requestsInFlight(): number {
    let count = 0
    for (const { volume } of this.#managed.values()) count += volume.inFlight
    return count
  }

  /** Finishes what an earlier run left undone: deletions and trims behind a new end. */
  async resume(): Promise<void> {
    for (const record of await this.#directory.listDeleted()) await this.#reclaim(record)
    for (const record of await this.#directory.list()) {
      if (record.touchedBytes <= record.sizeBytes) continue
      await this.#exclusively(record.name, (found) => this.#ensureWriter(this.#manage(found)))
    }
  }

  /** Ends all opens once their requests are done. The session, and its leases, are the owner's. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#managed.values()].map((managed) => this.#closeOpens(managed)))
  }

  // ---- opening

  /** The plain bytes of a volume, without its type. */
  async openPlain(
    name: string,
    readOnly: boolean
  ): Promise<{ managed: Managed; device: OpenVolume }> {
    this.#checkOpen()
    return this.#exclusively(name, async (found) => {
      const managed = this.#manage(found)
      const reads = readOnly || found.readOnly
      if (!reads) await this.#ensureWriter(managed)
      this.#checkOpen()
      const device: OpenVolume = new OpenVolume(managed.volume, {
        readOnly: reads,
        onClosed: () => managed.opens.delete(device)
      })
      managed.opens.add(device)
      return { managed, device }
    })
  }

  #typeOf(record: VolumeRecord) {
    const type = this.types.find(record.type)
    if (type !== null) return type
    const missing = `type ${record.type}, which is not loaded: see --plugin`
    const text = `volume ${record.name} is of ${missing}`
    throw new StoreError(ErrorCode.Unavailable, text)
  }

  #manage(record: VolumeRecord): Managed {
    const known = this.#managed.get(record.id)
    if (known !== undefined) return known
    const family = parseId64(record.family)
    const layer = parseId64(record.headLayer)
    const volume = new BlockVolume(this.#io, {
      name: record.name,
      sizeBytes: record.sizeBytes,
      identity: {
        familyHigh: family.high,
        familyLow: family.low,
        layerHigh: layer.high,
        layerLow: layer.low
      }
    })
    const managed: Managed = { record, volume, opens: new Set() }
    volume.ops.onSequenceLow = () => {
      this.#takeWriter(managed).catch((thrown: unknown) => {
        this.#trouble(`raising the writerEpoch of volume ${volume.name}`, thrown)
      })
    }
    this.#managed.set(record.id, managed)
    return managed
  }

  /** Runs `work` alone among all that change or open the volume, with its record as it is then. */
  async #exclusively<T>(name: string, work: (record: VolumeRecord) => Promise<T>): Promise<T> {
    const { id } = await this.#directory.get(name)
    return this.#locks.run(id, async () => {
      const record = await this.#directory.get(name)
      if (record.id !== id) {
        throw new StoreError(ErrorCode.Conflict, `volume ${name} was replaced meanwhile`)
      }
      const managed = this.#managed.get(id)
      if (managed !== undefined) managed.record = record
      return work(record)
    })
  }

  // ---- writing

  async #ensureWriter(managed: Managed): Promise<void> {
    if (!managed.volume.writable) await this.#takeWriter(managed)
    if (managed.record.touchedBytes > managed.record.sizeBytes) await this.#trimLeftovers(managed)
  }

  async #takeWriter(managed: Managed): Promise<void> {
    managed.volume.ops.startEpoch(await this.#writers.acquire(managed.record), 1)
  }

  /** The lease ended, after a long pause for instance: take everything anew, or stop writing. */
  #retakeWriters(): void {
    for (const managed of this.#managed.values()) {
      if (!managed.volume.writable) continue
      this.#takeWriter(managed).catch((thrown: unknown) => {
        managed.volume.ops.fence()
        this.#trouble(`taking the writer lease of ${managed.volume.name} again`, thrown)
      })
    }
  }

  /** What lies behind the end goes durably, so that it never shows when the volume grows again. */
  async #trimLeftovers(managed: Managed): Promise<void> {
    const { sizeBytes, touchedBytes } = managed.record
    const device = new OpenVolume(managed.volume, { readOnly: false, onClosed: () => {} })
    const error = await new Promise<number>((resolve) => {
      const request = new VolumeRequest()
      request.kind = RequestKind.Trim
      request.flags = RequestFlag.Fua
      request.offset = sizeBytes
      request.length = touchedBytes - sizeBytes
      request.onDone = () => resolve(request.error)
      device.submitBeyondEnd(request)
      this.ring()
    })
    if (error !== 0) {
      const text = `volume ${managed.volume.name}: what lies behind its end could not be trimmed`
      throw new StoreError(error as ErrorCode, text)
    }
    await this.#update(managed, (record) => ({ touchedBytes: record.sizeBytes }))
  }

  async #update(managed: Managed, change: Parameters<VolumeDirectory['update']>[1]): Promise<void> {
    managed.record = await this.#directory.update(managed.record.id, change)
  }

  // ---- ending

  async #shutOpens(managed: Managed): Promise<void> {
    for (const open of managed.opens) open.shut()
    if (managed.opens.size > 0) await this.#options.disconnect?.(managed.volume.name)
    await this.#closeOpens(managed)
  }

  async #closeOpens(managed: Managed): Promise<void> {
    await Promise.all([...managed.opens].map((open) => open.close()))
  }

  /** Drops the blocks of a deleted volume on this peer, and says so once that is durable. */
  async #reclaim(deleted: DeletedRecord): Promise<void> {
    const { peerId } = this.#cluster.self
    if (!deleted.pendingPeers.includes(peerId)) return
    const family = parseId64(deleted.family)
    for (const id of deleted.layers) {
      const layer = parseId64(id)
      const op = this.#store.acquireOp()
      op.kind = OpKind.DeleteLayer
      op.familyHigh = family.high
      op.familyLow = family.low
      op.layerHigh = layer.high
      op.layerLow = layer.low
      await this.#answer(deleted.name, (done) => this.#store.broadcast(op, done))
      this.#store.releaseOp(op)
    }
    await this.#answer(deleted.name, (done) => this.#store.flush(done))
    await this.#directory.confirmDeleted(deleted.family, peerId)
  }

  async #answer(name: string, ask: (done: (error: number) => void) => void): Promise<void> {
    const error = await new Promise<number>((resolve) => {
      ask(resolve)
      this.#store.ring()
    })
    if (error === 0) return
    const text = `deleted volume ${name}: a shard could not drop its blocks`
    throw new StoreError(error as ErrorCode, text)
  }

  #info(record: VolumeRecord): VolumeInfo {
    const { name, type, sizeBytes, family, readOnly, description, labels, createdAt } = record
    const clients = this.#managed.get(record.id)?.opens.size ?? 0
    return { name, type, sizeBytes, family, readOnly, description, labels, createdAt, clients }
  }

  #checkOpen(): void {
    if (this.#closed) throw new StoreError(ErrorCode.Closed, 'the peer is shutting down')
  }

  #trouble(what: string, thrown: unknown): void {
    if (!(thrown instanceof StoreError)) throw thrown
    this.#options.onTrouble?.(what, thrown)
  }
}
