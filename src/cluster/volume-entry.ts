/** Parts of transactions about one volume: what they read, and compare. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Entry } from '../metadata/store.ts'
import type { Cluster } from './cluster.ts'
import { decodeRecord, type VolumeRecord } from './records.ts'

export interface VolumeEntry {
  readonly entry: Entry
  readonly record: VolumeRecord
}

/** @throws StoreError NotFound */
export async function volumeEntry({ keys, store }: Cluster, id: string): Promise<VolumeEntry> {
  const entry = await store.get(keys.volume(id))
  if (entry === null) throw new StoreError(ErrorCode.NotFound, `there is no volume ${id}`)
  return { entry, record: decodeRecord('volume', entry.key, entry.value) }
}

/** The writer record, if it is of this process and this epoch. @throws StoreError Closed */
export async function ownWriter(
  { keys, store, self }: Cluster,
  { family, name }: VolumeRecord,
  writerEpoch: number
): Promise<Entry> {
  const key = keys.writer(family)
  const entry = await store.get(key)
  if (entry !== null) {
    const writer = decodeRecord('writer', key, entry.value)
    const isOurs = writer.gateway === self.peerId && writer.bootId === self.bootId
    if (isOurs && writer.writerEpoch === writerEpoch) return entry
  }
  throw new StoreError(ErrorCode.Closed, `volume ${name}: its writer lease was lost`)
}
