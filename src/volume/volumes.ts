import { Bases } from '../cluster/bases.ts'
import { type HiddenVolume, HiddenVolumes, isHidden } from '../cluster/hidden-volumes.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { splitSnapshotName } from '../cluster/snapshots.ts'
import { VolumeDirectory } from '../cluster/volume-directory.ts'
import type { VolumeEvent, VolumeEventDetails, VolumeEventKind } from '../cluster/volume-events.ts'
import { Writers } from '../cluster/writers.ts'
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BlockStore } from '../replication/block-store.ts'
import type { BlockDevice, DeviceSource, SnapshotBase } from './block-device.ts'
import { ClientSessions } from './client-sessions.ts'
import { type CloneBase, Clones } from './clones.ts'
import { LayerMerger } from './layer-merger.ts'
import { Flattener, type FlattenProgress } from './flattener.ts'
import { Locks } from './locks.ts'
import type { ManagedContext } from './managed-volume.ts'
import { type SnapshotInfo, Snapshots } from './snapshots.ts'
import type { Trash } from './trash.ts'
import type { VolumeFile } from './volume-file.ts'
import { VolumeHistory } from './volume-history.ts'
import { countersOf, type VolumeCounters, type VolumeInfo } from './volume-info.ts'
import { VolumeIo } from './volume-io.ts'
import { VolumeMaker } from './volume-maker.ts'
import { isAway, type OpenedVolume, VolumeOpener } from './volume-opener.ts'
import type { CreateOptions, OpenOptions, ResizeOptions, VolumesOptions } from './volume-options.ts'
import { VolumeRemover } from './volume-remover.ts'
import { eventDetails, type SettingsChange } from './volume-settings.ts'
import { VolumeTable } from './volume-table.ts'
import { VolumeTypes } from './volume-types.ts'
import { LocalWriters } from './writer-gate.ts'

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
  readonly clones: Clones
  readonly flattener: Flattener
  readonly #directory: VolumeDirectory
  readonly #store: BlockStore
  readonly #options: VolumesOptions
  readonly #context: ManagedContext
  readonly #table: VolumeTable
  readonly #opener: VolumeOpener
  readonly #remover: VolumeRemover
  readonly #maker: VolumeMaker
  readonly #hidden: HiddenVolumes
  readonly #merger: LayerMerger

  constructor(options: VolumesOptions) {
    const { store, arena, cluster, session } = options
    this.#options = options
    this.#store = store
    this.arena = arena
    this.types = options.types ?? new VolumeTypes()
    this.#directory = new VolumeDirectory(cluster)
    const trouble = (what: string, thrown: unknown): void => this.#trouble(what, thrown)
    const context = contextOf(options, this.#directory, trouble)
    const onChange = (): void => options.onChange?.()
    const table = new VolumeTable({ context, types: this.types, trouble, onChange })
    this.#context = context
    this.#table = table
    this.#hidden = new HiddenVolumes(cluster)
    const bases = options.bases ?? new Bases(cluster)
    this.snapshots = new Snapshots({
      ...{ cluster, bases },
      findVolume: (name) => this.#directory.get(name),
      exclusively: (volume, work) =>
        table.exclusively(volume, (found) => work(table.manage(found))),
      reclaim: (deleted) => this.#remover.reclaimSoon(deleted)
    })
    const { snapshots } = this
    const clients = new ClientSessions(cluster, () => this.ring())
    const isAnswered = (): boolean => this.isAnswered
    this.#opener = new VolumeOpener({ table, context, snapshots, clients, isAnswered })
    const { directory } = snapshots
    this.#remover = new VolumeRemover({ cluster, table, context, store, snapshots: directory })
    this.trash = this.#remover.trash
    this.#maker = new VolumeMaker({
      ...context,
      types: this.types,
      openFor: (name) => this.#opener.own(name),
      removeHalfMade: (name) => this.#removeHalfMade(name)
    })
    this.#merger = new LayerMerger({ cluster, store, directory: this.#directory, bases, trouble })
    const { history, keyring } = context
    const hidden = this.#hidden
    this.clones = new Clones({ cluster, directory: this.#directory, hidden, history, keyring })
    this.flattener = new Flattener({
      ...{ cluster, history, trouble },
      find: (id) => this.#directory.find(id),
      open: (name) => this.openOwn(name)
    })
    this.#opener.onOpened = (record) => this.flattener.goOn(record)
    session.onReplaced(() => {
      for (const managed of table.all()) managed.retakeWriter()
    })
  }

  // ---- for protocols

  async list(): Promise<readonly VolumeInfo[]> {
    // While the metadata is away, those that this process writes can be opened again, see `#open`.
    const known = (): VolumeInfo[] =>
      this.#table.written().map(({ record }) => this.#table.info(record))
    const all = !this.isAnswered
      ? known()
      : await this.listAll().catch((thrown: unknown) => {
          if (!isAway(thrown)) throw thrown
          return known()
        })
    return all.filter(({ type }) => this.types.find(type)?.attach !== undefined)
  }

  async newestSnapshots(volume: string, most: number): Promise<readonly SnapshotInfo[]> {
    // Names are worth no waiting.
    return this.isAnswered ? (await this.snapshots.list(volume)).slice(-most).reverse() : []
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

  async findBases(name: string): Promise<readonly SnapshotBase[]> {
    // Without metadata a client still finds its volume.
    if (!this.isAnswered) return []
    const { volume, snapshot } = splitSnapshotName(name) ?? { volume: name, snapshot: null }
    return this.snapshots.bases(volume, snapshot)
  }

  /**
   * Opens a volume, or `volume@snapshot`, as its type serves it to protocols with a block
   * interface.
   * @throws StoreError NotFound, Busy when another peer writes the volume, Forbidden when its type
   * has no block interface, Unavailable when its type is not loaded
   */
  open(name: string, options: OpenOptions): Promise<BlockDevice> {
    return this.#opener.attach(name, options)
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
  openFile(name: string, options: OpenOptions = {}): Promise<VolumeFile> {
    return this.#opener.file(name, options)
  }

  /**
   * Opens a volume as its type offers it to programs. The caller knows what that is.
   * @throws StoreError NotFound, Busy, Forbidden when its type offers nothing, Unavailable when
   * its type is not loaded, and what the type throws
   */
  openTyped<T>(name: string, options: OpenOptions = {}): Promise<T> {
    return this.#opener.typed(name, options)
  }

  /** @throws StoreError InvalidArgument, AlreadyExists, and what the type throws */
  async create(options: CreateOptions): Promise<VolumeInfo> {
    this.#table.checkOpen()
    const record = await this.#maker.make(options)
    return this.#table.info(record)
  }

  /** Does the metadata answer, as far as is known? Who asks it else waits in vain. */
  get isAnswered(): boolean {
    return this.#options.session.isAnswered
  }

  /** Sorted by name. */
  async listAll(): Promise<VolumeInfo[]> {
    const records = await this.#directory.list()
    return records.filter(isShown).map((record) => this.#table.info(record))
  }

  /** @throws StoreError NotFound */
  async show(name: string): Promise<VolumeInfo> {
    return this.#table.info(await this.#directory.get(name))
  }

  /** The sum of all sizes: what was promised, however little of it is written. */
  async promisedBytes(): Promise<number> {
    const all = await this.listAll()
    return all.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  }

  /** Clients keep their opens. @throws StoreError NotFound, AlreadyExists, InvalidArgument */
  rename(name: string, newName: string): Promise<VolumeInfo> {
    return this.#table.exclusively(name, async () => {
      const record = await this.#directory.rename(name, newName)
      const managed = this.#table.find(record.id)
      if (managed !== undefined) {
        managed.record = record
        managed.volume.name = newName
      }
      await this.#context.history.tell(record, 'renamed', { from: name, to: newName })
      return this.#table.info(record)
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
    return this.#table.exclusively(name, async (found) => {
      const managed = this.#table.manage(found)
      const from = managed.volume.sizeBytes
      if (shrink && sizeBytes < from && clients !== 'keep') {
        await managed.leaveAlone(clients === 'disconnect')
      }
      await managed.end.resizeAlone(sizeBytes, shrink).finally(() => managed.release())
      await this.#context.history.tell(found, 'resized', { from, to: sizeBytes })
      return this.#table.info(managed.record)
    })
  }

  /**
   * Changes what operators set; what `change` does not name stays. Holds at once, on whatever peer
   * serves the volume. @throws StoreError NotFound, InvalidArgument
   */
  async change(name: string, change: SettingsChange): Promise<VolumeInfo> {
    const info = await this.#table.exclusively(name, async (found) => {
      const managed = this.#table.manage(found)
      await managed.changeAlone(change)
      const details = eventDetails(change)
      if (Object.keys(details).length > 0)
        await this.#context.history.tell(found, 'changed', details)
      return this.#table.info(managed.record)
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
    await this.#remover.delete(name, options.force ?? false)
  }

  /**
   * Puts a volume into the trash, from which it can be restored for a while. Where no time is set
   * for that it is deleted, and null is returned. With `force` its clients are disconnected first.
   * @throws StoreError NotFound, Busy when it is open and not `force`
   */
  discard(name: string, options: { readonly force?: boolean } = {}): Promise<HiddenVolume | null> {
    return this.#remover.discard(name, options.force ?? false)
  }

  /**
   * Moves the volume here: from now on this process writes it. Kept while it is open, and for a
   * while until somebody opens it.
   * @throws StoreError NotFound, Busy when another gateway has it and not `takeover`
   */
  async take(name: string, { takeover = false }: { takeover?: boolean } = {}): Promise<void> {
    const { device, managed } = await this.#opener.open(name, {
      takeover,
      own: true,
      background: true
    })
    setTimeout(() => void device.close(), TAKEN_MS).unref()
    await this.#context.history.tell(managed.record, 'moved', { takeover })
  }

  /**
   * Runs `work` with the record of an encrypted volume, alone among all that change or open it.
   * @throws StoreError NotFound, InvalidArgument for one that is not encrypted
   */
  withEncrypted<T>(name: string, work: (record: VolumeRecord) => Promise<T>): Promise<T> {
    return this.#table.exclusively(name, (record) => {
      if (record.encryption !== undefined) return work(record)
      throw new StoreError(ErrorCode.InvalidArgument, `volume ${name} is not encrypted`)
    })
  }

  /** For what the process does by itself with a volume, and each gateway of it goes on with. */
  openOwn(name: string): Promise<OpenedVolume> {
    return this.#opener.open(name, { own: true, background: true, yields: true })
  }

  /** Ends its clients' connections and forgets its keys. @throws StoreError NotFound */
  lock(name: string): Promise<void> {
    return this.withEncrypted(name, async (record) => {
      await this.#table.find(record.id)?.evictAlone()
      this.#context.keyring?.lockByHand(record.family)
    })
  }

  /** Does this process serve it, so that it can be written? */
  isWritten(id: string): boolean {
    return this.#table.find(id)?.volume.writable === true
  }

  /** Something happened to it. @throws StoreError NotFound */
  async tell(name: string, kind: VolumeEventKind, details: VolumeEventDetails): Promise<void> {
    await this.#context.history.tell(await this.#directory.get(name), kind, details)
  }

  /** What happened to it, oldest first. @throws StoreError NotFound */
  async events(name: string): Promise<readonly VolumeEvent[]> {
    return this.#context.history.list((await this.#directory.get(name)).id)
  }

  /** What it stands on, and how far it is flattened. @throws StoreError NotFound */
  async baseOf(name: string): Promise<{ base: CloneBase | null; flatten: FlattenProgress | null }> {
    const record = await this.#directory.get(name)
    return { base: await this.clones.baseOf(record), flatten: this.flattener.progress(record) }
  }

  /** Counters of the volumes that were opened since start. Cheap. */
  counters(): VolumeCounters[] {
    return this.#table.all().map(countersOf)
  }

  get requestsInFlight(): number {
    let count = 0
    for (const { volume } of this.#table.all()) count += volume.inFlight
    return count
  }

  // ---- start and end

  /**
   * Finishes what an earlier run left undone: deletions, half-made volumes, trims behind a new
   * end. What fails is told to `onTrouble` and tried again at the next start.
   */
  async resume(): Promise<void> {
    await this.#remover.resume()
    for (const record of await this.#directory.list()) {
      const { name, state, sizeBytes, touchedBytes } = record
      if (isHidden(record)) continue
      if (state === 'creating') {
        await this.#removeHalfMade(name)
      } else if (touchedBytes > sizeBytes) {
        await this.#attempt(`trimming behind the end of volume ${name}`, () =>
          this.#table.exclusively(name, (found) => this.#table.manage(found).ensureWriter())
        )
      }
    }
    await this.#attempt('looking for layers to merge', () => this.#merger.start())
    for (const record of await this.#directory.list()) {
      if (!isHidden(record)) this.flattener.goOn(record)
    }
  }

  /** Ends all opens once their requests are done. The session, and its leases, are the owner's. */
  async close(): Promise<void> {
    await this.flattener.close()
    this.#table.close()
    this.#merger.close()
    await this.#context.history.settled()
    const all = this.#table.all()
    await Promise.all(
      all.map(async (managed) => {
        await managed.closeOpens()
        await this.#attempt(`closing volume ${managed.volume.name}`, () =>
          managed.end.recordAtClose()
        )
        await this.#attempt(`giving volume ${managed.volume.name} back`, () =>
          managed.exclusively(() => managed.release())
        )
      })
    )
  }

  /** Opens a volume that no name leads to, for who fills it. @throws StoreError NotFound */
  openHidden(id: string): Promise<VolumeFile> {
    return this.#opener.hidden(id)
  }

  /** Gives a volume that was imported its name. @throws StoreError NotFound, AlreadyExists */
  async reveal(id: string, name: string): Promise<VolumeInfo> {
    const record = await this.#context.locks.run(id, async () => {
      const shown = await this.#hidden.show(id, name)
      await this.#table.find(id)?.refreshAlone()
      return shown
    })
    await this.#context.history.tell(record, 'imported', {})
    return this.#table.info(record)
  }

  #removeHalfMade(name: string): Promise<void> {
    const work = (): Promise<void> => this.#remover.removeHalfMade(name)
    return this.#attempt(`removing half-made volume ${name}`, work)
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

const absentCodes: readonly number[] = [ErrorCode.NotFound, ErrorCode.InvalidArgument]

/** @throws AssertionError when keys come without a store that seals, or that without keys */
function contextOf(
  options: VolumesOptions,
  directory: VolumeDirectory,
  trouble: (what: string, thrown: unknown) => void
): ManagedContext {
  const { store, arena, cluster, session, scratchPages, keyring = null, sealed } = options
  assert((keyring === null) === (sealed === undefined), 'who has keys seals')
  const base = { store, arena, clock: cluster.clock }
  const io = new VolumeIo(scratchPages === undefined ? base : { ...base, scratchPages })
  return {
    io,
    sealedIo: sealed === undefined ? null : new VolumeIo({ ...base, store: sealed, beside: io }),
    keyring,
    directory,
    history: new VolumeHistory(cluster, trouble),
    gate: options.gate ?? new LocalWriters(new Writers(cluster, session)),
    locks: new Locks(),
    trouble,
    disconnect: (volume) => options.disconnect?.(volume)
  }
}
