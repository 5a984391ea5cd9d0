/**
 * The hashes that spread chunks over shards and placement groups. All layers of a family place
 * alike, and so do all families of one kin. Where bytes are stored follows from them: they must
 * never change.
 */
import { placeLow } from '../core/family-ids.ts'

/** Finalizer of MurmurHash3 (public domain): every input bit reaches every output bit. */
function mix(value: number): number {
  let hash = value
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return hash ^ (hash >>> 16)
}

/** The same shape with the constants of `lowbias32` (public domain): unrelated to `mix`. */
export function mixOther(value: number): number {
  let hash = value
  hash = Math.imul(hash ^ (hash >>> 16), 0x7feb352d)
  hash = Math.imul(hash ^ (hash >>> 15), 0x846ca68b)
  return hash ^ (hash >>> 16)
}

/** Well mixed u32 of a volume family (random 64 bit id, as two u32) and a chunk index. */
export function chunkHash(familyHigh: number, familyLow: number, chunk: number): number {
  const family = mix(mix(familyHigh | 0) ^ placeLow(familyHigh, familyLow))
  return mix(family ^ Math.imul(chunk + 1, 0x9e3779b1)) >>> 0
}

/** Which of a peer's shards has the chunk. Fixed for ever: data on disk lies by it. */
export const shardOfChunk = (
  familyHigh: number,
  familyLow: number,
  chunk: number,
  shards: number
): number => chunkHash(familyHigh, familyLow, chunk) % shards

/**
 * Which placement group has the chunk; `groups` is a power of two. Low bits decide, so that a pool
 * of twice as many groups sends what was in group g to g or g + groups and nowhere else. Another
 * mix than `chunkHash`: a peer has a few groups and must spread each of them over all its shards.
 */
export function groupOfChunk(
  familyHigh: number,
  familyLow: number,
  chunk: number,
  groups: number
): number {
  const place = placeLow(familyHigh, familyLow)
  const family = mixOther(mixOther(familyHigh ^ 0x5bd1e995) ^ place)
  return mixOther(family + Math.imul(chunk + 1, 0x85157af5)) & (groups - 1)
}
