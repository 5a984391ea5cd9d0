import { belowBranch } from '../cluster/layer-lines.ts'
import { StatusExtent } from '../replication/block-store.ts'
import { LayerIo, type Run } from './layer-io.ts'
import type { ManagedVolume } from './managed-volume.ts'

/**
 * Copies what a clone reads from its base into the lowest of its own layers. Nobody writes there
 * any more, so nothing is in the way of clients: what they write is above it.
 */
export class BaseCopy {
  readonly #io: LayerIo
  /** The lowest layer of the volume, and the lowest one that somebody reads. */
  readonly #root: string
  readonly #read: string

  constructor(managed: ManagedVolume, layers: { readonly root: string; readonly read: string }) {
    this.#io = new LayerIo(managed, 'a copy from its base')
    this.#root = layers.root
    this.#read = layers.read
  }

  /** Calls `rest` between pieces. Returns how many blocks were copied. @throws StoreError */
  async copyChunk(chunk: number, rest: () => Promise<void>): Promise<number> {
    let blocks = 0
    const layers = { from: this.#read, to: this.#root }
    for (const run of await this.#missing(chunk)) {
      await this.#io.copy(layers, chunk, run, rest)
      blocks += run.count
    }
    return blocks
  }

  /** Blocks of the chunk that are data, and read from the base. */
  async #missing(chunk: number): Promise<Run[]> {
    const own = await this.#io.status(this.#read, chunk, belowBranch(this.#root))
    if (own.every(({ kind }) => kind !== StatusExtent.Unchanged)) return []
    const shown = await this.#io.status(this.#read, chunk, null)
    const runs: Run[] = []
    for (const below of own) {
      if (below.kind !== StatusExtent.Unchanged) continue
      for (const data of shown) {
        const first = Math.max(below.first, data.first)
        const end = Math.min(below.first + below.count, data.first + data.count)
        if (data.kind === StatusExtent.Data && first < end) runs.push({ first, count: end - first })
      }
    }
    return runs
  }
}
