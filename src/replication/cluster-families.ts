/** The volume families of a pool, and those that were deleted, as the metadata has them. */
import type { Cluster } from '../cluster/cluster.ts'
import { type DeletedRecord, decodeRecord, type VolumeRecord } from '../cluster/records.ts'
import { VolumeDirectory } from '../cluster/volume-directory.ts'
import type { FamilyState, ResyncFamilies } from './resync.ts'

export interface ClusterFamiliesParts {
  readonly cluster: Cluster
  /** Number of the pool that has the volume's blocks. */
  readonly poolOf: (volume: VolumeRecord) => number
  /** Drops every block of a deleted volume here, durably. */
  readonly drop: (deleted: DeletedRecord) => Promise<void>
}

export class ClusterFamilies implements ResyncFamilies {
  readonly #parts: ClusterFamiliesParts
  readonly #directory: VolumeDirectory

  constructor(parts: ClusterFamiliesParts) {
    this.#parts = parts
    this.#directory = new VolumeDirectory(parts.cluster)
  }

  async applyDeletions(): Promise<void> {
    const { peerId } = this.#parts.cluster.self
    for (const deleted of await this.#directory.listDeleted()) {
      if (!deleted.pendingPeers.includes(peerId)) continue
      await this.#parts.drop(deleted)
      await this.#directory.confirmDeleted(deleted, peerId)
    }
  }

  /** A family that nobody ever opened for writing has no versions: it is left out. */
  async list(pool: number): Promise<readonly FamilyState[]> {
    const { cluster, poolOf } = this.#parts
    const { keys } = cluster
    const wanted = new Set<string>()
    for (const { key, value } of await cluster.readAll(keys.volumes)) {
      const volume = decodeRecord('volume', key, value)
      if (poolOf(volume) === pool) wanted.add(volume.family)
    }
    const states: FamilyState[] = []
    for (const { key, value, modRevision } of await cluster.readAll(keys.families)) {
      const family = key.slice(keys.families.length)
      if (!wanted.has(family)) continue
      const { writerEpoch, settledEpoch = 0 } = decodeRecord('family', key, value)
      if (writerEpoch === 0) continue
      const noWriter = { key: keys.writer(family), is: 'absent' } as const
      const unchanged = { key, modRevision }
      states.push({ family, writerEpoch, settledEpoch, unchanged, noWriter })
    }
    return states
  }
}
