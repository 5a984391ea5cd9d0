import type { Cluster } from '../cluster/cluster.ts'
import { type HiddenVolume, HiddenVolumes, isHidden } from '../cluster/hidden-volumes.ts'
import type { DeletedRecord, VolumeRecord } from '../cluster/records.ts'
import { VolumeDirectory } from '../cluster/volume-directory.ts'
import type { VolumeEvent, VolumeEventDetails, VolumeEventKind } from '../cluster/volume-events.ts'
import { splitSnapshotName } from '../cluster/snapshots.ts'
import { Writers } from '../cluster/writers.ts'
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { BlockStore } from '../replication/block-store.ts'
import type { BlockDevice, DeviceSource } from './block-device.ts'
import { ClientSessions } from './client-sessions.ts'
import { LayerMerger } from './layer-merger.ts'
import { Locks } from './locks.ts'
import { type ManagedContext, ManagedVolume } from './managed-volume.ts'
import type { OpenVolume } from './open-volume.ts'
import { dropFamily } from './reclaim.ts'
import { type SnapshotInfo, Snapshots } from './snapshots.ts'
import { Trash } from './trash.ts'
import { VolumeFile } from './volume-file.ts'
import {
  countersOf,
  detailsOf,
  infoOf,
  type VolumeCounters,
  type VolumeInfo
} from './volume-info.ts'
import { VolumeHistory } from './volume-history.ts'
import { VolumeIo } from './volume-io.ts'
import { VolumeMaker } from './volume-maker.ts'
import type { CreateOptions, OpenOptions, ResizeOptions, VolumesOptions } from './volume-options.ts'
import { eventDetails, type SettingsChange } from './volume-settings.ts'
import { LocalWriters } from './writer-gate.ts'
import { ofType, unitOf, type VolumeType, VolumeTypes } from './volume-types.ts'

/** How long a volume that was moved here waits for its first client. */
const TAKEN_MS = 30_000

/**
 * The volumes of this process: makes, opens, changes and removes them. Every change of metadata is
 * durable when its promise resolves. The writer lease of a volume is taken when it is first opened
 * for writing and kept while the process lives.
 */
export class Volumes implements DeviceSource {
  readonly arena: Arena
  readonly types: VolumeTypes
  readonly trash: Trash
  readonly snapshots: Snapshots
  readonly #cluster: Cluster
  readonly #directory: VolumeDirectory
  readonly #store: BlockStore
  readonly #options: VolumesOptions
  readonly #context: ManagedContext
  readonly #clients: ClientSessions
  readonly #maker: VolumeMaker
  readonly #hidden: HiddenVolumes
  readonly #managed = new Map<string, ManagedVolume>()
  readonly #merger: LayerMerger
  #stopFollowing: (() => void) | null = null
  #closed = false

  constructor(options: VolumesOptions) {
    const { store, arena, cluster, session, scratchPages } = options
    const { clock } = cluster
    const base = { store, arena, clock }
    this.#options = options
    this.#cluster = cluster
    this.#store = store
    this.arena = arena
    this.types = options.types ?? new VolumeTypes()
    this.#directory = new VolumeDirectory(cluster)
    const io = new VolumeIo(scratchPages === undefined ? base : { ...base, scratchPages })
    const { keyring = null, sealed } = options
    assert((keyring === null) === (sealed === undefined), 'who has keys seals')
    this.#context = {
      io,
      sealedIo: sealed === undefined ? null : new VolumeIo({ ...base, store: sealed, beside: io }),
      keyring,
      directory: this.#directory,
      history: new VolumeHistory(cluster, (what, thrown) => this.#trouble(what, thrown)),
      gate: options.gate ?? new LocalWriters(new Writers(cluster, session)),
      locks: new Locks(),
      trouble: (what, thrown) => this.#trouble(what, thrown),
      disconnect: (volume) => options.disconnect?.(volume)
    }
    this.#hidden = new HiddenVolumes(cluster)
    this.#maker = new VolumeMaker({
      ...this.#context,
      types: this.types,
      openFor: (name) => this.#openFor(name),
      removeHalfMade: (name) =>
        this.#attempt(`removing half-made volume ${name}`, () => this.#removeHalfMade(name))
    })
    this.trash = new Trash({
      ...this.#context,
      cluster,
      reclaim: (deleted) => this.#reclaimSoon(deleted)
    })
    this.snapshots = new Snapshots({
      cluster,
      findVolume: (name) => this.#directory.get(name),
      exclusively: (volume, work) => this.#exclusively(volume, (found) => work(this.#manage(found)))
    })
    const { directory, trouble } = this.#context
    this.#clients = new ClientSessions(cluster, () => this.ring())
    this.#merger = new LayerMerger({ cluster, store, directory, trouble })
    session.onReplaced(() => {
      for (const managed of this.#managed.values()) managed.retakeWriter()
    })
  }

  // ---- for protocols

  async list(): Promise<readonly VolumeInfo[]> {
    // While the metadata is away, those that this process writes can be opened again, see `#open`.
    const known = (): VolumeInfo[] => this.#written().map(({ record }) => this.#info(record))
    const all = !this.isAnswered
      ? known()
      : await this.listAll().catch((thrown: unknown) => {
          if (!isAway(thrown)) throw thrown
          return known()
        })
    return all.filter(({ type }) => this.types.find(type)?.attach !== undefined)
  }

  async findSnapshot(name: string): Promise<SnapshotInfo | null> {
    const parts = splitSnapshotName(name)
    if (parts === null) return null
    try {
      return await this.snapshots.show(parts.volume, parts.snapshot)
    } catch (thrown) {
      if (thrown instanceof StoreError && absentCodes.includes(thrown.code)) return null
      throw thrown
    }
  }

  /**
   * Opens a volume, or `volume@snapshot`, as its type serves it to protocols with a block
   * interface.
   * @throws StoreError NotFound, Busy when another peer writes the volume, Forbidden when its type
   * has no block interface, Unavailable when its type is not loaded
   */
  async open(name: string, options: OpenOptions): Promise<BlockDevice> {
    const { managed, device } = await this.#open(name, options)
    try {
      const type = this.#typeOf(managed.record)
      if (type.attach === undefined) {
        const text = `volume ${name}: type ${type.name} has no block interface`
        throw new StoreError(ErrorCode.Forbidden, text)
      }
      await this.#clients.enter(managed, device, options.session ?? null)
      const attach = type.attach.bind(type)
      return await ofType(type, () => attach(device, detailsOf(managed.record)))
    } catch (thrown) {
      await device.close()
      throw thrown
    }
  }

  ring(): void {
    this.#context.io.flushes.start()
    this.#store.ring()
  }

  // ---- for programs

  /**
   * Opens the plain bytes of a volume of any type, or of `volume@snapshot`.
   * @throws StoreError NotFound, Busy
   */
  async openFile(name: string, options: OpenOptions = {}): Promise<VolumeFile> {
    const { managed, device } = await this.#open(name, options)
    return new VolumeFile(managed, device)
  }

  /**
   * Opens a volume as its type offers it to programs. The caller knows what that is.
   * @throws StoreError NotFound, Busy, Forbidden when its type offers nothing, Unavailable when
   * its type is not loaded, and what the type throws
   */
  async openTyped<T>(name: string, options: OpenOptions = {}): Promise<T> {
    const { managed, device } = await this.#open(name, options)
    const file = new VolumeFile(managed, device)
    try {
      const type = this.#typeOf(managed.record)
      if (type.open === undefined) {
        const text = `volume ${name}: type ${type.name} is only served to clients`
        throw new StoreError(ErrorCode.Forbidden, text)
      }
      const open = type.open.bind(type)
      return (await ofType(type, () => open(file, detailsOf(managed.record)))) as T
    } catch (thrown) {
      await file.close()
      throw thrown
    }
  }

  /** @throws StoreError InvalidArgument, AlreadyExists, and what the type throws */
  async create(options: CreateOptions): Promise<VolumeInfo> {
    this.#checkOpen()
    const record = await this.#maker.make(options)
    return this.#info(record)
  }

  /** Does the metadata answer, as far as is known? Who asks it else waits in vain. */
  get isAnswered(): boolean {
    return this.#options.session.isAnswered
  }

  /** Sorted by name. */
  async listAll(): Promise<VolumeInfo[]> {
    const records = await this.#directory.list()
    return records.filter(isShown).map((record) => this.#info(record))
  }

  /** @throws StoreError NotFound */
  async show(name: string): Promise<VolumeInfo> {
    return this.#info(await this.#directory.get(name))
  }

  /** The sum of all sizes: what was promised, however little of it is written. */
  async promisedBytes(): Promise<number> {
    const all = await this.listAll()
    return all.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
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
      await this.#context.history.tell(record, 'renamed', { from: name, to: newName })
      return this.#info(record)
    })
  }

  /**
   * Sets the size, also while clients have the volume open. A shrink takes effect at once for
   * them, unless `clients` says that they forbid it or are disconnected first; it resolves when
   * what was behind the new end is gone durably.
   * @throws StoreError NotFound, Busy, InvalidArgument (a bad size, or smaller and not `shrink`)
   */
  resize(
    name: string,
    sizeBytes: number,
    { shrink = false, clients = 'keep' }: ResizeOptions = {}
  ): Promise<VolumeInfo> {
    return this.#exclusively(name, async (found) => {
      const managed = this.#manage(found)
      const from = managed.volume.sizeBytes
      if (shrink && sizeBytes < from && clients !== 'keep') {
        await managed.leaveAlone(clients === 'disconnect')
      }
      await managed.resizeAlone(sizeBytes, shrink).finally(() => managed.release())
      await this.#context.history.tell(found, 'resized', { from, to: sizeBytes })
      return this.#info(managed.record)
    })
  }

  /**
   * Changes what operators set; what `change` does not name stays. Holds at once, on whatever peer
   * serves the volume. @throws StoreError NotFound, InvalidArgument
   */
  async change(name: string, change: SettingsChange): Promise<VolumeInfo> {
    const info = await this.#exclusively(name, async (found) => {
      const managed = this.#manage(found)
      await managed.changeAlone(change)
      await this.#context.history.tell(found, 'changed', eventDetails(change))
      return this.#info(managed.record)
    })
    this.#options.onChange?.()
    return info
  }

  /**
   * Removes a volume. From its return on the volume is gone for ever; its blocks follow at once,
   * or at the next start. With `force` its clients are disconnected first.
   * @throws StoreError NotFound, Busy when it is open and not `force`
   */
  async delete(name: string, options: { readonly force?: boolean } = {}): Promise<void> {
    const force = options.force ?? false
    const deleted = await this.#exclusively(name, (found) => this.#deleteAlone(found, force))
    await this.#reclaimSoon(deleted)
  }

  /**
   * Puts a volume into the trash, from which it can be restored for a while. Where no time is set
   * for that it is deleted, and null is returned. With `force` its clients are disconnected first.
   * @throws StoreError NotFound, Busy when it is open and not `force`
   */
  async discard(
    name: string,
    options: { readonly force?: boolean } = {}
  ): Promise<HiddenVolume | null> {
    const force = options.force ?? false
    const keepMs = await this.trash.keepMs()
    if (keepMs > 0) {
      return this.#exclusively(name, (found) => this.#discardAlone(found, force, keepMs))
    }
    await this.delete(name, options)
    return null
  }

  /**
   * Moves the volume here: from now on this process writes it. Kept while it is open, and for a
   * while until somebody opens it.
   * @throws StoreError NotFound, Busy when another gateway has it and not `takeover`
   */
  async take(name: string, { takeover = false }: { takeover?: boolean } = {}): Promise<void> {
    const { device, managed } = await this.#open(name, { takeover, own: true })
    setTimeout(() => void device.close(), TAKEN_MS).unref()
    await this.#context.history.tell(managed.record, 'moved', { takeover })
  }

  /**
   * Runs `work` with the record of an encrypted volume, alone among all that change or open it.
   * @throws StoreError NotFound, InvalidArgument for one that is not encrypted
   */
  withEncrypted<T>(name: string, work: (record: VolumeRecord) => Promise<T>): Promise<T> {
    return this.#exclusively(name, (record) => {
      if (record.encryption !== undefined) return work(record)
      throw new StoreError(ErrorCode.InvalidArgument, `volume ${name} is not encrypted`)
    })
  }

  /** For a new data key: nothing is written under a writer epoch below `least` from then on. */
  raiseEpoch(name: string, least: number): Promise<void> {
    return this.withEncrypted(name, (record) => this.#manage(record).raiseEpochAlone(least))
  }

  /** Ends its clients' connections and forgets its keys. @throws StoreError NotFound */
  lock(name: string): Promise<void> {
    return this.withEncrypted(name, async (record) => {
      await this.#managed.get(record.id)?.evictAlone()
      this.#context.keyring?.lockByHand(record.family)
    })
  }

  /** Something happened to it. @throws StoreError NotFound */
  async tell(name: string, kind: VolumeEventKind, details: VolumeEventDetails): Promise<void> {
    await this.#context.history.tell(await this.#directory.get(name), kind, details)
  }

  /** What happened to it, oldest first. @throws StoreError NotFound */
  async events(name: string): Promise<readonly VolumeEvent[]> {
    return this.#context.history.list((await this.#directory.get(name)).id)
  }

  /** Counters of the volumes that were opened since start. Cheap. */
  counters(): VolumeCounters[] {
    return [...this.#managed.values()].map(countersOf)
  }

  get requestsInFlight(): number {
    let count = 0
    for (const { volume } of this.#managed.values()) count += volume.inFlight
    return count
  }

  // ---- start and end

  /**
   * Finishes what an earlier run left undone: deletions, half-made volumes, trims behind a new
   * end. What fails is told to `onTrouble` and tried again at the next start.
   */
  async resume(): Promise<void> {
    for (const record of await this.#directory.listDeleted()) {
      await this.#attempt(`reclaiming deleted volume ${record.name}`, () => this.#reclaim(record))
    }
    for (const record of await this.#directory.list()) {
      const { name, state, sizeBytes, touchedBytes } = record
      if (isHidden(record)) continue
      if (state === 'creating') {
        await this.#attempt(`removing half-made volume ${name}`, () => this.#removeHalfMade(name))
      } else if (touchedBytes > sizeBytes) {
        await this.#attempt(`trimming behind the end of volume ${name}`, () =>
          this.#exclusively(name, (found) => this.#manage(found).ensureWriter())
        )
      }
    }
    await this.#attempt('looking for layers to merge', () => this.#merger.start())
  }

  /** Ends all opens once their requests are done. The session, and its leases, are the owner's. */
  async close(): Promise<void> {
    this.#closed = true
    this.#stopFollowing?.()
    this.#merger.close()
    await this.#context.history.settled()
    const all = [...this.#managed.values()]
    await Promise.all(
      all.map(async (managed) => {
        await managed.closeOpens()
        await this.#attempt(`closing volume ${managed.volume.name}`, () =>
          managed.recordSizeAtClose()
        )
        await this.#attempt(`giving volume ${managed.volume.name} back`, () =>
          managed.exclusively(() => managed.release())
        )
      })
    )
  }

  async #open(
    name: string,
    options: OpenOptions
  ): Promise<{ managed: ManagedVolume; device: OpenVolume }> {
    this.#checkOpen()
    const written = this.#writtenAs(name)
    if (written !== undefined && !this.isAnswered) return this.#openKnown(written, options)
    const { volume, snapshot } = splitSnapshotName(name) ?? { volume: name, snapshot: null }
    return this.#exclusively(volume, async (found) => {
      if (found.state !== 'ready') {
        throw new StoreError(ErrorCode.Busy, `volume ${name} is still being made`)
      }
      const managed = this.#manage(found)
      if (snapshot === null) return this.#openAlone(managed, options)
      const record = await this.snapshots.directory.get(found, snapshot)
      return this.#opened(managed, await managed.openSnapshotAlone(record, options))
    }).catch((thrown: unknown) => {
      const known = this.#writtenAs(name)
      if (!isAway(thrown) || known === undefined) throw thrown
      return this.#openKnown(known, options)
    })
  }

  /** While the metadata is away, clients of a volume that this process writes may come back. */
  #openKnown(
    managed: ManagedVolume,
    { readOnly = false }: OpenOptions
  ): Promise<{ managed: ManagedVolume; device: OpenVolume }> {
    return managed.exclusively(() => this.#openAlone(managed, { readOnly }))
  }

  #written(): ManagedVolume[] {
    return [...this.#managed.values()].filter(({ volume }) => volume.writable)
  }

  #writtenAs(name: string): ManagedVolume | undefined {
    return this.#written().find(({ volume }) => volume.name === name)
  }

  async #openAlone(
    managed: ManagedVolume,
    options: OpenOptions
  ): Promise<{ managed: ManagedVolume; device: OpenVolume }> {
    return this.#opened(managed, await managed.openAlone(options))
  }

  async #opened(
    managed: ManagedVolume,
    device: OpenVolume
  ): Promise<{ managed: ManagedVolume; device: OpenVolume }> {
    if (this.#closed) await device.close()
    this.#checkOpen()
    return { managed, device }
  }

  /** Opens a volume that no name leads to, for who fills it. @throws StoreError NotFound */
  openHidden(id: string): Promise<VolumeFile> {
    return this.#context.locks.run(id, async () => {
      const found = await this.#directory.find(id)
      if (found === null || !isHidden(found)) {
        throw new StoreError(ErrorCode.NotFound, `volume ${id} is not being imported`)
      }
      const managed = this.#manage(found)
      return new VolumeFile(managed, await managed.openAlone({ own: true }))
    })
  }

  /** Gives a volume that was imported its name. @throws StoreError NotFound, AlreadyExists */
  async reveal(id: string, name: string): Promise<VolumeInfo> {
    const record = await this.#context.locks.run(id, async () => {
      const shown = await this.#hidden.show(id, name)
      await this.#managed.get(id)?.refreshAlone()
      return shown
    })
    await this.#context.history.tell(record, 'imported', {})
    return this.#info(record)
  }

  #openFor(name: string): Promise<VolumeFile> {
    return this.#exclusively(name, async (found) => {
      const managed = this.#manage(found)
      return new VolumeFile(managed, await managed.openAlone({ own: true }))
    })
  }

  async #removeHalfMade(name: string): Promise<void> {
    const deleted = await this.#exclusively(name, (found) => this.#deleteAlone(found, true))
    await this.#reclaim(deleted)
  }

  async #discardAlone(found: VolumeRecord, force: boolean, keepMs: number): Promise<HiddenVolume> {
    const managed = this.#manage(found)
    managed.requireUnused(force)
    await managed.evictAlone()
    const put = (): Promise<HiddenVolume> => this.trash.put(managed.record, keepMs)
    const hidden = await put().catch(async (thrown: unknown) => {
      if (!force || !isBusy(thrown)) throw thrown
      // Taken from the gateway that has it, nothing that it acknowledged is lost.
      await managed.ensureWriter(true)
      await managed.release()
      return put()
    })
    this.#forget(managed)
    return hidden
  }

  #forget(managed: ManagedVolume): void {
    const { id, family } = managed.record
    managed.abandon()
    this.#context.history.forget(id)
    this.#context.keyring?.lock(family)
    this.#managed.delete(id)
  }

  async #deleteAlone(found: VolumeRecord, force: boolean): Promise<DeletedRecord> {
    const { name } = found
    const managed = this.#managed.get(found.id)
    const clients = managed?.opens.size ?? 0
    managed?.requireUnused(force)
    if (managed !== undefined && clients > 0) {
      managed.shutOpens()
      await this.#options.disconnect?.(name)
      await managed.closeOpens()
    }
    const all = await this.snapshots.directory.list(found.id)
    const guarded = all.find((snapshot) => snapshot.protected === true)
    if (guarded !== undefined) {
      const text = `snapshot ${name}@${guarded.name} is protected: unprotect it first`
      throw new StoreError(ErrorCode.Busy, text)
    }
    const { length } = all
    if (length > 0 && !force) {
      const text = `volume ${name} has ${length} snapshot${length > 1 ? 's' : ''}`
      throw new StoreError(ErrorCode.Busy, `${text}; --force deletes ${length > 1 ? 'them' : 'it'}`)
    }
    const record = await this.#directory.delete(name, { force })
    if (managed === undefined) this.#context.keyring?.lock(found.family)
    else this.#forget(managed)
    return record
  }

  async #reclaimSoon(deleted: DeletedRecord): Promise<void> {
    await this.#reclaim(deleted).catch((thrown: unknown) => {
      this.#trouble(`reclaiming the space of deleted volume ${deleted.name}`, thrown)
    })
  }

  /** Drops the blocks of a deleted volume on this peer, and says so once that is durable. */
  async #reclaim(deleted: DeletedRecord): Promise<void> {
    const { peerId } = this.#cluster.self
    if (!deleted.pendingPeers.includes(peerId)) return
    await dropFamily(this.#store, deleted)
    await this.#directory.confirmDeleted(deleted.family, peerId)
  }

  #typeOf(record: VolumeRecord): VolumeType {
    const type = this.types.find(record.type)
    if (type !== null) return type
    const missing = `type ${record.type}, which is not loaded: see --plugin`
    throw new StoreError(ErrorCode.Unavailable, `volume ${record.name} is of ${missing}`)
  }

  #manage(record: VolumeRecord): ManagedVolume {
    const known = this.#managed.get(record.id)
    if (known !== undefined) return known
    const type = this.types.find(record.type)
    const unitBytes = type === null ? BLOCK_BYTES : unitOf(type)
    const managed = new ManagedVolume(this.#context, record, unitBytes)
    this.#managed.set(record.id, managed)
    this.#follow()
    return managed
  }

  /** Hears what other processes change about volumes that are open here. */
  #follow(): void {
    if (!this.#context.gate.isShared || this.#closed) return
    this.#stopFollowing ??= this.#directory.onChange((id) => {
      const managed = this.#managed.get(id)
      if (managed === undefined) return
      void this.#attempt(`following volume ${managed.volume.name}`, () =>
        managed.exclusively(() => this.#refreshAlone(managed))
      ).then(() => this.#options.onChange?.())
    })
  }

  async #refreshAlone(managed: ManagedVolume): Promise<void> {
    await managed.refreshAlone()
    const { hidden } = managed.record
    if (hidden?.why !== 'deleted' || this.#managed.get(managed.record.id) !== managed) return
    // Another peer put it into the trash.
    await managed.evictAlone()
    this.#forget(managed)
  }

  /** Runs `work` alone among all that change or open the volume, with its record as it is then. */
  async #exclusively<T>(name: string, work: (record: VolumeRecord) => Promise<T>): Promise<T> {
    const { id } = await this.#directory.get(name)
    return this.#context.locks.run(id, async () => {
      const record = await this.#directory.get(name)
      if (record.id !== id) {
        throw new StoreError(ErrorCode.Conflict, `volume ${name} was replaced meanwhile`)
      }
      const managed = this.#managed.get(id)
      if (managed !== undefined) managed.record = record
      return work(record)
    })
  }

  #info(record: VolumeRecord): VolumeInfo {
    return infoOf(record, this.#managed.get(record.id) ?? null)
  }

  #checkOpen(): void {
    if (this.#closed) throw new StoreError(ErrorCode.Closed, 'the peer is shutting down')
  }

  async #attempt(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
    } catch (thrown) {
      this.#trouble(what, thrown)
    }
  }

  #trouble(what: string, thrown: unknown): void {
    if (!(thrown instanceof StoreError)) throw thrown
    this.#options.onTrouble?.(what, thrown)
  }
}

const isShown = (record: VolumeRecord): boolean => record.state === 'ready' && !isHidden(record)

const isBusy = (thrown: unknown): boolean =>
  thrown instanceof StoreError && thrown.code === ErrorCode.Busy

const absentCodes: readonly number[] = [ErrorCode.NotFound, ErrorCode.InvalidArgument]

const isAway = (thrown: unknown): boolean =>
  thrown instanceof StoreError && thrown.code === ErrorCode.Unavailable
