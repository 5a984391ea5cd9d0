/** How a cluster begins, and how a new data directory becomes part of one. */
import { chmodSync, existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import { newSettings, requireCluster } from '../cluster/cluster.ts'
import { levelIn, requireKnownLevel } from '../cluster/features.ts'
import { randomId128 } from '../cluster/ids.ts'
import { Keys } from '../cluster/keys.ts'
import { defaultPool } from '../cluster/pools.ts'
import { decodeRecord, encodeRecord } from '../cluster/records.ts'
import { newSecretRecord, requireKnownSecret } from '../cluster/secret-verifiers.ts'
import { systemClock, systemRandom } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Config } from '../core/options.ts'
import type { MetadataStore } from '../metadata/store.ts'
import { SUPERBLOCK_NAME } from '../shard/superblock-file.ts'
import { NO_SECRET } from '../replication/peer-security.ts'
import { etcdOptionsOf } from './etcd-options.ts'
import { ownSecrets } from './own-secrets.ts'

type SecretConfig = EtcdConfig & Parameters<typeof ownSecrets>[0]
type EtcdConfig = Parameters<typeof etcdOptionsOf>[0] & Pick<Config, 'etcdPrefix'>

/**
 * Cluster that a new data directory is to be of; null when it makes its own, or is not new. Asked
 * before anything is made, so that a refusal leaves nothing behind.
 * @throws StoreError NotFound (`--join` and no cluster), AlreadyExists (a cluster and no `--join`),
 * InvalidArgument (foreign keys), UnknownVersion (a cluster of newer programs), Forbidden (a secret
 * that its peers do not know)
 */
export async function clusterToJoin(config: Config): Promise<string | null> {
  if (config.etcd.length === 0 || existsSync(join(config.dataDir, SUPERBLOCK_NAME))) return null
  const known = await withEtcd(config, async (store, keys) => {
    const clusterId = await clusterIdIn(store, keys)
    if (clusterId !== null && config.join) {
      await requireKnownSecret(store, keys, await ownSecrets(config, { clusterId, peerId: '' }))
    }
    return clusterId
  })
  const where = `below ${config.etcdPrefix} of ${config.etcd.join(', ')}`
  if (config.join && known === null) {
    const advice = 'make one with "torus cluster init", or start its first peer without --join'
    throw new StoreError(ErrorCode.NotFound, `there is no cluster ${where}: ${advice}`)
  }
  if (!config.join && known !== null) {
    const text = `there is a cluster ${where} already: add --join to become part of it`
    throw new StoreError(ErrorCode.AlreadyExists, `${text}, or choose another --etcd-prefix`)
  }
  return known
}

/**
 * Makes a cluster that has no peers yet. Returns its id.
 * @throws StoreError AlreadyExists, InvalidArgument (foreign keys), Unavailable
 */
export function initCluster(config: SecretConfig): Promise<string> {
  return withEtcd(config, async (store, keys) => {
    const clusterId = randomId128(systemRandom)
    const { secrets } = await ownSecrets(config, { clusterId, peerId: '' })
    const createdAt = new Date(systemClock.wallMs()).toISOString()
    const [found] = (await store.range(`${keys.prefix}/`, { limit: 1 })).entries
    if (found !== undefined) {
      const text = `there are keys below ${keys.prefix}/ already (${found.key})`
      throw new StoreError(ErrorCode.AlreadyExists, `${text}: choose another --etcd-prefix`)
    }
    const pool = defaultPool(systemRandom.u32(), createdAt)
    const { succeeded } = await store.transact({
      compare: [{ key: keys.cluster, is: 'absent' }],
      success: [
        { put: keys.cluster, value: encodeRecord('cluster', { v: 1, clusterId, createdAt }) },
        { put: keys.settings, value: newSettings() },
        ...(secrets === null
          ? []
          : [{ put: keys.secret, value: newSecretRecord(secrets, clusterId) }]),
        { put: keys.pool(pool.name), value: encodeRecord('pool', pool) },
        { put: keys.poolNumber(pool.number), value: Buffer.from(pool.name) }
      ]
    })
    if (succeeded) return clusterId
    throw new StoreError(ErrorCode.Conflict, 'another cluster was made at the same time')
  })
}

/**
 * From now on the secrets of the file, or certificates alone, are those of the cluster: for a
 * change of all peers at once, while none runs. Returns the cluster's id.
 * @throws StoreError NotFound, Busy (peers run), InvalidArgument (the file), Unavailable
 */
export function replaceSecret(config: SecretConfig): Promise<string> {
  return withEtcd(config, async (store, keys) => {
    const clusterId = await clusterIdIn(store, keys)
    if (clusterId === null) {
      const text = `there is no cluster below ${keys.prefix}/ of ${config.etcd.join(', ')}`
      throw new StoreError(ErrorCode.NotFound, text)
    }
    const { entries } = await store.range(keys.allAlive, { limit: 1 })
    if (entries.length > 0) {
      const advice = 'stop all of them first (one that was killed counts for some seconds yet)'
      throw new StoreError(ErrorCode.Busy, `peers of the cluster run: ${advice}`)
    }
    const { secrets } = await ownSecrets(config, { clusterId, peerId: '' })
    const value = newSecretRecord(secrets ?? [NO_SECRET], clusterId)
    await store.transact({ compare: [], success: [{ put: keys.secret, value }] })
    return clusterId
  })
}

const SECRET_BYTES = 32

/** Writes a new random secret for `--cluster-secret-file`. @throws StoreError AlreadyExists */
export function writeSecret(path: string): void {
  try {
    writeFileSync(path, `${randomBytes(SECRET_BYTES).toString('hex')}\n`, {
      mode: 0o600,
      flag: 'wx'
    })
    chmodSync(path, 0o600)
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === 'EEXIST'
    const why = exists ? 'exists already' : (cause as Error).message
    const code = exists ? ErrorCode.AlreadyExists : ErrorCode.DiskFailure
    throw new StoreError(code, `secret file ${path}: ${why}`, { cause })
  }
}

async function clusterIdIn(store: MetadataStore, keys: Keys): Promise<string | null> {
  await requireCluster(store, keys, true)
  const entry = await store.get(keys.cluster)
  if (entry === null) return null
  const settings = await store.get(keys.settings)
  const known = settings === null ? null : decodeRecord('settings', keys.settings, settings.value)
  requireKnownLevel(levelIn(known), keys.prefix)
  return decodeRecord('cluster', keys.cluster, entry.value).clusterId
}

async function withEtcd<T>(
  config: EtcdConfig,
  work: (store: MetadataStore, keys: Keys) => Promise<T>
): Promise<T> {
  const { EtcdStore } = await import('../metadata/etcd-store.ts')
  const store = await EtcdStore.open(etcdOptionsOf(config))
  try {
    return await work(store, new Keys(config.etcdPrefix))
  } finally {
    await store.close()
  }
}
