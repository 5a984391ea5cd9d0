/**
 * Small reads that the main thread answers by itself, from where `ChunkMaps` says that the blocks
 * stand: a pread and a checksum, no other thread to wake, which takes longer than the read.
 *
 * A pread of what is not in the page cache would stop everybody. So reads here may block, on
 * average, for as long as the way through the thread pool would cost (`BlockCredit`): else they
 * take that way for a while, which also gives a disk many reads to work on at once. When anything
 * is not as it should be, the read goes to the worker, who knows better.
 */
import { read, readSync } from 'node:fs'
import { crc32c, crc32cOfBlocks } from '../core/checksum.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { LOCATION_UNKNOWN, MAP_BIRTHS, MAP_CRCS } from '../shard/chunk-map.ts'
import { SegmentPlaces } from '../shard/segment-places.ts'
import type { SealKeys } from '../seal/key-table.ts'
import { BlockCredit } from './block-credit.ts'
import type { BlockOp } from './block-store.ts'
import { ChunkMaps } from './chunk-maps.ts'
import { diskReadsOfThread } from './disk-reads.ts'
import { NearSeals } from './near-seals.ts'

/** Larger reads are worth the way to a worker. */
export const NEAR_BLOCKS_MAX = 4
/** Reads in the thread pool; the others are for a worker. */
const POOL_READS_MAX = 64

/** Told when a read in the thread pool is over; false: its bytes do not count. */
export type PoolReadEnd = (op: BlockOp, whole: boolean) => void

export class NearReads {
  readonly maps: ChunkMaps = new ChunkMaps()
  /** Memory of the SegmentPlaces of each shard. */
  readonly places: readonly SharedArrayBuffer[]
  private readonly tables: readonly SegmentPlaces[]
  private readonly memory: Buffer
  private readonly pageShift: number
  private readonly pageMask: number
  private readonly freeReads: PoolRead[] = []
  private poolReads = 0
  private readonly credit = new BlockCredit(diskReadsOfThread())
  private readonly sealed: NearSeals

  /** With `keys` also of encrypted volumes. */
  constructor(options: {
    shards: number
    segmentBytes: number
    memory: Buffer
    keys?: SealKeys
  }) {
    const { shards, segmentBytes, memory } = options
    this.sealed = new NearSeals(this.maps, options.keys ?? null)
    this.places = Array.from({ length: shards }, () => new SharedArrayBuffer(SegmentPlaces.bytes))
    this.tables = this.places.map((shared) => new SegmentPlaces(shared))
    this.memory = memory
    this.pageShift = Math.log2(segmentBytes / BLOCK_BYTES)
    this.pageMask = segmentBytes / BLOCK_BYTES - 1
  }

  /** A shard's worker is gone, and its files are about to be closed. */
  gone(shard: number): void {
    this.tables[shard]!.hideAll()
    this.maps.clear()
  }

  /**
   * Reads the op's blocks into `into` from `start` on. Returns how long that took; below 0: they
   * have to be read some other way, and what is in `into` means nothing.
   */
  readNow(op: BlockOp, hash: number, shard: number, into: Buffer, start: number): number {
    const map = this.maps.find(op, hash)
    if (map < 0) return -1
    const at = map + op.firstBlock
    const location = this.placeOf(at, op.blockCount)
    if (location === LOCATION_UNKNOWN) return -1
    const bytes = op.blockCount * BLOCK_BYTES
    if (location > LOCATION_UNKNOWN) {
      into.fill(0, start, start + bytes)
      op.payloadCrc = -1
      return 0
    }
    const slot = location >>> this.pageShift
    const table = this.tables[shard]!
    const version = table.version(slot)
    const descriptor = this.descriptorOf(table, slot, at)
    const startMs = performance.now()
    if ((version & 1) === 1 || descriptor < 0 || this.credit.isPaused(startMs)) return -1
    try {
      const position = (location & this.pageMask) * BLOCK_BYTES
      if (readSync(descriptor, into, start, bytes, position) !== bytes) return -1
    } catch {
      return -1 // the worker will say what is wrong
    }
    const endMs = performance.now()
    this.credit.account(startMs, endMs)
    const whole = table.version(slot) === version && this.verify(op, into, start, at)
    if (!whole) return -1
    // Of sealed blocks the map has checksums as they are in the files.
    op.payloadCrc =
      op.keySlot === 0 ? crc32cOfBlocks(this.maps.words, at + MAP_CRCS, op.blockCount) : -1
    return endMs - startMs
  }

  /**
   * Reads the op's blocks into its payload, through the thread pool, while reads here are paused.
   * False: they are for the shard to read.
   */
  start(op: BlockOp, map: number, shard: number, ended: PoolReadEnd): boolean {
    if (this.poolReads === POOL_READS_MAX || !this.credit.isPaused(performance.now())) return false
    const at = map + op.firstBlock
    const location = this.placeOf(at, op.blockCount)
    if (location >= LOCATION_UNKNOWN) return false
    const slot = location >>> this.pageShift
    const table = this.tables[shard]!
    const version = table.version(slot)
    const descriptor = this.descriptorOf(table, slot, at)
    if ((version & 1) === 1 || descriptor < 0) return false
    const position = (location & this.pageMask) * BLOCK_BYTES
    const pooled = this.freeReads.pop() ?? new PoolRead(this)
    this.poolReads++
    pooled.start(op, { table, slot, version, at, location, ended })
    read(descriptor, this.memory, op.payload, op.blockCount * BLOCK_BYTES, position, pooled.done)
    return true
  }

  /** Whether the map says where the op's blocks stand, one after the other, and still do. */
  knows(op: BlockOp, map: number, shard: number): boolean {
    const at = map + op.firstBlock
    const location = this.placeOf(at, op.blockCount)
    if (location >= LOCATION_UNKNOWN) return location > LOCATION_UNKNOWN
    return this.descriptorOf(this.tables[shard]!, location >>> this.pageShift, at) >= 0
  }

  /** Verifies what `pooled` read. */
  endPooled(pooled: PoolRead, got: number): void {
    const { op, where } = pooled
    this.poolReads--
    this.freeReads.push(pooled)
    const { table, slot, version, at, location, ended } = where!
    const { payload, blockCount } = op!
    const complete = got === blockCount * BLOCK_BYTES && table.version(slot) === version
    // Without the place, what stands at `at` are the checksums of something else.
    const whole = complete && this.placeOf(at, blockCount) === location
    ended(op!, whole && this.verify(op!, this.memory, payload, at))
  }

  /** Descriptor to read the block at `at` by, which stands in `slot`; -1 when there is none. */
  private descriptorOf(table: SegmentPlaces, slot: number, at: number): number {
    const birth = table.birth(slot)
    if (birth === 0 || birth !== this.maps.words[at + MAP_BIRTHS]) return -1
    return table.descriptor(slot)
  }

  /** Location of the first block if the others follow it; LOCATION_UNKNOWN if not. */
  private placeOf(at: number, count: number): number {
    const { words } = this.maps
    const location = words[at]!
    for (let block = 1; block < count; block++) {
      const next = words[at + block]!
      if (location > LOCATION_UNKNOWN && next > LOCATION_UNKNOWN) continue // all of them zeroes
      if (next !== location + block) return LOCATION_UNKNOWN
      if (words[at + MAP_BIRTHS + block] !== words[at + MAP_BIRTHS]) return LOCATION_UNKNOWN
    }
    return location
  }

  /**
   * Whether bytes have the checksums at `at`, or open, which tells more. Where not, only the worker
   * reads from now on.
   */
  private verify(op: BlockOp, bytes: Buffer, start: number, at: number): boolean {
    const { words } = this.maps
    for (let block = 0; block < op.blockCount; block++) {
      const from = start + block * BLOCK_BYTES
      const part = bytes.subarray(from, from + BLOCK_BYTES)
      if (op.keySlot === 0) {
        if (crc32c(part) === words[at + MAP_CRCS + block]) continue
      } else if (this.sealed.open(op, at, op.firstBlock + block, part)) continue
      words[at + block] = LOCATION_UNKNOWN
      return false
    }
    return true
  }
}

/** What a read in the thread pool has to find unchanged when it ends, and who waits for it. */
interface PoolReadPlace {
  readonly table: SegmentPlaces
  readonly slot: number
  readonly version: number
  readonly at: number
  readonly location: number
  readonly ended: PoolReadEnd
}

/** A read in the thread pool. Used again with its callback. */
class PoolRead {
  op: BlockOp | null = null
  where: PoolReadPlace | null = null
  readonly done: (error: Error | null, got: number) => void

  constructor(reads: NearReads) {
    this.done = (error, got) => reads.endPooled(this, error === null ? got : -1)
  }

  start(op: BlockOp, where: PoolReadPlace): void {
    this.op = op
    this.where = where
  }
}
