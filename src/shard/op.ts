/**
 * One request to a shard, and its answer. A fixed set of these is reused for ever: every field is
 * set in the constructor, so one hidden class serves every site (no allocation per request).
 */
export const OpKind = {
  Read: 1,
  Write: 2,
  /** Blocks given up: they read as zeroes and hold no space. */
  Trim: 3,
  /** Blocks read as zeroes; with OpFlag.NoHole block status reports them as allocated. */
  WriteZeroes: 4,
  /** Everything appended before it in this shard becomes durable before it completes. */
  Flush: 5,
  /** Fills `payload` with extents, see `StatusExtent`. */
  BlockStatus: 6,
  /** All blocks of (family, layer) are dropped for ever. Idempotent, durable after a Flush. */
  DeleteLayer: 7,
  /** Background verbs. They only start or steer; progress is in ShardStats. */
  Compact: 8,
  Scrub: 9,
  Checkpoint: 10,
  /** Fills the frame of chunk-map.ts at `payload` of the shard's maps with the whole chunk. */
  Locate: 11,
  /** `resultA` is how many blocks of the family hold data. */
  Usage: 12
} as const
export type OpKind = (typeof OpKind)[keyof typeof OpKind]

export const OpFlag = {
  /** WriteZeroes must leave the range allocated. */
  NoHole: 1,
  /** Compact, Scrub: stop instead of start. */
  Stop: 2
} as const

/**
 * Block status is written to the payload as u32 pairs in native order: block count, then one of
 * these. Runs cover the asked range from its start; `resultA` is the number of pairs, at most
 * `blockCount`, and the payload has room for as many: two pages for a whole chunk.
 */
export const StatusExtent = { Data: 0, Hole: 1, Zero: 2 } as const

export class ShardOp {
  kind: number = 0
  flags: number = 0
  /** Volume family and layer, random 64-bit ids as two u32. */
  familyHigh: number = 0
  familyLow: number = 0
  layerHigh: number = 0
  layerLow: number = 0
  /** Chunk index within the volume; blocks are counted inside the chunk. */
  chunk: number = 0
  firstBlock: number = 0
  /** 1..PIECE_BLOCKS_MAX for Read and Write, 1..CHUNK_BLOCKS for Trim, WriteZeroes, BlockStatus. */
  blockCount: number = 0
  /** Version of a write, trim or write-zeroes: (writerEpoch, sequence). */
  writerEpoch: number = 0
  sequence: number = 0
  /** Byte offset of the payload in the shard's memory (the arena), page aligned. */
  payload: number = 0
  /** Answer: ErrorCode, 0 for Ok. */
  error: number = 0
  /** Answer: first block that failed its checksum, number of status pairs, by kind. */
  resultA: number = 0
  resultB: number = 0
  /**
   * Answer to a write of one block that counts: birth of the segment where it stands, with
   * `resultA` its location and `resultB` its checksum. 0: nothing is told.
   */
  resultC: number = 0

  get payloadBlocks(): number {
    return this.kind === OpKind.Read || this.kind === OpKind.Write ? this.blockCount : 0
  }
}
