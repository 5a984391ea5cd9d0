/**
 * Takes out of the index what nobody can read any more because snapshots were deleted. Of layers
 * between two that are read only the topmost entry of each block shows: the others are dead.
 * Entries keep their layer, and no record says that one is dead: what a restart brings back is as
 * hidden as it was, and goes again.
 *
 * A walk over the index looks for chunks of layers that were not merged before, and merges these
 * through all layers that have them: so it costs what is new, however many layers there were. At
 * its end layers that hold nothing any more are forgotten, numbers and all.
 */
import { layerNumber } from '../core/layer-ids.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { AT_CHUNK, AT_LAYER } from './chunk-layout.ts'
import type { ChunkStore } from './chunk-store.ts'
import type { IndexLayers, LayerKey } from './index-layers.ts'
import { slabOf, wordOf } from './index-pages.ts'
import { HASHES_OF_CHUNK } from './index-table.ts'
import type { LayerUsage } from './layer-usage.ts'
import { LOCATION_END } from './run-list.ts'

/** Chunks looked at together. */
const RANGE_CHUNKS = 16
const LAYERS_MIN = 16

/** Layers of a branch of which the highest alone is read, or what stands on it. */
interface Merge extends LayerKey {
  /** `layerLow` of the lowest; that of the highest is the key's. */
  readonly lowest: number
}

/** What a merge is about: numbers of layers (core/layer-ids.ts). */
interface Span {
  readonly lowest: number
  readonly highest: number
  /** The highest one that is here, as long as its number is in the life that it was then. */
  readonly top: number
  readonly life: number
}

export class IndexMerges {
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  private readonly counter: LayerUsage
  private readonly onRemoved: (chunk: number) => void
  private waiting: Merge[] = []
  /** By layer: it was merged with all down to this number less 1, and not written to since. */
  private settled = new Uint32Array(LAYERS_MIN)
  /** Of the walk that goes on: spans by layers that are not settled. */
  private readonly fresh = new Map<number, Span>()
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
    const { familyHigh, familyLow, layerHigh, layerLow } = key
    this.waiting.push({ familyHigh, familyLow, layerHigh, layerLow, lowest })
  }

  /** The layer has entries that no walk has seen. */
  noteEntries(layer: number): void {
    if (layer < this.settled.length) this.settled[layer] = 0
  }

  /** Works for a bounded number of chunks. Returns whether more is left. */
  step(chunksMax: number): boolean {
    if (this.at >= 2 ** 32 && !this.begin()) return false
    const width = this.widthOf()
    for (let left = chunksMax; left > 0 && this.at < 2 ** 32; left -= RANGE_CHUNKS) {
      const end = Math.min(2 ** 32, this.at + width)
      left -= this.mergeIn(this.at, end)
      this.at = end
    }
    if (this.at < 2 ** 32) return true
    this.finish()
    return this.waiting.length > 0
  }

  /** Merges one chunk of a layer now, whatever the walk is about. */
  mergeNow(layer: number, chunk: number): void {
    if (this.at >= 2 ** 32) this.begin()
    const span = this.fresh.get(layer)
    if (span !== undefined) this.mergeChunk(span, chunk)
  }

  /** Whole blocks of hashes: all layers of a chunk are in one range. */
  private widthOf(): number {
    const width = this.store.table.rangeOf(RANGE_CHUNKS)
    return Math.ceil(width / HASHES_OF_CHUNK) * HASHES_OF_CHUNK
  }

  private begin(): boolean {
    for (const merge of this.waiting.splice(0)) this.plan(merge)
    if (this.fresh.size === 0) return false
    this.at = 0
    return true
  }

  private plan(merge: Merge): void {
    const { familyHigh, familyLow, layerHigh, layerLow } = merge
    const top = this.layers.findInBranch(familyHigh, familyLow, layerHigh, layerLow)
    if (top < 0) return
    const { chains } = this.layers
    const all = chains.layersOf(top)
    const numbers = { lowest: layerNumber(merge.lowest), highest: layerNumber(layerLow) }
    const span: Span = { ...numbers, top, life: this.layers.lifeOf(top) }
    for (let place = chains.placeOf(top); place >= chains.bottomOf(top); place--) {
      const layer = all[place]!
      if (this.numberOf(layer) < span.lowest) break
      const settled = this.settled[layer] ?? 0
      if (settled > 0 && settled - 1 <= span.lowest) continue
      this.fresh.set(layer, span)
      this.settle(layer, span.lowest)
    }
  }

  /** Until something is written to it. */
  private settle(layer: number, lowest: number): void {
    if (layer >= this.settled.length) {
      const wider = new Uint32Array(Math.max(layer + 1, this.settled.length * 2))
      wider.set(this.settled)
      this.settled = wider
    }
    this.settled[layer] = lowest + 1
  }

  /** Layers of which the merge left nothing are forgotten. */
  private finish(): void {
    const spans = new Set(this.fresh.values())
    this.fresh.clear()
    for (const span of spans) {
      if (this.isGone(span)) continue
      const { top, lowest } = span
      const below = this.layers.chains.layersOf(top).slice(0, this.layers.chains.placeOf(top))
      const gone = below.filter((layer) => this.numberOf(layer) >= lowest)
      for (const layer of this.layers.retire(gone)) this.settled[layer] = 0
    }
  }

  /** Returns how many chunks it merged. */
  private mergeIn(from: number, to: number): number {
    const { addresses, fresh, store } = this
    addresses.length = 0
    store.table.collect(from, to, addresses)
    // Merging a chunk may move others, so what is to be merged is noted first.
    const found = new Map<Span, Set<number>>()
    for (const address of addresses) {
      const words = store.pages.slabs[slabOf(address)]!
      const span = fresh.get(words[wordOf(address) + AT_LAYER]!)
      if (span === undefined) continue
      const chunks = found.get(span) ?? new Set()
      found.set(span, chunks.add(words[wordOf(address) + AT_CHUNK]!))
    }
    let merged = 0
    for (const [span, chunks] of found) {
      for (const chunk of chunks) this.mergeChunk(span, chunk)
      merged += chunks.size
    }
    return merged
  }

  private mergeChunk(span: Span, chunk: number): void {
    const { hidden, layers, store } = this
    if (this.isGone(span)) return
    const stack: { layer: number; number: number; address: number }[] = []
    for (const address of store.allOf(span.top, chunk)) {
      const layer = store.layerAt(address)
      if (layers.isDropped(layer) || !layers.isBranchOf(layer, span.top)) continue
      const number = this.numberOf(layer)
      if (number >= span.lowest && number <= span.highest) stack.push({ layer, number, address })
    }
    if (stack.length < 2) return
    stack.sort((one, other) => other.number - one.number)
    // Changing a chunk may move others: those that hold something hidden are noted first.
    const found: { layer: number; hidden: Uint8Array }[] = []
    hidden.fill(0)
    for (const { layer, address } of stack) {
      const above = this.isHidden(address) ? hidden.slice() : null
      if (above !== null) found.push({ layer, hidden: above })
      this.hide()
    }
    for (const each of found) this.dropHidden(store.find(each.layer, chunk), each.hidden)
    if (found.length > 0) this.onRemoved(chunk)
  }

  /** Its volume was deleted during the walk; another one's layer may have the number. */
  private isGone({ top, life }: Span): boolean {
    return this.layers.isDropped(top) || this.layers.lifeOf(top) !== life
  }

  /** Is some of what the chunk has hidden? */
  private isHidden(address: number): boolean {
    const { hidden } = this
    const found = this.store.look(address, 0, CHUNK_BLOCKS)
    for (let run = 0; run < found.length; run++) {
      const end = found.firsts[run]! + found.counts[run]!
      for (let block = found.firsts[run]!; block < end; block++) {
        if (hidden[block] === 1) return true
      }
    }
    return false
  }

  /** What `isHidden` looked at hides what is below. */
  private hide(): void {
    const { found } = this.store
    for (let run = 0; run < found.length; run++) {
      this.hidden.fill(1, found.firsts[run]!, found.firsts[run]! + found.counts[run]!)
    }
  }

  private numberOf(layer: number): number {
    return layerNumber(this.layers.keyOf(layer).layerLow)
  }

  /** Blocks that are `hidden` by others hold nothing now. */
  private dropHidden(address: number, hidden: Uint8Array): void {
    const { found, image } = this.store
    this.store.take(address, 0, CHUNK_BLOCKS)
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
    this.store.entries -= dropped
    this.store.give(address, CHUNK_BLOCKS)
  }
}
