import {
  AT_RANKS,
  AT_SHAPE,
  BITMAP_WORDS,
  countOf,
  ENTRY_WORDS,
  FORM_PACKED,
  HEADER_WORDS,
  PALETTE_WORDS,
  packedWords,
  paletteOf,
  rankOf,
  SUMMED,
  shapeOf
} from './chunk-layout.ts'
import { type IndexPages, slabOf, wordOf } from './index-pages.ts'
import type { ReplayItems } from './index-replay.ts'
import { LOCATION_END } from './run-list.ts'

/** Hears of data blocks that come to be referred to, or cease to, in runs inside a segment. */
export interface LiveCounter {
  onLive(location: number, count: number): void
  onDead(location: number, count: number): void
}

/** A put or a mark on its way into a chunk. Made once, filled for each. */
export class Change {
  first = 0
  end = 0
  writerEpoch = 0
  /** The sequence's bits from 32 up, and below. */
  high = 0
  low = 0
  location = 0
  /** 1 for data, whose locations go up with the blocks, 0 for a mark. */
  stride = 0
  crcs: Uint32Array = new Uint32Array(0)
  crcAt = 0
  /** Whether blocks without an entry get one. */
  insert = true
}

/** Changes chunks of the packed form where they stand. */
export class PackedChunks {
  private readonly pages: IndexPages
  private readonly counter: LiveCounter
  /** Found by `growthOf`: rank of the first entry behind the range of the change. */
  private rankEnd = 0
  private readonly columns = new PackedColumns()

  constructor(pages: IndexPages, counter: LiveCounter) {
    this.pages = pages
    this.counter = counter
  }

  /** Where the change's version stands in the palette, -1 when it is not there. */
  paletteIndex(address: number, change: Change): number {
    return this.versionIndex(address, change.writerEpoch, change.high)
  }

  private versionIndex(address: number, writerEpoch: number, high: number): number {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    for (let i = paletteOf(words[at + AT_SHAPE]!) - 1; i >= 0; i--) {
      const paletteAt = at + HEADER_WORDS + i * PALETTE_WORDS
      if (words[paletteAt] === writerEpoch && words[paletteAt + 1] === high) return i
    }
    return -1
  }

  /** How many entries the change adds. `apply` must follow, with that much room. */
  growthOf(address: number, change: Change): number {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const bitmapAt = at + HEADER_WORDS + paletteOf(words[at + AT_SHAPE]!) * PALETTE_WORDS
    const { first, end } = change
    const rank = rankOf(words, at, bitmapAt, first)
    this.rankEnd =
      end - first === 1
        ? rank + ((words[bitmapAt + (first >>> 5)]! >>> (first & 31)) & 1)
        : rankOf(words, at, bitmapAt, end)
    return change.insert ? end - first - (this.rankEnd - rank) : 0
  }

  /** Words of the chunk with `growth` entries more. */
  wordsWith(address: number, growth: number): number {
    const shape = this.pages.slabs[slabOf(address)]![wordOf(address) + AT_SHAPE]!
    return packedWords(paletteOf(shape), countOf(shape) + growth)
  }

  /** Makes the change, whose version is `mine` in the palette. Returns the blocks taken. */
  apply(address: number, change: Change, mine: number, growth: number): number {
    if (growth > 0) this.widen(address, growth)
    const words = this.pages.slabs[slabOf(address)]!
    const halves = this.pages.halves[slabOf(address)]!
    const at = wordOf(address)
    const shape = words[at + AT_SHAPE]!
    words[at + AT_SHAPE] = shape & ~SUMMED
    const paletteAt = at + HEADER_WORDS
    const bitmapAt = paletteAt + paletteOf(shape) * PALETTE_WORDS
    const entriesAt = bitmapAt + BITMAP_WORDS
    const palettesAt = paletteOf(shape) > 1 ? (entriesAt + countOf(shape) * ENTRY_WORDS) * 2 : -1
    // From the end: entries spread into the gap that stands behind them.
    let to = this.rankEnd
    let from = to - growth
    let taken = 0
    for (let block = change.end - 1; block >= change.first; block--) {
      const bitAt = bitmapAt + (block >>> 5)
      const isPresent = (words[bitAt]! & (1 << (block & 31))) !== 0
      if (!isPresent && !change.insert) continue
      to--
      const entryAt = entriesAt + to * ENTRY_WORDS
      if (isPresent) {
        from--
        if (from !== to) {
          const oldAt = entriesAt + from * ENTRY_WORDS
          words[entryAt] = words[oldAt]!
          words[entryAt + 1] = words[oldAt + 1]!
          words[entryAt + 2] = words[oldAt + 2]!
          if (palettesAt >= 0) halves[palettesAt + to] = halves[palettesAt + from]!
        }
        const palette = palettesAt >= 0 ? halves[palettesAt + to]! : 0
        if (palette === mine) {
          if (words[entryAt + 1]! > change.low) continue
        } else if (isAbove(words, paletteAt + palette * PALETTE_WORDS, change)) continue
        const old = words[entryAt]!
        if (old < LOCATION_END) this.counter.onDead(old, 1)
      } else addBit(words, at, bitAt, block)
      const offset = block - change.first
      const location = change.location + offset * change.stride
      words[entryAt] = location
      words[entryAt + 1] = change.low
      words[entryAt + 2] = change.stride === 1 ? change.crcs[change.crcAt + offset]! : 0
      if (palettesAt >= 0) halves[palettesAt + to] = mine
      if (change.stride === 1) this.counter.onLive(location, 1)
      taken++
    }
    return taken
  }

  /** Opens a gap of `growth` entries behind the range of the change. */
  private widen(address: number, growth: number): void {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const shape = words[at + AT_SHAPE]!
    const palette = paletteOf(shape)
    const entries = countOf(shape)
    const entriesAt = at + HEADER_WORDS + palette * PALETTE_WORDS + BITMAP_WORDS
    const rank = this.rankEnd
    if (palette > 1) {
      const halves = this.pages.halves[slabOf(address)]!
      const from = (entriesAt + entries * ENTRY_WORDS) * 2
      const to = from + growth * ENTRY_WORDS * 2
      halves.copyWithin(to + rank + growth, from + rank, from + entries)
      halves.copyWithin(to, from, from + rank)
    }
    const tailAt = entriesAt + rank * ENTRY_WORDS
    const tailEnd = entriesAt + entries * ENTRY_WORDS
    if (tailAt < tailEnd) words.copyWithin(tailAt + growth * ENTRY_WORDS, tailAt, tailEnd)
    words[at + AT_SHAPE] = shapeOf(FORM_PACKED, entries + growth, palette)
    this.rankEnd = rank + growth
  }

  hasVersion(address: number, items: ReplayItems, item: number): boolean {
    return this.versionIndex(address, items.epochs[item]!, items.highs[item]!) >= 0
  }

  /** How many of the items' blocks have no entry yet. */
  growthBy(address: number, items: ReplayItems, picked: Uint32Array, count: number): number {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const bitmapAt = at + HEADER_WORDS + paletteOf(words[at + AT_SHAPE]!) * PALETTE_WORDS
    let growth = 0
    for (let i = 0; i < count; i++) {
      const block = items.blocks[picked[i]!]!
      growth += ((words[bitmapAt + (block >>> 5)]! >>> (block & 31)) & 1) ^ 1
    }
    return growth
  }

  /**
   * Puts many blocks at once. Their items are in block order, each block once, their versions in
   * the palette, and there is room for `growth` more entries. From the end on, entries move up by
   * as many as are still to come below them.
   */
  merge(
    address: number,
    items: ReplayItems,
    picked: Uint32Array,
    count: number,
    growth: number
  ): void {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const shape = words[at + AT_SHAPE]!
    const entries = countOf(shape)
    const bitmapAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    const hasPalette = paletteOf(shape) > 1
    const columns = this.columns
    columns.open(words, this.pages.halves[slabOf(address)]!, bitmapAt + BITMAP_WORDS, hasPalette)
    columns.spread(entries, growth)
    words[at + AT_SHAPE] = shapeOf(FORM_PACKED, entries + growth, paletteOf(shape))
    let from = entries
    let to = entries + growth
    for (let i = count - 1; i >= 0; i--) {
      const item = picked[i]!
      const block = items.blocks[item]!
      const bitAt = bitmapAt + (block >>> 5)
      const isPresent = (words[bitAt]! & (1 << (block & 31))) !== 0
      const rank = rankOf(words, at, bitmapAt, block)
      const behind = isPresent ? rank + 1 : rank
      to -= from - behind
      columns.move(behind, to, from - behind)
      to--
      from = rank
      const version = this.versionIndex(address, items.epochs[item]!, items.highs[item]!)
      if (isPresent) {
        columns.move(rank, to, 1)
        if (this.isEntryAbove(words, at, columns, to, items, item)) continue
        const old = columns.locationAt(to)
        if (old < LOCATION_END) this.counter.onDead(old, 1)
      } else addBit(words, at, bitAt, block)
      columns.set(to, items.locations[item]!, items.lows[item]!, items.crcs[item]!, version)
      this.counter.onLive(items.locations[item]!, 1)
    }
  }

  private isEntryAbove(
    words: Uint32Array,
    at: number,
    columns: PackedColumns,
    entry: number,
    items: ReplayItems,
    item: number
  ): boolean {
    const paletteAt = at + HEADER_WORDS + columns.paletteAt(entry) * PALETTE_WORDS
    const epoch = words[paletteAt]!
    if (epoch !== items.epochs[item]) return epoch > items.epochs[item]!
    const high = words[paletteAt + 1]!
    if (high !== items.highs[item]) return high > items.highs[item]!
    return columns.lowAt(entry) > items.lows[item]!
  }

  /** Entries in [first, end) that stand at `from`.. are set to stand at `to`.. Returns how many. */
  move(address: number, first: number, end: number, way: { from: number; to: number }): number {
    const words = this.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const bitmapAt = at + HEADER_WORDS + paletteOf(words[at + AT_SHAPE]!) * PALETTE_WORDS
    let entryAt = bitmapAt + BITMAP_WORDS + rankOf(words, at, bitmapAt, first) * ENTRY_WORDS
    let moved = 0
    for (let block = first; block < end; block++) {
      if (((words[bitmapAt + (block >>> 5)]! >>> (block & 31)) & 1) === 0) continue
      const offset = block - first
      if (words[entryAt] === way.from + offset) {
        words[entryAt] = way.to + offset
        this.counter.onLive(way.to + offset, 1)
        this.counter.onDead(way.from + offset, 1)
        moved++
      }
      entryAt += ENTRY_WORDS
    }
    return moved
  }
}

/** The entries of one packed chunk with their palette indexes, to be moved and set by number. */
class PackedColumns {
  private words: Uint32Array = new Uint32Array(0)
  private halves: Uint16Array = new Uint16Array(0)
  private entriesAt = 0
  private palettesAt = -1
  private hasPalette = false

  open(words: Uint32Array, halves: Uint16Array, entriesAt: number, hasPalette: boolean): void {
    this.words = words
    this.halves = halves
    this.entriesAt = entriesAt
    this.hasPalette = hasPalette
  }

  /** Makes room for `growth` more than `entries` at the end: palette indexes move behind it. */
  spread(entries: number, growth: number): void {
    this.palettesAt = (this.entriesAt + (entries + growth) * ENTRY_WORDS) * 2
    if (!this.hasPalette || growth === 0) return
    const old = (this.entriesAt + entries * ENTRY_WORDS) * 2
    this.halves.copyWithin(this.palettesAt, old, old + entries)
  }

  /** Up, or not at all. */
  move(from: number, to: number, count: number): void {
    if (from === to || count === 0) return
    const { words, halves, entriesAt, palettesAt } = this
    const source = entriesAt + from * ENTRY_WORDS
    const target = entriesAt + to * ENTRY_WORDS
    if (count > 16) {
      words.copyWithin(target, source, source + count * ENTRY_WORDS)
      if (this.hasPalette) {
        halves.copyWithin(palettesAt + to, palettesAt + from, palettesAt + from + count)
      }
      return
    }
    for (let i = count * ENTRY_WORDS - 1; i >= 0; i--) words[target + i] = words[source + i]!
    if (!this.hasPalette) return
    for (let i = count - 1; i >= 0; i--)
      halves[palettesAt + to + i] = halves[palettesAt + from + i]!
  }

  set(entry: number, location: number, low: number, crc: number, palette: number): void {
    const at = this.entriesAt + entry * ENTRY_WORDS
    this.words[at] = location
    this.words[at + 1] = low
    this.words[at + 2] = crc
    if (this.hasPalette) this.halves[this.palettesAt + entry] = palette
  }

  locationAt(entry: number): number {
    return this.words[this.entriesAt + entry * ENTRY_WORDS]!
  }

  lowAt(entry: number): number {
    return this.words[this.entriesAt + entry * ENTRY_WORDS + 1]!
  }

  paletteAt(entry: number): number {
    return this.hasPalette ? this.halves[this.palettesAt + entry]! : 0
  }
}

/** The block has an entry now. */
function addBit(words: Uint32Array, at: number, bitAt: number, block: number): void {
  words[bitAt] = words[bitAt]! | (1 << (block & 31))
  if (block >= 768) return
  const step = block < 256 ? 0x00100401 : block < 512 ? 0x00100400 : 0x00100000
  words[at + AT_RANKS] = words[at + AT_RANKS]! + step
}

/** Whether the version half at `words[paletteAt]` is above the change's, from which it differs. */
function isAbove(words: Uint32Array, paletteAt: number, change: Change): boolean {
  const epoch = words[paletteAt]!
  return epoch !== change.writerEpoch
    ? epoch > change.writerEpoch
    : words[paletteAt + 1]! > change.high
}
