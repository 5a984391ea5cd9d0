/** The admin API's view of the life of volumes. */
import type { Readable } from 'node:stream'
import type { LifeBackend } from '../admin/life-routes.ts'
import type { Emptied, ExportQuery, Trashed, VolumeEvent } from '../admin/life-schemas.ts'
import type { Volume } from '../admin/schemas.ts'
import { DEFAULT_POOL } from '../cluster/pools.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BackendParts } from './backend.ts'
import { exportOf } from './exports.ts'
import { bytesOfFamilies } from './volume-usage.ts'

export class PeerLifeBackend implements LifeBackend {
  readonly #parts: Pick<BackendParts, 'volumes' | 'pool'>
  readonly #volume: (name: string) => Promise<Volume>

  constructor(
    parts: Pick<BackendParts, 'volumes' | 'pool'>,
    volume: (name: string) => Promise<Volume>
  ) {
    this.#parts = parts
    this.#volume = volume
  }

  events(name: string): Promise<readonly VolumeEvent[]> {
    return this.#parts.volumes.events(name)
  }

  export(name: string, what: ExportQuery): Promise<Readable> {
    return exportOf(this.#parts.volumes, name, what)
  }

  async trash(): Promise<readonly Trashed[]> {
    const { volumes, pool } = this.#parts
    const all = await volumes.trash.list()
    const families = all.map(({ family }) => family)
    const used = await bytesOfFamilies(pool, families)
    const kept = await Promise.all(all.map((each) => volumes.trash.protectedSnapshots(each)))
    return all.map(({ id, name, sizeBytes, hidden, encryption, ...record }, at) => ({
      id,
      name,
      sizeBytes,
      pool: record.pool ?? DEFAULT_POOL,
      encryption: encryption ?? null,
      deletedAt: hidden.since,
      until: hidden.until,
      usedBytes: used[at] ?? null,
      protectedSnapshots: kept[at]!
    }))
  }

  /** On this peer; 0 where that is not known. */
  async trashBytes(): Promise<number> {
    try {
      return (await this.trash()).reduce((sum, { usedBytes }) => sum + (usedBytes ?? 0), 0)
    } catch (thrown) {
      // Without metadata there is worse to tell.
      if (thrown instanceof StoreError && thrown.code === ErrorCode.Unavailable) return 0
      throw thrown
    }
  }

  async restoreVolume(entry: string, name?: string): Promise<Volume> {
    return this.#volume((await this.#parts.volumes.trash.restore(entry, name)).name)
  }

  async emptyTrash(force: boolean, entry?: string): Promise<Emptied> {
    const { trash } = this.#parts.volumes
    if (entry === undefined) {
      const { removed, kept } = await trash.empty(force)
      return { volumes: removed.length, kept, names: [...removed] }
    }
    return { volumes: 1, kept: 0, names: [await trash.delete(entry, { force })] }
  }
}
