/**
 * Where every block of every layer in this shard stands: (layer, chunk, block) -> location, version
 * and CRC-32C. All of it in typed arrays:
 *
 *   (layer, chunk) --IndexTable--> address --IndexPages--> words of one chunk (chunk-layout.ts)
 *
 * A chunk is a few runs where it was written in large pieces (16 bytes a run, 4 a block for the
 * checksum), else a bitmap and 12 to 14 bytes for each block that has an entry. Its memory follows
 * what is in it in steps of 6 %, up and down.
 *
 * A location is slot * pages per segment + page. Runs are not merged across segments, because a
 * segment's first page is its header. Versions are compared as (writerEpoch, sequence).
 */
import { assert } from '../core/assert.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import {
  AT_CHUNK,
  AT_LAYER,
  AT_SHAPE,
  countOf,
  FORM_PACKED,
  formOf,
  HEADER_WORDS,
  PALETTE_WORDS,
  paletteOf
} from './chunk-layout.ts'
import { lookupPacked, lookupRuns } from './chunk-lookup.ts'
import { ChunkStore } from './chunk-store.ts'
import { IndexLoad, IndexSave } from './extent-index-save.ts'
import { IndexDrops } from './index-drops.ts'
import { IndexLayers, type LayerKey } from './index-layers.ts'
import { IndexMerges } from './index-merges.ts'
import { slabOf, wordOf } from './index-pages.ts'
import { IndexQueries } from './index-queries.ts'
import { IndexSpace, type SpaceQuestion } from './index-space.ts'
import { IndexReplay, REPLAY_BLOCKS_MAX } from './index-replay.ts'
import { LayerReads } from './layer-reads.ts'
import { LayerTops } from './layer-tops.ts'
import { LayerUsage } from './layer-usage.ts'
import { Change, type LiveCounter } from './packed-chunks.ts'
import {
  LOCATION_ABSENT,
  LOCATION_END,
  LOCATION_HOLE,
  LOCATION_ZERO,
  type RunList
} from './run-list.ts'

export { SAVE_PIECE_BYTES_MIN } from './extent-index-save.ts'
export { BASE_UNKNOWN, type LayerKey } from './index-layers.ts'
export type { LiveCounter } from './packed-chunks.ts'

/** Sees entries one run at a time: same layer and chunk, adjacent blocks, adjacent locations. */
export type EntryVisitor = (
  layer: number,
  chunk: number,
  first: number,
  count: number,
  location: number
) => void

/** Versions above a floor, up to and with one. */
export interface Span {
  readonly floorEpoch: number
  readonly floorSequence: number
  readonly writerEpoch: number
  readonly sequence: number
}

/** Sequences stay below this, so that their upper half is a byte. */
const SEQUENCE_END = 2 ** 40

export class ExtentIndex {
  private readonly counter: LayerUsage
  private readonly store: ChunkStore
  private readonly layers = new IndexLayers()
  private readonly change = new Change()
  private loading: IndexLoad | null = null
  private replay: IndexReplay | null = null
  /** Chunks that go as a whole. */
  readonly drops: IndexDrops
  /** What deleted snapshots leave. */
  readonly merges: IndexMerges
  private readonly reads: LayerReads
  private readonly tops: LayerTops

  constructor(counter: LiveCounter) {
    this.counter = new LayerUsage(counter)
    this.store = new ChunkStore(this.counter, this.layers.places)
    this.tops = new LayerTops(this.layers.chains)
    const onRemoved = (chunk: number): void => this.tops.forget(chunk)
    this.merges = new IndexMerges(this.store, this.layers, this.counter, onRemoved)
    this.reads = new LayerReads(this.store, this.layers, this.tops)
    this.drops = new IndexDrops(this.store, this.layers, this.counter, onRemoved)
  }

  /** Blocks with an entry: data, hole or zeroes. */
  get entries(): number {
    return this.store.entries
  }

  /** Chunks with an entry. */
  get chunks(): number {
    return this.store.table.count
  }

  /** Memory of the index, in bytes. */
  get bytes(): number {
    return this.store.bytes + this.layers.bytes + this.counter.bytes + this.tops.bytes
  }

  /** Blocks with data in one layer. */
  layerBlocks(familyHigh: number, familyLow: number, layerHigh: number, layerLow: number): number {
    const layer = this.layers.find(familyHigh, familyLow, layerHigh, layerLow)
    return layer < 0 ? 0 : this.counter.blocksOf(layer)
  }

  /** Blocks with data of all layers of the family; dropped ones count no more. */
  familyBlocks(familyHigh: number, familyLow: number): number {
    let blocks = 0
    for (let layer = 0; layer < this.layers.length; layer++) {
      if (this.layers.isOf(layer, familyHigh, familyLow)) blocks += this.counter.blocksOf(layer)
    }
    return blocks
  }

  /**
   * Small number of a layer, good as long as it holds anything and until `dropLayer`.
   * -1 when it is not known and `create` is false.
   */
  layerIndex(
    familyHigh: number,
    familyLow: number,
    layerHigh: number,
    layerLow: number,
    create: boolean
  ): number {
    const known = this.layers.find(familyHigh, familyLow, layerHigh, layerLow)
    if (known >= 0 || !create) return known
    return this.layers.add(familyHigh, familyLow, layerHigh, layerLow)
  }

  /** Some layers may stand on others. */
  get isLayered(): boolean {
    return this.layers.hasNumbered
  }

  layerKey(layer: number): LayerKey {
    return this.layers.keyOf(layer)
  }

  /**
   * Blocks [first, first + count) of the chunk now stand at `location`.. and have the checksums
   * `crcs[crcAt]`.., but for those of which the index holds a newer version: an equal one gives
   * way. Returns how many blocks were taken.
   */
  put(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    writerEpoch: number,
    sequence: number,
    location: number,
    crcs: Uint32Array,
    crcAt: number
  ): number {
    assert(location + count <= LOCATION_END, 'data stands below the marks')
    this.replay?.flush()
    const change = this.changeOf(first, count, writerEpoch, sequence)
    change.location = location
    change.stride = 1
    change.crcs = crcs
    change.crcAt = crcAt
    change.insert = true
    this.noteEntries(layer, chunk, first, count)
    return this.store.apply(layer, chunk, change)
  }

  /**
   * As `put`, but small puts may wait, to go in together with others of their chunk: three times
   * as fast for random blocks. For recovery: until `endReplay` nothing may be asked.
   */
  replayPut(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    writerEpoch: number,
    sequence: number,
    location: number,
    crcs: Uint32Array,
    crcAt: number
  ): void {
    if (count > REPLAY_BLOCKS_MAX) {
      this.put(layer, chunk, first, count, writerEpoch, sequence, location, crcs, crcAt)
      return
    }
    this.replay ??= new IndexReplay(this.store, new Change())
    const change = this.changeOf(first, count, writerEpoch, sequence)
    change.location = location
    change.crcs = crcs
    change.crcAt = crcAt
    this.replay.add(layer, chunk, change)
  }

  /** Everything that `replayPut` was given is in the index when this returns. */
  endReplay(): void {
    this.replay?.flush()
    this.replay = null // gives its scratch memory back
  }

  /**
   * The blocks are a hole, or zeroes. Where the index has no entry a hole is only kept with
   * `keepHole` (something older may still come, or show through). Returns how many were taken.
   */
  putMark(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    writerEpoch: number,
    sequence: number,
    mark: typeof LOCATION_HOLE | typeof LOCATION_ZERO,
    keepHole: boolean
  ): number {
    this.replay?.flush()
    const change = this.changeOf(first, count, writerEpoch, sequence)
    change.location = mark
    change.stride = 0
    change.insert = keepHole || mark === LOCATION_ZERO
    if (change.insert) this.noteEntries(layer, chunk, first, count)
    return this.store.apply(layer, chunk, change)
  }

  private noteEntries(layer: number, chunk: number, first: number, count: number): void {
    this.tops.noteEntries(layer, chunk, first, count)
    this.merges.noteEntries(layer)
  }

  private changeOf(first: number, count: number, writerEpoch: number, sequence: number): Change {
    assert(count > 0 && first + count <= CHUNK_BLOCKS, 'a range is inside its chunk')
    assert(sequence < SEQUENCE_END, 'a sequence has 40 bits')
    const change = this.change
    change.first = first
    change.end = first + count
    change.writerEpoch = writerEpoch
    change.high = Math.floor(sequence / 2 ** 32)
    change.low = sequence >>> 0
    return change
  }

  /**
   * Those of the blocks that still stand at `from`.. stand at `to`.. now, same version, same
   * checksums (compaction). Returns how many.
   */
  move(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    from: number,
    to: number
  ): number {
    assert(to + count <= LOCATION_END, 'data stands below the marks')
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) return 0
    if (this.store.isPacked(address)) {
      return this.store.packed.move(address, first, first + count, { from, to })
    }
    const found = this.store.found
    this.store.take(address, first, first + count)
    let moved = 0
    for (let run = 0; run < found.length; run++) {
      const offset = found.firsts[run]! - first
      const location = found.locations[run]!
      if (location !== from + offset) this.store.keep(run)
      else {
        const blocks = found.counts[run]!
        this.store.keep(run, to + offset)
        this.counter.onLive(to + offset, blocks)
        this.counter.onDead(location, blocks)
        moved += blocks
      }
    }
    if (moved > 0) this.store.give(address, first + count)
    return moved
  }

  /** The branch of `key` begins on a layer; null: on none. Known until the process ends. */
  setBase(key: Omit<LayerKey, 'layerLow'>, base: LayerKey | null): void {
    this.layers.chains.setBase(key, base)
  }

  /** Is anything here of the layer, or of what it stands on in its branch? */
  hasOfBranch(familyHigh: number, familyLow: number, layerHigh: number, layerLow: number): boolean {
    return this.layers.findInBranch(familyHigh, familyLow, layerHigh, layerLow) >= 0
  }

  /**
   * Number of a layer to read: it may have no entry of its own and stand on one that has. -1 when
   * nothing is here that it could show, BASE_UNKNOWN when that is not known.
   */
  readIndex(familyHigh: number, familyLow: number, layerHigh: number, layerLow: number): number {
    return this.layers.findStacked(familyHigh, familyLow, layerHigh, layerLow)
  }

  /**
   * Fills `out` with runs that cover the whole range, and with the checksums of its data: what the
   * layer reads as. `layer` may be -1.
   */
  lookup(layer: number, chunk: number, first: number, count: number, out: RunList): void {
    if (layer >= 0 && this.layers.chains.isStacked(layer)) {
      this.reads.lookup(layer, chunk, first, count, out)
    } else this.lookupAlone(layer, chunk, first, count, out)
  }

  /** The layer that `layer` reads the block from, which is there. */
  layerShown(layer: number, chunk: number, block: number): number {
    return this.reads.layerShown(layer, chunk, block) ?? layer
  }

  /** Runs of equal `StatusExtent` that cover the whole range; `out.locations` holds these. */
  status(layer: number, chunk: number, first: number, count: number, out: RunList): void {
    this.reads.status(layer, chunk, first, count, out)
  }

  /**
   * As `status`, of what the layer does not have from the one with the given halves, or from below
   * it. Returns false if that is none on which the layer can stand.
   */
  changes(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    since: Pick<LayerKey, 'layerHigh' | 'layerLow'>,
    out: RunList
  ): boolean {
    const bottom = this.layers.chains.placeAbove(layer, since)
    if (bottom < 0) return false
    this.reads.changes(layer, chunk, first, count, bottom, out)
    return true
  }

  /** As `lookup`, of what this layer alone has. */
  lookupAlone(layer: number, chunk: number, first: number, count: number, out: RunList): void {
    out.length = 0
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) {
      out.add(first, count, LOCATION_ABSENT)
      return
    }
    const words = this.store.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const shape = words[at + AT_SHAPE]!
    const bodyAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    if (formOf(shape) === FORM_PACKED) lookupPacked(words, at, bodyAt, first, first + count, out)
    else lookupRuns(words, bodyAt, countOf(shape), first, first + count, out)
  }

  /** How many blocks of the range are no holes: none means that a trim has nothing to do. */
  countFilled(layer: number, chunk: number, first: number, count: number): number {
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) return 0
    const found = this.store.look(address, first, first + count)
    let filled = 0
    for (let run = 0; run < found.length; run++) {
      if (found.locations[run] !== LOCATION_HOLE) filled += found.counts[run]!
    }
    return filled
  }

  /**
   * Which blocks of a data record are live: fills `out` with the runs (no checksums) that still
   * stand where the record has them, returns how many blocks that are. `layer` may be -1.
   */
  liveRuns(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    location: number,
    out: RunList
  ): number {
    out.length = 0
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) return 0
    const found = this.store.look(address, first, first + count)
    let live = 0
    for (let run = 0; run < found.length; run++) {
      const at = found.firsts[run]!
      if (found.locations[run] !== location + at - first) continue
      out.extend(at, found.counts[run]!, location + at - first)
      live += found.counts[run]!
    }
    return live
  }

  /**
   * Which blocks of a trim or write-zeroes record are live: the runs that hold a mark of exactly
   * this version. Returns how many blocks that are. `layer` may be -1.
   */
  markRuns(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    writerEpoch: number,
    sequence: number,
    out: RunList
  ): number {
    out.length = 0
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) return 0
    const high = Math.floor(sequence / 2 ** 32)
    const found = this.store.look(address, first, first + count)
    let live = 0
    for (let run = 0; run < found.length; run++) {
      const location = found.locations[run]!
      if (location < LOCATION_END) continue
      if (!found.isVersion(run, writerEpoch, high, sequence >>> 0)) continue
      out.extend(found.firsts[run]!, found.counts[run]!, location)
      live += found.counts[run]!
    }
    return live
  }

  /**
   * Forgets holes of exactly this version: their tombstone has nothing older left to hide.
   * Returns how many blocks. `layer` may be -1.
   */
  dropHoles(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    writerEpoch: number,
    sequence: number
  ): number {
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) return 0
    const high = Math.floor(sequence / 2 ** 32)
    const found = this.store.found
    this.tops.forget(chunk)
    this.store.take(address, first, first + count)
    let dropped = 0
    for (let run = 0; run < found.length; run++) {
      const isHole = found.locations[run] === LOCATION_HOLE
      if (isHole && found.isVersion(run, writerEpoch, high, sequence >>> 0)) {
        dropped += found.counts[run]!
      } else this.store.keep(run)
    }
    if (dropped === 0) return 0
    this.store.entries -= dropped
    this.store.give(address, first + count)
    return dropped
  }

  /**
   * The layer is gone at once: `layerIndex` knows it no more. What it held is counted dead and its
   * memory given back by `drops.reclaim`.
   */
  dropLayer(layer: number): void {
    this.replay?.flush()
    this.drops.dropLayer(layer)
  }

  /**
   * Asks for every run of data where it stands now, and notes it there: same version, same
   * checksums. Walks the whole index and allocates nothing. Returns how many blocks moved.
   */
  relocate(placeOf: (location: number) => number): number {
    let moved = 0
    this.store.pages.forEach((address) => {
      moved += this.store.relocateChunk(address, placeOf)
    })
    return moved
  }

  /** Shows all data with a location in [start, end), in no particular order. Walks the index. */
  forEachWithin(start: number, end: number, visit: EntryVisitor): void {
    this.store.pages.forEach((address) => {
      const words = this.store.pages.slabs[slabOf(address)]!
      const at = wordOf(address)
      const layer = words[at + AT_LAYER]!
      if (this.layers.isDropped(layer)) return
      const chunk = words[at + AT_CHUNK]!
      const found = this.store.look(address, 0, CHUNK_BLOCKS)
      for (let run = 0; run < found.length; run++) {
        const location = found.locations[run]!
        const from = Math.max(start, location)
        const to = Math.min(end, LOCATION_END, location + found.counts[run]!)
        if (from < to) visit(layer, chunk, found.firsts[run]! + from - location, to - from, from)
      }
    })
  }

  /** Merges chunks that have anything at `lost` or behind it: there is no data any more. */
  dropHiddenFrom(lost: number): void {
    const chunks: { layer: number; chunk: number }[] = []
    this.forEachWithin(lost, LOCATION_END, (layer, chunk) => {
      const last = chunks.at(-1)
      if (last?.layer !== layer || last.chunk !== chunk) chunks.push({ layer, chunk })
    })
    for (const { layer, chunk } of chunks) this.merges.mergeNow(layer, chunk)
  }

  /** What views of a volume take, as far as it is counted. */
  space(question: SpaceQuestion): IndexSpace {
    return new IndexSpace(this.store, this.layers, question)
  }

  /** Answers what replication asks. */
  queries(): IndexQueries {
    return new IndexQueries(this.store, this.layers, this.reads)
  }

  /**
   * Blocks of the range that hold a version above the floor, up to `writerEpoch`, `sequence`, hold
   * nothing now; nor do those that stand at `lost` or behind it and have one up to that. Returns
   * how many. `layer` may be -1.
   */
  dropVersions(
    layer: number,
    chunk: number,
    first: number,
    count: number,
    gone: Span,
    lost: number = LOCATION_END
  ): number {
    const address = layer < 0 ? 0 : this.store.find(layer, chunk)
    if (address === 0) return 0
    this.replay?.flush()
    this.tops.forget(chunk)
    const found = this.store.found
    this.store.take(address, first, first + count)
    const high = Math.floor(gone.sequence / 2 ** 32)
    const floorHigh = Math.floor(gone.floorSequence / 2 ** 32)
    let dropped = 0
    for (let run = 0; run < found.length; run++) {
      const location = found.locations[run]!
      const isLost = location >= lost && location < LOCATION_END
      const isAbove = found.isNewer(run, gone.floorEpoch, floorHigh, gone.floorSequence >>> 0)
      if (!(isAbove || isLost) || found.isNewer(run, gone.writerEpoch, high, gone.sequence >>> 0)) {
        this.store.keep(run)
        continue
      }
      if (location < LOCATION_END) this.counter.onDead(location, found.counts[run]!)
      dropped += found.counts[run]!
    }
    if (dropped === 0) return 0
    this.store.entries -= dropped
    this.store.give(address, first + count)
    return dropped
  }

  /**
   * Starts a walk that writes the index as pieces while it goes on changing: every chunk is
   * written as it is at some moment of the walk.
   */
  save(): IndexSave {
    return new IndexSave(this.store, this.layers)
  }

  /**
   * Takes in one piece, `bytes` long, as `IndexSave.next` wrote it; pieces in their order, into an
   * index that was empty before the first one. Changes the bytes of `piece`, 4-byte aligned.
   * @throws StoreError Corrupt when the piece makes no sense
   */
  load(piece: Uint8Array, bytes: number): void {
    this.loading ??= new IndexLoad(this.store, this.layers, this.counter)
    this.loading.take(piece, bytes)
  }
}
