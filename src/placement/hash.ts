/**
 * The hash that spreads chunks over shards (and, in a cluster, over placement groups). All layers
 * of a family place alike. Where bytes are stored follows from it: it must never change.
 */

/** Finalizer of MurmurHash3 (public domain): every input bit reaches every output bit. */
function mix(value: number): number {
  let hash = value
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return hash ^ (hash >>> 16)
}

/** Well mixed u32 of a volume family (random 64 bit id, as two u32) and a chunk index. */
export function chunkHash(familyHigh: number, familyLow: number, chunk: number): number {
  const family = mix(mix(familyHigh | 0) ^ familyLow)
  return mix(family ^ Math.imul(chunk + 1, 0x9e3779b1)) >>> 0
}

/** Which of a peer's shards has the chunk. Fixed for ever: data on disk lies by it. */
export const shardOfChunk = (
  familyHigh: number,
  familyLow: number,
  chunk: number,
  shards: number
): number => chunkHash(familyHigh, familyLow, chunk) % shards
