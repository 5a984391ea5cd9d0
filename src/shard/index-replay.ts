import { CHUNK_BLOCKS } from '../core/limits.ts'
import type { ChunkStore } from './chunk-store.ts'
import type { Change } from './packed-chunks.ts'

/** Blocks gathered before they go into the index: 15 MiB of scratch memory. */
const ITEMS_MAX = 1 << 18
/** Larger puts are cheap for each block as they are. */
export const REPLAY_BLOCKS_MAX = 16

/** Single blocks on their way into the index, as columns; one item a block. */
export class ReplayItems {
  length = 0
  readonly layers = new Uint32Array(ITEMS_MAX)
  readonly chunks = new Uint32Array(ITEMS_MAX)
  readonly blocks = new Uint16Array(ITEMS_MAX)
  readonly epochs = new Uint32Array(ITEMS_MAX)
  /** The sequence's bits from 32 up, and below. */
  readonly highs = new Uint8Array(ITEMS_MAX)
  readonly lows = new Uint32Array(ITEMS_MAX)
  readonly locations = new Uint32Array(ITEMS_MAX)
  readonly crcs = new Uint32Array(ITEMS_MAX)

  /** Whether item `item` has an older version than item `other`. */
  isOlder(item: number, other: number): boolean {
    if (this.epochs[item] !== this.epochs[other]) return this.epochs[item]! < this.epochs[other]!
    if (this.highs[item] !== this.highs[other]) return this.highs[item]! < this.highs[other]!
    return this.lows[item]! < this.lows[other]!
  }
}

/**
 * Puts single blocks into the index by the thousand, for recovery: sorted by chunk, so that a chunk
 * is found, and its entries are moved apart, once for all of its blocks. The outcome is that of
 * putting them one by one.
 */
export class IndexReplay {
  private readonly store: ChunkStore
  private readonly change: Change
  private readonly items = new ReplayItems()
  /** Items by group, a group for each chunk; open addressing finds it. */
  private readonly groupOf = new Uint32Array(ITEMS_MAX)
  private readonly slots = new Int32Array(ITEMS_MAX * 4)
  private readonly heads = new Uint32Array(ITEMS_MAX)
  private readonly ends = new Uint32Array(ITEMS_MAX + 1)
  private readonly sorted = new Uint32Array(ITEMS_MAX)
  private readonly latest = new Int32Array(CHUNK_BLOCKS)
  /** Items of one chunk that count, by block. */
  private readonly picked = new Uint32Array(CHUNK_BLOCKS)

  constructor(store: ChunkStore, change: Change) {
    this.store = store
    this.change = change
  }

  add(layer: number, chunk: number, change: Change): void {
    const { items } = this
    const count = change.end - change.first
    if (items.length + count > ITEMS_MAX) this.flush()
    for (let i = 0; i < count; i++) {
      const item = items.length++
      items.layers[item] = layer
      items.chunks[item] = chunk
      items.blocks[item] = change.first + i
      items.epochs[item] = change.writerEpoch
      items.highs[item] = change.high
      items.lows[item] = change.low
      items.locations[item] = change.location + i
      items.crcs[item] = change.crcs[change.crcAt + i]!
    }
  }

  /** Everything added is in the index when this returns. */
  flush(): void {
    const groups = this.group()
    let start = 0
    for (let group = 0; group < groups; group++) {
      const end = this.ends[group]!
      this.flushChunk(start, end)
      start = end
    }
    this.items.length = 0
  }

  /** Brings the items of each chunk together in `sorted`, in their order. Returns the chunks. */
  private group(): number {
    const { items, slots, heads, groupOf, ends, sorted, store } = this
    let mask = 15
    while (mask < items.length) mask = mask * 2 + 1 // at most half full
    mask = mask * 2 + 1
    slots.fill(-1, 0, mask + 1)
    let groups = 0
    for (let item = 0; item < items.length; item++) {
      const layer = items.layers[item]!
      const chunk = items.chunks[item]!
      let slot = store.places.hashOf(layer, chunk) & mask
      for (;;) {
        const group = slots[slot]!
        if (group < 0) {
          slots[slot] = groups
          heads[groups] = item
          ends[groups] = 0
          groupOf[item] = groups++
          break
        }
        const head = heads[group]!
        if (items.chunks[head] === chunk && items.layers[head] === layer) {
          groupOf[item] = group
          break
        }
        slot = (slot + 1) & mask
      }
      ends[groupOf[item]!]!++
    }
    let end = 0
    for (let group = 0; group < groups; group++) {
      const count = ends[group]!
      ends[group] = end
      end += count
    }
    for (let item = 0; item < items.length; item++) sorted[ends[groupOf[item]!]!++] = item
    return groups
  }

  private flushChunk(start: number, end: number): void {
    const { items, store } = this
    const first = this.sorted[start]!
    const layer = items.layers[first]!
    const chunk = items.chunks[first]!
    const count = this.pick(start, end)
    const address = store.find(layer, chunk)
    if (address === 0) store.build(layer, chunk, items, this.picked, count)
    else this.flushInto(address, count)
  }

  /** `count` picked items go into the chunk at `address`. */
  private flushInto(address: number, count: number): void {
    const { items, picked, store } = this
    let home = address
    let left = 0
    for (let i = 0; i < count; i++) {
      const item = picked[i]!
      if (store.isPacked(home) && store.packed.hasVersion(home, items, item)) picked[left++] = item
      else {
        // A version that the palette lacks goes its own way, and then the palette has it. Runs
        // take their blocks one by one too: they are few, or become packed.
        this.applyAlone(item)
        home = store.find(items.layers[item]!, items.chunks[item]!)
      }
    }
    if (store.isPacked(home)) store.merge(home, items, picked, left)
    else for (let i = 0; i < left; i++) this.applyAlone(picked[i]!)
  }

  /** The newest item of each block, the last one of equals, in block order. Returns how many. */
  private pick(start: number, end: number): number {
    const { items, latest, picked, sorted } = this
    latest.fill(-1)
    for (let i = start; i < end; i++) {
      const item = sorted[i]!
      const block = items.blocks[item]!
      const before = latest[block]!
      if (before < 0 || !items.isOlder(item, before)) latest[block] = item
    }
    let count = 0
    for (let block = 0; block < CHUNK_BLOCKS; block++) {
      if (latest[block]! >= 0) picked[count++] = latest[block]!
    }
    return count
  }

  private applyAlone(item: number): void {
    const { items, change } = this
    change.first = items.blocks[item]!
    change.end = change.first + 1
    change.writerEpoch = items.epochs[item]!
    change.high = items.highs[item]!
    change.low = items.lows[item]!
    change.location = items.locations[item]!
    change.stride = 1
    change.crcs = items.crcs
    change.crcAt = item
    change.insert = true
    this.store.apply(items.layers[item]!, items.chunks[item]!, change)
  }
}
