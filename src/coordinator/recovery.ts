/** A cluster whose etcd is lost with all its members, from the copies that its peers keep. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Keys } from '../cluster/keys.ts'
import { decodeRecord } from '../cluster/records.ts'
import { mergedBackup, restoredBackup } from '../cluster/restored.ts'
import { writeBackup } from '../cluster/metadata-copy.ts'
import { systemClock } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Config } from '../core/options.ts'
import type { MetadataBackup } from '../metadata/backup-format.ts'
import { FenceFile } from '../replication/fence-file.ts'
import { Fences } from '../replication/fences.ts'
import { requirePeerSuperblock } from '../shard/superblock-file.ts'
import { DirectoryLock, LOCK_FILE } from './lock.ts'
import { COPY_FILE } from './metadata-copies.ts'
import { type MoveOptions, type Moved, movedOf, onEtcd, readBackupFile } from './metadata-moves.ts'

export interface Recovered extends Moved {
  /** Peer whose copy was the newest. */
  readonly from: string
  /** Peers of the copy that were not given: their word is awaited. */
  readonly missing: readonly string[]
  /** Groups that changed after the newest copy: they wait for an operator. */
  readonly behind: readonly string[]
}

interface PeerFiles {
  readonly peerId: string
  readonly clusterId: string
  readonly copies: readonly MetadataBackup[]
  readonly memory: readonly { pool: number; group: number; epoch: number }[]
}

/**
 * Puts the newest metadata of the data directories into etcd. Of a peer on another machine the
 * files `superblock`, `fences`, `metadata-copy` and `metadata-copy.old` are enough.
 * @throws StoreError Busy (a peer runs), NotFound, Corrupt, InvalidArgument (several clusters)
 */
export async function recoverFromPeers(
  directories: readonly string[],
  config: Config,
  options: MoveOptions & { readonly dryRun: boolean }
): Promise<Recovered> {
  const keys = new Keys(config.etcdPrefix)
  const locks = directories.flatMap((path) =>
    existsSync(join(path, LOCK_FILE)) ? [DirectoryLock.acquire(path)] : []
  )
  try {
    const peers: PeerFiles[] = []
    for (const path of directories) peers.push(await filesOf(path, peers[0]?.clusterId ?? null))
    const copies = peers.flatMap((peer) => peer.copies)
    if (copies.length === 0) {
      const text = `none of ${directories.join(', ')} has a ${COPY_FILE}`
      throw new StoreError(ErrorCode.NotFound, text)
    }
    const merged = mergedBackup(copies, keys)
    const backup = restoredBackup(merged, keys, systemClock.wallMs())
    if (!options.dryRun) {
      await onEtcd(config, (store) => writeBackup(store, keys, backup, options))
    }
    const from = peers.find((peer) =>
      peer.copies.some(({ revision }) => revision === merged.revision)
    )
    const given = new Set(peers.map(({ peerId }) => peerId))
    return {
      ...movedOf(merged),
      from: from?.peerId ?? '',
      missing: peersOf(merged, keys).filter((peer) => !given.has(peer)),
      behind: behindOf(merged, keys, peers)
    }
  } finally {
    for (const lock of locks) lock.release()
  }
}

async function filesOf(path: string, wanted: string | null): Promise<PeerFiles> {
  const { clusterId, peerId } = requirePeerSuperblock(path)
  if (wanted !== null && clusterId !== wanted) {
    const text = `${path} is of cluster ${clusterId}, the others are of ${wanted}`
    throw new StoreError(ErrorCode.InvalidArgument, `${text}. Nothing was changed`)
  }
  const names = [COPY_FILE, `${COPY_FILE}.old`].map((name) => join(path, name))
  const copies = names.filter((name) => existsSync(name)).map(readBackupFile)
  const other = copies.find((copy) => copy.clusterId !== clusterId)
  if (other !== undefined) {
    const text = `${path} is of cluster ${clusterId}, its ${COPY_FILE} of ${other.clusterId}`
    throw new StoreError(ErrorCode.InvalidArgument, `${text}. Nothing was changed`)
  }
  const fences = await Fences.open(new FenceFile(path, { clusterId, peerId }))
  return { clusterId, peerId, copies, memory: [...fences.groupEpochs()] }
}

function peersOf({ entries }: MetadataBackup, keys: Keys): string[] {
  return entries
    .map(({ key, value }) => ({ key: keys.root + key, value }))
    .filter(({ key }) => key.startsWith(keys.peers))
    .map(({ key, value }) => decodeRecord('peer', key, value))
    .filter(({ state }) => state !== 'removed' && state !== 'pending')
    .map(({ peerId }) => peerId)
}

/** As the peers will say it when they start. */
function behindOf(merged: MetadataBackup, keys: Keys, peers: readonly PeerFiles[]): string[] {
  const epochs = new Map<string, number>()
  for (const { key, value } of merged.entries) {
    const whole = keys.root + key
    if (!whole.startsWith(keys.allGroups)) continue
    const { epoch, restored } = decodeRecord('group', whole, value)
    epochs.set(whole.slice(keys.allGroups.length), restored?.epoch ?? epoch)
  }
  const behind = new Set<string>()
  for (const { memory } of peers) {
    for (const { pool, group, epoch } of memory) {
      const name = `${pool}/${group}`
      if (epoch > (epochs.get(name) ?? 0)) behind.add(name)
    }
  }
  return [...behind]
}
