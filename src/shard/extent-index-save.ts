/**
 * The extent index as bytes, for checkpoints: a stream of u32 big-endian words, cut into pieces at
 * record borders. Whoever stores a piece adds its checksum.
 *
 *   words  record
 *     2    size    MARK_SIZE, chunks in the index when the walk began (a hint for its loader)
 *     6    layer   MARK_LAYER, number, family id high and low, layer id high and low;
 *                  comes before the first chunk of that layer. The number may be given anew
 *     n    chunk   its words as chunk-layout.ts has them, without the sums
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import {
  AT_BLOCKS,
  AT_CHUNK,
  AT_LAYER,
  AT_RANKS,
  AT_SHAPE,
  AT_SUMS,
  BITMAP_WORDS,
  bitCount,
  chunkWords,
  countOf,
  ENTRY_WORDS,
  FORM_PACKED,
  FORM_RUNS,
  formOf,
  HEADER_WORDS,
  PALETTE_WORDS,
  paletteOf,
  RUN_WORDS,
  ranksOf,
  SUMMED,
  SUMS_WORDS
} from './chunk-layout.ts'
import type { ChunkStore } from './chunk-store.ts'
import type { IndexLayers } from './index-layers.ts'
import { slabOf, UNIT_WORDS, UNITS_MAX, wordOf } from './index-pages.ts'
import type { LayerUsage } from './layer-usage.ts'
import { LOCATION_END, LOCATION_HOLE, LOCATION_ZERO } from './run-list.ts'

/** Layer numbers stay below these. */
const MARK_LAYER = 0xffffffff
const MARK_SIZE = 0xfffffffe
const LAYER_WORDS = 6
const SIZE_WORDS = 2

/** `into` of `IndexSave.next` holds at least this: the largest chunk with what comes before it. */
export const SAVE_PIECE_BYTES_MIN = 64 * 1024
const RECORD_WORDS_MAX = UNITS_MAX * UNIT_WORDS + LAYER_WORDS + SIZE_WORDS
/** More chunks than a loader makes room for on the word of a piece. */
const CHUNKS_RESERVED_MAX = 2 ** 24
/** Chunks that the walk looks at together. */
const RANGE_CHUNKS = 16

/**
 * A walk over the index in the order of the chunks' hashes, which do not change while chunks move,
 * grow and go: what is there from the beginning to the end is written exactly once.
 */
export class IndexSave {
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  /** By layer: its life when it was named. */
  private readonly named: number[] = []
  private isSized = false
  /** The range of hashes being written; all before it are. */
  private from = 0
  private to = 0
  /** Key of the last chunk written of this range, when it did not fit one piece. */
  private readonly last = new ChunkKey()
  private readonly addresses: number[] = []

  constructor(store: ChunkStore, layers: IndexLayers) {
    this.store = store
    this.layers = layers
    this.to = store.table.rangeOf(RANGE_CHUNKS)
  }

  /**
   * Writes the next piece into `into`, which is 4-byte aligned and holds SAVE_PIECE_BYTES_MIN or
   * more (a MiB takes less than a millisecond), and returns its bytes; 0 when the walk is done.
   */
  next(into: Uint8Array): number {
    assert(into.byteLength >= SAVE_PIECE_BYTES_MIN, 'a piece holds any chunk')
    const words = new Uint32Array(into.buffer, into.byteOffset, into.byteLength >>> 2)
    let at = 0
    if (!this.isSized) {
      words[at++] = MARK_SIZE
      words[at++] = this.store.table.count
      this.isSized = true
    }
    while (this.from < 2 ** 32) {
      const end = this.writeRange(words, at)
      if (end < 0) return this.finish(into, -end)
      at = end
      this.from = this.to
      this.to = Math.min(2 ** 32, this.from + this.store.table.rangeOf(RANGE_CHUNKS))
      this.last.hash = -1
    }
    return this.finish(into, at)
  }

  /** Ends the walk early. */
  close(): void {
    this.from = 2 ** 32
  }

  private finish(into: Uint8Array, words: number): number {
    Buffer.from(into.buffer, into.byteOffset, words * 4).swap32()
    return words * 4
  }

  /** Writes what is left of the range. Returns where it ended; negative when the piece was full. */
  private writeRange(words: Uint32Array, start: number): number {
    const { addresses, last } = this
    addresses.length = 0
    this.store.table.collect(this.from, this.to, addresses)
    let at = start
    const fits = at + addresses.length * RECORD_WORDS_MAX <= words.length
    // In order of keys only when the piece may end inside the range, or the last one did.
    if (!fits || last.hash >= 0) addresses.sort((one, other) => this.compare(one, other))
    const key = new ChunkKey()
    for (const address of addresses) {
      if (last.hash >= 0 && key.read(this.store, address).compare(last) <= 0) continue
      if (at + RECORD_WORDS_MAX > words.length) return -at
      at = this.writeChunk(words, at, address)
      if (!fits) last.read(this.store, address)
    }
    return at
  }

  private compare(one: number, other: number): number {
    return new ChunkKey().read(this.store, one).compare(new ChunkKey().read(this.store, other))
  }

  private writeChunk(words: Uint32Array, start: number, address: number): number {
    let at = start
    const slab = this.store.pages.slabs[slabOf(address)]!
    const slabAt = wordOf(address)
    const layer = slab[slabAt + AT_LAYER]!
    if (this.layers.isDropped(layer)) return at
    const life = this.layers.lifeOf(layer)
    if (this.named[layer] !== life) {
      const key = this.layers.keyOf(layer)
      words.set([MARK_LAYER, layer, key.familyHigh, key.familyLow], at)
      words.set([key.layerHigh, key.layerLow], at + 4)
      this.named[layer] = life
      at += LAYER_WORDS
    }
    for (let i = 0; i < AT_SUMS; i++) words[at + i] = slab[slabAt + i]!
    words[at + AT_SHAPE] = words[at + AT_SHAPE]! & ~SUMMED
    const bodyAt = slabAt + HEADER_WORDS
    const body = chunkWords(slab, slabAt) - HEADER_WORDS
    at += AT_SUMS
    if (body > 64) words.set(slab.subarray(bodyAt, bodyAt + body), at)
    else for (let i = 0; i < body; i++) words[at + i] = slab[bodyAt + i]!
    return at + body
  }
}

/** Where a chunk stands in the order of the walk. */
class ChunkKey {
  hash = -1
  layer = 0
  chunk = 0

  read(store: ChunkStore, address: number): this {
    const words = store.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    this.layer = words[at + AT_LAYER]!
    this.chunk = words[at + AT_CHUNK]!
    this.hash = store.places.hashOf(this.layer, this.chunk)
    return this
  }

  compare(other: ChunkKey): number {
    return this.hash - other.hash || this.layer - other.layer || this.chunk - other.chunk
  }
}

/** Takes pieces in. Layers are numbered anew. */
export class IndexLoad {
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  private readonly counter: LayerUsage
  /** Number in the index by number in the pieces. */
  private readonly numbers = new Map<number, number>()

  constructor(store: ChunkStore, layers: IndexLayers, counter: LayerUsage) {
    this.store = store
    this.layers = layers
    this.counter = counter
  }

  /** @throws StoreError Corrupt */
  take(piece: Uint8Array, bytes: number): void {
    check(bytes % 4 === 0 && bytes <= piece.byteLength, 'an index piece of odd size')
    Buffer.from(piece.buffer, piece.byteOffset, bytes).swap32()
    const words = new Uint32Array(piece.buffer, piece.byteOffset, bytes / 4)
    for (let at = 0; at < words.length; ) {
      if (words[at] === MARK_SIZE) {
        check(at + SIZE_WORDS <= words.length, 'an index piece that ends in its size')
        this.store.table.reserve(Math.min(words[at + 1]!, CHUNKS_RESERVED_MAX))
        at += SIZE_WORDS
      } else if (words[at] === MARK_LAYER) {
        check(at + LAYER_WORDS <= words.length, 'an index piece that ends in a layer')
        this.takeLayer(words, at + 1)
        at += LAYER_WORDS
      } else at += this.takeChunk(words, at)
    }
  }

  private takeLayer(words: Uint32Array, at: number): void {
    const [number, familyHigh, familyLow, high, low] = words.subarray(at, at + LAYER_WORDS - 1)
    const known = this.layers.find(familyHigh!, familyLow!, high!, low!)
    const layer = known >= 0 ? known : this.layers.add(familyHigh!, familyLow!, high!, low!)
    this.numbers.set(number!, layer)
  }

  private takeChunk(words: Uint32Array, at: number): number {
    const length = checkedChunkWords(words, at)
    const layer = this.numbers.get(words[at + AT_LAYER]!)
    check(layer !== undefined, 'a chunk in the index whose layer was not named')
    check(this.store.find(layer, words[at + AT_CHUNK]!) === 0, 'a chunk twice in the index')
    this.store.adopt(words, at, length, layer)
    const { counter } = this
    counter.select(layer)
    const shape = words[at + AT_SHAPE]!
    const bodyAt = at + AT_SUMS + paletteOf(shape) * PALETTE_WORDS
    if (formOf(shape) === FORM_RUNS) {
      for (let run = 0; run < countOf(shape); run++) {
        const location = words[bodyAt + run * RUN_WORDS + 1]!
        const count = words[bodyAt + run * RUN_WORDS]! >>> 16
        if (location < LOCATION_END) counter.onLive(location, count)
        this.store.entries += count
      }
      return length
    }
    const entriesAt = bodyAt + BITMAP_WORDS
    for (let entry = 0; entry < countOf(shape); entry++) {
      const location = words[entriesAt + entry * ENTRY_WORDS]!
      if (location < LOCATION_END) counter.onLive(location, 1)
    }
    this.store.entries += countOf(shape)
    return length
  }
}

/** Words of the saved chunk at `words[at]`, after everything that the index needs was checked. */
function checkedChunkWords(words: Uint32Array, at: number): number {
  check(at + AT_SUMS <= words.length, 'an index piece that ends in a chunk')
  const shape = words[at + AT_SHAPE]!
  check((shape & SUMMED) === 0, 'an index chunk with sums')
  const palette = paletteOf(shape)
  const count = countOf(shape)
  check(formOf(shape) <= FORM_PACKED, 'an index chunk of unknown form')
  check(count > 0 && count <= CHUNK_BLOCKS, 'an index chunk without entries')
  check(palette > 0 && palette <= CHUNK_BLOCKS, 'an index chunk without versions')
  const length = chunkWords(words, at) - SUMS_WORDS
  check(at + length <= words.length, 'an index piece that ends in a chunk')
  check(length + SUMS_WORDS <= UNITS_MAX * UNIT_WORDS, 'an index chunk beyond its size')
  const paletteAt = at + AT_SUMS
  for (let i = 0; i < palette; i++) {
    check(words[paletteAt + i * PALETTE_WORDS + 1]! < 256, 'a sequence beyond its 40 bits')
  }
  const bodyAt = paletteAt + palette * PALETTE_WORDS
  if (formOf(shape) === FORM_RUNS) checkRuns(words, at, bodyAt, count, palette)
  else checkPacked(words, at, bodyAt, count, palette)
  return length
}

function checkRuns(words: Uint32Array, at: number, runsAt: number, runs: number, palette: number) {
  let block = 0
  let blocks = 0
  let crcs = 0
  for (let run = 0; run < runs; run++) {
    const runAt = runsAt + run * RUN_WORDS
    const first = words[runAt]! & 0xffff
    const count = words[runAt]! >>> 16
    const location = words[runAt + 1]!
    const tail = words[runAt + 3]!
    check(first >= block && count > 0, 'index runs out of order')
    check(isLocation(location, count), 'an index run that stands nowhere')
    check((tail & 0xffff) < palette, 'an index run without version')
    check(tail >>> 16 === crcs, 'an index run without checksums')
    block = first + count
    blocks += count
    if (location < LOCATION_END) crcs += count
  }
  check(block <= CHUNK_BLOCKS, 'an index run beyond its chunk')
  check(words[at + AT_BLOCKS] === crcs + blocks * 0x10000, 'an index chunk of another size')
}

function checkPacked(
  words: Uint32Array,
  at: number,
  bitmapAt: number,
  count: number,
  palette: number
) {
  let entries = 0
  for (let word = 0; word < BITMAP_WORDS; word++) entries += bitCount(words[bitmapAt + word]!)
  check(entries === count, 'an index chunk whose bitmap has other entries')
  check(words[at + AT_RANKS] === ranksOf(words, bitmapAt), 'an index chunk with other ranks')
  const entriesAt = bitmapAt + BITMAP_WORDS
  for (let entry = 0; entry < count; entry++) {
    check(isLocation(words[entriesAt + entry * ENTRY_WORDS]!, 1), 'an entry that stands nowhere')
  }
  if (palette === 1) return
  const palettesAt = entriesAt + count * ENTRY_WORDS
  for (let entry = 0; entry < count; entry++) {
    const pair = words[palettesAt + (entry >>> 1)]!
    check(((pair >>> ((entry & 1) * 16)) & 0xffff) < palette, 'an index entry without version')
  }
}

const isLocation = (location: number, count: number): boolean =>
  location + count <= LOCATION_END || location === LOCATION_HOLE || location === LOCATION_ZERO

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new StoreError(ErrorCode.Corrupt, `index checkpoint: ${what}`)
}
