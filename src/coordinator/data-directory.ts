/**
 * A peer's data directory: made, locked and checked before anything in it is opened.
 *
 *   D/superblock   whose directory this is; written first, both copies durable
 *   D/lock         held with flock while a process owns the directory
 *   D/shard-N/     made after the superblock; a missing one is only made while the boot counter
 *                  is 0, because afterwards its absence means lost data, not a new directory
 *   D/metadata/    the embedded metadata store
 *   D/metadata-place   says that the metadata is in etcd instead, and where
 *   D/metadata-copy    a recent copy of the metadata, wherever it is
 */
import { readdirSync, statfsSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { BootCounter } from '../cluster/boot-counter.ts'
import { randomId128 } from '../cluster/ids.ts'
import type { Clock, Random } from '../core/clock.ts'
import { makeDirectory } from '../core/directories.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Config } from '../core/options.ts'
import { formatSize } from '../core/units.ts'
import type { Superblock } from '../format/superblock.ts'
import { DiskFiles } from '../shard/disk-files.ts'
import { LocalSyncTracker } from '../shard/local-sync-tracker.ts'
import { Shard } from '../shard/shard.ts'
import { resolveShardConfig, segmentBytesFor, type ShardHost } from '../shard/shard-config.ts'
import { shardStatNames } from '../shard/stats.ts'
import {
  createPeerSuperblock,
  readPeerSuperblock,
  requireServable,
  SUPERBLOCK_NAME,
  updatePeerSuperblock
} from '../shard/superblock-file.ts'
import { DirectoryLock, LOCK_FILE } from './lock.ts'

/** More shards than this only help disks that are slow at one request at a time. */
const SHARDS_DEFAULT_MAX = 4
/** Left on the filesystem by the default capacity: for metadata, logs and what others write. */
const FILESYSTEM_MARGIN = 0.05
export const METADATA_DIRECTORY = 'metadata'
/** What a filesystem's own root may hold, and what an earlier, interrupted start left. */
const allowedInNewDirectory = new Set([LOCK_FILE, 'lost+found'])

export interface DataDirectory extends BootCounter {
  readonly path: string
  /** As on disk. */
  readonly superblock: Superblock
  readonly metadataPath: string
  readonly capacityBytes: number
  shardPath(shard: number): string
  filesystemFreeBytes(): number
  /**
   * From now on there may be what only programs that know this feature level can read; durable on
   * return. @throws StoreError DiskFailure
   */
  raiseFormat(level: number): void
  /** Lets other processes have the directory. */
  release(): void
}

type DirectoryOptions = Pick<Config, 'dataDir' | 'shards' | 'segmentBytes' | 'capacityBytes'> & {
  /** Cluster of a new directory; null makes one. */
  readonly clusterId: string | null
}

/**
 * Makes the directory where it is new. Only the first start counts at once.
 * @throws StoreError Busy (another process has it), InvalidArgument (it is something else, or has
 * another number of shards), Corrupt, UnknownVersion, NotFound (a shard is gone), DiskFailure
 */
export function openDataDirectory(
  options: DirectoryOptions,
  clock: Clock,
  random: Random
): DataDirectory {
  const path = options.dataDir
  makeDataDirectory(path)
  const lock = DirectoryLock.acquire(path)
  try {
    const found = readPeerSuperblock(path) ?? createDirectory(path, options, clock, random)
    requireServable(found, options.shards ?? 0)
    requireSegmentBytes(found, options.segmentBytes)
    const shardPath = (shard: number): string => join(path, `shard-${shard}`)
    prepareShards(found, shardPath, clock, random)
    let superblock = found
    const raiseTo = (bootCounter: number): void => {
      superblock = updatePeerSuperblock(path, { ...superblock, bootCounter })
    }
    // Its shards are made: from now on one that is not there is lost.
    let isCounted = found.bootCounter === 0
    if (isCounted) raiseTo(1)
    return {
      path,
      get superblock() {
        return superblock
      },
      get bootCounter() {
        return superblock.bootCounter
      },
      countStart: () => {
        if (!isCounted) raiseTo(superblock.bootCounter + 1)
        isCounted = true
      },
      raiseBootCounter: raiseTo,
      metadataPath: join(path, METADATA_DIRECTORY),
      capacityBytes: options.capacityBytes ?? capacityOf(path, superblock.shards, shardPath),
      shardPath,
      filesystemFreeBytes: () => freeBytesOf(path),
      raiseFormat: (level) => {
        if (level <= superblock.formatVersion) return
        superblock = updatePeerSuperblock(path, { ...superblock, formatVersion: level })
      },
      release: () => lock.release()
    }
  } catch (thrown) {
    lock.release()
    throw thrown
  }
}

function makeDataDirectory(path: string): void {
  try {
    makeDirectory(path)
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new StoreError(ErrorCode.DiskFailure, `data directory ${path}: ${message}`, { cause })
  }
}

function createDirectory(
  path: string,
  options: DirectoryOptions,
  clock: Clock,
  random: Random
): Superblock {
  const foreign = readdirSync(path).filter((name) => !allowedInNewDirectory.has(name))
  if (foreign.length > 0) {
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `${path} is no data directory (it has no ${SUPERBLOCK_NAME}) and not empty ` +
        `(it has ${foreign.slice(0, 3).join(', ')}): choose an empty one`
    )
  }
  const shards = options.shards ?? shardsByDefault()
  const capacityBytes = options.capacityBytes ?? freeBytesOf(path)
  return createPeerSuperblock(path, {
    clusterId: options.clusterId ?? randomId128(random),
    peerId: randomId128(random),
    shards,
    segmentBytes: options.segmentBytes ?? segmentBytesFor(capacityBytes, shards),
    createdMs: Math.floor(clock.wallMs())
  })
}

/** One core is the main thread's: with a worker on it too, both wait for each other. */
const shardsByDefault = (): number =>
  Math.min(SHARDS_DEFAULT_MAX, Math.max(1, availableParallelism() - 1))

function requireSegmentBytes(superblock: Superblock, wanted: number | null): void {
  if (wanted === null || wanted === superblock.segmentBytes) return
  throw new StoreError(
    ErrorCode.InvalidArgument,
    `the data directory was made with segments of ${formatSize(superblock.segmentBytes)}, ` +
      `which cannot become ${formatSize(wanted)}: leave --segment-size out`
  )
}

function prepareShards(
  superblock: Superblock,
  shardPath: (shard: number) => string,
  clock: Clock,
  random: Random
): void {
  for (let shard = 0; shard < superblock.shards; shard++) {
    const path = shardPath(shard)
    if (superblock.bootCounter > 0) requireShardDirectory(path)
    else formatShard(path, shard, superblock, clock, random)
  }
}

function requireShardDirectory(path: string): void {
  try {
    readdirSync(path)
  } catch (cause) {
    throw new StoreError(
      ErrorCode.NotFound,
      `${path} is gone or cannot be read, and it holds data: bring it back (is a disk missing?)`,
      { cause }
    )
  }
}

/** Repeats what an interrupted first start left half done: nothing was ever written there. */
function formatShard(
  path: string,
  shard: number,
  superblock: Superblock,
  clock: Clock,
  random: Random
): void {
  makeDataDirectory(path)
  const files = new DiskFiles(path)
  for (const name of files.list()) files.remove(name)
  const { clusterId, peerId, shards, segmentBytes } = superblock
  const capacityBytes = Number.MAX_SAFE_INTEGER
  const config = resolveShardConfig({
    shard,
    shards,
    clusterId,
    peerId,
    segmentBytes,
    capacityBytes
  })
  const host: ShardHost = {
    files,
    tracker: new LocalSyncTracker(files),
    memory: Buffer.alloc(0),
    stats: new Float64Array(shardStatNames.length),
    clock,
    random,
    log: () => {}
  }
  Shard.format(config, host)
}

/** What the filesystem has for us, what we hold already included, less the margin. */
function capacityOf(path: string, shards: number, shardPath: (shard: number) => string): number {
  const { bsize, blocks } = statfsSync(path)
  let usedBytes = 0
  for (let shard = 0; shard < shards; shard++) {
    usedBytes += bytesIn(shardPath(shard))
  }
  const margin = Math.floor(blocks * bsize * FILESYSTEM_MARGIN)
  return Math.max(usedBytes, usedBytes + freeBytesOf(path) - margin)
}

/** Blocks that the files of `directory` really take. */
function bytesIn(directory: string): number {
  let bytes = 0
  for (const name of readdirSync(directory)) bytes += statSync(join(directory, name)).blocks * 512
  return bytes
}

function freeBytesOf(path: string): number {
  const { bavail, bsize } = statfsSync(path)
  return bavail * bsize
}
