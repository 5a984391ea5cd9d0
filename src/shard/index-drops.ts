/** Takes whole chunks out of the index: those of dropped layers, and those given back. */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { AT_CHUNK, AT_LAYER } from './chunk-layout.ts'
import type { ChunkStore } from './chunk-store.ts'
import type { IndexLayers } from './index-layers.ts'
import { slabOf, wordOf } from './index-pages.ts'
import type { LayerUsage } from './layer-usage.ts'
import { LOCATION_END } from './run-list.ts'

/** Chunks looked at together. */
const RANGE_CHUNKS = 16

interface NamedChunk {
  readonly familyHigh: number
  readonly familyLow: number
  readonly chunk: number
}

export class IndexDrops {
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  private readonly counter: LayerUsage
  private readonly onRemoved: (chunk: number) => void
  /** Where `reclaim` stands, as hash; what it has to do is done when nothing was dropped since. */
  private reclaimAt = 0
  private dropped = 0
  private droppedAtStart = 0
  /** Their numbers are of use again when nothing is left of them. */
  private leaving: number[] = []
  private readonly addresses: number[] = []

  constructor(
    store: ChunkStore,
    layers: IndexLayers,
    counter: LayerUsage,
    onRemoved: (chunk: number) => void
  ) {
    this.onRemoved = onRemoved
    this.store = store
    this.layers = layers
    this.counter = counter
  }

  dropLayer(layer: number): void {
    if (layer < 0 || this.layers.isDropped(layer)) return
    this.layers.drop(layer)
    this.leaving.push(layer)
    this.dropped++
  }

  /** Works off dropped layers, a bounded number of chunks a call. Returns whether more is left. */
  reclaim(chunksMax: number): boolean {
    if (this.droppedAtStart === this.dropped && this.reclaimAt === 0) return false
    if (this.reclaimAt === 0) this.droppedAtStart = this.dropped
    const width = this.store.table.rangeOf(RANGE_CHUNKS)
    for (let left = chunksMax; left > 0 && this.reclaimAt < 2 ** 32; left -= RANGE_CHUNKS) {
      const end = Math.min(2 ** 32, this.reclaimAt + width)
      this.removeIn(this.reclaimAt, end, (layer) => this.layers.isDropped(layer))
      this.reclaimAt = end
    }
    if (this.reclaimAt < 2 ** 32) return true
    this.reclaimAt = 0
    const gone = this.layers.retire(this.leaving)
    this.leaving = this.leaving.filter((layer) => !gone.has(layer))
    return this.droppedAtStart !== this.dropped
  }

  /** The chunk is gone from all layers of the family. Returns how many blocks had an entry. */
  removeChunk(familyHigh: number, familyLow: number, chunk: number): number {
    let blocks = 0
    for (let layer = 0; layer < this.layers.length; layer++) {
      if (!this.layers.isOf(layer, familyHigh, familyLow)) continue
      const address = this.store.find(layer, chunk)
      if (address !== 0) blocks += this.remove(address)
    }
    return blocks
  }

  /** Removes all chunks that `isGone` names. Walks the index. */
  removeWhere(isGone: (named: NamedChunk) => boolean): void {
    const width = this.store.table.rangeOf(RANGE_CHUNKS)
    for (let at = 0; at < 2 ** 32; at += width) {
      this.removeIn(at, Math.min(2 ** 32, at + width), (layer, chunk) => {
        const { familyHigh, familyLow } = this.layers.keyOf(layer)
        return isGone({ familyHigh, familyLow, chunk })
      })
    }
  }

  /** The same, with a hash in [from, to). */
  private removeIn(
    from: number,
    to: number,
    isGone: (layer: number, chunk: number) => boolean
  ): void {
    // Removing a chunk may move another one, so the range is looked at again after each.
    for (let removed = true; removed; ) {
      removed = false
      this.addresses.length = 0
      this.store.table.collect(from, to, this.addresses)
      for (const address of this.addresses) {
        const words = this.store.pages.slabs[slabOf(address)]!
        const at = wordOf(address)
        if (!isGone(words[at + AT_LAYER]!, words[at + AT_CHUNK]!)) continue
        this.remove(address)
        removed = true
        break
      }
    }
  }

  private remove(address: number): number {
    const { counter, store } = this
    const words = store.pages.slabs[slabOf(address)]!
    counter.select(words[wordOf(address) + AT_LAYER]!)
    this.onRemoved(words[wordOf(address) + AT_CHUNK]!)
    const found = store.look(address, 0, CHUNK_BLOCKS)
    let blocks = 0
    for (let run = 0; run < found.length; run++) {
      const location = found.locations[run]!
      if (location < LOCATION_END) counter.onDead(location, found.counts[run]!)
      blocks += found.counts[run]!
    }
    store.entries -= blocks
    store.remove(address)
    return blocks
  }
}
