import { CHUNK_BLOCKS } from '../core/limits.ts'
import {
  AT_BLOCKS,
  AT_CHUNK,
  AT_LAYER,
  AT_RANKS,
  AT_SHAPE,
  BITMAP_WORDS,
  countOf,
  ENTRY_WORDS,
  FORM_PACKED,
  FORM_RUNS,
  formOf,
  HEADER_WORDS,
  isBetterPacked,
  PALETTE_WORDS,
  packedWords,
  paletteOf,
  RUN_WORDS,
  rankOf,
  ranksOf,
  runBehind,
  runsWords,
  shapeOf
} from './chunk-layout.ts'
import { LOCATION_END } from './run-list.ts'

/** One palette entry more than blocks: the version that comes, before the one it replaces goes. */
const PALETTE_MAX = CHUNK_BLOCKS + 1
const RUNS_MAX = CHUNK_BLOCKS

/**
 * A chunk taken apart into runs, to be changed and put together again: scratch memory of the index,
 * made once. Runs are added in block order; neighbours that go on become one.
 */
export class ChunkImage {
  readonly bytes: number
  /** Runs in use. */
  length = 0
  readonly firsts = new Uint16Array(RUNS_MAX)
  readonly counts = new Uint16Array(RUNS_MAX)
  readonly locations = new Uint32Array(RUNS_MAX)
  readonly lows = new Uint32Array(RUNS_MAX)
  readonly palettes = new Uint16Array(RUNS_MAX)
  /** By block of the chunk. */
  readonly crcs = new Uint32Array(CHUNK_BLOCKS)
  paletteLength = 0
  readonly epochs = new Uint32Array(PALETTE_MAX)
  readonly highs = new Uint32Array(PALETTE_MAX)
  /** What `tally` found: blocks in all runs, and those of them that are data. */
  entries = 0
  dataBlocks = 0
  private form = FORM_RUNS
  private readonly paletteUse = new Uint16Array(PALETTE_MAX)

  constructor() {
    const runs = [this.firsts, this.counts, this.locations, this.lows, this.palettes, this.crcs]
    const palette = [this.epochs, this.highs, this.paletteUse]
    this.bytes = [...runs, ...palette].reduce((bytes, array) => bytes + array.byteLength, 0)
  }

  clear(): void {
    this.length = 0
    this.paletteLength = 0
  }

  /** Starts from the palette of the chunk at `words[at]`, with no runs. */
  begin(words: Uint32Array, at: number): void {
    this.length = 0
    const length = paletteOf(words[at + AT_SHAPE]!)
    for (let i = 0; i < length; i++) {
      this.epochs[i] = words[at + HEADER_WORDS + i * PALETTE_WORDS]!
      this.highs[i] = words[at + HEADER_WORDS + i * PALETTE_WORDS + 1]!
    }
    this.paletteLength = length
  }

  /** Palette index of a version's upper half, added where it is new. */
  paletteIndex(writerEpoch: number, high: number): number {
    for (let i = this.paletteLength - 1; i >= 0; i--) {
      if (this.epochs[i] === writerEpoch && this.highs[i] === high) return i
    }
    const added = this.paletteLength++
    this.epochs[added] = writerEpoch
    this.highs[added] = high
    return added
  }

  /** Whether run `run` is of a newer version. */
  isNewer(run: number, writerEpoch: number, high: number, low: number): boolean {
    const palette = this.palettes[run]!
    const epoch = this.epochs[palette]!
    if (epoch !== writerEpoch) return epoch > writerEpoch
    const runHigh = this.highs[palette]!
    return runHigh !== high ? runHigh > high : this.lows[run]! > low
  }

  isVersion(run: number, writerEpoch: number, high: number, low: number): boolean {
    const palette = this.palettes[run]!
    return (
      this.lows[run] === low && this.epochs[palette] === writerEpoch && this.highs[palette] === high
    )
  }

  add(first: number, count: number, location: number, low: number, palette: number): void {
    const last = this.length - 1
    if (last >= 0 && this.lows[last] === low && this.palettes[last] === palette) {
      const lastCount = this.counts[last]!
      const lastLocation = this.locations[last]!
      const next = lastLocation < LOCATION_END ? lastLocation + lastCount : lastLocation
      if (next === location && this.firsts[last]! + lastCount === first) {
        this.counts[last] = lastCount + count
        return
      }
    }
    const at = this.length++
    this.firsts[at] = first
    this.counts[at] = count
    this.locations[at] = location
    this.lows[at] = low
    this.palettes[at] = palette
  }

  /** Adds what the chunk at `words[at]` has in blocks [from, to), cut to that range. */
  append(words: Uint32Array, halves: Uint16Array, at: number, from: number, to: number): void {
    if (from >= to) return
    const shape = words[at + AT_SHAPE]!
    const bodyAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    if (formOf(shape) === FORM_RUNS) this.appendRuns(words, bodyAt, countOf(shape), from, to)
    else this.appendPacked(words, halves, at, bodyAt, from, to)
  }

  private appendRuns(words: Uint32Array, at: number, runs: number, from: number, to: number): void {
    const crcsAt = at + runs * RUN_WORDS
    for (let run = runBehind(words, at, runs, from); run < runs; run++) {
      const runAt = at + run * RUN_WORDS
      const span = words[runAt]!
      const first = span & 0xffff
      if (first >= to) return
      const start = Math.max(from, first)
      const end = Math.min(to, first + (span >>> 16))
      const tail = words[runAt + 3]!
      let location = words[runAt + 1]!
      if (location < LOCATION_END) {
        location += start - first
        const crcAt = crcsAt + (tail >>> 16) + start - first
        if (end - start > 64) {
          this.crcs.set(words.subarray(crcAt, crcAt + end - start), start)
        } else {
          for (let i = 0; i < end - start; i++) this.crcs[start + i] = words[crcAt + i]!
        }
      }
      this.add(start, end - start, location, words[runAt + 2]!, tail & 0xffff)
    }
  }

  private appendPacked(
    words: Uint32Array,
    halves: Uint16Array,
    at: number,
    bitmapAt: number,
    from: number,
    to: number
  ): void {
    const shape = words[at + AT_SHAPE]!
    const entriesAt = bitmapAt + BITMAP_WORDS
    const palettesAt = paletteOf(shape) > 1 ? (entriesAt + countOf(shape) * ENTRY_WORDS) * 2 : -1
    let rank = rankOf(words, at, bitmapAt, from)
    for (let word = from >>> 5; word <= (to - 1) >>> 5; word++) {
      let bits = words[bitmapAt + word]!
      if (word === from >>> 5) bits &= -1 << (from & 31)
      if (word === to >>> 5) bits &= (1 << (to & 31)) - 1
      while (bits !== 0) {
        const block = word * 32 + 31 - Math.clz32(bits & -bits)
        const entryAt = entriesAt + rank * ENTRY_WORDS
        this.crcs[block] = words[entryAt + 2]!
        const palette = palettesAt < 0 ? 0 : halves[palettesAt + rank]!
        this.add(block, 1, words[entryAt]!, words[entryAt + 1]!, palette)
        bits &= bits - 1
        rank++
      }
    }
  }

  /** Adds runs of another image that has the same palette. */
  addAll(other: ChunkImage): void {
    for (let run = 0; run < other.length; run++) {
      const first = other.firsts[run]!
      const count = other.counts[run]!
      const location = other.locations[run]!
      this.add(first, count, location, other.lows[run]!, other.palettes[run]!)
      if (location >= LOCATION_END) continue
      for (let block = first; block < first + count; block++) this.crcs[block] = other.crcs[block]!
    }
  }

  /** Takes the palette of another image, and no runs. */
  beginAs(other: ChunkImage): void {
    this.length = 0
    this.paletteLength = other.paletteLength
    for (let i = 0; i < other.paletteLength; i++) {
      this.epochs[i] = other.epochs[i]!
      this.highs[i] = other.highs[i]!
    }
  }

  tally(): void {
    this.entries = 0
    this.dataBlocks = 0
    for (let run = 0; run < this.length; run++) {
      const count = this.counts[run]!
      this.entries += count
      if (this.locations[run]! < LOCATION_END) this.dataBlocks += count
    }
  }

  /** Picks the form. Returns the words needed; 0 when nothing is left. */
  plan(): number {
    this.tally()
    const { entries, dataBlocks } = this
    if (entries === 0) return 0
    if (this.paletteLength > 1) this.dropUnusedVersions()
    const palette = this.paletteLength
    this.form = isBetterPacked(palette, this.length, dataBlocks, entries) ? FORM_PACKED : FORM_RUNS
    return this.form === FORM_PACKED
      ? packedWords(palette, entries)
      : runsWords(palette, this.length, dataBlocks)
  }

  /** Writes what `plan` planned. */
  write(words: Uint32Array, halves: Uint16Array, at: number, layer: number, chunk: number): void {
    words[at + AT_LAYER] = layer
    words[at + AT_CHUNK] = chunk
    for (let i = 0; i < this.paletteLength; i++) {
      words[at + HEADER_WORDS + i * PALETTE_WORDS] = this.epochs[i]!
      words[at + HEADER_WORDS + i * PALETTE_WORDS + 1] = this.highs[i]!
    }
    const bodyAt = at + HEADER_WORDS + this.paletteLength * PALETTE_WORDS
    const count = this.form === FORM_RUNS ? this.length : this.entries
    words[at + AT_SHAPE] = shapeOf(this.form, count, this.paletteLength)
    if (this.form === FORM_RUNS) {
      words[at + AT_BLOCKS] = this.dataBlocks | (this.entries << 16)
      this.writeRuns(words, bodyAt)
    } else {
      this.writePacked(words, halves, bodyAt)
      words[at + AT_RANKS] = ranksOf(words, bodyAt)
    }
  }

  private writeRuns(words: Uint32Array, at: number): void {
    let crcAt = 0
    const crcsAt = at + this.length * RUN_WORDS
    for (let run = 0; run < this.length; run++) {
      const runAt = at + run * RUN_WORDS
      const first = this.firsts[run]!
      const count = this.counts[run]!
      const location = this.locations[run]!
      words[runAt] = first | (count << 16)
      words[runAt + 1] = location
      words[runAt + 2] = this.lows[run]!
      words[runAt + 3] = this.palettes[run]! | (crcAt << 16)
      if (location >= LOCATION_END) continue
      if (count > 64) words.set(this.crcs.subarray(first, first + count), crcsAt + crcAt)
      else for (let i = 0; i < count; i++) words[crcsAt + crcAt + i] = this.crcs[first + i]!
      crcAt += count
    }
  }

  private writePacked(words: Uint32Array, halves: Uint16Array, bitmapAt: number): void {
    words.fill(0, bitmapAt, bitmapAt + BITMAP_WORDS)
    const entriesAt = bitmapAt + BITMAP_WORDS
    const palettesAt = (entriesAt + this.entries * ENTRY_WORDS) * 2
    let rank = 0
    for (let run = 0; run < this.length; run++) {
      const first = this.firsts[run]!
      const count = this.counts[run]!
      const location = this.locations[run]!
      const isData = location < LOCATION_END
      for (let i = 0; i < count; i++) {
        const block = first + i
        words[bitmapAt + (block >>> 5)]! |= 1 << (block & 31)
        const entryAt = entriesAt + rank * ENTRY_WORDS
        words[entryAt] = isData ? location + i : location
        words[entryAt + 1] = this.lows[run]!
        words[entryAt + 2] = isData ? this.crcs[block]! : 0
        if (this.paletteLength > 1) halves[palettesAt + rank] = this.palettes[run]!
        rank++
      }
    }
    if (this.paletteLength > 1 && (rank & 1) === 1) halves[palettesAt + rank] = 0
  }

  /** Versions that no run has any more leave the palette. */
  private dropUnusedVersions(): void {
    const use = this.paletteUse
    use.fill(0, 0, this.paletteLength)
    for (let run = 0; run < this.length; run++) use[this.palettes[run]!] = 1
    let kept = 0
    for (let i = 0; i < this.paletteLength; i++) {
      if (use[i] === 0) continue
      this.epochs[kept] = this.epochs[i]!
      this.highs[kept] = this.highs[i]!
      use[i] = kept++
    }
    if (kept === this.paletteLength) return
    this.paletteLength = kept
    for (let run = 0; run < this.length; run++) this.palettes[run] = use[this.palettes[run]!]!
  }
}
