import type { Bases } from '../cluster/bases.ts'
import { BranchDirectory } from '../cluster/branches.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { mergedLayers } from '../cluster/layer-lines.ts'
import { SnapshotDirectory } from '../cluster/snapshots.ts'
import type { VolumeDirectory } from '../cluster/volume-directory.ts'
import type { BlockStore } from '../replication/block-store.ts'
import { cutBase, mergeLayers } from './reclaim.ts'

/** Snapshots that go together are looked at together. */
const GATHER_MS = 500
const RETRY_MS = 10_000

export interface LayerMergerParts {
  readonly cluster: Cluster
  readonly store: BlockStore
  readonly directory: VolumeDirectory
  readonly bases: Bases
  readonly trouble: (what: string, thrown: unknown) => void
}

/**
 * Tells the shards of this peer which layers nobody reads any more but through a higher one: at
 * start, and when a snapshot is deleted, by whomever (src/shard/LAYERS.md).
 */
export class LayerMerger {
  readonly #parts: LayerMergerParts
  readonly #snapshots: SnapshotDirectory
  readonly #branches: BranchDirectory
  readonly #waiting = new Set<string>()
  /** By volume id: what the shards were told. */
  readonly #told = new Map<string, ReadonlySet<string>>()
  #stopFollowing: (() => void) | null = null
  #stopTimer: (() => void) | null = null
  #running = false
  #closed = false

  constructor(parts: LayerMergerParts) {
    this.#parts = parts
    this.#snapshots = new SnapshotDirectory(parts.cluster)
    this.#branches = new BranchDirectory(parts.cluster)
  }

  async start(): Promise<void> {
    if (this.#closed) return
    const stopSnapshots = this.#snapshots.onRemoved((id) => this.#wake(id, GATHER_MS))
    const forget = (id: string): void => void this.#told.delete(id)
    const stopVolumes = this.#parts.directory.onChange(() => {}, forget)
    this.#stopFollowing = () => {
      stopSnapshots()
      stopVolumes()
    }
    for (const { id, rootLayer } of await this.#parts.directory.list()) {
      if (rootLayer !== undefined) this.#wake(id, 0)
    }
  }

  close(): void {
    this.#closed = true
    this.#stopFollowing?.()
    this.#stopTimer?.()
  }

  #wake(id: string, delayMs: number): void {
    this.#waiting.add(id)
    if (this.#closed || this.#running || this.#stopTimer !== null) return
    this.#stopTimer = this.#parts.cluster.timers.start(delayMs, () => void this.#run())
  }

  async #run(): Promise<void> {
    this.#stopTimer = null
    this.#running = true
    let delayMs = GATHER_MS
    for (const id of this.#waiting) {
      if (this.#closed) return
      this.#waiting.delete(id)
      try {
        await this.#merge(id)
      } catch (thrown) {
        this.#waiting.add(id)
        delayMs = RETRY_MS
        this.#parts.trouble(`merging layers of volume ${id}`, thrown)
        break
      }
    }
    this.#running = false
    for (const id of this.#waiting) this.#wake(id, delayMs)
  }

  async #merge(id: string): Promise<void> {
    const { directory, store } = this.#parts
    // The head first: a layer that a snapshot freezes from here on is this one or a later one.
    const volume = await directory.find(id)
    if (volume === null) {
      this.#told.delete(id)
      return
    }
    const known = this.#told.get(id) ?? new Set<string>()
    const read = await this.#branches.readLayers(volume)
    await this.#tellCuts()
    const runs = mergedLayers(volume, read)
    const told = new Set<string>()
    for (const run of runs) {
      const name = `${run.branch} ${run.lowest} ${run.highest}`
      told.add(name)
      if (!known.has(name)) await mergeLayers(store, volume, run)
    }
    this.#told.set(id, told)
  }

  /**
   * What was cut from its base may still be read through it here, until its shards know: first of
   * all, for then what is below may be gone in part.
   */
  async #tellCuts(): Promise<void> {
    const { bases, store } = this.#parts
    await bases.refresh()
    for (const cut of bases.takeCuts()) await cutBase(store, cut)
  }
}
