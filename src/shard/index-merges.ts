/**
 * Takes out of the index what nobody can read any more because snapshots were deleted. Of layers
 * between two that are read only the topmost entry of each block shows: the others are dead.
 * Entries keep their layer, and no record says that one is dead: what a restart brings back is as
 * hidden as it was, and goes again.
 */
import { layerNumber } from '../core/layer-ids.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { AT_CHUNK, AT_LAYER } from './chunk-layout.ts'
import type { ChunkStore } from './chunk-store.ts'
import type { IndexLayers, LayerKey } from './index-layers.ts'
import { slabOf, wordOf } from './index-pages.ts'
import type { LayerUsage } from './layer-usage.ts'
import { LOCATION_END } from './run-list.ts'

/** Chunks looked at together. */
const RANGE_CHUNKS = 16

/** Layers of a branch of which the highest alone is read, or what stands on it. */
interface Merge extends LayerKey {
  /** `layerLow` of the lowest; that of the highest is the key's. */
  readonly lowest: number
}

/** Layers in their order: what stands at places from `from` on hides what a layer has. */
interface Stack {
  readonly layers: readonly number[]
  readonly from: number
}

export class IndexMerges {
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  private readonly counter: LayerUsage
  private readonly onRemoved: (chunk: number) => void
  private waiting: Merge[] = []
  /** Of the walk that goes on: by layer those above it that hide what it has. */
  private readonly above = new Map<number, Stack>()
  /** Where the walk stands, as hash; at the end there is none. */
  private at = 2 ** 32
  private readonly addresses: number[] = []
  private readonly hidden = new Uint8Array(CHUNK_BLOCKS)

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

  add(key: LayerKey, lowest: number): void {
    this.waiting.push({ ...key, lowest })
  }

  /** Works for a bounded number of chunks. Returns whether more is left. */
  step(chunksMax: number): boolean {
    if (this.at >= 2 ** 32 && !this.begin()) return false
    const width = this.store.table.rangeOf(RANGE_CHUNKS)
    for (let left = chunksMax; left > 0 && this.at < 2 ** 32; left -= RANGE_CHUNKS) {
      const end = Math.min(2 ** 32, this.at + width)
      this.mergeIn(this.at, end)
      this.at = end
    }
    return this.at < 2 ** 32 || this.waiting.length > 0
  }

  /** Merges one chunk of a layer now, whatever the walk is about. */
  mergeNow(layer: number, chunk: number): void {
    if (this.at >= 2 ** 32) this.begin()
    const address = this.store.find(layer, chunk)
    if (address !== 0) this.mergeChunk(address)
  }

  private begin(): boolean {
    this.above.clear()
    for (const merge of this.waiting.splice(0)) this.plan(merge)
    if (this.above.size === 0) return false
    this.at = 0
    return true
  }

  private plan({ lowest, ...key }: Merge): void {
    const { familyHigh, familyLow, layerHigh, layerLow } = key
    const highest = this.layers.findInBranch(familyHigh, familyLow, layerHigh, layerLow)
    if (highest < 0) return
    const { chains } = this.layers
    const layers = chains.layersOf(highest).slice(0, chains.placeOf(highest) + 1)
    for (let from = layers.length - 1; from > chains.bottomOf(highest); from--) {
      const layer = layers[from - 1]!
      if (layerNumber(this.layers.keyOf(layer).layerLow) < layerNumber(lowest)) break
      this.above.set(layer, { layers, from })
    }
  }

  private mergeIn(from: number, to: number): void {
    // Changing a chunk may move another one, so the range is looked at again after each.
    for (let changed = true; changed; ) {
      changed = false
      this.addresses.length = 0
      this.store.table.collect(from, to, this.addresses)
      for (const address of this.addresses) {
        changed = this.mergeChunk(address)
        if (changed) break
      }
    }
  }

  /** Whether anything of the chunk went. */
  private mergeChunk(address: number): boolean {
    const { store, hidden } = this
    const words = store.pages.slabs[slabOf(address)]!
    const layer = words[wordOf(address) + AT_LAYER]!
    const above = this.above.get(layer)
    if (above === undefined || this.layers.isDropped(layer)) return false
    const chunk = words[wordOf(address) + AT_CHUNK]!
    hidden.fill(0)
    let isHidden = false
    for (let place = above.from; place < above.layers.length; place++) {
      const other = above.layers[place]!
      const home = this.layers.isDropped(other) ? 0 : store.find(other, chunk)
      if (home === 0) continue
      const found = store.look(home, 0, CHUNK_BLOCKS)
      for (let run = 0; run < found.length; run++) {
        hidden.fill(1, found.firsts[run]!, found.firsts[run]! + found.counts[run]!)
        isHidden = true
      }
    }
    if (!isHidden || this.dropHidden(address) === 0) return false
    this.onRemoved(chunk)
    return true
  }

  /** Blocks that are `hidden` hold nothing now. Returns how many held something. */
  private dropHidden(address: number): number {
    const { hidden, store } = this
    const { found, image } = store
    store.take(address, 0, CHUNK_BLOCKS)
    let dropped = 0
    for (let run = 0; run < found.length; run++) {
      const first = found.firsts[run]!
      const end = first + found.counts[run]!
      const stride = found.locations[run]! < LOCATION_END ? 1 : 0
      for (let from = first, to = first; from < end; from = to) {
        const isGone = hidden[from]
        for (to = from; to < end && hidden[to] === isGone; ) to++
        const location = found.locations[run]! + stride * (from - first)
        if (isGone === 1) {
          if (stride === 1) this.counter.onDead(location, to - from)
          dropped += to - from
          continue
        }
        image.add(from, to - from, location, found.lows[run]!, found.palettes[run]!)
        for (let block = from; block < to; block++) image.crcs[block] = found.crcs[block]!
      }
    }
    if (dropped === 0) return 0
    store.entries -= dropped
    store.give(address, CHUNK_BLOCKS)
    return dropped
  }
}
