import { assert } from '../core/assert.ts'
import { BLOCK_BYTES } from '../core/limits.ts'

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
  /** Answered when all ops before it in the queue are done. Uses no field. */
  Barrier: 11,
  /**
   * Sums per group over a stretch of the index: `resultA` entries of GROUP_SUM_BYTES, groups in any
   * order and the same one again in the next answer. `chunk` is the number of groups, `sequence`
   * where to go on (0 first, then the last answer's `resultB`, until that is 0), `blockCount` the
   * pages of the payload. OpFlag.WithHoles.
   */
  GroupSums: 12,
  /** The same per chunk of group `layerLow`: entries of CHUNK_SUM_BYTES, each chunk once. */
  ChunkSums: 13,
  /** Versions of a range of a chunk: `resultA` entries of VERSION_RUN_BYTES, see `versionPages`. */
  Versions: 14,
  /**
   * Bytes of a range of at most READ_VERSIONS_BLOCKS_MAX with the versions that they have, from one
   * moment. Payload: a page with `resultA` runs as Versions has them and, from
   * READ_VERSIONS_CRCS_AT on, a CRC-32C u32 for each block of the range (of data); then a page for
   * each block of the range, zero where it is not data.
   */
  ReadVersions: 15,
  /**
   * Versions of a chunk that never were: `blockCount` entries of VOID_BYTES in the payload page.
   * Durable when answered. Blocks that hold one hold nothing then; a write of one is StaleEpoch.
   */
  Void: 16,
  /**
   * Layers that the shard knows: `resultA` entries of family u64 and layer u64; `sequence` and
   * `resultB` as GroupSums has them, `blockCount` pages of payload.
   */
  ListLayers: 17,
  /**
   * From now on compaction keeps the tombstones that were first appended above the lsn `sequence`
   * (0: all of them), and drops others that are of no use. `resultA` and `resultB`: the low and
   * high half of the lsn of the last one here.
   */
  HoldHoles: 18,
  /**
   * Fills the frame of chunk-map.ts at `payload` of the shard's maps with the whole chunk; with
   * OpFlag.Sealed also the other frame of the same number.
   */
  Locate: 19,
  /** `resultA` is how many blocks of the family hold data; with a layer: of that layer alone. */
  Usage: 20,
  /**
   * Chunks of some groups: `resultA` entries of DROP_BYTES, behind the pages that name the groups
   * as bits (GROUP_BITS_PAGES). `chunk`, `sequence`, `resultB` as GroupSums has them; `blockCount`
   * is the pages of the payload that entries may fill. A chunk of several layers may come again.
   */
  ListChunks: 21,
  /**
   * `sequence` chunks, entries of DROP_BYTES in the payload, are given back: all that this shard
   * has of them. `chunk` is the number of groups; entries are ordered by family, group and chunk,
   * and are all that the shard has between the first and the last of each group. Durable when
   * answered; `resultA` blocks. 0 chunks: that was all for a while, their space is given back.
   */
  DropChunks: 22,
  /**
   * Blocks that a scrub or a read found damaged and nobody asked for yet: `resultA` entries of
   * DAMAGE_BYTES in `blockCount` pages of payload. The shard forgets them; its next round of the
   * scrub names them anew.
   */
  TakeDamage: 23,
  /**
   * Nobody reads the layers of the op's branch from the one with lower half `chunk` on, up to below
   * the op's layer, but through that: what is hidden in them becomes dead, bit by bit. Idempotent;
   * a restart forgets what is not done.
   */
  MergeLayers: 24,
  /**
   * The branch of the op's layer (family and `layerHigh`) begins on a layer of another one: upper
   * half of its family `chunk`, lower half `writerEpoch`; halves of its id `sequence`, `layerLow`.
   * Family 0: it begins on none. Known until the shard's process ends.
   */
  SetBase: 25,
  /**
   * What each view of a volume takes, counted stretch by stretch (index-space.ts). Begins with
   * `sequence` 0 and goes on with the last answer's `resultB` until that is 0; Conflict when
   * another count was begun meanwhile. `chunk` is the number of groups, `blockCount` the pages of
   * payload behind those that name the groups as bits (GROUP_BITS_PAGES). There the question
   * stands, all u32: branches, nodes; of each branch familyHigh, familyLow, layerHigh, isOpen; of
   * each node parent plus 1, branch, layerLow. Answers are `resultA` entries of SPACE_BYTES from
   * the payload's begin on, by node, in blocks: f64 own, exclusive, change; a last one has what
   * is pending.
   */
  LayerSpace: 27,
  /**
   * Chunks in which the layer, or what it stands on, has anything: with OpFlag.Since as BlockStatus
   * has it. `chunk` is the number of groups; behind the pages that name those that are wanted as
   * bits (GROUP_BITS_PAGES) the question stands, u32: the first chunk, and the one behind the last.
   * There the answer stands too, in `blockCount` pages: `resultA` chunks, u32, ordered. It is of
   * the chunks before `resultB`; of the rest nothing is said.
   */
  FindChunks: 28
} as const
export type OpKind = (typeof OpKind)[keyof typeof OpKind]

export const OpFlag = {
  /** WriteZeroes must leave the range allocated. */
  NoHole: 1,
  /** Compact, Scrub: stop instead of start. */
  Stop: 2,
  /**
   * Trim, WriteZeroes: the hole stays in the index with its version, also where nothing older is
   * known: an older write may still be on its way (PROTOCOL.md, R12).
   */
  KeepHole: 4,
  /** GroupSums, ChunkSums: holes count into the hash. */
  WithHoles: 8,
  /**
   * Write: the payload is ciphertext, with its tags at `tags`. Read, ReadVersions: blocks are
   * wanted as they are, with what it takes to open them at `tags`. Without it ReadVersions of
   * sealed blocks is TagsWanted.
   */
  Sealed: 16,
  /** GroupSums, ChunkSums: the checksums of data count into the hash. */
  WithChecksums: 32,
  /**
   * Write: taken only where the shard holds exactly this version of each block as data, else
   * Conflict: other bytes for what is there (PROTOCOL.md, R32).
   */
  SameVersion: 64,
  /**
   * BlockStatus, FindChunks: of what the layer shows, only what is from layers above the one whose
   * halves are in `writerEpoch` and `sequence`; the rest is Unchanged.
   */
  Since: 128,
  /**
   * Read: keys may have changed since they were handed here. A block that does not open is Locked:
   * who asks fetches the keys and asks again, without this flag.
   */
  StaleKeys: 256
} as const

/**
 * Block status is written to the payload as u32 pairs in native order: block count, then one of
 * these. Runs cover the asked range from its start; `resultA` is the number of pairs, at most
 * `blockCount`, and the payload has room for as many: two pages for a whole chunk.
 */
export const StatusExtent = { Data: 0, Hole: 1, Zero: 2, Unchanged: 3 } as const

// Entries in payloads, little-endian, as they also go from peer to peer:
//
//   group sum   group u32, blocks u32, hash u64
//   chunk sum   layer u64, chunk u32, blocks u32, hash u64
//   run         firstBlock u16, blockCount u16, kind u32 (VersionKind), writerEpoch u32, zero u32,
//               sequence u64
//   void        firstBlock u16, blockCount u16, zero u32, writerEpoch u32, floorEpoch u32,
//               sequence u64, floorSequence u64: versions above the floor, up to the other one
//   drop        family u64, chunk u32, zero u32
//   damage      family u64, layer u64, chunk u32, firstBlock u16, blockCount u16
//
//   seal entry  tag 16 bytes, writerEpoch u32, sequence u64, kind u32 (SealKind, and << 4 the kin
//               of another family that the block is of, core/family-ids.ts): what a read with
//               OpFlag.Sealed tells of each block. Without data all of it is zero.
//
// `blocks` counts data and zeroes. `hash` is two u32 that are added each for itself.
export const GROUP_SUM_BYTES = 16
export const CHUNK_SUM_BYTES = 24
export const VERSION_RUN_BYTES = 24
export const VOID_BYTES = 32
export const LAYER_BYTES = 16
export const DROP_BYTES = 16
export const DAMAGE_BYTES = 24
export const SPACE_BYTES = 24
/** More take longer than clients should wait. */
export const DROP_CHUNKS_MAX = 1024
/** A bit for each group that there may be. */
export const GROUP_BITS_PAGES = 2
export const SEAL_ENTRY_BYTES = 32
/** Zeroes: there is no data, so nothing to open. Data: it is not sealed. */
export const SealKind = { Zeroes: 0, Data: 1, Sealed: 2 } as const
export const SEAL_KIND_MASK = 15
export const SEAL_KIN_SHIFT = 4
export const VersionKind = { Data: 1, Zeroes: 2, Hole: 3 } as const

/** So many blocks' runs and checksums fit a page. */
export const READ_VERSIONS_BLOCKS_MAX = 128
export const READ_VERSIONS_CRCS_AT = READ_VERSIONS_BLOCKS_MAX * VERSION_RUN_BYTES
assert(READ_VERSIONS_CRCS_AT + 4 * READ_VERSIONS_BLOCKS_MAX <= BLOCK_BYTES, 'the table is a page')

/** Pages of the payload of a Versions op: each block may be a run of its own. */
export const versionPages = (blockCount: number): number =>
  Math.ceil((blockCount * VERSION_RUN_BYTES) / BLOCK_BYTES)

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
  /**
   * Of sealed payloads: byte offset in the shard's memory, a multiple of 16, of the tags of a
   * write, SEAL_TAG_BYTES a block, or of what a read tells of each block: SEAL_ENTRY_BYTES.
   */
  tags: number = 0
  /**
   * Read, Write: the group of keys (seal/keyring.ts) with which the shard itself opens what it
   * read, or seals what it writes, so that the payload is plaintext; 0 without.
   */
  keySlot: number = 0
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
  /** With it, of a write that the shard sealed: the block's tag. */
  tag0: number = 0
  tag1: number = 0
  tag2: number = 0
  tag3: number = 0

  get payloadBlocks(): number {
    return this.kind === OpKind.Read || this.kind === OpKind.Write ? this.blockCount : 0
  }
}
