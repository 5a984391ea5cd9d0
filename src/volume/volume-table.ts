import type { VolumeDirectory } from '../cluster/volume-directory.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { type ManagedContext, ManagedVolume } from './managed-volume.ts'
import { infoOf, type VolumeInfo } from './volume-info.ts'
import { unitOf, type VolumeType, type VolumeTypes } from './volume-types.ts'

export interface VolumeTableParts {
  readonly context: ManagedContext
  readonly types: VolumeTypes
  readonly trouble: (what: string, thrown: unknown) => void
  /** The record of a volume that was opened here changed. */
  readonly onChange: () => void
}

/** The volumes that were opened in this process, and the way to be alone with one of them. */
export class VolumeTable {
  readonly #parts: VolumeTableParts
  readonly #directory: VolumeDirectory
  readonly #managed = new Map<string, ManagedVolume>()
  #stopFollowing: (() => void) | null = null
  #closed = false

  constructor(parts: VolumeTableParts) {
    this.#parts = parts
    this.#directory = parts.context.directory
  }

  get isClosed(): boolean {
    return this.#closed
  }

  /** Nothing is opened any more. */
  close(): void {
    this.#closed = true
    this.#stopFollowing?.()
  }

  /** @throws StoreError Closed */
  checkOpen(): void {
    if (this.#closed) throw new StoreError(ErrorCode.Closed, 'the peer is shutting down')
  }

  find(id: string): ManagedVolume | undefined {
    return this.#managed.get(id)
  }

  all(): ManagedVolume[] {
    return [...this.#managed.values()]
  }

  /** Those that this process has the right to write. */
  written(): ManagedVolume[] {
    return this.all().filter(({ volume }) => volume.writable)
  }

  manage(record: VolumeRecord): ManagedVolume {
    const known = this.#managed.get(record.id)
    if (known !== undefined) return known
    const type = this.#parts.types.find(record.type)
    const unitBytes = type === null ? BLOCK_BYTES : unitOf(type)
    const managed = new ManagedVolume(this.#parts.context, record, unitBytes)
    this.#managed.set(record.id, managed)
    this.#follow()
    return managed
  }

  /** Of a volume that nobody has open: it is gone, or in the trash. */
  forget(managed: ManagedVolume): void {
    const { id, family } = managed.record
    managed.abandon()
    this.#parts.context.history.forget(id)
    this.#parts.context.keyring?.lock(family)
    this.#managed.delete(id)
  }

  info(record: VolumeRecord): VolumeInfo {
    return infoOf(record, this.#managed.get(record.id) ?? null)
  }

  /** @throws StoreError Unavailable when it is not loaded */
  typeOf(record: VolumeRecord): VolumeType {
    const type = this.#parts.types.find(record.type)
    if (type !== null) return type
    const missing = `type ${record.type}, which is not loaded: see --plugin`
    throw new StoreError(ErrorCode.Unavailable, `volume ${record.name} is of ${missing}`)
  }

  /**
   * Runs `work` alone among all that change or open the volume, with its record as it is then.
   * @throws StoreError NotFound, Conflict, and what `work` throws
   */
  async exclusively<T>(name: string, work: (record: VolumeRecord) => Promise<T>): Promise<T> {
    const { id } = await this.#directory.get(name)
    return this.#parts.context.locks.run(id, async () => {
      const record = await this.#directory.get(name)
      if (record.id !== id) {
        throw new StoreError(ErrorCode.Conflict, `volume ${name} was replaced meanwhile`)
      }
      const managed = this.#managed.get(id)
      if (managed !== undefined) managed.record = record
      return work(record)
    })
  }

  /** Hears what other processes change about volumes that are open here. */
  #follow(): void {
    if (!this.#parts.context.gate.isShared || this.#closed) return
    this.#stopFollowing ??= this.#directory.onChange((id) => {
      const managed = this.#managed.get(id)
      if (managed !== undefined) void this.#refresh(managed).then(() => this.#parts.onChange())
    })
  }

  async #refresh(managed: ManagedVolume): Promise<void> {
    try {
      await managed.exclusively(() => this.#refreshAlone(managed))
    } catch (thrown) {
      this.#parts.trouble(`following volume ${managed.volume.name}`, thrown)
    }
  }

  async #refreshAlone(managed: ManagedVolume): Promise<void> {
    await managed.refreshAlone()
    const { hidden } = managed.record
    if (hidden?.why !== 'deleted' || this.#managed.get(managed.record.id) !== managed) return
    // Another peer put it into the trash.
    await managed.evictAlone()
    this.forget(managed)
  }
}
