/**
 * What a copy of the metadata becomes when it is put back. It may be older than what peers did
 * since: who was taken out of a group after the copy stands in it as in sync. So no group is used
 * before its members said what they remember of it (PROTOCOL.md, R31).
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { laterLayerLow } from '../core/layer-ids.ts'
import { RESTORE_EPOCH_STEP, RESTORE_LAYERS_STEP } from '../core/limits.ts'
import type { MetadataBackup } from '../metadata/backup-format.ts'
import { isIn, levelIn } from './features.ts'
import { NO_BOOT, peersOf } from './groups.ts'
import { formatId64, parseId64 } from './ids.ts'
import type { Keys } from './keys.ts'
import {
  decodeRecord,
  encodeRecord,
  type FamilyRecord,
  type GroupRecord,
  type RestoreRecord,
  type VolumeRecord
} from './records.ts'

/** Of a copy: who took part, and how far it came. */
interface CopyFacts {
  /** Peers that may hold data. */
  readonly peers: ReadonlySet<string>
  /** Of the restore before; null when there was none. */
  readonly restore: RestoreRecord | null
  /** Volumes may have had snapshots that the copy does not know. */
  readonly hasLayers: boolean
}

/**
 * `backup` as it is to be written: writerEpochs far above what can have been given out, so that
 * none is used twice, and layers likewise; groups whose members have to prove the copy right; and
 * the cluster's record tells of it. @throws StoreError LimitReached, Corrupt
 */
export function restoredBackup(backup: MetadataBackup, keys: Keys, nowMs: number): MetadataBackup {
  const restoredAt = new Date(nowMs).toISOString()
  const facts = factsOf(backup, keys)
  const entries = backup.entries
    // The secret may have changed since: who starts first says which it is.
    .filter(({ key }) => ![keys.restore, keys.secret].includes(keys.root + key))
    .map(({ key, value }) => {
      const whole = keys.root + key
      if (whole === keys.cluster) {
        const record = decodeRecord('cluster', whole, value)
        const restored = { ...record, restoredAt, restoredRevision: backup.revision }
        return { key, value: encodeRecord('cluster', restored) }
      }
      if (whole.startsWith(keys.families)) {
        const record = decodeRecord('family', whole, value)
        return { key, value: encodeRecord('family', restoredFamily(record, whole)) }
      }
      if (facts.hasLayers && whole.startsWith(keys.volumes)) {
        const record = restoredVolume(decodeRecord('volume', whole, value))
        return { key, value: encodeRecord('volume', record) }
      }
      if (!whole.startsWith(keys.allGroups)) return { key, value }
      const record = decodeRecord('group', whole, value)
      return { key, value: encodeRecord('group', restoredGroup(record, whole, facts.peers)) }
    })
  const restore: RestoreRecord = {
    v: 1,
    restoredAt,
    epochFloor: raised(facts.restore?.epochFloor ?? 0, keys.restore),
    pendingPeers: [...facts.peers]
  }
  const value = encodeRecord('restore', restore)
  entries.push({ key: keys.restore.slice(keys.root.length), value })
  return { ...backup, entries }
}

function factsOf(backup: MetadataBackup, keys: Keys): CopyFacts {
  const peers = new Set<string>()
  let restore: RestoreRecord | null = null
  let level = levelIn(null)
  for (const { key, value } of backup.entries) {
    const whole = keys.root + key
    if (whole === keys.restore) restore = decodeRecord('restore', whole, value)
    if (whole === keys.settings) level = levelIn(decodeRecord('settings', whole, value))
    if (!whole.startsWith(keys.peers)) continue
    const { peerId, state } = decodeRecord('peer', whole, value)
    if (state !== 'removed' && state !== 'pending') peers.add(peerId)
  }
  return { peers, restore, hasLayers: isIn(level, 'layers') }
}

/** The last writer of the copy may not have been the last: it proves nothing about a clean end. */
function restoredFamily(record: FamilyRecord, key: string): FamilyRecord {
  const { clean: _, ...kept } = record
  return { ...kept, writerEpoch: raised(record.writerEpoch, key) }
}

/**
 * Each snapshot since the copy began a layer, of which members have what was written to it. Above
 * all of these the volume shows it. Without: the next snapshot begins the same layer once more, and
 * blocks of its first life come up in the volume.
 */
function restoredVolume(record: VolumeRecord): VolumeRecord {
  const { high, low } = parseId64(record.headLayer)
  const headLayer = formatId64(high, laterLayerLow(low, RESTORE_LAYERS_STEP))
  return { ...record, headLayer, rootLayer: record.rootLayer ?? record.headLayer }
}

function restoredGroup(record: GroupRecord, key: string, peers: ReadonlySet<string>): GroupRecord {
  const { inSync, syncing, restored } = record
  return {
    ...record,
    epoch: raised(record.epoch, key),
    inSync: inSync.map(({ peer }) => ({ peer, boot: NO_BOOT })),
    syncing: syncing.map(({ peer }) => ({ peer, boot: NO_BOOT })),
    restored: {
      epoch: restored?.epoch ?? record.epoch,
      unproven: [...new Set(peersOf(record))].filter((peer) => peers.has(peer)),
      proven: [],
      behind: []
    }
  }
}

function raised(epoch: number, key: string): number {
  const next = epoch + RESTORE_EPOCH_STEP
  if (next <= 0xffffffff) return next
  throw new StoreError(ErrorCode.LimitReached, `${key} is out of epochs`)
}

/**
 * The newest of several copies of one cluster, with what others know better: a group's record
 * with a higher epoch, and higher writerEpochs. @throws StoreError Corrupt, InvalidArgument
 */
export function mergedBackup(copies: readonly MetadataBackup[], keys: Keys): MetadataBackup {
  const [newest, ...others] = [...copies].sort((a, b) => compareAge(b, a, keys))
  if (newest === undefined) throw new StoreError(ErrorCode.NotFound, 'there is no copy')
  const entries = new Map(newest.entries.map(({ key, value }) => [key, value]))
  for (const copy of others) {
    if (copy.clusterId !== newest.clusterId) {
      const text = `copies of two clusters: ${newest.clusterId} and ${copy.clusterId}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    if (generationOf(copy, keys) !== generationOf(newest, keys)) continue
    for (const { key, value } of copy.entries) {
      const known = entries.get(key)
      if (known === undefined || isBehind(known, { key, value }, keys)) {
        const whole = keys.root + key
        if (known !== undefined || whole.startsWith(keys.allGroups)) entries.set(key, value)
      }
    }
  }
  return { ...newest, entries: [...entries].map(([key, value]) => ({ key, value })) }
}

function isBehind(
  known: Buffer,
  { key, value }: MetadataBackup['entries'][number],
  keys: Keys
): boolean {
  const whole = keys.root + key
  if (whole.startsWith(keys.allGroups)) {
    const epochOf = (bytes: Buffer): number => decodeRecord('group', whole, bytes).epoch
    return epochOf(known) < epochOf(value)
  }
  if (!whole.startsWith(keys.families)) return false
  const epochOf = (bytes: Buffer): number => decodeRecord('family', whole, bytes).writerEpoch
  return epochOf(known) < epochOf(value)
}

/** Which restore the copy comes after: revisions begin anew with it. '' for none. */
function generationOf({ entries }: MetadataBackup, keys: Keys): string {
  const found = entries.find(({ key }) => keys.root + key === keys.cluster)
  if (found === undefined) return ''
  const { restoredAt } = decodeRecord('cluster', keys.cluster, found.value)
  return typeof restoredAt === 'string' ? restoredAt : ''
}

function compareAge(a: MetadataBackup, b: MetadataBackup, keys: Keys): number {
  const [left, right] = [generationOf(a, keys), generationOf(b, keys)]
  if (left !== right) return left < right ? -1 : 1
  return a.revision - b.revision
}
