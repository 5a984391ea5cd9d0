/** The volume families of a pool, and those that were deleted, as the metadata has them. */
import type { Cluster } from '../cluster/cluster.ts'
import { Deletions, nameOf } from '../cluster/deletions.ts'
import { type DeletedRecord, decodeRecord, type VolumeRecord } from '../cluster/records.ts'
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
  readonly #deletions: Deletions
  /** Said by this process, though the records name it still. */
  #confirmed = new Set<string>()
  #line: Promise<void> = Promise.resolve()

  constructor(parts: ClusterFamiliesParts) {
    this.#parts = parts
    this.#deletions = new Deletions(parts.cluster)
  }

  /** All that there are. */
  async applyDeletions(): Promise<void> {
    const all = await this.#deletions.list()
    const names = new Set(all.map(nameOf))
    this.#confirmed = new Set([...this.#confirmed].filter((name) => names.has(name)))
    for (const deleted of all) await this.apply(deleted)
  }

  /** One deletion, behind those before it. */
  apply(deleted: DeletedRecord): Promise<void> {
    const done = this.#line.then(() => this.#apply(deleted))
    this.#line = done.catch(() => {})
    return done
  }

  async #apply(deleted: DeletedRecord): Promise<void> {
    const name = nameOf(deleted)
    const { peerId } = this.#parts.cluster.self
    if (!deleted.pendingPeers.includes(peerId) || this.#confirmed.has(name)) return
    await this.#parts.drop(deleted)
    await this.#deletions.confirm(deleted)
    this.#confirmed.add(name)
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
