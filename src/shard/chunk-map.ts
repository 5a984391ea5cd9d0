/**
 * A chunk's blocks as another thread of the process reads them: where each stands, in which life
 * of the segment, and its checksum. A frame of shared memory, filled by the shard on request.
 *
 *   words
 *      0 .. 1023  location, or one of the marks of run-list.ts
 *   1024 .. 2047  birth of the segment
 *   2048 .. 3071  CRC-32C
 *
 * Of sealed blocks another frame tells what opens them:
 *
 *   words
 *      0 .. 4095  tag, four words a block
 *   4096 .. 5119  writerEpoch
 *   5120 .. 6143  sequence, low 32 bits
 *   6144 .. 7167  sequence, high bits
 *   7168 .. 8191  lower half of the family whose write it was
 */
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { assert } from '../core/assert.ts'

export const MAP_WORDS = 3 * CHUNK_BLOCKS
export const MAP_BYTES = MAP_WORDS * 4
export const SEAL_MAP_WORDS = 8 * CHUNK_BLOCKS
export const SEAL_EPOCHS = 4 * CHUNK_BLOCKS
export const SEAL_LOWS = 5 * CHUNK_BLOCKS
export const SEAL_HIGHS = 6 * CHUNK_BLOCKS
export const SEAL_FAMILIES = 7 * CHUNK_BLOCKS
export const MAP_BIRTHS = CHUNK_BLOCKS
export const MAP_CRCS = 2 * CHUNK_BLOCKS
/** In place of a location: nobody knows, ask the shard. No run of a lookup has it. */
export const LOCATION_UNKNOWN = 0xfffffffc

assert(MAP_BYTES % BLOCK_BYTES === 0, 'a frame can be named like a payload')
