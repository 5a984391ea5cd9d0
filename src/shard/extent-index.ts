/**
 * Where every block of every layer in this shard stands: (layer, chunk, block) -> location, version
 * and CRC-32C.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { StatusExtent } from './op.ts'
import {
  LOCATION_ABSENT,
  LOCATION_END,
  LOCATION_HOLE,
  LOCATION_ZERO,
  type RunList
} from './run-list.ts'

/** Hears of every data block that comes to be referred to, or ceases to, as runs inside one segment. */
export interface LiveCounter {
  onLive(location: number, count: number): void
  onDead(location: number, count: number): void
}

export interface LayerKey {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
}

/** Sees entries one run at a time: same layer and chunk, adjacent blocks, adjacent locations. */
export type EntryVisitor = (
  layer: number,
  chunk: number,
  first: number,
  count: number,
  location: number
) => void

/** `into` of `IndexSave.next` holds at least this: the largest chunk with its piece header. */
export const SAVE_PIECE_BYTES_MIN = 64 * 1024

class Chunk {
  layer: number
  chunk: number
  locations = new Uint32Array(CHUNK_BLOCKS).fill(LOCATION_ABSENT)
  epochs = new Uint32Array(CHUNK_BLOCKS)
  sequences = new Float64Array(CHUNK_BLOCKS)
  crcs = new Uint32Array(CHUNK_BLOCKS)
  constructor(layer: number, chunk: number) {
    this.layer = layer
    this.chunk = chunk
  }
}

export class ExtentIndex {
  /** Blocks with an entry: data, hole or zeroes. */
  entries = 0
  private readonly counter: LiveCounter
  private readonly layers = new Map<string, number>()
  private readonly keys: LayerKey[] = []
  private readonly chunks = new Map<string, Chunk>()
  private readonly doomed = new Set<number>()

  constructor(counter: LiveCounter) {
    this.counter = counter
  }

  /** Memory of the index, in bytes. */
  get bytes(): number {
    return this.chunks.size * CHUNK_BLOCKS * 20
  }

  /**
   * Small number of a layer, good until `dropLayer` and never used again in this process.
   * -1 when it is not known and `create` is false.
   */
  layerIndex(
    familyHigh: number,
    familyLow: number,
    layerHigh: number,
    layerLow: number,
    create: boolean
  ): number {
    const key = `${familyHigh}.${familyLow}.${layerHigh}.${layerLow}`
    const known = this.layers.get(key)
    if (known !== undefined) return known
    if (!create) return -1
    this.keys.push({ familyHigh, familyLow, layerHigh, layerLow })
    this.layers.set(key, this.keys.length - 1)
    return this.keys.length - 1
  }

  layerKey(layer: number): LayerKey {
    return this.keys[layer]!
  }

  /**
   * Blocks [first, first + count) of the chunk now stand at `location`.. and have the checksums
   * `crcs[crcAt]`.., but for those of which the index holds a newer version: an equal one gives way.
   * Returns how many blocks were taken.
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
    const entry = this.chunkOf(layer, chunk, true)!
    let taken = 0
    for (let i = 0; i < count; i++) {
      if (!this.isNewer(entry, first + i, writerEpoch, sequence)) continue
      this.set(entry, first + i, location + i)
      entry.epochs[first + i] = writerEpoch
      entry.sequences[first + i] = sequence
      entry.crcs[first + i] = crcs[crcAt + i]!
      taken++
    }
    return taken
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
    const entry = this.chunkOf(layer, chunk, true)!
    let taken = 0
    for (let block = first; block < first + count; block++) {
      if (!this.isNewer(entry, block, writerEpoch, sequence)) continue
      const absent = entry.locations[block] === LOCATION_ABSENT
      if (absent && mark === LOCATION_HOLE && !keepHole) continue
      this.set(entry, block, mark)
      entry.epochs[block] = writerEpoch
      entry.sequences[block] = sequence
      taken++
    }
    return taken
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
    const entry = this.chunkOf(layer, chunk, false)
    if (entry === undefined) return 0
    let moved = 0
    for (let i = 0; i < count; i++) {
      if (entry.locations[first + i] !== from + i) continue
      this.set(entry, first + i, to + i)
      moved++
    }
    return moved
  }

  /** Fills `out` with runs that cover the whole range, and with the checksums of its data. */
  lookup(layer: number, chunk: number, first: number, count: number, out: RunList): void {
    out.length = 0
    const entry = this.chunkOf(layer, chunk, false)
    if (entry === undefined) {
      out.add(first, count, LOCATION_ABSENT)
      return
    }
    for (let block = first; block < first + count; block++) {
      out.crcs[block - first] = entry.crcs[block]!
      out.extend(block, 1, entry.locations[block]!)
    }
  }

  /** Runs of equal `StatusExtent` that cover the whole range; `out.locations` holds these. */
  status(layer: number, chunk: number, first: number, count: number, out: RunList): void {
    out.length = 0
    const entry = this.chunkOf(layer, chunk, false)
    if (entry === undefined) {
      out.add(first, count, StatusExtent.Hole)
      return
    }
    let start = first
    let kind = -1
    for (let block = first; block < first + count; block++) {
      const next = statusOf(entry.locations[block]!)
      if (next === kind) continue
      if (kind >= 0) out.add(start, block - start, kind)
      start = block
      kind = next
    }
    out.add(start, first + count - start, kind)
  }

  /** How many blocks of the range have an entry: none means that a trim has nothing to do. */
  countEntries(layer: number, chunk: number, first: number, count: number): number {
    const entry = this.chunkOf(layer, chunk, false)
    if (entry === undefined) return 0
    let entries = 0
    for (let block = first; block < first + count; block++) {
      if (entry.locations[block] !== LOCATION_ABSENT) entries++
    }
    return entries
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
    const entry = this.chunkOf(layer, chunk, false)
    if (entry === undefined) return 0
    let live = 0
    for (let i = 0; i < count; i++) {
      if (entry.locations[first + i] !== location + i) continue
      out.extend(first + i, 1, location + i)
      live++
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
    const entry = this.chunkOf(layer, chunk, false)
    if (entry === undefined) return 0
    let live = 0
    for (let block = first; block < first + count; block++) {
      const location = entry.locations[block]!
      if (location !== LOCATION_HOLE && location !== LOCATION_ZERO) continue
      if (entry.epochs[block] !== writerEpoch || entry.sequences[block] !== sequence) continue
      out.extend(block, 1, location)
      live++
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
    const entry = this.chunkOf(layer, chunk, false)
    if (entry === undefined) return 0
    let dropped = 0
    for (let block = first; block < first + count; block++) {
      if (entry.locations[block] !== LOCATION_HOLE) continue
      if (entry.epochs[block] !== writerEpoch || entry.sequences[block] !== sequence) continue
      this.set(entry, block, LOCATION_ABSENT)
      dropped++
    }
    return dropped
  }

  /**
   * The layer is gone at once: `layerIndex` knows it no more. What it held is counted dead and its
   * memory given back by `reclaim`.
   */
  dropLayer(layer: number): void {
    if (layer < 0) return
    const key = this.layerKey(layer)
    this.layers.delete(`${key.familyHigh}.${key.familyLow}.${key.layerHigh}.${key.layerLow}`)
    this.doomed.add(layer)
  }

  /** Works off dropped layers, a bounded number of chunks a call. Returns whether more is left. */
  reclaim(chunksMax: number): boolean {
    if (this.doomed.size === 0) return false
    let left = chunksMax
    for (const [key, entry] of this.chunks) {
      if (!this.doomed.has(entry.layer)) continue
      for (let block = 0; block < CHUNK_BLOCKS; block++) this.set(entry, block, LOCATION_ABSENT)
      this.chunks.delete(key)
      if (--left === 0) return true
    }
    this.doomed.clear()
    return false
  }

  /**
   * Forgets all data for whose location `isGone` holds (it is asked once per run, and answers for
   * the run's whole segment). Walks the whole index. Returns how many blocks.
   */
  dropWhere(isGone: (location: number) => boolean): number {
    let dropped = 0
    for (const entry of this.chunks.values()) {
      for (let block = 0; block < CHUNK_BLOCKS; block++) {
        const location = entry.locations[block]!
        if (location >= LOCATION_END || !isGone(location)) continue
        this.set(entry, block, LOCATION_ABSENT)
        dropped++
      }
    }
    return dropped
  }

  /** Shows all data with a location in [start, end), in no particular order. Walks the index. */
  forEachWithin(start: number, end: number, visit: EntryVisitor): void {
    for (const entry of this.chunks.values()) {
      if (this.doomed.has(entry.layer)) continue
      for (let block = 0; block < CHUNK_BLOCKS; block++) {
        const location = entry.locations[block]!
        if (location >= start && location < end && location < LOCATION_END) {
          visit(entry.layer, entry.chunk, block, 1, location)
        }
      }
    }
  }

  /**
   * Starts a walk that writes the index as pieces while it goes on changing: every chunk is
   * written as it is at some moment of the walk. One walk at a time.
   */
  save(): IndexSave {
    return new IndexSave(this.chunks, this.doomed, this.keys)
  }

  /**
   * Takes in one piece, `bytes` long, as `IndexSave.next` wrote it; pieces in their order, into an
   * index that was empty before the first one.
   * @throws StoreError Corrupt when the piece makes no sense
   */
  load(piece: Uint8Array, bytes: number): void {
    const view = new DataView(piece.buffer, piece.byteOffset, bytes)
    if (bytes < 24 || (bytes - 24) % 24 !== 0) {
      throw new StoreError(ErrorCode.Corrupt, `index checkpoint piece of ${bytes} bytes`)
    }
    const at = (word: number): number => view.getUint32(word * 4)
    const layer = this.layerIndex(at(0), at(1), at(2), at(3), true)
    const chunk = this.chunkOf(layer, at(4), true)!
    for (let word = 6; word < bytes / 4; word += 6) {
      const block = at(word)
      if (block >= CHUNK_BLOCKS)
        throw new StoreError(ErrorCode.Corrupt, `block ${block} in a chunk`)
      this.set(chunk, block, at(word + 1))
      chunk.epochs[block] = at(word + 2)
      chunk.sequences[block] = at(word + 3) * 2 ** 32 + at(word + 4)
      chunk.crcs[block] = at(word + 5)
    }
  }

  private chunkOf(layer: number, chunk: number, create: boolean): Chunk | undefined {
    if (layer < 0) return undefined
    const key = `${layer}.${chunk}`
    let entry = this.chunks.get(key)
    if (entry === undefined && create) {
      entry = new Chunk(layer, chunk)
      this.chunks.set(key, entry)
    }
    return entry
  }

  private isNewer(entry: Chunk, block: number, writerEpoch: number, sequence: number): boolean {
    if (entry.locations[block] === LOCATION_ABSENT) return true
    const epoch = entry.epochs[block]!
    return writerEpoch > epoch || (writerEpoch === epoch && sequence >= entry.sequences[block]!)
  }

  private set(entry: Chunk, block: number, location: number): void {
    const old = entry.locations[block]!
    entry.locations[block] = location
    if (location < LOCATION_END) this.counter.onLive(location, 1)
    if (old < LOCATION_END) this.counter.onDead(old, 1)
    this.entries += (location === LOCATION_ABSENT ? 0 : 1) - (old === LOCATION_ABSENT ? 0 : 1)
  }
}

const statusOf = (location: number): number =>
  location < LOCATION_END
    ? StatusExtent.Data
    : location === LOCATION_ZERO
      ? StatusExtent.Zero
      : StatusExtent.Hole

/** A walk over the index that turns it into bytes, slice by slice. */
export class IndexSave {
  private readonly chunks: Map<string, Chunk>
  private readonly doomed: Set<number>
  private readonly keys: readonly LayerKey[]
  private readonly todo: string[]

  constructor(chunks: Map<string, Chunk>, doomed: Set<number>, keys: readonly LayerKey[]) {
    this.chunks = chunks
    this.doomed = doomed
    this.keys = keys
    this.todo = [...chunks.keys()]
  }

  /**
   * Writes the next piece into `into`, which is 4-byte aligned and holds SAVE_PIECE_BYTES_MIN or
   * more (a slice costs about 1 ms per MiB), and returns its bytes; 0 when the walk is done.
   */
  next(into: Uint8Array): number {
    for (;;) {
      const key = this.todo.pop()
      if (key === undefined) return 0
      const chunk = this.chunks.get(key)
      if (chunk === undefined || this.doomed.has(chunk.layer)) continue
      return this.write(chunk, new DataView(into.buffer, into.byteOffset, into.byteLength))
    }
  }

  /** Ends the walk early. `next` ends it too when it returns 0. */
  close(): void {
    this.todo.length = 0
  }

  private write(chunk: Chunk, view: DataView): number {
    const key = this.keys[chunk.layer]!
    let word = 0
    const add = (value: number): void => view.setUint32(4 * word++, value)
    add(key.familyHigh)
    add(key.familyLow)
    add(key.layerHigh)
    add(key.layerLow)
    add(chunk.chunk)
    add(0)
    for (let block = 0; block < CHUNK_BLOCKS; block++) {
      if (chunk.locations[block] === LOCATION_ABSENT) continue
      add(block)
      add(chunk.locations[block]!)
      add(chunk.epochs[block]!)
      add(Math.floor(chunk.sequences[block]! / 2 ** 32))
      add(chunk.sequences[block]! % 2 ** 32)
      add(chunk.crcs[block]!)
    }
    return word * 4
  }
}
