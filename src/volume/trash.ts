import type { Cluster } from '../cluster/cluster.ts'
import { type Hidden, type HiddenVolume, HiddenVolumes } from '../cluster/hidden-volumes.ts'
import type { DeletedRecord, VolumeRecord } from '../cluster/records.ts'
import { SnapshotDirectory } from '../cluster/snapshots.ts'
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
  readonly #snapshots: SnapshotDirectory

  constructor(parts: TrashParts) {
    this.#parts = parts
    this.#hidden = new HiddenVolumes(parts.cluster)
    this.#snapshots = new SnapshotDirectory(parts.cluster)
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

  /** How many of the volume's snapshots are protected: it stays until somebody insists. */
  async protectedSnapshots({ id }: VolumeRecord): Promise<number> {
    const snapshots = await this.#snapshots.list(id)
    return snapshots.filter((snapshot) => snapshot.protected === true).length
  }

  /**
   * Deletes one for good, or an import; returns its name.
   * @throws StoreError NotFound, Conflict, Busy where snapshots are protected and not `force`
   */
  async delete(
    which: string,
    { why = 'deleted', force = false }: { why?: Hidden['why']; force?: boolean } = {}
  ): Promise<string> {
    const found = await this.#hidden.find(which, why)
    if (!force) {
      const count = await this.protectedSnapshots(found)
      if (count > 0) {
        const what = `${count} snapshot${count > 1 ? 's' : ''} of ${found.name}`
        const text = `${what} ${count > 1 ? 'are' : 'is'} protected; --force deletes all the same`
        throw new StoreError(ErrorCode.Busy, text)
      }
    }
    await this.#remove(found.id)
    return found.name
  }

  /** Deletes all of them for good, but without `force` none that has protected snapshots. */
  async empty(force: boolean = false): Promise<{ removed: readonly string[]; kept: number }> {
    return this.#removeAll(await this.list(), force, () => {})
  }

  async #removeAll(
    wanted: readonly HiddenVolume[],
    force: boolean,
    onRemoved: (volume: HiddenVolume) => void
  ) {
    const removed: string[] = []
    let kept = 0
    for (const volume of wanted) {
      try {
        if (!force && (await this.protectedSnapshots(volume)) > 0) kept++
        else {
          await this.#remove(volume.id)
          removed.push(volume.name)
          onRemoved(volume)
        }
      } catch (thrown) {
        // Somebody restored or deleted it meanwhile.
        if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      }
    }
    return { removed, kept }
  }

  /** Called now and then: deletes those whose time is over, imports too. Returns how many. */
  async removeExpired(onRemoved: (volume: HiddenVolume) => void = () => {}): Promise<number> {
    const nowMs = this.#parts.cluster.clock.wallMs()
    const all = await this.#hidden.list()
    const over = all.filter(({ hidden }) => Date.parse(hidden.until) <= nowMs)
    return (await this.#removeAll(over, false, onRemoved)).removed.length
  }

  async #remove(id: string): Promise<void> {
    const { locks, directory, reclaim } = this.#parts
    const deleted = await locks.run(id, () => directory.deleteHidden(id))
    await reclaim(deleted)
  }
}
