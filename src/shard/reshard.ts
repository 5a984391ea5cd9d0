/**
 * Changes the number of shards of a data directory that is not in use.
 *
 *   copying    shard by shard, live blocks go to new shards under `D/reshard`; an old shard that is
 *              copied and synced is removed, so that the space of one old shard is needed on top
 *   renaming   all old ones are gone; the new ones take their names
 *
 * The peer's superblock says how far it is, so that a run that was killed goes on with the next
 * call, and nothing serves the directory meanwhile. Copies keep their versions: doing one twice is
 * harmless. Holes are copied too: a member that comes back may hold something older than they are.
 * Void versions are not: no record of one is.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { SHARDS_MAX } from '../core/limits.ts'
import { ReshardPhase, type Superblock } from '../format/superblock.ts'
import { offlineConfig, offlineHost, shardDirectory } from './check.ts'
import { DiskFiles, storeErrorOfSystem, syncDirectoryAt } from './disk-files.ts'
import { type ReshardOptions, ReshardTarget, ShardCopy } from './reshard-copy.ts'
import { Shard } from './shard.ts'
import { requirePeerSuperblock, updatePeerSuperblock } from './superblock-file.ts'

const newDirectory = (directory: string): string => join(directory, 'reshard')

/**
 * Makes the data directory one of `shards` shards. Goes on where an earlier call was killed.
 * @throws StoreError NotFound, InvalidArgument, OutOfSpace, ChecksumMismatch (damage, which
 *   `acceptLoss` would leave out), DiskFailure; the directory can then be resharded again
 */
export function reshardDirectory(directory: string, shards: number, options: ReshardOptions): void {
  if (!Number.isInteger(shards) || shards < 1 || shards > SHARDS_MAX) {
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `${shards} shards: 1 to ${SHARDS_MAX} are possible`
    )
  }
  let superblock = requirePeerSuperblock(directory)
  try {
    if (superblock.reshardPhase === ReshardPhase.None) {
      if (superblock.shards === shards) return
      superblock = begin(directory, superblock, shards)
    }
    if (superblock.reshardTo !== shards) {
      throw new StoreError(
        ErrorCode.InvalidArgument,
        `a change to ${superblock.reshardTo} shards is unfinished: finish that one first`
      )
    }
    if (superblock.reshardPhase === ReshardPhase.Copying) {
      superblock = copyAll(directory, superblock, options)
    }
    finish(directory, superblock)
  } catch (thrown) {
    if (thrown instanceof StoreError) throw thrown
    throw storeErrorOfSystem(thrown, `reshard ${directory}`)
  }
}

/** Empty new shards, then the superblock that says so. */
function begin(directory: string, superblock: Superblock, shards: number): Superblock {
  const target = newDirectory(directory)
  rmSync(target, { recursive: true, force: true })
  mkdirSync(target)
  for (let shard = 0; shard < shards; shard++) {
    const path = shardDirectory(target, shard)
    mkdirSync(path)
    const config = offlineConfig({ ...superblock, shards }, { shard })
    Shard.format(
      config,
      offlineHost(new DiskFiles(path), Buffer.alloc(0), () => {})
    )
  }
  syncDirectoryAt(target)
  syncDirectoryAt(directory)
  return updatePeerSuperblock(directory, {
    ...superblock,
    reshardPhase: ReshardPhase.Copying,
    reshardTo: shards,
    reshardDone: 0
  })
}

function copyAll(directory: string, start: Superblock, options: ReshardOptions): Superblock {
  let superblock = start
  for (let shard = 0; shard < superblock.reshardDone; shard++) removeOld(directory, shard)
  const targets: ReshardTarget[] = []
  const target = newDirectory(directory)
  try {
    for (let shard = 0; shard < superblock.reshardTo; shard++) {
      targets.push(new ReshardTarget(target, superblock, shard))
    }
    for (let shard = superblock.reshardDone; shard < superblock.shards; shard++) {
      new ShardCopy(directory, superblock, shard, targets, options).run()
      superblock = updatePeerSuperblock(directory, { ...superblock, reshardDone: shard + 1 })
      removeOld(directory, shard)
    }
  } finally {
    for (const one of targets) one.shard.close()
  }
  syncDirectoryAt(directory)
  return updatePeerSuperblock(directory, { ...superblock, reshardPhase: ReshardPhase.Renaming })
}

function removeOld(directory: string, shard: number): void {
  rmSync(shardDirectory(directory, shard), { recursive: true, force: true })
}

function finish(directory: string, superblock: Superblock): void {
  assert(superblock.reshardPhase === ReshardPhase.Renaming, 'copies are complete')
  const target = newDirectory(directory)
  for (let shard = 0; shard < superblock.reshardTo; shard++) {
    const from = shardDirectory(target, shard)
    if (existsSync(from)) renameSync(from, shardDirectory(directory, shard))
  }
  syncDirectoryAt(directory)
  updatePeerSuperblock(directory, {
    ...superblock,
    shards: superblock.reshardTo,
    reshardPhase: ReshardPhase.None,
    reshardTo: 0,
    reshardDone: 0
  })
  rmSync(target, { recursive: true, force: true })
}
