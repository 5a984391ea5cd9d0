import { isHidden } from '../cluster/hidden-volumes.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { splitSnapshotName } from '../cluster/snapshots.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BlockDevice } from './block-device.ts'
import type { ClientSessions } from './client-sessions.ts'
import type { ManagedContext, ManagedVolume } from './managed-volume.ts'
import type { OpenVolume } from './open-volume.ts'
import type { Snapshots } from './snapshots.ts'
import { VolumeFile } from './volume-file.ts'
import { detailsOf } from './volume-info.ts'
import type { OpenOptions } from './volume-options.ts'
import type { VolumeTable } from './volume-table.ts'
import { ofType } from './volume-types.ts'

export interface OpenedVolume {
  readonly managed: ManagedVolume
  readonly device: OpenVolume
}

export interface OpenerParts {
  readonly table: VolumeTable
  readonly context: ManagedContext
  readonly snapshots: Snapshots
  readonly clients: ClientSessions
  /** Does the metadata answer, as far as is known? */
  readonly isAnswered: () => boolean
}

/** Opens volumes and snapshots, in each of the ways in which they are used. */
export class VolumeOpener {
  /** A volume is served here now, for whatever use. */
  onOpened: (record: VolumeRecord) => void = () => {}
  readonly #parts: OpenerParts

  constructor(parts: OpenerParts) {
    this.#parts = parts
  }

  /** As its type serves it to protocols, see `Volumes.open`. */
  async attach(name: string, options: OpenOptions): Promise<BlockDevice> {
    const { table, clients } = this.#parts
    const { managed, device } = await this.open(name, options)
    try {
      const type = table.typeOf(managed.record)
      if (type.attach === undefined) {
        const text = `volume ${name}: type ${type.name} has no block interface`
        throw new StoreError(ErrorCode.Forbidden, text)
      }
      await clients.enter(managed, device, options.session ?? null)
      const attach = type.attach.bind(type)
      return await ofType(type, () => attach(device, detailsOf(managed.record)))
    } catch (thrown) {
      await device.close()
      throw thrown
    }
  }

  /** The plain bytes, whatever the type. */
  async file(name: string, options: OpenOptions): Promise<VolumeFile> {
    const { managed, device } = await this.open(name, options)
    return new VolumeFile(managed, device)
  }

  /** As its type offers it to programs, see `Volumes.openTyped`. */
  async typed<T>(name: string, options: OpenOptions): Promise<T> {
    const { managed, device } = await this.open(name, options)
    const file = new VolumeFile(managed, device)
    try {
      const type = this.#parts.table.typeOf(managed.record)
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

  /** Opens one that no name leads to, for who fills it. @throws StoreError NotFound */
  hidden(id: string): Promise<VolumeFile> {
    const { context, table } = this.#parts
    return context.locks.run(id, async () => {
      const found = await context.directory.find(id)
      if (found === null || !isHidden(found)) {
        throw new StoreError(ErrorCode.NotFound, `volume ${id} is not being imported`)
      }
      const managed = table.manage(found)
      return new VolumeFile(managed, await managed.openAlone({ own: true }))
    })
  }

  /** For the store's own work, also while it is being made. @throws StoreError NotFound */
  own(name: string): Promise<VolumeFile> {
    const { table } = this.#parts
    return table.exclusively(name, async (found) => {
      const managed = table.manage(found)
      return new VolumeFile(managed, await managed.openAlone({ own: true }))
    })
  }

  /** @throws StoreError NotFound, Busy, Closed */
  async open(name: string, options: OpenOptions): Promise<OpenedVolume> {
    const { table, snapshots, isAnswered } = this.#parts
    table.checkOpen()
    const written = this.#writtenAs(name)
    if (written !== undefined && !isAnswered()) return this.#openKnown(written, options)
    const { volume, snapshot } = splitSnapshotName(name) ?? { volume: name, snapshot: null }
    return table
      .exclusively(volume, async (found) => {
        if (found.state !== 'ready') {
          throw new StoreError(ErrorCode.Busy, `volume ${name} is still being made`)
        }
        const managed = table.manage(found)
        if (snapshot === null) return this.#openAlone(managed, options)
        const record = await snapshots.directory.get(found, snapshot)
        return this.#opened(managed, await managed.openSnapshotAlone(record, options))
      })
      .catch((thrown: unknown) => {
        const known = this.#writtenAs(name)
        if (!isAway(thrown) || known === undefined) throw thrown
        return this.#openKnown(known, options)
      })
  }

  /** While the metadata is away, clients of a volume that this process writes may come back. */
  #openKnown(managed: ManagedVolume, { readOnly = false }: OpenOptions): Promise<OpenedVolume> {
    return managed.exclusively(() => this.#openAlone(managed, { readOnly }))
  }

  #writtenAs(name: string): ManagedVolume | undefined {
    return this.#parts.table.written().find(({ volume }) => volume.name === name)
  }

  async #openAlone(managed: ManagedVolume, options: OpenOptions): Promise<OpenedVolume> {
    return this.#opened(managed, await managed.openAlone(options))
  }

  async #opened(managed: ManagedVolume, device: OpenVolume): Promise<OpenedVolume> {
    if (this.#parts.table.isClosed) await device.close()
    this.#parts.table.checkOpen()
    this.onOpened(managed.record)
    return { managed, device }
  }
}

export const isAway = (thrown: unknown): boolean =>
  thrown instanceof StoreError && thrown.code === ErrorCode.Unavailable
