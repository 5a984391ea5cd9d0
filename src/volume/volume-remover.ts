import type { Cluster } from '../cluster/cluster.ts'
import { Deletions } from '../cluster/deletions.ts'
import type { HiddenVolume } from '../cluster/hidden-volumes.ts'
import type { DeletedRecord, VolumeRecord } from '../cluster/records.ts'
import type { SnapshotDirectory } from '../cluster/snapshots.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BlockStore } from '../replication/block-store.ts'
import type { ManagedContext } from './managed-volume.ts'
import { dropFamily } from './reclaim.ts'
import { Trash } from './trash.ts'
import type { VolumeTable } from './volume-table.ts'

export interface RemoverParts {
  readonly cluster: Cluster
  readonly table: VolumeTable
  readonly context: ManagedContext
  readonly store: BlockStore
  readonly snapshots: SnapshotDirectory
}

/** Removes volumes, into the trash or for good, and gives back on this peer what they occupied. */
export class VolumeRemover {
  readonly trash: Trash
  readonly #deletions: Deletions
  readonly #parts: RemoverParts

  constructor(parts: RemoverParts) {
    this.#parts = parts
    const { cluster, context } = parts
    const { directory, locks, history } = context
    this.#deletions = new Deletions(cluster)
    const reclaim = (deleted: DeletedRecord): Promise<void> => this.reclaimSoon(deleted)
    this.trash = new Trash({ cluster, directory, locks, history, reclaim })
  }

  /** For good, see `Volumes.delete`. @throws StoreError NotFound, Busy */
  async delete(name: string, force: boolean): Promise<void> {
    const work = (found: VolumeRecord): Promise<DeletedRecord> => this.#deleteAlone(found, force)
    await this.reclaimSoon(await this.#parts.table.exclusively(name, work))
  }

  /** Into the trash, see `Volumes.discard`. @throws StoreError NotFound, Busy */
  async discard(name: string, force: boolean): Promise<HiddenVolume | null> {
    const keepMs = await this.trash.keepMs()
    if (keepMs === 0) {
      await this.delete(name, force)
      return null
    }
    const { table } = this.#parts
    return table.exclusively(name, (found) => this.#discardAlone(found, force, keepMs))
  }

  /** One whose type could not finish it, or whose maker died. @throws StoreError */
  async removeHalfMade(name: string): Promise<void> {
    const work = (found: VolumeRecord): Promise<DeletedRecord> => this.#deleteAlone(found, true)
    await this.reclaim(await this.#parts.table.exclusively(name, work))
  }

  /** What earlier runs did not come to. @throws StoreError when it cannot be listed */
  async resume(): Promise<void> {
    for (const deleted of await this.#deletions.list()) await this.reclaimSoon(deleted)
  }

  /** Drops the blocks of a deleted volume on this peer, and says so once that is durable. */
  async reclaim(deleted: DeletedRecord): Promise<void> {
    const { cluster, store } = this.#parts
    const { peerId } = cluster.self
    if (!deleted.pendingPeers.includes(peerId)) return
    await dropFamily(store, deleted)
    await this.#deletions.confirm(deleted)
  }

  /** As `reclaim`; what fails is told, and tried again at the next start. */
  async reclaimSoon(deleted: DeletedRecord): Promise<void> {
    await this.reclaim(deleted).catch((thrown: unknown) => {
      this.#parts.context.trouble(`reclaiming the space of deleted volume ${deleted.name}`, thrown)
    })
  }

  async #discardAlone(found: VolumeRecord, force: boolean, keepMs: number): Promise<HiddenVolume> {
    const { table } = this.#parts
    const managed = table.manage(found)
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
    table.forget(managed)
    return hidden
  }

  async #deleteAlone(found: VolumeRecord, force: boolean): Promise<DeletedRecord> {
    const { table, context } = this.#parts
    const { name } = found
    const managed = table.find(found.id)
    managed?.requireUnused(force)
    if (managed !== undefined && managed.opens.size > 0) {
      managed.shutOpens()
      await context.disconnect(name)
      await managed.closeOpens()
    }
    await this.#checkSnapshots(found, force)
    const record = await context.directory.delete(name, { force })
    if (managed === undefined) context.keyring?.lock(found.family)
    else table.forget(managed)
    return record
  }

  async #checkSnapshots({ id, name }: VolumeRecord, force: boolean): Promise<void> {
    const all = await this.#parts.snapshots.list(id)
    const guarded = all.find((snapshot) => snapshot.protected === true)
    if (guarded !== undefined) {
      const text = `snapshot ${name}@${guarded.name} is protected: unprotect it first`
      throw new StoreError(ErrorCode.Busy, text)
    }
    const { length } = all
    if (length === 0 || force) return
    const text = `volume ${name} has ${length} snapshot${length > 1 ? 's' : ''}`
    throw new StoreError(ErrorCode.Busy, `${text}; --force deletes ${length > 1 ? 'them' : 'it'}`)
  }
}

const isBusy = (thrown: unknown): boolean =>
  thrown instanceof StoreError && thrown.code === ErrorCode.Busy
