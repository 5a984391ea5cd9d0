/**
 * A cluster's metadata as a whole: read for a backup, and written into another store. What is
 * bound to a lease is left out, because it tells of processes and ends with them.
 *
 * Writing takes many transactions, so the cluster's own record comes last: until then the store
 * has no cluster, only the record `incoming`, which lets the same command begin again and nothing
 * else. Peers refuse to start on it.
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  METADATA_BATCH_BYTES,
  METADATA_RANGE_KEYS_MAX,
  METADATA_SNAPSHOT_ATTEMPTS_MAX,
  METADATA_TRANSACTION_OPS_MAX
} from '../core/limits.ts'
import type { MetadataBackup } from '../metadata/backup-format.ts'
import type { Entry, MetadataStore, Operation } from '../metadata/store.ts'
import type { Keys } from './keys.ts'
import { decodeRecord, encodeRecord } from './records.ts'

interface Snapshot {
  readonly revision: number
  readonly entries: readonly Entry[]
}

/**
 * All keys below `prefix` as they were at one moment. More than a page is read twice: when both
 * are the same, nothing changed in between. @throws StoreError Conflict when it changes all along
 */
async function readSnapshot(store: MetadataStore, prefix: string): Promise<Snapshot> {
  let before = ''
  for (let attempt = 0; attempt < METADATA_SNAPSHOT_ATTEMPTS_MAX; attempt++) {
    const { pages, ...snapshot } = await readPages(store, prefix)
    if (pages === 1) return snapshot
    const now = snapshot.entries.map(({ key, modRevision }) => `${key} ${modRevision}`).join('\n')
    if (now === before) return snapshot
    before = now
  }
  throw new StoreError(ErrorCode.Conflict, 'the metadata changes too fast to be read: try again')
}

async function readPages(
  store: MetadataStore,
  prefix: string
): Promise<Snapshot & { pages: number }> {
  const entries: Entry[] = []
  let revision = 0
  for (let pages = 1; ; pages++) {
    const limit = METADATA_RANGE_KEYS_MAX
    const after = entries.at(-1)?.key
    const page = await store.range(prefix, after === undefined ? { limit } : { limit, after })
    if (pages === 1) revision = page.revision
    entries.push(...page.entries)
    if (!page.more) return { revision, entries, pages }
  }
}

/** @throws StoreError NotFound when there is no cluster */
export async function readBackup(
  store: MetadataStore,
  keys: Keys,
  nowMs: number
): Promise<MetadataBackup> {
  const { revision, entries } = await readSnapshot(store, keys.root)
  const cluster = entries.find(({ key }) => key === keys.cluster)
  if (cluster === undefined) {
    throw new StoreError(ErrorCode.NotFound, `there is no cluster below ${keys.prefix}/`)
  }
  const { clusterId } = decodeRecord('cluster', keys.cluster, cluster.value)
  return {
    clusterId,
    revision,
    createdMs: nowMs,
    entries: entries
      .filter(({ lease }) => lease === '')
      .map(({ key, value }) => ({ key: key.slice(keys.root.length), value }))
  }
}

export interface WriteOptions {
  /** Replace the cluster that is there. */
  readonly force: boolean
  readonly onProgress?: (done: number, total: number) => void
}

/**
 * Makes `backup` what stands below the prefix of `keys`. One that was interrupted goes on.
 * @throws StoreError AlreadyExists (something is there and not `force`), Busy (a peer lives there)
 */
export async function writeBackup(
  store: MetadataStore,
  keys: Keys,
  backup: MetadataBackup,
  options: WriteOptions
): Promise<void> {
  const { entries: present } = await readSnapshot(store, `${keys.prefix}/`)
  requireRoom(present, keys, backup, options.force)
  const started = { v: 1, clusterId: backup.clusterId } as const
  const old = present.find(({ key }) => key === keys.cluster)
  const { succeeded } = await store.transact({
    compare: [{ key: keys.cluster, modRevision: old?.modRevision ?? 0 }],
    success: [
      { put: keys.incoming, value: encodeRecord('incoming', started) },
      { delete: keys.cluster }
    ]
  })
  if (!succeeded) throw new StoreError(ErrorCode.Conflict, 'somebody else changes the metadata')
  const wanted = new Map(backup.entries.map(({ key, value }) => [keys.root + key, value]))
  const clusterRecord = wanted.get(keys.cluster)
  if (clusterRecord === undefined) throw new StoreError(ErrorCode.Corrupt, 'it has no cluster')
  wanted.delete(keys.cluster)
  await apply(store, [...differences(present, wanted, keys)], options)
  await store.transact({
    compare: [{ key: keys.incoming, is: 'present' }],
    success: [{ put: keys.cluster, value: clusterRecord }, { delete: keys.incoming }]
  })
  await verify(store, keys, backup)
}

function requireRoom(
  present: readonly Entry[],
  keys: Keys,
  backup: MetadataBackup,
  force: boolean
): void {
  if (present.length === 0) return
  const foreign = present.find(({ key }) => !key.startsWith(keys.root))
  if (foreign !== undefined) {
    const text = `${foreign.key} is not of this version of Torus: choose another --etcd-prefix`
    throw new StoreError(ErrorCode.AlreadyExists, text)
  }
  const leased = present.find(({ lease }) => lease !== '')
  if (leased !== undefined) {
    const text = `a peer lives on this metadata (${leased.key}): stop it, and wait for 10 s`
    throw new StoreError(ErrorCode.Busy, text)
  }
  const incoming = present.find(({ key }) => key === keys.incoming)
  const same =
    incoming !== undefined &&
    decodeRecord('incoming', keys.incoming, incoming.value).clusterId === backup.clusterId
  if (same || force) return
  const text = `there is metadata below ${keys.root} already (${present.length} keys)`
  throw new StoreError(ErrorCode.AlreadyExists, `${text}; --force replaces it`)
}

function* differences(
  present: readonly Entry[],
  wanted: ReadonlyMap<string, Buffer>,
  keys: Keys
): Generator<Operation> {
  const values = new Map(present.map(({ key, value }) => [key, value]))
  for (const key of values.keys()) {
    if (wanted.has(key) || key === keys.cluster || key === keys.incoming) continue
    yield { delete: key }
  }
  for (const [key, value] of wanted) {
    if (values.get(key)?.equals(value) !== true) yield { put: key, value }
  }
}

async function apply(
  store: MetadataStore,
  operations: readonly Operation[],
  { onProgress }: WriteOptions
): Promise<void> {
  for (let done = 0; done < operations.length; ) {
    const batch: Operation[] = []
    let bytes = 0
    while (done + batch.length < operations.length && batch.length < METADATA_TRANSACTION_OPS_MAX) {
      const next = operations[done + batch.length]!
      const size = 'put' in next ? next.put.length + next.value.length : 0
      if (batch.length > 0 && bytes + size > METADATA_BATCH_BYTES) break
      batch.push(next)
      bytes += size
    }
    await store.transact({ success: batch })
    done += batch.length
    onProgress?.(done, operations.length)
  }
}

/** Does the store have what was written, and nothing else? */
async function verify(store: MetadataStore, keys: Keys, backup: MetadataBackup): Promise<void> {
  const { entries } = await readSnapshot(store, keys.root)
  const found = new Map(entries.map(({ key, value }) => [key.slice(keys.root.length), value]))
  const same =
    found.size === backup.entries.length &&
    backup.entries.every(({ key, value }) => found.get(key)?.equals(value) === true)
  if (same) return
  throw new StoreError(ErrorCode.Corrupt, 'the store does not have what was written into it')
}
