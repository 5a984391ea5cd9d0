import type { Cluster } from '../cluster/cluster.ts'
import { parseId64 } from '../cluster/ids.ts'
import { DEFAULT_POOL } from '../cluster/pools.ts'
import { decodeRecord, type SnapshotRecord, type VolumeRecord } from '../cluster/records.ts'
import { SnapshotDirectory } from '../cluster/snapshots.ts'
import { VolumeDirectory } from '../cluster/volume-directory.ts'
import { isBasedLayer } from '../core/layer-ids.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { SpaceAsker } from '../replication/space-asker.ts'
import { type FamilyLayer, spaceTreeOf } from './space-tree.ts'

/** Bytes of data, of one copy. */
export interface ViewSpace {
  /** What it reads as data. */
  readonly allocatedBytes: number
  /** Of it what nothing else sees: a snapshot that is deleted gives it back. */
  readonly exclusiveBytes: number
}

export interface SnapshotSpace extends ViewSpace {
  readonly name: string
  readonly id: string
}

/** What a volume takes, exact but for what changed while it was counted. Bytes of one copy. */
export interface SpaceFigures extends ViewSpace {
  /** All that it has, snapshots too. */
  readonly usedBytes: number
  /** Of it what deleting all snapshots would give back; null for a clone. */
  readonly snapshotBytes: number | null
  /** Of it what is dead already, and being given back. */
  readonly pendingBytes: number
  /** Oldest first. */
  readonly snapshots: readonly SnapshotSpace[]
}

export interface VolumeSpaceParts {
  readonly cluster: Cluster
  readonly asker: SpaceAsker
}

/** Counts what volumes and their snapshots take, in the indexes of those who have the blocks. */
export class VolumeSpace {
  readonly #parts: VolumeSpaceParts
  readonly #directory: VolumeDirectory
  readonly #snapshots: SnapshotDirectory

  constructor(parts: VolumeSpaceParts) {
    this.#parts = parts
    this.#directory = new VolumeDirectory(parts.cluster)
    this.#snapshots = new SnapshotDirectory(parts.cluster)
  }

  /** @throws StoreError NotFound, Unavailable while blocks are where nobody can be asked */
  async count(name: string): Promise<SpaceFigures> {
    const volume = await this.#directory.get(name)
    const snapshots = await this.#snapshots.list(volume.id)
    const bases = await this.#basesOf(volume, snapshots)
    const found = spaceTreeOf(volume, snapshots, (layer) => bases.get(branchOf(layer)) ?? null)
    const cloned = new Set(volume.clones?.map(({ snapshot }) => snapshot))
    const question = { family: volume.family, ...found.tree }
    const sums = await this.#parts.asker.ask(volume.pool ?? DEFAULT_POOL, question)
    const allocated = allocatedBy(found.tree.nodes, sums.change)
    const viewOf = (node: number): ViewSpace => ({
      allocatedBytes: allocated[node]! * BLOCK_BYTES,
      exclusiveBytes: sums.exclusive[node]! * BLOCK_BYTES
    })
    let owned = 0
    for (const [node, blocks] of sums.own.entries()) if (!found.foreign.has(node)) owned += blocks
    const kept = owned - allocated[found.head]!
    return {
      ...viewOf(found.head),
      usedBytes: (owned + sums.pending) * BLOCK_BYTES,
      snapshotBytes: found.foreign.size > 0 ? null : kept * BLOCK_BYTES,
      pendingBytes: sums.pending * BLOCK_BYTES,
      snapshots: snapshots.map(({ name, id }) => ({
        ...{ name, id },
        ...viewOf(found.snapshots.get(id)!),
        // Its clones see all of it, and it cannot go before they do.
        ...(cloned.has(id) ? { exclusiveBytes: 0 } : {})
      }))
    }
  }

  /** By branch, of all branches that the volume is read through: the layer that it begins on. */
  async #basesOf(
    { family, headLayer }: VolumeRecord,
    snapshots: readonly SnapshotRecord[]
  ): Promise<Map<string, FamilyLayer | null>> {
    const { keys, store } = this.#parts.cluster
    const bases = new Map<string, FamilyLayer | null>()
    const add = async (each: FamilyLayer): Promise<void> => {
      const branch = branchOf(each)
      if (bases.has(branch) || !isBasedLayer(parseId64(each.layer).low)) return
      const entry = await store.get(keys.base(each.family, each.layer))
      const base = entry === null ? null : decodeRecord('base', entry.key, entry.value)
      bases.set(branch, base)
      if (base !== null) await add(base)
    }
    for (const { layer } of snapshots) await add({ family, layer })
    await add({ family, layer: headLayer })
    return bases
  }
}

const branchOf = ({ family, layer }: FamilyLayer): string =>
  `${family}/${isBasedLayer(parseId64(layer).low) ? layer.slice(0, 8) : 'none'}`

/** What each node sees: what it stands on, and what it changes about that. */
function allocatedBy(
  nodes: readonly (readonly [number, number, number])[],
  change: Float64Array
): Float64Array {
  const allocated = new Float64Array(nodes.length)
  for (const [node, [parent]] of nodes.entries()) {
    allocated[node] = change[node]! + (parent < 0 ? 0 : allocated[parent]!)
  }
  return allocated
}
