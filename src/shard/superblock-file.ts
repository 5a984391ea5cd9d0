/** The superblock in its file: of a shard's directory, and of a peer's whole data directory. */
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { LEVEL_MIN } from '../core/levels.ts'
import {
  decodeSuperblock,
  encodeSuperblock,
  ReshardPhase,
  SHARD_OF_PEER,
  SUPERBLOCK_BYTES,
  SUPERBLOCK_COPY_BYTES,
  type Superblock,
  superblockCopyOffset
} from '../format/superblock.ts'
import { DiskFiles } from './disk-files.ts'
import type { Files } from './files.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'

export const SUPERBLOCK_NAME = 'superblock'

/** Writes the first superblock of a directory, both copies; durable on return. */
function createSuperblock(files: Files, superblock: Superblock): void {
  const handle = files.open(SUPERBLOCK_NAME, 'create')
  try {
    for (let generation = 1; generation <= 2; generation++) {
      const bytes = encodeSuperblock({ ...superblock, generation })
      files.write(handle, superblockCopyOffset(generation), bytes, 0, SUPERBLOCK_COPY_BYTES)
    }
    files.sync(handle)
  } finally {
    files.close(handle)
  }
  files.syncDirectory()
}

/**
 * @throws StoreError NotFound when there is none, Corrupt, UnknownVersion
 */
function readSuperblock(files: Files): Superblock {
  const handle = files.open(SUPERBLOCK_NAME, 'readOnly')
  try {
    const bytes = Buffer.alloc(SUPERBLOCK_BYTES)
    const got = files.read(handle, 0, bytes, 0, SUPERBLOCK_BYTES)
    return decodeSuperblock(bytes.subarray(0, got), SUPERBLOCK_NAME)
  } finally {
    files.close(handle)
  }
}

/** Replaces the older copy; durable on return. Takes what `readSuperblock` gave, changed. */
function updateSuperblock(files: Files, superblock: Superblock): Superblock {
  const next = { ...superblock, generation: superblock.generation + 1 }
  const handle = files.open(SUPERBLOCK_NAME, 'existing')
  try {
    const offset = superblockCopyOffset(next.generation)
    files.write(handle, offset, encodeSuperblock(next), 0, SUPERBLOCK_COPY_BYTES)
    files.sync(handle)
  } finally {
    files.close(handle)
  }
  return next
}

export function formatShardSuperblock(config: ShardConfig, host: ShardHost): void {
  const names = host.files.list()
  const foreign = names.find((name) => name !== SUPERBLOCK_NAME)
  if (foreign !== undefined) {
    throw new StoreError(
      ErrorCode.AlreadyExists,
      `directory of shard ${config.shard} is not empty: it holds ${foreign}`
    )
  }
  if (names.includes(SUPERBLOCK_NAME)) host.files.remove(SUPERBLOCK_NAME)
  createSuperblock(host.files, {
    formatVersion: LEVEL_MIN,
    generation: 1,
    clusterId: config.clusterId,
    peerId: config.peerId,
    shard: config.shard,
    shards: config.shards,
    segmentBytes: config.segmentBytes,
    bootCounter: 0,
    createdMs: Math.floor(host.clock.wallMs()),
    reshardPhase: ReshardPhase.None,
    reshardTo: 0,
    reshardDone: 0
  })
}

/**
 * The directory must be this shard's.
 * @throws StoreError Corrupt when it is another's, or NotFound, UnknownVersion
 */
export function requireShardSuperblock(config: ShardConfig, host: ShardHost): void {
  const superblock = readSuperblock(host.files)
  const differs = (name: string, is: unknown, wanted: unknown): void => {
    if (is === wanted) return
    throw new StoreError(
      ErrorCode.Corrupt,
      `directory of shard ${config.shard}: its ${name} is ${is}, not ${wanted}`
    )
  }
  differs('cluster id', superblock.clusterId, config.clusterId)
  differs('peer id', superblock.peerId, config.peerId)
  differs('shard number', superblock.shard, config.shard)
  differs('number of shards', superblock.shards, config.shards)
  differs('segment size', superblock.segmentBytes, config.segmentBytes)
}

/** What identifies a data directory when it is made. */
export interface PeerIdentity {
  readonly clusterId: string
  readonly peerId: string
  readonly shards: number
  readonly segmentBytes: number
  readonly createdMs: number
}

/** Makes the superblock of a peer's data directory, which holds none yet. */
export function createPeerSuperblock(dataDirectory: string, identity: PeerIdentity): Superblock {
  const files = new DiskFiles(dataDirectory)
  createSuperblock(files, {
    ...identity,
    formatVersion: LEVEL_MIN,
    generation: 1,
    shard: SHARD_OF_PEER,
    bootCounter: 0,
    reshardPhase: ReshardPhase.None,
    reshardTo: 0,
    reshardDone: 0
  })
  return readSuperblock(files)
}

/** Null when the directory holds none: it was never a data directory. */
export function readPeerSuperblock(dataDirectory: string): Superblock | null {
  try {
    const superblock = readSuperblock(new DiskFiles(dataDirectory))
    if (superblock.shard === SHARD_OF_PEER) return superblock
  } catch (thrown) {
    const error = storeErrorOf(thrown)
    if (error.code === ErrorCode.NotFound) return null
    throw new StoreError(error.code, `${dataDirectory}: ${error.message}`, { cause: error })
  }
  throw new StoreError(
    ErrorCode.Corrupt,
    `${dataDirectory} is the directory of a single shard, not a data directory`
  )
}

/** The superblock of a directory that must be a data directory. */
export function requirePeerSuperblock(dataDirectory: string): Superblock {
  const superblock = readPeerSuperblock(dataDirectory)
  if (superblock !== null) return superblock
  throw new StoreError(ErrorCode.NotFound, `${dataDirectory} is not a data directory of torus`)
}

export const updatePeerSuperblock = (dataDirectory: string, superblock: Superblock): Superblock =>
  updateSuperblock(new DiskFiles(dataDirectory), superblock)

/**
 * A data directory may be served only when it is whole and has the number of shards asked for
 * (0: whatever it has).
 * @throws StoreError InvalidArgument with a message that names reshard
 */
export function requireServable(superblock: Superblock, shardsWanted: number): void {
  if (superblock.reshardPhase !== ReshardPhase.None) {
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `the data directory is between ${superblock.shards} and ${superblock.reshardTo} shards: ` +
        `finish it with 'torus reshard --shards ${superblock.reshardTo}'`
    )
  }
  if (shardsWanted !== 0 && shardsWanted !== superblock.shards) {
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `the data directory has ${superblock.shards} shards, not ${shardsWanted}: ` +
        `change that with 'torus reshard --shards ${shardsWanted}'`
    )
  }
}
