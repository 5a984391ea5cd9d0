/** Volumes know which clones stand on them, so that they stay as long as one does. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Compare, Operation } from '../metadata/store.ts'
import type { Cluster } from './cluster.ts'
import { decodeRecord, encodeRecord, type SnapshotRecord, type VolumeRecord } from './records.ts'
import { volumeEntry } from './volume-entry.ts'

/** More are not named. */
const NAMES_MAX = 10

/** Parts of a transaction by which a clone counts no more where it was cloned from. */
export async function leaveParent(
  cluster: Cluster,
  { id, base }: VolumeRecord
): Promise<{ readonly compare: Compare[]; readonly success: Operation[] }> {
  if (base === undefined) return { compare: [], success: [] }
  const { keys, store } = cluster
  const entry = await store.get(keys.volume(base.volume))
  if (entry === null) return { compare: [], success: [] }
  const parent = decodeRecord('volume', entry.key, entry.value)
  const clones = (parent.clones ?? []).filter(({ volume }) => volume !== id)
  return {
    compare: [{ key: entry.key, modRevision: entry.modRevision }],
    success: [{ put: entry.key, value: encodeRecord('volume', { ...parent, clones }) }]
  }
}

/** @throws StoreError Busy naming the clones that stand on the volume, or on the snapshot */
export async function requireChildless(
  cluster: Cluster,
  { name, clones = [] }: VolumeRecord,
  snapshot: SnapshotRecord | null = null
): Promise<void> {
  const counted = clones.filter((each) => snapshot === null || each.snapshot === snapshot.id)
  if (counted.length === 0) return
  const names: string[] = []
  for (const { volume } of counted.slice(0, NAMES_MAX)) {
    const { name: clone, hidden } = (await volumeEntry(cluster, volume)).record
    names.push(hidden === undefined ? clone : `${clone} (in the trash, ${volume})`)
  }
  if (counted.length > names.length) names.push('…')
  const what =
    snapshot === null ? `volume ${name} has snapshots` : `${name}@${snapshot.name} is one`
  const text = `${what} that ${counted.length} clone${counted.length > 1 ? 's' : ''} stand`
  const verb = `${text}${counted.length > 1 ? '' : 's'} on: ${names.join(', ')}`
  throw new StoreError(ErrorCode.Busy, `${verb}; flatten or delete them first`)
}
