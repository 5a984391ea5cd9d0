/** Restore and migration of the metadata: on data directories of peers that do not run. */
import { existsSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Keys } from '../cluster/keys.ts'
import { readBackup, writeBackup } from '../cluster/metadata-copy.ts'
import { restoredBackup } from '../cluster/restored.ts'
import { decodeRecord } from '../cluster/records.ts'
import { systemClock, systemRandom } from '../core/clock.ts'
import { syncDirectory } from '../core/directories.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { METADATA_COPY_BYTES_MAX } from '../core/limits.ts'
import type { Config } from '../core/options.ts'
import { decodeBackup, type MetadataBackup } from '../metadata/backup-format.ts'
import { EmbeddedStore } from '../metadata/embedded-store.ts'
import { LmdbTables } from '../metadata/lmdb-tables.ts'
import type { MetadataStore } from '../metadata/store.ts'
import { requirePeerSuperblock } from '../shard/superblock-file.ts'
import { METADATA_DIRECTORY } from './data-directory.ts'
import { etcdOptionsOf } from './etcd-options.ts'
import { DirectoryLock } from './lock.ts'
import { readPlace, requirePlace, writePlace } from './metadata-place.ts'
import { systemReason } from '../core/system-reason.ts'

/** What the embedded metadata is called after it was moved to etcd. */
const MIGRATED = 'migrated'
const RESTORING = 'restoring'
/** Keys, heads and the end, on top of the values. */
const FILE_BYTES_MAX = 2 * METADATA_COPY_BYTES_MAX

export interface MoveOptions {
  readonly force: boolean
  readonly onProgress: (done: number, total: number) => void
}

export interface Moved {
  readonly clusterId: string
  readonly revision: number
  readonly createdAt: string
  readonly keys: number
}

export const movedOf = ({ clusterId, revision, createdMs, entries }: MetadataBackup): Moved => ({
  clusterId,
  revision,
  createdAt: new Date(createdMs).toISOString(),
  keys: entries.length
})

/** What a backup has, once every checksum of it was compared. @throws StoreError Corrupt */
export const checkBackup = (bytes: Buffer): Moved => movedOf(decodeBackup(bytes))

/** @throws StoreError NotFound, Corrupt, UnknownVersion, LimitReached */
export function readBackupFile(path: string): MetadataBackup {
  let bytes: Buffer
  try {
    const { size } = statSync(path)
    if (size > FILE_BYTES_MAX) {
      const text = `${path} has ${size} bytes; a backup has ${FILE_BYTES_MAX} at most`
      throw new StoreError(ErrorCode.LimitReached, text)
    }
    bytes = readFileSync(path)
  } catch (cause) {
    if (cause instanceof StoreError) throw cause
    const text = `${path} cannot be read: ${systemReason(cause)}`
    throw new StoreError(ErrorCode.NotFound, text, { cause })
  }
  return decodeBackup(bytes)
}

/** Into etcd, below an empty prefix or with `force`. @throws StoreError */
export async function restoreToEtcd(
  file: string,
  config: Config,
  options: MoveOptions
): Promise<Moved> {
  const keys = new Keys(config.etcdPrefix)
  const backup = restoredBackup(readBackupFile(file), keys, systemClock.wallMs())
  await onEtcd(config, (store) => writeBackup(store, keys, backup, options))
  return movedOf(backup)
}

/** Into the embedded store of a data directory of the same cluster. @throws StoreError */
export async function restoreToDirectory(
  file: string,
  dataDir: string,
  options: MoveOptions
): Promise<Moved> {
  const keys = new Keys()
  const backup = restoredBackup(readBackupFile(file), keys, systemClock.wallMs())
  const lock = DirectoryLock.acquire(dataDir)
  try {
    const { clusterId } = requirePeerSuperblock(dataDir)
    requireCluster(`the data directory ${dataDir}`, clusterId, backup.clusterId)
    const path = join(dataDir, METADATA_DIRECTORY)
    requirePlace({ dataDir, etcd: [], etcdPrefix: '' }, path)
    if (existsSync(path) && !options.force) {
      const text = `${path} is there; --force moves it aside and puts the backup in its place`
      throw new StoreError(ErrorCode.AlreadyExists, text)
    }
    const draft = `${path}.${RESTORING}`
    rmSync(draft, { recursive: true, force: true })
    await onDirectory(draft, true, (store) => writeBackup(store, keys, backup, options))
    const stamp = new Date(systemClock.wallMs()).toISOString().replaceAll(/[-:]|\..*/g, '')
    if (existsSync(path)) renameSync(path, `${path}.replaced-${stamp}`)
    renameSync(draft, path)
    syncDirectory(dataDir)
  } finally {
    lock.release()
  }
  return movedOf(backup)
}

/**
 * Moves the metadata of a data directory from its own store to etcd. Until the last step the
 * directory's own store is the one that counts, so that it can be begun again at any time.
 * @throws StoreError
 */
export async function migrateToEtcd(
  dataDir: string,
  config: Config,
  options: Pick<MoveOptions, 'onProgress'>
): Promise<Moved> {
  const keys = new Keys(config.etcdPrefix)
  const lock = DirectoryLock.acquire(dataDir)
  try {
    const { clusterId, peerId, bootCounter } = requirePeerSuperblock(dataDir)
    const path = join(dataDir, METADATA_DIRECTORY)
    const place = readPlace(dataDir)
    if (place !== null) {
      // All but the last step was done, or all.
      if (existsSync(path)) setAside(dataDir, path)
      return await onEtcd(config, async (store) => {
        const found = await readBackup(store, keys, systemClock.wallMs())
        requireCluster(`the data directory ${dataDir}`, clusterId, found.clusterId)
        return movedOf(found)
      })
    }
    const backup = await onDirectory(path, false, (store) =>
      readBackup(store, new Keys(), systemClock.wallMs())
    )
    requireCluster(`the metadata of ${dataDir}`, backup.clusterId, clusterId)
    await onEtcd(config, async (store) => {
      const force = await isLeftover(store, keys, { clusterId, peerId, bootCounter })
      await writeBackup(store, keys, backup, { ...options, force })
    })
    const endpoints = [...config.etcd]
    writePlace(dataDir, { v: 1, kind: 'etcd', endpoints, prefix: config.etcdPrefix, clusterId })
    setAside(dataDir, path)
    return movedOf(backup)
  } finally {
    lock.release()
  }
}

function setAside(dataDir: string, path: string): void {
  const aside = `${path}.${MIGRATED}`
  rmSync(aside, { recursive: true, force: true })
  renameSync(path, aside)
  syncDirectory(dataDir)
}

/**
 * Is what stands in etcd a copy that an interrupted migration of this very directory left, which
 * nobody has lived on since? A peer that starts on etcd writes so into its directory first, and
 * this one has not.
 */
async function isLeftover(
  store: MetadataStore,
  keys: Keys,
  self: { clusterId: string; peerId: string; bootCounter: number }
): Promise<boolean> {
  const found = await store.get(keys.cluster)
  if (found === null) return false
  const { clusterId } = decodeRecord('cluster', keys.cluster, found.value)
  const { entries } = await store.range(keys.peers)
  const peers = entries.map(({ key, value }) => decodeRecord('peer', key, value))
  return (
    clusterId === self.clusterId &&
    peers.every((peer) => peer.peerId === self.peerId && peer.bootCounter <= self.bootCounter)
  )
}

function requireCluster(what: string, clusterId: string, wanted: string): void {
  if (clusterId === wanted) return
  const text = `${what} is of cluster ${clusterId}, and not of ${wanted}. Nothing was changed`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

export async function onEtcd<T>(
  config: Config,
  work: (store: MetadataStore) => Promise<T>
): Promise<T> {
  const { EtcdStore } = await import('../metadata/etcd-store.ts')
  const store = await EtcdStore.open(etcdOptionsOf(config))
  return work(store).finally(() => store.close())
}

async function onDirectory<T>(
  path: string,
  create: boolean,
  work: (store: MetadataStore) => Promise<T>
): Promise<T> {
  const tables = await LmdbTables.open(path, { create })
  const store = await EmbeddedStore.open(tables, { clock: systemClock, random: systemRandom })
  return work(store).finally(() => store.close())
}
