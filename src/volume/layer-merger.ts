import type { Bases } from '../cluster/bases.ts'
import { BranchDirectory } from '../cluster/branches.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { type MergedLayers, mergedLayers } from '../cluster/layer-lines.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { SnapshotDirectory } from '../cluster/snapshots.ts'
import type { VolumeDirectory } from '../cluster/volume-directory.ts'
import { MERGE_AGAIN_MS } from '../core/limits.ts'
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

interface Told {
  readonly volume: VolumeRecord
  readonly runs: ReadonlyMap<string, MergedLayers>
}

/**
 * Tells the shards of this peer which layers nobody reads any more but through a higher one: at
 * start, when a snapshot is deleted, by whomever, and now and then (src/shard/LAYERS.md). What was
 * said stays true while there is the volume, so nothing is read to say it again.
 */
export class LayerMerger {
  readonly #parts: LayerMergerParts
  readonly #snapshots: SnapshotDirectory
  readonly #branches: BranchDirectory
  readonly #waiting = new Set<string>()
  /** By volume id: what the shards were told. */
  readonly #told = new Map<string, Told>()
  /** Volumes with layers whose record changed since somebody looked: a flatten is over perhaps. */
  readonly #changed = new Set<string>()
  readonly #again = new Set<string>()
  #stopAgain: (() => void) | null = null
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
    const stopSnapshots = this.#snapshots.onRemoved((id) => {
      this.#changed.add(id)
      this.#wake(id, GATHER_MS)
    })
    const note = ({ id, rootLayer }: VolumeRecord): void => {
      if (rootLayer !== undefined) this.#changed.add(id)
    }
    const volumes = this.#parts.directory.followRecords(note, (id) => this.#forget(id))
    this.#stopFollowing = () => {
      stopSnapshots()
      volumes.stop()
    }
    this.#mergeAgainLater()
    for (const { id, rootLayer } of await this.#parts.directory.list()) {
      if (rootLayer !== undefined) this.#wake(id, 0)
    }
  }

  close(): void {
    this.#closed = true
    this.#stopFollowing?.()
    this.#stopTimer?.()
    this.#stopAgain?.()
  }

  #mergeAgainLater(): void {
    this.#stopAgain = this.#parts.cluster.timers.start(MERGE_AGAIN_MS, () => {
      for (const [id, { runs }] of this.#told) if (runs.size > 0) this.#again.add(id)
      for (const id of new Set([...this.#again, ...this.#changed])) this.#wake(id, 0)
      this.#mergeAgainLater()
    })
  }

  #forget(id: string): void {
    this.#told.delete(id)
    this.#changed.delete(id)
    this.#again.delete(id)
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
    const known = this.#told.get(id)
    const isAgain = this.#again.delete(id)
    if (isAgain && known !== undefined && !this.#changed.has(id)) {
      for (const run of known.runs.values()) await mergeLayers(store, known.volume, run)
      return
    }
    this.#changed.delete(id)
    // The head first: a layer that a snapshot freezes from here on is this one or a later one.
    const volume = await directory.find(id)
    if (volume === null) return this.#forget(id)
    const read = await this.#branches.readLayers(volume)
    await this.#tellCuts()
    const runs = new Map<string, MergedLayers>()
    for (const run of mergedLayers(volume, read)) {
      const name = `${run.branch} ${run.lowest} ${run.highest}`
      runs.set(name, run)
      if (isAgain || known?.runs.has(name) !== true) await mergeLayers(store, volume, run)
    }
    this.#told.set(id, { volume, runs })
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
