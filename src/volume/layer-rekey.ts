/**
 * Writes all that is data in one chunk of a volume again, in the layers in which it is: in the
 * head, and in those that its snapshots, and what stands on them, read. Holes stay holes, what a
 * snapshot shows stays what it shows, and what changed between two stays what changed.
 *
 * Nobody writes to the layers below the head but this process, so no change of a client can come
 * between a read and the write there. The head is the layer that changes go to at that moment, not
 * the one in the record: a snapshot that is being taken has its layer there before the last change
 * to it is over. If the head changed while a chunk was gone through, something of the old head may
 * have been left: the chunk is gone through once more.
 */
import type { BranchDirectory } from '../cluster/branches.ts'
import { formatId64 } from '../cluster/ids.ts'
import { type View, viewsBelow } from '../cluster/layer-lines.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { StatusExtent } from '../replication/block-store.ts'
import { LayerIo, type Run, restFor } from './layer-io.ts'
import type { ManagedVolume } from './managed-volume.ts'
import type { VolumeFile } from './volume-file.ts'

/** Of the head written again at a time, and held from clients so long. */
const PIECE_BLOCKS = 64

export class LayerRekey {
  readonly #managed: ManagedVolume
  readonly #file: VolumeFile
  readonly #branches: BranchDirectory
  readonly #io: LayerIo
  #views: { readonly head: string; readonly all: readonly View[] } | null = null

  constructor(managed: ManagedVolume, file: VolumeFile, branches: BranchDirectory) {
    this.#managed = managed
    this.#file = file
    this.#branches = branches
    this.#io = new LayerIo(managed, 'writing a layer again')
  }

  /** Which layers are read is looked at again: some may be read by nobody any more. */
  forgetViews(): void {
    this.#views = null
  }

  /** @throws StoreError */
  async rewriteChunk(chunk: number): Promise<void> {
    for (;;) {
      const { head, all } = await this.#viewsNow()
      for (const view of all) await this.#rewrite(view, chunk, view.layer === head)
      if (this.#head() === head) return
    }
  }

  /** All layers that are read, as long as the head is the same; it is the last one. */
  async #viewsNow(): Promise<{ readonly head: string; readonly all: readonly View[] }> {
    for (let head = this.#head(); this.#views?.head !== head; head = this.#head()) {
      // After the head: whatever was frozen before it has its record.
      const { record } = this.#managed
      const all = viewsBelow(record, head, await this.#branches.readLayers(record))
      this.#views = { head, all }
    }
    return this.#views
  }

  /** Where changes go. */
  #head(): string {
    const { layerHigh, layerLow } = this.#managed.volume.ops.identity
    return formatId64(layerHigh, layerLow)
  }

  async #rewrite({ layer, since }: View, chunk: number, isHead: boolean): Promise<void> {
    const rest = (): Promise<void> => restFor(this.#managed)
    for (const { kind, ...run } of await this.#io.status(layer, chunk, since)) {
      if (kind !== StatusExtent.Data) continue
      if (isHead) await this.#rewriteHead(chunk, run, rest)
      else await this.#io.copy({ from: layer, to: layer }, chunk, run, rest)
    }
  }

  async #rewriteHead(chunk: number, run: Run, rest: () => Promise<void>): Promise<void> {
    for (let at = run.first; at < run.first + run.count; at += PIECE_BLOCKS) {
      const count = Math.min(PIECE_BLOCKS, run.first + run.count - at)
      const offset = (chunk * CHUNK_BLOCKS + at) * BLOCK_BYTES
      // A shrink meanwhile took the rest with it.
      const length = Math.min(count * BLOCK_BYTES, this.#file.sizeBytes - offset)
      if (length <= 0) return
      await this.#file.rewrite(offset, length)
      await rest()
    }
  }
}
