/**
 * Which layer each block of a chunk is read from, remembered: a read through a hundred layers looks
 * into one. Made when a chunk is read, kept up to date by what is written to the layer that is read
 * (the head of a volume, mostly), thrown away by anything else that changes the chunk.
 */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import type { LayerChains } from './layer-chains.ts'

/** Fewer layers are looked through as fast. */
const LAYERS_MIN = 3
/** 32 MiB: 64 GiB of volumes per shard. */
const TOPS_MAX = 16_384
/** When there are so many, one in so many chunks read takes the place of another. */
const REPLACE_EVERY = 16

/** By block: place of its layer in the stack of the one that is read, plus 1; 0: it has none. */
export type Tops = Uint16Array

export class LayerTops {
  private readonly chains: LayerChains
  /** By the layer that is read, then by chunk; oldest first. */
  private readonly views = new Map<number, Map<number, Tops>>()
  private count = 0
  private misses = 0

  constructor(chains: LayerChains) {
    this.chains = chains
    chains.onAdded = (layer, place) => this.added(layer, place)
    chains.onChanged = () => this.clear()
  }

  get bytes(): number {
    return this.count * CHUNK_BLOCKS * 2
  }

  find(layer: number, chunk: number): Tops | null {
    return this.views.get(layer)?.get(chunk) ?? null
  }

  /** Room for those of a chunk that is read, zeroed; null where it is not worth it. */
  make(layer: number, chunk: number): Tops | null {
    const places = this.chains.stackOf(layer)!.length - 1
    if (places < LAYERS_MIN || places >= 0xffff) return null
    if (this.count >= TOPS_MAX) {
      if (++this.misses % REPLACE_EVERY !== 0) return null
      this.dropOldest()
    }
    const tops = new Uint16Array(CHUNK_BLOCKS)
    let view = this.views.get(layer)
    if (view === undefined) {
      view = new Map()
      this.views.set(layer, view)
    }
    view.set(chunk, tops)
    this.count++
    return tops
  }

  /** The layer has entries in these blocks now. */
  noteEntries(layer: number, chunk: number, first: number, count: number): void {
    if (this.count === 0) return
    for (const [read, view] of this.views) {
      if (read === layer) {
        view.get(chunk)?.fill(this.chains.stackOf(layer)!.length, first, first + count)
      } else if (this.chains.isAbove(read, layer) && view.delete(chunk)) this.count--
    }
  }

  /** Entries of the chunk went, in some layer. */
  forget(chunk: number): void {
    if (this.count === 0) return
    for (const view of this.views.values()) if (view.delete(chunk)) this.count--
  }

  clear(): void {
    this.views.clear()
    this.count = 0
  }

  /** A layer is on top of the others: what was read from the one below now is from it. */
  private added(layer: number, place: number): void {
    if (this.count === 0) return
    const layers = this.chains.layersOf(layer)
    if (place < layers.length - 1) {
      this.clear() // those above it have other places now
      return
    }
    const below = place > 0 ? layers[place - 1]! : -1
    const view = this.views.get(below)
    if (view === undefined || this.chains.bottomOf(layer) === place) return
    this.views.delete(below)
    this.views.set(layer, view)
  }

  private dropOldest(): void {
    for (const [layer, view] of this.views) {
      for (const chunk of view.keys()) {
        view.delete(chunk)
        this.count--
        return
      }
      this.views.delete(layer)
    }
  }
}
