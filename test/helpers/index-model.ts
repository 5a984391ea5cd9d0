import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { ExtentIndex, type LiveCounter } from '../../src/shard/extent-index.ts'
import { SAVE_PIECE_BYTES_MIN } from '../../src/shard/extent-index-save.ts'
import { StatusExtent } from '../../src/shard/op.ts'
import {
  LOCATION_ABSENT,
  LOCATION_END,
  LOCATION_HOLE,
  LOCATION_ZERO,
  RunList
} from '../../src/shard/run-list.ts'

export const MODEL_LAYERS = 3
export const MODEL_CHUNKS = 4
const SEGMENT_PAGES = 3000

interface Entry {
  readonly location: number
  readonly epoch: number
  readonly sequence: number
  readonly crc: number
}

export interface Place {
  readonly layer: number
  readonly chunk: number
  readonly first: number
  readonly count: number
}

const ABSENT: Entry = { location: LOCATION_ABSENT, epoch: 0, sequence: 0, crc: 0 }
const ascending = (one: number, other: number): number => one - other

/** The index written out in pieces and read back into a new one. */
export function reload(index: ExtentIndex, counter: LiveCounter): ExtentIndex {
  const loaded = new ExtentIndex(counter)
  const piece = new Uint8Array(SAVE_PIECE_BYTES_MIN)
  const save = index.save()
  for (let bytes = save.next(piece); bytes > 0; bytes = save.next(piece)) loaded.load(piece, bytes)
  return loaded
}

/** Which locations are referred to, as the index tells it. */
class Live {
  readonly locations = new Set<number>()
  onLive(location: number, count: number): void {
    for (let at = location; at < location + count; at++) {
      ok(!this.locations.has(at), 'a location comes to life once')
      this.locations.add(at)
    }
  }
  onDead(location: number, count: number): void {
    for (let at = location; at < location + count; at++) {
      ok(this.locations.delete(at), 'only what lives dies')
    }
  }
}

/** The index beside the plainest possible one, an array of entries for each chunk. */
export class IndexPair {
  live = new Live()
  index = new ExtentIndex(this.live)
  private readonly chunks = new Map<string, Entry[]>()
  private readonly numbers: number[] = []
  private readonly ids: number[] = []
  private nextLocation = 1
  private nextId = 1
  private readonly crcs = new Uint32Array(CHUNK_BLOCKS)
  private readonly out = new RunList()

  constructor() {
    for (let layer = 0; layer < MODEL_LAYERS; layer++) this.nameLayer(layer)
  }

  put(at: Place, epoch: number, sequence: number): void {
    const location = this.allocate(at.count)
    for (let i = 0; i < at.count; i++) this.crcs[i] = Math.imul(location + i, 0x9e3779b1)
    const { crcs, index } = this
    const expected = this.set(at, epoch, sequence, location, 1, true)
    const { chunk, first, count } = at
    const layer = this.numbers[at.layer]!
    strictEqual(index.put(layer, chunk, first, count, epoch, sequence, location, crcs, 0), expected)
  }

  /** As `put`, together with others; ends with `endReplay`. */
  replay(at: Place, epoch: number, sequence: number): void {
    const location = this.allocate(at.count)
    for (let i = 0; i < at.count; i++) this.crcs[i] = Math.imul(location + i, 0x9e3779b1)
    const { crcs, index } = this
    this.set(at, epoch, sequence, location, 1, true)
    const { chunk, first, count } = at
    const layer = this.numbers[at.layer]!
    index.replayPut(layer, chunk, first, count, epoch, sequence, location, crcs, 0)
  }

  putMark(at: Place, epoch: number, sequence: number, isHole: boolean, keepHole: boolean): void {
    const mark = isHole ? LOCATION_HOLE : LOCATION_ZERO
    const expected = this.set(at, epoch, sequence, mark, 0, keepHole || !isHole)
    const { chunk, first, count } = at
    const layer = this.numbers[at.layer]!
    strictEqual(
      this.index.putMark(layer, chunk, first, count, epoch, sequence, mark, keepHole),
      expected
    )
  }

  /** Moves what stands in a row with the first block. */
  move({ layer, chunk, first, count }: Place): void {
    const entries = this.entriesOf(layer, chunk)
    const from = entries[first]!.location
    if (from >= LOCATION_END) return
    const to = this.allocate(count)
    const standing: number[] = []
    for (let i = 0; i < count; i++) {
      if (entries[first + i]!.location === from + i) standing.push(first + i)
    }
    const { index, out } = this
    const number = this.numbers[layer]!
    strictEqual(index.liveRuns(number, chunk, first, count, from, out), standing.length)
    deepStrictEqual(blocksOf(out), standing)
    for (const block of standing) {
      entries[block] = { ...entries[block]!, location: to + block - first }
    }
    strictEqual(index.move(number, chunk, first, count, from, to), standing.length)
  }

  /** Drops the holes that have the version of the first block. */
  dropHoles({ layer, chunk, first, count }: Place): void {
    const entries = this.entriesOf(layer, chunk)
    const { epoch, sequence } = entries[first]!
    const { index, out } = this
    const number = this.numbers[layer]!
    const marks: number[] = []
    let holes = 0
    for (let block = first; block < first + count; block++) {
      const entry = entries[block]!
      if (entry.epoch !== epoch || entry.sequence !== sequence) continue
      if (entry.location < LOCATION_END || entry === ABSENT) continue
      marks.push(block)
      if (entry.location !== LOCATION_HOLE) continue
      entries[block] = ABSENT
      holes++
    }
    const live = index.markRuns(number, chunk, first, count, epoch, sequence, out)
    strictEqual(live, marks.length)
    deepStrictEqual(blocksOf(out), marks)
    strictEqual(index.dropHoles(number, chunk, first, count, epoch, sequence), holes)
  }

  dropLayer(layer: number): void {
    const number = this.numbers[layer]!
    const key = this.index.layerKey(number)
    this.index.dropLayer(number)
    strictEqual(
      this.index.layerIndex(key.familyHigh, key.familyLow, key.layerHigh, key.layerLow, false),
      -1
    )
    for (let chunk = 0; chunk < MODEL_CHUNKS; chunk++) this.chunks.delete(`${layer}.${chunk}`)
    while (this.index.drops.reclaim(16));
    this.nameLayer(layer)
  }

  /** Everything in the block's segment stands in a new one, page by page. */
  relocate({ layer, chunk, first }: Place): void {
    const old = this.entriesOf(layer, chunk)[first]!.location
    if (old >= LOCATION_END) return
    const start = old - (old % SEGMENT_PAGES)
    this.nextLocation += 2 * SEGMENT_PAGES - (this.nextLocation % SEGMENT_PAGES)
    const shift = this.nextLocation - SEGMENT_PAGES - start
    const isInside = (location: number): boolean =>
      location >= start && location < start + SEGMENT_PAGES
    let expected = 0
    for (const entries of this.chunks.values()) {
      for (let block = 0; block < CHUNK_BLOCKS; block++) {
        const entry = entries[block]!
        if (!isInside(entry.location)) continue
        entries[block] = { ...entry, location: entry.location + shift }
        expected++
      }
    }
    const placeOf = (location: number): number => location + (isInside(location) ? shift : 0)
    strictEqual(this.index.relocate(placeOf), expected)
  }

  /** Who refers to the segment of the block. */
  findSegment({ layer, chunk, first }: Place): void {
    const { location: at } = this.entriesOf(layer, chunk)[first]!
    if (at >= LOCATION_END) return
    const start = at - (at % SEGMENT_PAGES)
    const end = start + SEGMENT_PAGES
    const seen: number[] = []
    this.index.forEachWithin(start, end, (_layer, _chunk, _first, count, location) => {
      for (let i = 0; i < count; i++) seen.push(location + i)
    })
    const expected: number[] = []
    for (const entries of this.chunks.values()) {
      for (const { location } of entries) {
        if (location >= start && location < end) expected.push(location)
      }
    }
    deepStrictEqual(seen.sort(ascending), expected.sort(ascending))
  }

  restart(): void {
    const live = new Live()
    this.index = reload(this.index, live)
    deepStrictEqual([...live.locations].sort(ascending), [...this.live.locations].sort(ascending))
    this.live = live
    for (let layer = 0; layer < MODEL_LAYERS; layer++) {
      this.numbers[layer] = this.index.layerIndex(1, layer, 3, this.ids[layer]!, true)
    }
  }

  /** Compares all questions about the range. */
  check({ layer, chunk, first, count }: Place): void {
    const { index, out } = this
    const entries = this.entriesOf(layer, chunk)
    const number = this.numbers[layer]!
    index.lookup(number, chunk, first, count, out)
    let block = first
    for (let run = 0; run < out.length; run++) {
      strictEqual(out.firsts[run], block)
      const location = out.locations[run]!
      for (let i = 0; i < out.counts[run]!; i++, block++) {
        const entry = entries[block]!
        strictEqual(location < LOCATION_END ? location + i : location, entry.location)
        if (location < LOCATION_END) strictEqual(out.crcs[block - first], entry.crc)
      }
    }
    strictEqual(block, first + count)
    index.status(number, chunk, first, count, out)
    block = first
    for (let run = 0; run < out.length; run++) {
      ok(run === 0 || out.locations[run] !== out.locations[run - 1], 'runs differ')
      for (let i = 0; i < out.counts[run]!; i++, block++) {
        strictEqual(out.locations[run], statusOf(entries[block]!.location))
      }
    }
    strictEqual(block, first + count)
    let filled = 0
    for (let at = first; at < first + count; at++) {
      const entry = entries[at]!
      if (entry !== ABSENT && entry.location !== LOCATION_HOLE) filled++
    }
    strictEqual(index.countFilled(number, chunk, first, count), filled)
  }

  checkAll(): void {
    const locations: number[] = []
    let present = 0
    for (let layer = 0; layer < MODEL_LAYERS; layer++) {
      const before = locations.length
      for (let chunk = 0; chunk < MODEL_CHUNKS; chunk++) {
        this.check({ layer, chunk, first: 0, count: CHUNK_BLOCKS })
        for (const entry of this.entriesOf(layer, chunk)) {
          if (entry !== ABSENT) present++
          if (entry.location < LOCATION_END) locations.push(entry.location)
        }
      }
      strictEqual(this.index.familyBlocks(1, layer), locations.length - before)
    }
    strictEqual(this.index.entries, present)
    deepStrictEqual([...this.live.locations].sort(ascending), locations.sort(ascending))
  }

  private set(
    { layer, chunk, first, count }: Place,
    epoch: number,
    sequence: number,
    location: number,
    stride: number,
    insert: boolean
  ): number {
    const entries = this.entriesOf(layer, chunk)
    let taken = 0
    for (let i = 0; i < count; i++) {
      const old = entries[first + i]!
      if (old === ABSENT ? !insert : isAbove(old, epoch, sequence)) continue
      const crc = stride === 1 ? this.crcs[i]! : 0
      entries[first + i] = { location: location + i * stride, epoch, sequence, crc }
      taken++
    }
    return taken
  }

  private entriesOf(layer: number, chunk: number): Entry[] {
    const key = `${layer}.${chunk}`
    const known = this.chunks.get(key)
    if (known !== undefined) return known
    const entries = new Array<Entry>(CHUNK_BLOCKS).fill(ABSENT)
    this.chunks.set(key, entries)
    return entries
  }

  /** Adjacent pages of one segment, whose first page is its header. */
  private allocate(count: number): number {
    const page = this.nextLocation % SEGMENT_PAGES
    if (page + count > SEGMENT_PAGES) this.nextLocation += SEGMENT_PAGES - page + 1
    else if (page === 0) this.nextLocation++
    const location = this.nextLocation
    this.nextLocation += count
    return location
  }

  private nameLayer(layer: number): void {
    this.ids[layer] = this.nextId++
    this.numbers[layer] = this.index.layerIndex(1, layer, 3, this.ids[layer]!, true)
  }
}

const isAbove = (entry: Entry, epoch: number, sequence: number): boolean =>
  entry.epoch !== epoch ? entry.epoch > epoch : entry.sequence > sequence

const statusOf = (location: number): number => {
  if (location < LOCATION_END) return StatusExtent.Data
  return location === LOCATION_ZERO ? StatusExtent.Zero : StatusExtent.Hole
}

function blocksOf(runs: RunList): number[] {
  const blocks: number[] = []
  for (let run = 0; run < runs.length; run++) {
    for (let i = 0; i < runs.counts[run]!; i++) blocks.push(runs.firsts[run]! + i)
  }
  return blocks
}
