/**
 * What replication asks of the index: sums per group and chunk, versions, layers. Answers are
 * words of entries as op.ts describes them. Sums go over a stretch of the index at a time, in the
 * order of the chunks' hashes, which do not change while the index does: what is there from the
 * first stretch to the last is counted exactly once.
 */
import { assert } from '../core/assert.ts'
import { layerNumber } from '../core/layer-ids.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { groupOfChunk } from '../placement/hash.ts'
import type { ChunkImage } from './chunk-image.ts'
import { AT_CHUNK, AT_LAYER } from './chunk-layout.ts'
import { ChunkFinds } from './chunk-finds.ts'
import type { ChunkStore } from './chunk-store.ts'
import { Sums } from './chunk-sums.ts'
import type { IndexLayers, LayerKey } from './index-layers.ts'
import { slabOf, wordOf } from './index-pages.ts'
import type { LayerReads } from './layer-reads.ts'
import {
  CHUNK_SUM_BYTES,
  DROP_BYTES,
  GROUP_SUM_BYTES,
  LAYER_BYTES,
  type ShardOp,
  VersionKind
} from './op.ts'
import { LOCATION_END, LOCATION_HOLE } from './run-list.ts'

const GROUP_SUM_WORDS = GROUP_SUM_BYTES / 4
const CHUNK_SUM_WORDS = CHUNK_SUM_BYTES / 4
const LAYER_WORDS = LAYER_BYTES / 4
const DROP_WORDS = DROP_BYTES / 4
const TWO_32 = 2 ** 32
/** Chunks that the walk finds together. */
const RANGE_CHUNKS = 16
/** A stretch ends after so many chunks, or sums made anew: both take about half a millisecond. */
const STRETCH_CHUNKS_MAX = 8192
const STRETCH_SUMS_MAX = 128

/** Where answers go, and how far they have got. */
export class AnswerWords {
  words: Uint32Array = new Uint32Array(0)
  start = 0
  end = 0
  at = 0

  open(words: Uint32Array, start: number, length: number): void {
    this.words = words
    this.start = start
    this.end = start + length
    this.at = start
  }

  room(entryWords: number): number {
    return Math.floor((this.end - this.at) / entryWords)
  }

  count(entryWords: number): number {
    return (this.at - this.start) / entryWords
  }
}

/** Versions of the data blocks of a range, each by its place from the range's first block. */
export class BlockVersions {
  readonly epochs: Uint32Array = new Uint32Array(CHUNK_BLOCKS)
  readonly sequences: Float64Array = new Float64Array(CHUNK_BLOCKS)
  /** Lower half of the family whose write it was; the upper half is that of who reads. */
  readonly familiesLow: Uint32Array = new Uint32Array(CHUNK_BLOCKS)
}

export interface SumsQuestion {
  familyHigh: number
  familyLow: number
  /** A power of two. */
  groups: number
  /** The one whose chunks are wanted; -1 for sums of each group. */
  group: number
  withHoles: boolean
  withChecksums: boolean
}

export class IndexQueries {
  readonly finds: ChunkFinds
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  private readonly reads: LayerReads
  private readonly sums = new Sums()
  private readonly addresses: number[] = []
  /** Word of a group's entry in the present answer, by group; 0 for none. */
  private entryOf = new Uint32Array(0)

  constructor(store: ChunkStore, layers: IndexLayers, reads: LayerReads) {
    this.store = store
    this.layers = layers
    this.reads = reads
    this.finds = new ChunkFinds(store, layers)
  }

  /**
   * Adds sums of the stretch that begins at `from`. Returns where the next one does, 0 when this
   * was the last. There is room for one entry or more.
   */
  sumUp(question: SumsQuestion, from: number, out: AnswerWords): number {
    const { table } = this.store
    const entryWords = question.group < 0 ? GROUP_SUM_WORDS : CHUNK_SUM_WORDS
    if (question.group < 0 && this.entryOf.length < question.groups) {
      this.entryOf = new Uint32Array(question.groups)
    }
    let at = from
    let width = table.rangeOf(RANGE_CHUNKS)
    let chunks = 0
    let made = 0
    while (at < 2 ** 32 && chunks < STRETCH_CHUNKS_MAX && made < STRETCH_SUMS_MAX) {
      const to = Math.min(2 ** 32, at + width)
      this.addresses.length = 0
      table.collect(at, to, this.addresses)
      if (this.addresses.length > out.room(entryWords)) {
        if (at > from || width === 1) break
        width = Math.ceil(width / 2)
        continue
      }
      for (const address of this.addresses) if (this.add(question, address, out)) made++
      chunks += this.addresses.length
      at = to
    }
    assert(at > from, 'an answer has room for the chunks of one hash')
    if (question.group < 0) this.forgetEntries(out)
    return at < 2 ** 32 ? at : 0
  }

  /** Whether sums had to be made. */
  private add(question: SumsQuestion, address: number, out: AnswerWords): boolean {
    const words = this.store.pages.slabs[slabOf(address)]!
    const layer = words[wordOf(address) + AT_LAYER]!
    const chunk = words[wordOf(address) + AT_CHUNK]!
    const { familyHigh, familyLow } = question
    if (!this.layers.isOfFamily(layer, familyHigh, familyLow)) return false
    if (this.layers.isDropped(layer)) return false
    const group = groupOfChunk(familyHigh, familyLow, chunk, question.groups)
    if (question.group >= 0 && group !== question.group) return false
    const { sums } = this
    const key = this.layers.keyOf(layer)
    // What stands on other layers has its holes for ever: nobody drops them.
    const withHoles = question.withHoles || layerNumber(key.layerLow) > 0
    let isMade = sums.read(this.store, address, withHoles)
    if (question.withChecksums) isMade = sums.addChecksums(this.store, address)
    if (sums.blocks === 0 && !(withHoles && sums.holes > 0)) return isMade
    if (question.group < 0) this.addToGroup(group, key, chunk, out)
    else this.addChunk(key, chunk, out)
    return isMade
  }

  private addToGroup(group: number, key: LayerKey, chunk: number, out: AnswerWords): void {
    const { sums } = this
    const { words } = out
    sums.bind(key.layerHigh, key.layerLow, chunk)
    let at = this.entryOf[group]! - 1
    if (at < 0) {
      at = out.at
      out.at += GROUP_SUM_WORDS
      this.entryOf[group] = at + 1
      words[at] = group
      words.fill(0, at + 1, at + GROUP_SUM_WORDS)
    }
    words[at + 1] = words[at + 1]! + sums.blocks
    words[at + 2] = words[at + 2]! + sums.low
    words[at + 3] = words[at + 3]! + sums.high
  }

  private forgetEntries(out: AnswerWords): void {
    for (let at = out.start; at < out.at; at += GROUP_SUM_WORDS) this.entryOf[out.words[at]!] = 0
  }

  private addChunk(key: LayerKey, chunk: number, out: AnswerWords): void {
    const { words, at } = out
    words[at] = key.layerLow
    words[at + 1] = key.layerHigh
    words[at + 2] = chunk
    words[at + 3] = this.sums.blocks
    words[at + 4] = this.sums.low
    words[at + 5] = this.sums.high
    out.at = at + CHUNK_SUM_WORDS
  }

  /** Adds the runs of one version and kind in the range, in block order. `layer` may be -1. */
  versions(layer: number, chunk: number, first: number, count: number, out: AnswerWords): void {
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) return
    const found = this.store.look(address, first, first + count)
    for (let run = 0; run < found.length; run++) this.addVersion(found, run, out)
  }

  /**
   * The versions of all that the layer reads as data in the range; what is not keeps what was
   * there. `layer` may be -1.
   */
  blockVersions(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    out: BlockVersions
  ): void {
    if (layer >= 0) this.reads.versions(layer, chunk, first, count, out)
  }

  /** How many blocks of the range are data of exactly this version. `layer` may be -1. */
  countOf(layer: number, op: Readonly<ShardOp>): number {
    const address = layer < 0 ? 0 : this.store.find(layer, op.chunk)
    if (address === 0) return 0
    const found = this.store.look(address, op.firstBlock, op.firstBlock + op.blockCount)
    const high = Math.floor(op.sequence / TWO_32)
    let blocks = 0
    for (let run = 0; run < found.length; run++) {
      const isData = found.locations[run]! < LOCATION_END
      const isSame = found.isVersion(run, op.writerEpoch, high, op.sequence >>> 0)
      if (isData && isSame) blocks += found.counts[run]!
    }
    return blocks
  }

  private addVersion(found: ChunkImage, run: number, out: AnswerWords): void {
    const { words } = out
    const first = found.firsts[run]!
    const count = found.counts[run]!
    const kind = kindOf(found.locations[run]!)
    const palette = found.palettes[run]!
    const epoch = found.epochs[palette]!
    const low = found.lows[run]!
    const high = found.highs[palette]!
    const last = out.at - 6
    // The same version in two places of the files is one run here.
    const goesOn =
      last >= out.start &&
      (words[last]! & 0xffff) + (words[last]! >>> 16) === first &&
      words[last + 1] === kind &&
      words[last + 2] === epoch &&
      words[last + 4] === low &&
      words[last + 5] === high
    if (goesOn) {
      words[last] = words[last]! + count * 0x10000
      return
    }
    const { at } = out
    words[at] = first | (count << 16)
    words[at + 1] = kind
    words[at + 2] = epoch
    words[at + 3] = 0
    words[at + 4] = low
    words[at + 5] = high
    out.at = at + 6
  }

  /**
   * Adds the chunks of a stretch whose group, of `groups`, has its bit in `bits` (the answer's
   * words from there on). Goes on as `sumUp` does.
   */
  listChunks(groups: number, bits: number, from: number, out: AnswerWords): number {
    const { table } = this.store
    let at = from
    let width = table.rangeOf(RANGE_CHUNKS)
    for (let chunks = 0; at < 2 ** 32 && chunks < STRETCH_CHUNKS_MAX; ) {
      const to = Math.min(2 ** 32, at + width)
      this.addresses.length = 0
      table.collect(at, to, this.addresses)
      if (this.addresses.length > out.room(DROP_WORDS)) {
        if (at > from || width === 1) break
        width = Math.ceil(width / 2)
        continue
      }
      for (const address of this.addresses) this.addListed(address, groups, bits, out)
      chunks += this.addresses.length
      at = to
    }
    assert(at > from, 'an answer has room for the chunks of one hash')
    return at < 2 ** 32 ? at : 0
  }

  private addListed(address: number, groups: number, bits: number, out: AnswerWords): void {
    const found = this.store.pages.slabs[slabOf(address)]!
    const layer = found[wordOf(address) + AT_LAYER]!
    const chunk = found[wordOf(address) + AT_CHUNK]!
    if (this.layers.isDropped(layer)) return
    const { familyHigh, familyLow } = this.layers.keyOf(layer)
    const group = groupOfChunk(familyHigh, familyLow, chunk, groups)
    const { words, at } = out
    if (((words[bits + (group >>> 5)]! >>> (group & 31)) & 1) === 0) return
    words[at] = familyLow
    words[at + 1] = familyHigh
    words[at + 2] = chunk
    words[at + 3] = 0
    out.at = at + DROP_WORDS
  }

  /** Adds layers from number `from` on. Returns where to go on, 0 at the end. */
  listLayers(from: number, out: AnswerWords): number {
    for (let layer = from; layer < this.layers.length; layer++) {
      if (this.layers.isDropped(layer)) continue
      if (out.room(LAYER_WORDS) === 0) return layer
      const key = this.layers.keyOf(layer)
      const { words, at } = out
      words[at] = key.familyLow
      words[at + 1] = key.familyHigh
      words[at + 2] = key.layerLow
      words[at + 3] = key.layerHigh
      out.at = at + LAYER_WORDS
    }
    return 0
  }
}

const kindOf = (location: number): number =>
  location < LOCATION_END
    ? VersionKind.Data
    : location === LOCATION_HOLE
      ? VersionKind.Hole
      : VersionKind.Zeroes
