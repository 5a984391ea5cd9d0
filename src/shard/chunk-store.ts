import { assert } from '../core/assert.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { ChunkImage } from './chunk-image.ts'
import {
  AT_CHUNK,
  AT_LAYER,
  AT_SHAPE,
  AT_SUMS,
  BITMAP_WORDS,
  chunkWords,
  countOf,
  ENTRY_WORDS,
  FORM_PACKED,
  formOf,
  HEADER_WORDS,
  isBetterPacked,
  PALETTE_WORDS,
  paletteOf,
  RUN_WORDS,
  runsWords,
  SUMS_WORDS
} from './chunk-layout.ts'
import { IndexPages, slabOf, UNIT_WORDS, wordOf } from './index-pages.ts'
import type { ReplayItems } from './index-replay.ts'
import { HASHES_OF_CHUNK, IndexTable, type Slots } from './index-table.ts'
import type { LayerPlaces } from './layer-places.ts'
import type { LayerUsage } from './layer-usage.ts'
import { type Change, PackedChunks } from './packed-chunks.ts'
import { LOCATION_END } from './run-list.ts'
import { RunsSplice } from './runs-splice.ts'

/** A change of more blocks is made by taking the chunk apart, which then may also pick its form. */
const IN_PLACE_BLOCKS_MAX = 31

/**
 * The chunks of the index: found by (layer, chunk), changed in place where that is simple, else
 * taken apart and put together again in the form that is smaller.
 */
export class ChunkStore {
  /** Blocks that have an entry. */
  entries = 0
  readonly pages = new IndexPages()
  readonly table = new IndexTable()
  /** What `take` found in the range, and what is to be there instead. */
  readonly found = new ChunkImage()
  readonly image = new ChunkImage()
  private readonly splice = new RunsSplice()
  readonly packed: PackedChunks
  readonly places: LayerPlaces
  private readonly counter: LayerUsage
  private readonly addresses: number[] = []

  constructor(counter: LayerUsage, places: LayerPlaces) {
    this.counter = counter
    this.places = places
    this.packed = new PackedChunks(this.pages, counter)
  }

  get bytes(): number {
    return this.pages.bytes + this.table.bytes + this.found.bytes + this.image.bytes
  }

  /** Address of the chunk's object, 0 when there is none. */
  find(layer: number, chunk: number): number {
    const hash = this.places.hashOf(layer, chunk)
    const address = this.probe(this.table.current, hash, layer, chunk)
    if (address !== 0 || this.table.previous === null) return address
    return this.probe(this.table.previous, hash, layer, chunk)
  }

  /**
   * Addresses of the chunk in all layers of the branch of this one, in no order. The array is used
   * again by the next call.
   */
  allOf(layer: number, chunk: number): readonly number[] {
    const { addresses, pages, places } = this
    const from = places.blockOf(layer, chunk)
    addresses.length = 0
    this.table.collect(from, from + HASHES_OF_CHUNK, addresses)
    let found = 0
    for (const address of addresses) {
      const words = pages.slabs[slabOf(address)]!
      const at = wordOf(address)
      if (words[at + AT_CHUNK] !== chunk) continue
      if (places.areTogether(words[at + AT_LAYER]!, layer)) addresses[found++] = address
    }
    addresses.length = found
    return addresses
  }

  layerAt(address: number): number {
    return this.pages.slabs[slabOf(address)]![wordOf(address) + AT_LAYER]!
  }

  private probe(slots: Slots, hash: number, layer: number, chunk: number): number {
    const { pairs, mask } = slots
    const slabs = this.pages.slabs
    for (let slot = slots.homeOf(hash); ; slot = (slot + 1) & mask) {
      const address = pairs[slot * 2 + 1]!
      if (address === 0) return 0
      if (pairs[slot * 2] !== hash || address === 1) continue
      const words = slabs[slabOf(address)]!
      const at = wordOf(address)
      if (words[at + AT_CHUNK] === chunk && words[at + AT_LAYER] === layer) return address
    }
  }

  /** Makes the change where no newer version stands. Returns the blocks taken. */
  apply(layer: number, chunk: number, change: Change): number {
    this.counter.select(layer)
    const address = this.find(layer, chunk)
    if (address === 0) {
      if (!change.insert) return 0
      const image = this.image
      image.clear()
      const palette = image.paletteIndex(change.writerEpoch, change.high)
      this.addChange(change, change.first, change.end, palette)
      const count = change.end - change.first
      this.create(layer, chunk)
      this.entries += count
      return count
    }
    const words = this.pages.slabs[slabOf(address)]!
    const shape = words[wordOf(address) + AT_SHAPE]!
    if (formOf(shape) === FORM_PACKED && change.end - change.first <= IN_PLACE_BLOCKS_MAX) {
      const palette = this.packed.paletteIndex(address, change)
      if (palette >= 0) return this.applyInPlace(address, change, palette)
    }
    return this.applyByRuns(address, change)
  }

  private applyInPlace(address: number, change: Change, palette: number): number {
    const growth = this.packed.growthOf(address, change)
    let home = address
    if (growth > 0) {
      const words = this.packed.wordsWith(address, growth)
      if (words > this.pages.wordsAt(address)) home = this.resettle(address, words)
      this.entries += growth
    }
    return this.packed.apply(home, change, palette, growth)
  }

  /** Makes a chunk of new blocks: items in block order, each block once. */
  build(
    layer: number,
    chunk: number,
    items: ReplayItems,
    picked: Uint32Array,
    count: number
  ): void {
    this.counter.select(layer)
    const image = this.image
    image.clear()
    for (let i = 0; i < count; i++) {
      const item = picked[i]!
      const block = items.blocks[item]!
      const location = items.locations[item]!
      const palette = image.paletteIndex(items.epochs[item]!, items.highs[item]!)
      image.add(block, 1, location, items.lows[item]!, palette)
      image.crcs[block] = items.crcs[item]!
      this.counter.onLive(location, 1)
    }
    this.create(layer, chunk)
    this.entries += count
  }

  /** Puts many blocks into a packed chunk: see `PackedChunks.merge`. */
  merge(address: number, items: ReplayItems, picked: Uint32Array, count: number): void {
    this.counter.select(this.pages.slabs[slabOf(address)]![wordOf(address) + AT_LAYER]!)
    const growth = this.packed.growthBy(address, items, picked, count)
    const words = this.packed.wordsWith(address, growth)
    const home = words > this.pages.wordsAt(address) ? this.resettle(address, words) : address
    this.entries += growth
    this.packed.merge(home, items, picked, count, growth)
  }

  isPacked(address: number): boolean {
    const words = this.pages.slabs[slabOf(address)]!
    return formOf(words[wordOf(address) + AT_SHAPE]!) === FORM_PACKED
  }

  /** Every run of data of the chunk goes where `placeOf` says. */
  relocateChunk(address: number, placeOf: (location: number) => number): number {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const shape = words[at + AT_SHAPE]!
    const isPacked = formOf(shape) === FORM_PACKED
    const bodyAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    const step = isPacked ? ENTRY_WORDS : RUN_WORDS
    // The location is the first word of an entry, and the second of a run.
    let locationAt = isPacked ? bodyAt + BITMAP_WORDS : bodyAt + 1
    let moved = 0
    for (let left = countOf(shape); left > 0; left--, locationAt += step) {
      const location = words[locationAt]!
      if (location >= LOCATION_END) continue
      const place = placeOf(location)
      if (place === location) continue
      const count = isPacked ? 1 : words[locationAt - 1]! >>> 16
      words[locationAt] = place
      this.counter.onLive(place, count)
      this.counter.onDead(location, count)
      moved += count
    }
    return moved
  }

  /** Moves a chunk to an object of `words`, no fewer than it uses. Returns the new address. */
  resettle(address: number, words: number): number {
    const slab = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const used = chunkWords(slab, at)
    const hash = this.places.hashOf(slab[at + AT_LAYER]!, slab[at + AT_CHUNK]!)
    const home = this.pages.acquire(unitsOf(words))
    this.pages.copy(address, home, used)
    this.table.replace(hash, address, home)
    this.release(address)
    return home
  }

  private applyByRuns(address: number, change: Change): number {
    const { found, image } = this
    this.take(address, change.first, change.end)
    const mine = image.paletteIndex(change.writerEpoch, change.high)
    let block = change.first
    let taken = 0
    let present = 0
    for (let run = 0; run < found.length; run++) {
      const first = found.firsts[run]!
      const count = found.counts[run]!
      present += count
      if (change.insert && block < first) taken += this.addChange(change, block, first, mine)
      block = first + count
      if (found.isNewer(run, change.writerEpoch, change.high, change.low)) this.keep(run)
      else {
        taken += this.addChange(change, first, block, mine)
        const location = found.locations[run]!
        if (location < LOCATION_END) this.counter.onDead(location, count)
      }
    }
    if (change.insert && block < change.end) {
      taken += this.addChange(change, block, change.end, mine)
    }
    if (taken === 0) return 0
    if (change.insert) this.entries += change.end - change.first - present
    this.give(address, change.end)
    return taken
  }

  /** Blocks [from, to) of the change become part of the image. */
  private addChange(change: Change, from: number, to: number, palette: number): number {
    const offset = from - change.first
    const location = change.location + offset * change.stride
    this.image.add(from, to - from, location, change.low, palette)
    if (change.stride === 1) {
      const crcs = this.image.crcs
      const at = change.crcAt + offset
      for (let i = 0; i < to - from; i++) crcs[from + i] = change.crcs[at + i]!
      this.counter.onLive(location, to - from)
    }
    return to - from
  }

  /**
   * Opens a chunk: `found` has what is in the range. What is to be there instead goes into `image`,
   * which for now has what a run that begins before the range has before it.
   */
  take(address: number, first: number, end: number): void {
    const { found, image, splice } = this
    const words = this.pages.slabs[slabOf(address)]!
    const halves = this.pages.halves[slabOf(address)]!
    const at = wordOf(address)
    this.counter.select(words[at + AT_LAYER]!)
    found.begin(words, at)
    found.append(words, halves, at, first, end)
    image.beginAs(found)
    if (formOf(words[at + AT_SHAPE]!) === FORM_PACKED) {
      splice.firstBlock = first
      splice.endBlock = end
      return
    }
    splice.aim(words, at, first, end)
    image.append(words, halves, at, splice.firstBlock, first)
  }

  /** Fills `found` alone, for who only looks. */
  look(address: number, first: number, end: number): ChunkImage {
    const at = wordOf(address)
    const words = this.pages.slabs[slabOf(address)]!
    this.found.begin(words, at)
    this.found.append(words, this.pages.halves[slabOf(address)]!, at, first, end)
    return this.found
  }

  /** The found run goes into the image as it is, or at another location. */
  keep(run: number, location = this.found.locations[run]!): void {
    const { found, image } = this
    const first = found.firsts[run]!
    const count = found.counts[run]!
    image.add(first, count, location, found.lows[run]!, found.palettes[run]!)
    if (location >= LOCATION_END) return
    for (let block = first; block < first + count; block++) image.crcs[block] = found.crcs[block]!
  }

  /** Closes a chunk that `take` opened, with what `image` has now. */
  give(address: number, end: number): void {
    const { image, splice } = this
    let words = this.pages.slabs[slabOf(address)]!
    let at = wordOf(address)
    const shape = words[at + AT_SHAPE]!
    image.append(words, this.pages.halves[slabOf(address)]!, at, end, splice.endBlock)
    const palette = paletteOf(shape)
    if (formOf(shape) === FORM_PACKED || image.paletteLength !== palette) {
      this.giveWhole(address)
      return
    }
    image.tally()
    splice.measure(words, at, image)
    if (splice.entries === 0) {
      this.remove(address)
      return
    }
    if (isBetterPacked(palette, splice.runs, splice.crcs, splice.entries)) {
      this.giveWhole(address)
      return
    }
    const needed = runsWords(palette, splice.runs, splice.crcs)
    let home = address
    if (needed > this.pages.wordsAt(address)) {
      home = this.resettle(address, needed)
      words = this.pages.slabs[slabOf(home)]!
      at = wordOf(home)
    }
    splice.run(words, at, image)
    if (!this.pages.fits(home, unitsOf(needed))) this.resettle(home, needed)
  }

  /** Closes a chunk by writing all of it anew, in the form that suits it. */
  private giveWhole(address: number): void {
    const { found: whole, splice } = this
    const words = this.pages.slabs[slabOf(address)]!
    const halves = this.pages.halves[slabOf(address)]!
    const at = wordOf(address)
    const layer = words[at + AT_LAYER]!
    const chunk = words[at + AT_CHUNK]!
    whole.beginAs(this.image)
    whole.append(words, halves, at, 0, splice.firstBlock)
    whole.addAll(this.image)
    whole.append(words, halves, at, splice.endBlock, CHUNK_BLOCKS)
    const needed = whole.plan()
    if (needed === 0) this.remove(address)
    else if (this.pages.fits(address, unitsOf(needed))) {
      whole.write(words, halves, at, layer, chunk)
    } else {
      const home = this.place(whole, unitsOf(needed), layer, chunk)
      this.table.replace(this.places.hashOf(layer, chunk), address, home)
      this.release(address)
    }
  }

  private create(layer: number, chunk: number): void {
    const home = this.place(this.image, unitsOf(this.image.plan()), layer, chunk)
    this.table.insert(this.places.hashOf(layer, chunk), home)
    this.places.added(layer, chunk)
  }

  private place(image: ChunkImage, units: number, layer: number, chunk: number): number {
    const home = this.pages.acquire(units)
    const words = this.pages.slabs[slabOf(home)]!
    const halves = this.pages.halves[slabOf(home)]!
    image.write(words, halves, wordOf(home), layer, chunk)
    return home
  }

  /** Takes in a chunk as words that were checked (see `IndexLoad`), with its layer's number. */
  adopt(words: Uint32Array, at: number, length: number, layer: number): void {
    const chunk = words[at + AT_CHUNK]!
    const home = this.pages.acquire(unitsOf(length + SUMS_WORDS))
    const homeAt = wordOf(home)
    const slab = this.pages.slabs[slabOf(home)]!
    slab.set(words.subarray(at, at + AT_SUMS), homeAt)
    slab.set(words.subarray(at + AT_SUMS, at + length), homeAt + HEADER_WORDS)
    slab[homeAt + AT_LAYER] = layer
    this.table.insert(this.places.hashOf(layer, chunk), home)
    this.places.added(layer, chunk)
  }

  /** The chunk goes with all its entries, which the caller has counted. */
  remove(address: number): void {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const layer = words[at + AT_LAYER]!
    const chunk = words[at + AT_CHUNK]!
    this.table.remove(this.places.hashOf(layer, chunk), address)
    this.places.removed(layer, chunk)
    this.release(address)
  }

  private release(address: number): void {
    const moved = this.pages.release(address)
    if (moved === 0) return
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    this.table.replace(
      this.places.hashOf(words[at + AT_LAYER]!, words[at + AT_CHUNK]!),
      moved,
      address
    )
  }
}

const unitsOf = (words: number): number => (words + UNIT_WORDS - 1) >>> 2

assert(UNIT_WORDS === 4, 'units are words shifted by two')
