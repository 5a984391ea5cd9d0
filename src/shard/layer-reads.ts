/**
 * What a layer reads as, through those that it stands on: of each block the entry of the highest
 * layer that has one. A hole is an entry too: it hides what is below.
 */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import {
  AT_SHAPE,
  countOf,
  FORM_PACKED,
  formOf,
  HEADER_WORDS,
  PALETTE_WORDS,
  paletteOf
} from './chunk-layout.ts'
import { BlockFill } from './chunk-lookup.ts'
import type { ChunkStore } from './chunk-store.ts'
import type { IndexLayers } from './index-layers.ts'
import { slabOf, wordOf } from './index-pages.ts'
import type { BlockVersions } from './index-queries.ts'
import type { LayerStack } from './layer-chains.ts'
import type { LayerTops, Tops } from './layer-tops.ts'
import { StatusExtent } from './op.ts'
import { LOCATION_ABSENT, LOCATION_END, LOCATION_ZERO, type RunList } from './run-list.ts'

const TWO_32 = 2 ** 32
/** A stack of more layers is not looked through: those that have the chunk are collected. */
const PROBED_MAX = 32

export class LayerReads {
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  private readonly tops: LayerTops
  private readonly fill = new BlockFill()
  /** Places that a read is from. */
  private readonly places = new Uint16Array(CHUNK_BLOCKS)
  private readonly seen = new Uint8Array(CHUNK_BLOCKS)
  /** Of the chunk at hand: place in the stack of each layer that has it, and address there. */
  private having = new Float64Array(PROBED_MAX)

  constructor(store: ChunkStore, layers: IndexLayers, tops: LayerTops) {
    this.store = store
    this.layers = layers
    this.tops = tops
  }

  /** As `ExtentIndex.lookup`, through the layers. */
  lookup(layer: number, chunk: number, first: number, count: number, out: RunList): void {
    const { locations } = this.fill
    this.find(layer, chunk, first, count, out.crcs)
    out.length = 0
    let run = 0
    for (let i = 1; i <= count; i++) {
      const location = locations[run]!
      const next = location < LOCATION_END ? location + i - run : location
      if (i < count && locations[i] === next) continue
      out.add(first + run, i - run, location)
      run = i
    }
  }

  /** As `ExtentIndex.status`, through the layers. */
  status(layer: number, chunk: number, first: number, count: number, out: RunList): void {
    const { locations } = this.fill
    this.find(layer, chunk, first, count, out.crcs)
    out.length = 0
    let run = 0
    for (let i = 1; i <= count; i++) {
      const kind = statusOf(locations[run]!)
      if (i < count && statusOf(locations[i]!) === kind) continue
      out.add(first + run, i - run, kind)
      run = i
    }
  }

  /** As `status`, of what is from layers at places from `bottom` on; the rest is Unchanged. */
  changes(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    bottom: number,
    out: RunList
  ): void {
    const { locations } = this.fill
    this.find(layer, chunk, first, count, out.crcs, bottom)
    out.length = 0
    let run = 0
    for (let i = 1; i <= count; i++) {
      const kind = changeOf(locations[run]!)
      if (i < count && changeOf(locations[i]!) === kind) continue
      out.add(first + run, i - run, kind)
      run = i
    }
  }

  /** The number of the layer that the block is read from. Null: no layer has it. */
  layerShown(layer: number, chunk: number, block: number): number | null {
    const { chains } = this.layers
    const stack = chains.isStacked(layer) ? chains.stackOf(layer) : null
    if (stack === null) return null
    for (let i = this.findHaving(stack, chunk) - 1; i >= 0; i--) {
      const address = this.having[i]! % TWO_32
      if (this.store.look(address, block, block + 1).length > 0) return this.store.layerAt(address)
    }
    return null
  }

  /** The versions of all that reads as data in the range; what does not keeps what was there. */
  versions(layer: number, chunk: number, first: number, count: number, out: BlockVersions): void {
    const { seen } = this
    const stack = this.layers.chains.stackOf(layer)
    const tops = this.tops.find(layer, chunk)
    seen.fill(0, 0, count)
    if (stack === null) {
      // Who asks for copies of what the layer alone has need not know on what it stands.
      this.versionsFrom(layer, chunk, first, count, out)
      return
    }
    if (tops !== null) {
      const places = this.placesIn(tops, first, count)
      for (let i = places - 1; i >= 0; i--) {
        this.versionsFrom(stack.layerAt(this.places[i]!), chunk, first, count, out)
      }
      return
    }
    let missing = count
    for (let i = this.findHaving(stack, chunk) - 1; i >= 0 && missing > 0; i--) {
      missing -= this.versionsAt(this.having[i]! % TWO_32, first, count, out)
    }
  }

  /** Fills `having`, lowest first; returns how many. */
  private findHaving(stack: LayerStack, chunk: number): number {
    const { store } = this
    let found = 0
    if (stack.length <= PROBED_MAX) {
      for (let place = 0; place < stack.length; place++) {
        const address = store.find(stack.layerAt(place), chunk)
        if (address !== 0) this.having[found++] = place * TWO_32 + address
      }
      return found
    }
    stack.forEachBranch((layer) => {
      const addresses = store.allOf(layer, chunk)
      if (found + addresses.length > this.having.length) {
        const wider = new Float64Array(2 * (found + addresses.length))
        wider.set(this.having)
        this.having = wider
      }
      for (const address of addresses) {
        const place = stack.placeOf(store.layerAt(address))
        if (place >= 0) this.having[found++] = place * TWO_32 + address
      }
    })
    this.having.subarray(0, found).sort()
    return found
  }

  /** Of blocks that are not `seen`. Returns how many it found. */
  private versionsFrom(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    out: BlockVersions
  ): number {
    const address = this.store.find(layer, chunk)
    return address === 0 ? 0 : this.versionsAt(address, first, count, out)
  }

  private versionsAt(address: number, first: number, count: number, out: BlockVersions): number {
    const { seen } = this
    const { familyLow } = this.layers.keyOf(this.store.layerAt(address))
    const found = this.store.look(address, first, first + count)
    let blocks = 0
    for (let run = 0; run < found.length; run++) {
      const isData = found.locations[run]! < LOCATION_END
      const epoch = found.epochs[found.palettes[run]!]!
      const sequence = found.highs[found.palettes[run]!]! * TWO_32 + found.lows[run]!
      const from = found.firsts[run]! - first
      for (let i = from; i < from + found.counts[run]!; i++) {
        if (seen[i] === 1) continue
        seen[i] = 1
        blocks++
        if (!isData) continue
        out.epochs[i] = epoch
        out.sequences[i] = sequence
        out.familiesLow[i] = familyLow
      }
    }
    return blocks
  }

  /** Fills `fill.locations` and `crcs` for the range, of layers from place `from` on. */
  private find(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    crcs: Uint32Array,
    from = 0
  ): void {
    const { fill } = this
    const stack = this.layers.chains.stackOf(layer)!
    const tops = this.tops.find(layer, chunk) ?? this.makeTops(layer, chunk)
    fill.begin(first, first + count, crcs)
    if (tops === null) {
      for (let i = this.findHaving(stack, chunk) - 1; i >= 0 && fill.missing > 0; i--) {
        if (this.having[i]! < from * TWO_32) return
        this.fillAt(this.having[i]! % TWO_32)
      }
      return
    }
    const places = this.placesIn(tops, first, count)
    for (let i = places - 1; i >= 0 && this.places[i]! >= from; i--) {
      this.fillFrom(stack.layerAt(this.places[i]!), chunk)
    }
  }

  /** Fills `places` with those of the range, lowest first; returns how many. */
  private placesIn(tops: Tops, first: number, count: number): number {
    const { places } = this
    let found = 0
    for (let block = first; block < first + count; block++) {
      const top = tops[block]!
      if (top === 0) continue
      let at = found
      while (at > 0 && places[at - 1]! > top - 1) at--
      if (at > 0 && places[at - 1] === top - 1) continue
      places.copyWithin(at + 1, at, found)
      places[at] = top - 1
      found++
    }
    return found
  }

  private makeTops(layer: number, chunk: number): Tops | null {
    const tops = this.tops.make(layer, chunk)
    if (tops === null) return null
    const stack = this.layers.chains.stackOf(layer)!
    const having = this.findHaving(stack, chunk)
    for (let i = 0; i < having; i++) {
      const place = Math.floor(this.having[i]! / TWO_32)
      const found = this.store.look(this.having[i]! % TWO_32, 0, CHUNK_BLOCKS)
      for (let run = 0; run < found.length; run++) {
        tops.fill(place + 1, found.firsts[run]!, found.firsts[run]! + found.counts[run]!)
      }
    }
    return tops
  }

  private fillFrom(layer: number, chunk: number): void {
    const address = this.store.find(layer, chunk)
    if (address !== 0) this.fillAt(address)
  }

  private fillAt(address: number): void {
    const { fill, store } = this
    const words = store.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const shape = words[at + AT_SHAPE]!
    const bodyAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    if (formOf(shape) === FORM_PACKED) fill.fromPacked(words, at, bodyAt)
    else fill.fromRuns(words, bodyAt, countOf(shape))
  }
}

/** Kind of `StatusExtent` of what stands at `location`. */
const statusOf = (location: number): number =>
  location < LOCATION_END
    ? StatusExtent.Data
    : location === LOCATION_ZERO
      ? StatusExtent.Zero
      : StatusExtent.Hole

const changeOf = (location: number): number =>
  location === LOCATION_ABSENT ? StatusExtent.Unchanged : statusOf(location)
