/**
 * What a chunk holds, as sums that do not depend on the order of its entries: two shards whose
 * chunks have the same blocks in the same versions have the same sums, wherever these stand and
 * however they came. They are made when asked for and kept in the chunk until it changes.
 *
 *   word  sums
 *     0   data and zeroes: sum of one hash of (block, version), modulo 2^32
 *     1   the same of another hash
 *     2   holes: sum of a third one
 *     3   blocks of data and zeroes | holes << 16
 */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import type { ChunkImage } from './chunk-image.ts'
import { AT_SHAPE, AT_SUMS, SUMMED } from './chunk-layout.ts'
import type { ChunkStore } from './chunk-store.ts'
import { slabOf, wordOf } from './index-pages.ts'
import { LOCATION_END, LOCATION_HOLE } from './run-list.ts'

/** The finalizers of MurmurHash3 and `lowbias32` (both public domain). */
function mixOne(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return hash ^ (hash >>> 16)
}

function mixTwo(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x7feb352d)
  hash = Math.imul(hash ^ (hash >>> 15), 0x846ca68b)
  return hash ^ (hash >>> 16)
}

/** Sums of one chunk, or of many together. Made once, filled again and again. */
export class Sums {
  low = 0
  high = 0
  /** Data and zeroes; modulo 2^32. */
  blocks = 0
  holes = 0

  clear(): void {
    this.low = 0
    this.high = 0
    this.blocks = 0
    this.holes = 0
  }

  /** Brings in the sums of the chunk at `address`; makes them if need be, and says if it did. */
  read(store: ChunkStore, address: number, withHoles: boolean): boolean {
    const words = store.pages.slabs[slabOf(address)]!
    const at = wordOf(address)
    const isMade = (words[at + AT_SHAPE]! & SUMMED) === 0
    if (isMade) {
      sumUp(store.look(address, 0, CHUNK_BLOCKS), words, at + AT_SUMS)
      words[at + AT_SHAPE] = words[at + AT_SHAPE]! | SUMMED
    }
    const holeSum = withHoles ? words[at + AT_SUMS + 2]! : 0
    this.low = (words[at + AT_SUMS]! + holeSum) >>> 0
    this.high = (words[at + AT_SUMS + 1]! + Math.imul(holeSum, 0x9e3779b1)) >>> 0
    this.blocks = words[at + AT_SUMS + 3]! & 0xffff
    this.holes = words[at + AT_SUMS + 3]! >>> 16
    return isMade
  }

  /** Checksums of data count too. Asked for rarely, so they are not kept. Always makes sums. */
  addChecksums(store: ChunkStore, address: number): true {
    const found = store.look(address, 0, CHUNK_BLOCKS)
    let low = 0
    let high = 0
    for (let run = 0; run < found.length; run++) {
      if (found.locations[run]! >= LOCATION_END) continue
      const end = found.firsts[run]! + found.counts[run]!
      for (let block = found.firsts[run]!; block < end; block++) {
        const crc = found.crcs[block]!
        low = (low + mixOne(crc ^ Math.imul(block + 1, 0x85157af5))) | 0
        high = (high + mixTwo(crc + Math.imul(block + 1, 0xc2b2ae3d))) | 0
      }
    }
    this.low = (this.low + low) >>> 0
    this.high = (this.high + high) >>> 0
    return true
  }

  /** Binds the sums to the chunk that they are of, so that sums of many tell chunks apart. */
  bind(layerHigh: number, layerLow: number, chunk: number): void {
    const spot = Math.imul(chunk, 0x85157af5)
    this.low = mixOne(this.low ^ Math.imul(layerLow, 0x27d4eb2f) ^ spot) >>> 0
    this.high = mixTwo((this.high + Math.imul(layerHigh, 0x165667b1)) ^ spot) >>> 0
  }
}

function sumUp(found: ChunkImage, words: Uint32Array, at: number): void {
  let low = 0
  let high = 0
  let holeSum = 0
  let blocks = 0
  let holes = 0
  for (let run = 0; run < found.length; run++) {
    const palette = found.palettes[run]!
    const epoch = found.epochs[palette]!
    const sequence = found.lows[run]!
    const one = sequence ^ Math.imul(epoch, 0x9e3779b1)
    const two = sequence + Math.imul(epoch, 0x27d4eb2f)
    const first = found.firsts[run]!
    const end = first + found.counts[run]!
    const upper = found.highs[palette]! << 10
    if (found.locations[run] === LOCATION_HOLE) {
      for (let block = first; block < end; block++) {
        holeSum = (holeSum + mixOne(two ^ Math.imul(upper | block, 0x165667b1))) | 0
      }
      holes += end - first
    } else {
      for (let block = first; block < end; block++) {
        low = (low + mixOne(one ^ Math.imul(upper | block, 0x85157af5))) | 0
        high = (high + mixTwo(two ^ Math.imul(upper | block, 0xc2b2ae3d))) | 0
      }
      blocks += end - first
    }
  }
  words[at] = low
  words[at + 1] = high
  words[at + 2] = holeSum
  words[at + 3] = blocks | (holes << 16)
}
