/**
 * How the index holds one chunk of one layer, as u32 words. Two forms: runs, while there are few of
 * them, and packed, one entry for each block that has one, found through a bitmap. The same words,
 * big-endian, are what a checkpoint holds, so a change here is a new version of that.
 *
 *   word  field
 *     0   layer      number in the index (in a checkpoint: as its layer list says)
 *     1   chunk      index within the volume
 *     2   shape      runs or packed entries 12 bits | palette length << 12 | form << 24 | SUMMED
 *     3   runs:      checksums that follow the runs | blocks in all runs << 16
 *         packed:    entries in blocks 0..255, 0..511, 0..767 as three fields of 10 bits
 *   4-7   sums       of the versions (chunk-sums.ts), true while the shape has its bit SUMMED;
 *                    these four are not in a checkpoint
 *     8   palette    (writerEpoch, sequence >>> 32) of the versions in this chunk, 2 words each
 *
 *   runs, 4 words each in block order, then one checksum word for each block of data:
 *         first block | block count << 16
 *         location, or LOCATION_HOLE, LOCATION_ZERO
 *         sequence, low 32 bits
 *         palette index | index of the run's first checksum << 16
 *
 *   packed, after a bitmap of 32 words (bit = block & 31, low first):
 *         location, sequence low, checksum: 3 words an entry, in block order
 *         palette indexes, two a word, low half first; none where the palette has one version
 *
 * A block on its own is 15 words as a run; packed, blocks are 12 bytes each in a chunk written by
 * one writer epoch, else 14.
 */
import { endianness } from 'node:os'
import { assert } from '../core/assert.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'

export const AT_LAYER = 0
export const AT_CHUNK = 1
export const AT_SHAPE = 2
/** Runs only. */
export const AT_BLOCKS = 3
/** Packed only. */
export const AT_RANKS = 3
export const AT_SUMS = 4
export const SUMS_WORDS = 4
export const HEADER_WORDS = AT_SUMS + SUMS_WORDS
/** Any change of what the chunk holds clears it; a block that only moves does not count. */
export const SUMMED = 1 << 30

export const FORM_RUNS = 0
export const FORM_PACKED = 1

export const RUN_WORDS = 4
export const BITMAP_WORDS = CHUNK_BLOCKS / 32
export const ENTRY_WORDS = 3
export const PALETTE_WORDS = 2

const COUNT_MASK = 0xfff
const PALETTE_SHIFT = 12
const FORM_SHIFT = 24
const FORM_MASK = 0x3f

assert(CHUNK_BLOCKS === 1024, 'three rank fields of 10 bits count the entries of a chunk')
// Palette indexes are read and moved as halves of words.
assert(endianness() === 'LE', 'the index is laid out for little-endian machines')

export const shapeOf = (form: number, count: number, palette: number): number =>
  count | (palette << PALETTE_SHIFT) | (form << FORM_SHIFT)
export const formOf = (shape: number): number => (shape >>> FORM_SHIFT) & FORM_MASK
/** Runs or packed entries. */
export const countOf = (shape: number): number => shape & COUNT_MASK
export const paletteOf = (shape: number): number => (shape >>> PALETTE_SHIFT) & COUNT_MASK

export const runsWords = (palette: number, runs: number, crcs: number): number =>
  HEADER_WORDS + palette * PALETTE_WORDS + runs * RUN_WORDS + crcs

export const packedWords = (palette: number, entries: number): number =>
  HEADER_WORDS +
  palette * PALETTE_WORDS +
  BITMAP_WORDS +
  entries * ENTRY_WORDS +
  (palette > 1 ? (entries + 1) >>> 1 : 0)

/** A change of one block rewrites less of a packed chunk: worth half as much memory again. */
const RUNS_CHEAP_TO_CHANGE = 48

/** Which form a chunk should have that could have either. */
export function isBetterPacked(palette: number, runs: number, crcs: number, entries: number) {
  const asRuns = runsWords(palette, runs, crcs)
  return packedWords(palette, entries) < (runs > RUNS_CHEAP_TO_CHANGE ? asRuns * 1.5 : asRuns)
}

/** Words of the chunk that starts at `words[at]`. */
export function chunkWords(words: Uint32Array, at: number): number {
  const shape = words[at + AT_SHAPE]!
  return formOf(shape) === FORM_RUNS
    ? runsWords(paletteOf(shape), countOf(shape), words[at + AT_BLOCKS]! & COUNT_MASK)
    : packedWords(paletteOf(shape), countOf(shape))
}

export function bitCount(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555)
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333)
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** Entries before `block` (0..CHUNK_BLOCKS) in a packed chunk, whose bitmap is at `bitmapAt`. */
export function rankOf(words: Uint32Array, at: number, bitmapAt: number, block: number): number {
  const quarter = block >>> 8
  // A block past the end has the fourth quarter whole.
  let word = quarter === 4 ? 24 : quarter * 8
  let rank = word === 0 ? 0 : (words[at + AT_RANKS]! >>> ((word >>> 3) * 10 - 10)) & 0x3ff
  const last = block >>> 5
  for (; word < last; word++) rank += bitCount(words[bitmapAt + word]!)
  const bit = block & 31
  if (bit !== 0) rank += bitCount(words[bitmapAt + word]! & ((1 << bit) - 1))
  return rank
}

/** The rank field of a bitmap. */
export function ranksOf(words: Uint32Array, bitmapAt: number): number {
  let ranks = 0
  let entries = 0
  for (let word = 0; word < 24; word++) {
    entries += bitCount(words[bitmapAt + word]!)
    if (word === 7) ranks = entries
    else if (word === 15) ranks |= entries << 10
    else if (word === 23) ranks |= entries << 20
  }
  return ranks >>> 0
}

/** First run of a chunk of runs, starting at word `runsAt`, that ends behind `block`. */
export function runBehind(words: Uint32Array, runsAt: number, runs: number, block: number): number {
  let low = 0
  let high = runs
  while (low < high) {
    const middle = (low + high) >>> 1
    const span = words[runsAt + middle * RUN_WORDS]!
    if ((span & 0xffff) + (span >>> 16) > block) high = middle
    else low = middle + 1
  }
  return low
}
