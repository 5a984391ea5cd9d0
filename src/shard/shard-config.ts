import { assert } from '../core/assert.ts'
import type { BlockChecksums } from '../core/block-checksums.ts'
import type { Clock, Random } from '../core/clock.ts'
import type { FoldedChecksum } from '../core/folded-checksum.ts'
import { PIECE_BYTES_MAX, SHARDS_MAX } from '../core/limits.ts'
import { PAGE_BYTES } from '../format/fields.ts'
import type { SealKeys } from '../seal/key-table.ts'
import type { Files, SyncTracker } from './files.ts'
import type { SegmentPlaces } from './segment-places.ts'

/** What a shard is told; complete and checked. */
export interface ShardConfig {
  readonly shard: number
  readonly shards: number
  /** 32 hex digits each. */
  readonly clusterId: string
  readonly peerId: string
  /** Power of two, SEGMENT_BYTES_MIN or more. Fixed when the data directory is made. */
  readonly segmentBytes: number
  /** Bytes of segment files this shard may have. */
  readonly capacityBytes: number
  /** Everything is read and verified once in this time. 0: only when asked. */
  readonly scrubPeriodMs: number
  /** Segment files kept open. */
  readonly openFilesMax: number
  /** Emptied segment files kept for the next life; some times as many while segments begin. */
  readonly freeSegmentsMax: number
  /**
   * Memory for tags of sealed blocks, 16 bytes a block, in whole segments. Beyond it they are read
   * from the segments' ends again and again.
   */
  readonly tagBytesMax: number
  /** A sync is asked for when this much was appended since the last one. */
  readonly syncBytes: number
  /** Compaction keeps every tombstone until an op says otherwise (OpKind.HoldHoles). */
  readonly holdHoles: boolean
  /** No file is changed: offline check, or a filesystem that is read-only. */
  readonly readOnly: boolean
}

/** 64 KiB holds a header, a batch, a footer and a trailer, so that tests can be small. */
const SEGMENT_BYTES_MIN = 64 * 1024
/** Page numbers inside a segment stay small, and one compaction step bounded. */
const SEGMENT_BYTES_MAX = 1024 * 1024 * 1024
const SEGMENT_BYTES_DEFAULT = 128 * 1024 * 1024

/** Segments that only compaction, trims and deletes may begin, so that they always can. */
export const RESERVE_SEGMENTS = 3
/** Of these, the ones that only compaction may begin: without it trims alone could use all up. */
export const COMPACTION_SEGMENTS = 2
/** Fewer, and compaction has no choice of victims. */
const SEGMENTS_PER_SHARD_MIN = 32
/**
 * So many are no burden. What a shard has may be little: with segments of a tenth of it, those that
 * are being overwritten count as garbage, and compaction copies what is dead a moment later.
 */
const SEGMENTS_PER_SHARD_USUAL = 4096
/** Of smaller ones files begin and end all the time. */
const SEGMENT_BYTES_USUAL_MIN = 16 * 1024 * 1024
/** The largest piece of a request fits, with a header, a footer and the tags of sealed blocks. */
const SEGMENT_BYTES_SMALL = 2 * PIECE_BYTES_MAX

/** Segment size for a new data directory: the default, or less where the capacity is small. */
export function segmentBytesFor(capacityBytes: number, shards: number): number {
  let segmentBytes = SEGMENT_BYTES_DEFAULT
  const isTooLarge = (leastBytes: number, segments: number): boolean =>
    segmentBytes > leastBytes && capacityBytes / shards / segmentBytes < segments
  while (
    isTooLarge(SEGMENT_BYTES_USUAL_MIN, SEGMENTS_PER_SHARD_USUAL) ||
    isTooLarge(SEGMENT_BYTES_SMALL, SEGMENTS_PER_SHARD_MIN)
  ) {
    segmentBytes /= 2
  }
  return segmentBytes
}

const SHARD_DEFAULTS = {
  segmentBytes: SEGMENT_BYTES_DEFAULT,
  scrubPeriodMs: 14 * 24 * 3600 * 1000, // two weeks: latent sector errors are found before a second
  openFilesMax: 256, // with 4 shards below the usual limit of 1,024 descriptors a process
  freeSegmentsMax: 4, // enough for the segments that compaction frees between two rotations
  tagBytesMax: 256 * 1024 * 1024, // of 64 GiB of sealed data
  syncBytes: 64 * 1024 * 1024, // bounds what recovery has to verify block by block
  holdHoles: false,
  readOnly: false
} as const

export type ShardOptions = Pick<
  ShardConfig,
  'shard' | 'shards' | 'clusterId' | 'peerId' | 'capacityBytes'
> &
  Partial<ShardConfig>

export function resolveShardConfig(options: ShardOptions): ShardConfig {
  const config: ShardConfig = Object.freeze({ ...SHARD_DEFAULTS, ...options })
  const { segmentBytes } = config
  assert(config.shards >= 1 && config.shards <= SHARDS_MAX, 'shards are within their limit')
  assert(config.shard >= 0 && config.shard < config.shards, 'the shard is one of its peer')
  assert(segmentBytes >= SEGMENT_BYTES_MIN, 'a segment has its smallest size or more')
  assert(segmentBytes <= SEGMENT_BYTES_MAX, 'a segment has its largest size or less')
  assert((segmentBytes & (segmentBytes - 1)) === 0, 'segmentBytes is a power of two')
  assert(segmentBytes % PAGE_BYTES === 0, 'a segment holds whole pages')
  return config
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

/** The world outside of a shard. */
export interface ShardHost {
  readonly files: Files
  readonly tracker: SyncTracker
  /** Payloads: offsets of ops point into it. Page aligned if direct I/O is wanted. */
  readonly memory: Buffer
  /** Takes checksums of long runs in `memory`; without it the native package does. */
  readonly folded?: FoldedChecksum
  /** Takes those of many blocks in it; likewise. */
  readonly sums?: BlockChecksums
  /** ShardStats: see stats.ts for the order. */
  readonly stats: Float64Array
  readonly clock: Clock
  readonly random: Random
  /** For a thread that reads blocks by itself; without it nobody does. */
  readonly places?: SegmentPlaces
  /** Frames of chunk-map.ts. */
  readonly maps?: Uint32Array
  readonly sealMaps?: Uint32Array
  /** Of encrypted volumes that are unlocked. */
  readonly keys?: SealKeys
  log(level: LogLevel, message: string, fields: Record<string, unknown>): void
}
