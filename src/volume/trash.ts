import type { Cluster } from '../cluster/cluster.ts'
import { type Hidden, type HiddenVolume, HiddenVolumes } from '../cluster/hidden-volumes.ts'
import type { DeletedRecord, VolumeRecord } from '../cluster/records.ts'
import { readSettings } from '../cluster/settings.ts'
import type { VolumeDirectory } from '../cluster/volume-directory.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Locks } from './locks.ts'
import type { VolumeHistory } from './volume-history.ts'

export interface TrashParts {
  readonly cluster: Cluster
  readonly directory: VolumeDirectory
  readonly locks: Locks
  readonly history: VolumeHistory
  /** Drops the blocks of a volume that was deleted for good. */
  readonly reclaim: (deleted: DeletedRecord) => Promise<void>
}

/** Deleted volumes, until their time is over: they keep their blocks and their keys. */
export class Trash {
  readonly #parts: TrashParts
  readonly #hidden: HiddenVolumes

  constructor(parts: TrashParts) {
    this.#parts = parts
    this.#hidden = new HiddenVolumes(parts.cluster)
  }

  /** Deleted first come first. */
  async list(): Promise<HiddenVolume[]> {
    return (await this.#hidden.list()).filter(({ hidden }) => hidden.why === 'deleted')
  }

  /** How long a volume stays; 0: it goes at once. */
  async keepMs(): Promise<number> {
    return (await readSettings(this.#parts.cluster)).trashMs
  }

  /** Puts a volume there that nobody has open, alone. @throws StoreError Busy */
  async put(volume: VolumeRecord, keepMs: number): Promise<HiddenVolume> {
    const nowMs = this.#parts.cluster.clock.wallMs()
    const since = new Date(nowMs).toISOString()
    const until = new Date(nowMs + keepMs).toISOString()
    const hidden = await this.#hidden.hide(volume, { why: 'deleted', since, until })
    await this.#parts.history.tell(volume, 'deleted', { until })
    return hidden
  }

  /**
   * `which` is an id, or a name that one volume there has. It gets its old name back, or `name`.
   * @throws StoreError NotFound, Conflict, AlreadyExists
   */
  async restore(which: string, name?: string): Promise<VolumeRecord> {
    const { id } = await this.#hidden.find(which, 'deleted')
    return this.#parts.locks.run(id, async () => {
      const found = await this.#hidden.find(id, 'deleted')
      const shown = await this.#hidden.show(id, name ?? found.name)
      await this.#parts.history.tell(shown, 'restored', { name: shown.name })
      return shown
    })
  }

  /** Deletes one for good, or an import. @throws StoreError NotFound, Conflict */
  async delete(which: string, why: Hidden['why'] = 'deleted'): Promise<void> {
    await this.#remove((await this.#hidden.find(which, why)).id)
  }

  /** Deletes all of them for good, or those whose time is over. Returns how many. */
  async empty(isWanted: (volume: HiddenVolume) => boolean = () => true): Promise<number> {
    return this.#removeAll((await this.list()).filter(isWanted))
  }

  async #removeAll(wanted: readonly HiddenVolume[]): Promise<number> {
    let removed = 0
    for (const { id } of wanted) {
      try {
        await this.#remove(id)
        removed++
      } catch (thrown) {
        // Somebody restored or deleted it meanwhile.
        if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      }
    }
    return removed
  }

  /** Called now and then: deletes those whose time is over, imports too. */
  async removeExpired(): Promise<number> {
    const nowMs = this.#parts.cluster.clock.wallMs()
    const all = await this.#hidden.list()
    return this.#removeAll(all.filter(({ hidden }) => Date.parse(hidden.until) <= nowMs))
  }

  async #remove(id: string): Promise<void> {
    const { locks, directory, reclaim } = this.#parts
    const deleted = await locks.run(id, () => directory.deleteHidden(id))
    await reclaim(deleted)
  }
}
