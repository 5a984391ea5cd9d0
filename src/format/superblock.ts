/**
 * The first bytes read at start: whose directory this is, and by which format version. There is
 * one for the peer's data directory and one in each shard's directory. The file holds two copies,
 * one a page; a change writes the older copy with the next `generation`, so that a crash while
 * writing leaves the other one whole. The valid copy with the higher generation counts.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { LEVEL_MAX, LEVEL_MIN } from '../core/levels.ts'
import { SHARDS_MAX } from '../core/limits.ts'
import { version } from '../core/version.ts'
import {
  getId,
  getU64,
  isSafeU64,
  isZero,
  magicOf,
  PAGE_BYTES,
  setId,
  setU64,
  viewOf
} from './fields.ts'

/** Of the layouts under src/format: raised when one changes so that old readers take it wrongly. */
export const FORMAT_VERSION = 1
/** `shard` of the superblock of a whole peer. */
export const SHARD_OF_PEER = 0xffff_ffff

/** What an unfinished `torus reshard` was doing. */
export const ReshardPhase = { None: 0, Copying: 1, Renaming: 2 } as const
export type ReshardPhase = (typeof ReshardPhase)[keyof typeof ReshardPhase]

export interface Superblock {
  /**
   * Feature level of what may be in the directory: programs that do not know it refuse it, also
   * where no metadata tells them. Grows by `cluster finalize`.
   */
  formatVersion: number
  /** Grows by one with each write of this superblock. */
  generation: number
  /** Random, 32 hex digits. */
  clusterId: string
  /** Random, 32 hex digits. */
  peerId: string
  /** SHARD_OF_PEER, or which shard's directory this is. */
  shard: number
  /** How many shards the data directory has. */
  shards: number
  segmentBytes: number
  /** Starts of the peer, raised together with the metadata's (see DESIGN.md, boot id). */
  bootCounter: number
  createdMs: number
  /** Not None while a reshard is unfinished: nothing else may open the directory then. */
  reshardPhase: ReshardPhase
  /** Shards that the unfinished reshard makes. */
  reshardTo: number
  /** Old shards that are copied completely and may be gone. */
  reshardDone: number
}

// Superblock copy, one page, big-endian. Bytes not listed are zero.
//
//   offset  size  field
//        0     4  magic          'TSUP'
//        4     4  checksum       CRC-32C of bytes 8..4096
//        8     4  formatVersion
//       12     4  shard          0xffffffff for the peer's own
//       16     8  generation
//       24    16  clusterId
//       40    16  peerId
//       56     4  shards
//       60     4  segmentBytes
//       64     8  bootCounter
//       72     8  createdMs      milliseconds since 1970
//       80     4  reshardPhase   0 none, 1 copying, 2 renaming
//       84     4  reshardTo
//       88     4  reshardDone
//       92     4  reserved
export const SUPERBLOCK_COPY_BYTES = PAGE_BYTES
export const SUPERBLOCK_BYTES = 2 * SUPERBLOCK_COPY_BYTES
const SUPERBLOCK_MAGIC = magicOf('TSUP')
const AT_CHECKSUM = 4
const AT_VERSION = 8
const AT_SHARD = 12
const AT_GENERATION = 16
const AT_CLUSTER = 24
const AT_PEER = 40
const AT_SHARDS = 56
const AT_SEGMENT_BYTES = 60
const AT_BOOT_COUNTER = 64
const AT_CREATED = 72
const AT_RESHARD_PHASE = 80
const AT_RESHARD_TO = 84
const AT_RESHARD_DONE = 88
const AT_RESERVED = 92
assert(AT_RESHARD_DONE + 4 === AT_RESERVED, 'superblock fields have no gap')

/** One copy as a page. It belongs at `superblockCopyOffset(superblock.generation)`. */
export function encodeSuperblock(superblock: Superblock): Buffer {
  const bytes = Buffer.alloc(SUPERBLOCK_COPY_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, SUPERBLOCK_MAGIC)
  view.setUint32(AT_VERSION, superblock.formatVersion)
  view.setUint32(AT_SHARD, superblock.shard)
  setU64(view, AT_GENERATION, superblock.generation)
  setId(bytes, AT_CLUSTER, superblock.clusterId)
  setId(bytes, AT_PEER, superblock.peerId)
  view.setUint32(AT_SHARDS, superblock.shards)
  view.setUint32(AT_SEGMENT_BYTES, superblock.segmentBytes)
  setU64(view, AT_BOOT_COUNTER, superblock.bootCounter)
  setU64(view, AT_CREATED, superblock.createdMs)
  view.setUint32(AT_RESHARD_PHASE, superblock.reshardPhase)
  view.setUint32(AT_RESHARD_TO, superblock.reshardTo)
  view.setUint32(AT_RESHARD_DONE, superblock.reshardDone)
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
  return bytes
}

export const superblockCopyOffset = (generation: number): number =>
  (generation % 2) * SUPERBLOCK_COPY_BYTES

/**
 * The newest valid copy in the file's bytes (which may be short).
 * @throws StoreError Corrupt when no copy is valid, UnknownVersion when a newer program wrote it
 */
export function decodeSuperblock(file: Buffer, name: string): Superblock {
  let newest: Superblock | null = null
  let newerVersion = 0
  for (let start = 0; start < SUPERBLOCK_BYTES; start += SUPERBLOCK_COPY_BYTES) {
    if (file.length < start + SUPERBLOCK_COPY_BYTES) break
    const copy = file.subarray(start, start + SUPERBLOCK_COPY_BYTES)
    const view = viewOf(copy)
    if (view.getUint32(0) !== SUPERBLOCK_MAGIC) continue
    if (view.getUint32(AT_CHECKSUM) !== crc32c(copy.subarray(AT_VERSION))) continue
    const found = view.getUint32(AT_VERSION)
    if (found < LEVEL_MIN || found > LEVEL_MAX) {
      newerVersion = Math.max(newerVersion, found)
      continue
    }
    const decoded = decodeCopy(copy, view)
    if (decoded !== null && (newest === null || decoded.generation > newest.generation)) {
      newest = decoded
    }
  }
  if (newerVersion > 0) {
    const known = `this program (torus ${version}) knows ${LEVEL_MIN} to ${LEVEL_MAX}`
    const text = `${name} has format version ${newerVersion}, ${known}`
    throw new StoreError(ErrorCode.UnknownVersion, `${text}: start the version that wrote it`)
  }
  if (newest === null) {
    throw new StoreError(ErrorCode.Corrupt, `${name} holds no valid superblock copy`)
  }
  return newest
}

function decodeCopy(copy: Buffer, view: DataView): Superblock | null {
  const phase = view.getUint32(AT_RESHARD_PHASE)
  const shards = view.getUint32(AT_SHARDS)
  const segmentBytes = view.getUint32(AT_SEGMENT_BYTES)
  const sane =
    phase <= ReshardPhase.Renaming &&
    shards >= 1 &&
    shards <= SHARDS_MAX &&
    segmentBytes % PAGE_BYTES === 0 &&
    isSafeU64(view, AT_GENERATION) &&
    isSafeU64(view, AT_BOOT_COUNTER) &&
    isSafeU64(view, AT_CREATED) &&
    isZero(copy, AT_RESERVED, SUPERBLOCK_COPY_BYTES)
  if (!sane) return null
  return {
    formatVersion: view.getUint32(AT_VERSION),
    generation: getU64(view, AT_GENERATION),
    clusterId: getId(copy, AT_CLUSTER),
    peerId: getId(copy, AT_PEER),
    shard: view.getUint32(AT_SHARD),
    shards,
    segmentBytes,
    bootCounter: getU64(view, AT_BOOT_COUNTER),
    createdMs: getU64(view, AT_CREATED),
    reshardPhase: phase as ReshardPhase,
    reshardTo: view.getUint32(AT_RESHARD_TO),
    reshardDone: view.getUint32(AT_RESHARD_DONE)
  }
}
