import { ErrorCode, StoreError } from '../core/errors.ts'
import { type Following, follow } from '../metadata/follow.ts'
import type { Entry, Operation } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { leaveParent, requireChildless } from './clone-links.ts'
import { mayHoldBlocks } from './deletions.ts'
import { randomFamilyId, randomId64, randomRootLayer } from './ids.ts'
import type { Keys } from './keys.ts'
import { layersOf, namedLayers } from './layer-lines.ts'
import { checkDescription, checkLabels, checkVolumeName, checkVolumeSize } from './names.ts'
import {
  type DeletedRecord,
  decodeRecord,
  encodeRecord,
  type VolumeKeysRecord,
  type VolumeRecord
} from './records.ts'
import { SnapshotDirectory } from './snapshots.ts'

export interface NewVolume {
  readonly name: string
  readonly type: string
  readonly sizeBytes: number
  /** Sizes are multiples of this. */
  readonly unitBytes: number
  readonly labels?: Readonly<Record<string, string>>
  readonly description?: string
  readonly settings?: VolumeRecord['settings']
  readonly state?: VolumeRecord['state']
  readonly pool?: string
  readonly access?: NonNullable<VolumeRecord['access']>
  /** No name leads to it yet: see HiddenVolumes. */
  readonly hidden?: VolumeRecord['hidden']
  /** Of an encrypted volume: its keys, made for the family that it is told. */
  readonly keys?: (family: string) => Promise<VolumeKeysRecord>
}

interface Decoded {
  readonly modRevision: number
  readonly record: VolumeRecord
}

/** What may change about a volume besides its name. */
export type VolumeChange = Partial<
  Pick<
    VolumeRecord,
    | 'sizeBytes'
    | 'touchedBytes'
    | 'state'
    | 'readOnly'
    | 'unavailableMs'
    | 'access'
    | 'limits'
    | 'labels'
    | 'description'
    | 'settings'
    | 'schedule'
  >
>

const putKeys = (keys: Keys, record: VolumeKeysRecord): Operation => ({
  put: keys.volumeKeys(record.family),
  value: encodeRecord('volumeKeys', record)
})

const notFound = (name: string): StoreError =>
  new StoreError(ErrorCode.NotFound, `there is no volume ${JSON.stringify(name)}`)

/** The volumes of a cluster: their records, names and deletions. Each change is one transaction. */
export class VolumeDirectory {
  readonly #cluster: Cluster
  /** By key, from the last `list`: checking thousands of records each second costs too much. */
  #decoded = new Map<string, Decoded>()

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** @throws StoreError InvalidArgument, AlreadyExists */
  async create(volume: NewVolume): Promise<VolumeRecord> {
    const { keys, store, random } = this.#cluster
    checkVolumeName(volume.name)
    checkVolumeSize(volume.sizeBytes, volume.unitBytes)
    checkLabels(volume.labels ?? {})
    checkDescription(volume.description ?? '')
    if (volume.keys !== undefined) {
      this.#cluster.features.require('sealed-blocks', `volume ${volume.name}: encryption`)
    }
    const record: VolumeRecord = {
      v: 1,
      id: randomId64(random),
      name: volume.name,
      type: volume.type,
      ...(volume.pool === undefined ? {} : { pool: volume.pool }),
      ...(volume.hidden === undefined ? {} : { hidden: volume.hidden }),
      ...(volume.access === undefined ? {} : { access: volume.access }),
      family: randomFamilyId(random, this.#cluster.features.has('branches')),
      headLayer: randomRootLayer(random),
      sizeBytes: volume.sizeBytes,
      touchedBytes: volume.sizeBytes,
      state: volume.state ?? 'ready',
      readOnly: false,
      ...(volume.keys === undefined ? {} : { encryption: 'xchacha20-poly1305' as const }),
      labels: { ...volume.labels },
      description: volume.description ?? '',
      settings: { ...volume.settings },
      createdAt: this.#cluster.nowText()
    }
    const sealed = await volume.keys?.(record.family)
    const { succeeded, entries } = await store.transact({
      compare: [
        { key: keys.name(record.name), is: 'absent' },
        { key: keys.volume(record.id), is: 'absent' },
        { key: keys.family(record.family), is: 'absent' },
        { key: keys.deleted(record.family), is: 'absent' }
      ],
      success: [
        ...(volume.hidden === undefined
          ? [{ put: keys.name(record.name), value: Buffer.from(record.id) }]
          : []),
        { put: keys.volume(record.id), value: encodeRecord('volume', record) },
        {
          put: keys.family(record.family),
          value: encodeRecord('family', { v: 1, writerEpoch: 0 })
        },
        ...(sealed === undefined ? [] : [putKeys(keys, sealed)])
      ],
      failure: [{ get: keys.name(record.name) }]
    })
    if (succeeded) return record
    if (entries[0] !== null) throw nameTaken(record.name)
    throw new StoreError(ErrorCode.Conflict, `random ids of ${record.name} were taken: try again`)
  }

  /** @throws StoreError NotFound */
  async get(name: string): Promise<VolumeRecord> {
    return (await this.#find(name)).record
  }

  /** Sorted by name. */
  async list(): Promise<VolumeRecord[]> {
    const entries = await this.#cluster.readAll(this.#cluster.keys.volumes)
    const decoded = new Map<string, Decoded>()
    for (const { key, value, modRevision } of entries) {
      const known = this.#decoded.get(key)
      const same = known?.modRevision === modRevision
      const record = same ? known.record : decodeRecord('volume', key, value)
      decoded.set(key, { modRevision, record })
    }
    this.#decoded = decoded
    const records = [...decoded.values()].map(({ record }) => record)
    return records.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  }

  /**
   * Calls `listener` with the id of each volume that is there, and again when its record changes,
   * whoever changed it; returns what ends it.
   */
  onChange(listener: (id: string) => void, onGone: (id: string) => void = () => {}): () => void {
    const { keys } = this.#cluster
    const onPut = ({ key }: Entry): void => listener(key.slice(keys.volumes.length))
    const following = this.#follow(onPut, onGone)
    return () => following.stop()
  }

  /**
   * Shows the record of each volume that is there, and again when it changes; `onGone` hears the id
   * of one that goes.
   */
  followRecords(onRecord: (record: VolumeRecord) => void, onGone: (id: string) => void): Following {
    return this.#follow(({ key, value }) => onRecord(decodeRecord('volume', key, value)), onGone)
  }

  #follow(onPut: (entry: Entry) => void, onGone: (id: string) => void): Following {
    const { keys, store, timers } = this.#cluster
    const onDelete = (key: string): void => onGone(key.slice(keys.volumes.length))
    return follow(store, keys.volumes, { onPut, onDelete }, timers)
  }

  /** The record of a volume; null when it is gone. */
  async find(id: string): Promise<VolumeRecord | null> {
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.volume(id))
    return entry === null ? null : decodeRecord('volume', entry.key, entry.value)
  }

  /** @throws StoreError NotFound, AlreadyExists, InvalidArgument */
  async rename(name: string, newName: string): Promise<VolumeRecord> {
    checkVolumeName(newName)
    const { keys, store } = this.#cluster
    return untilSettled(`renaming ${name}`, async () => {
      const { record, entry } = await this.#find(name)
      if (name === newName) return record
      const renamed = { ...record, name: newName }
      const { succeeded, entries } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: keys.name(newName), is: 'absent' }
        ],
        success: [
          { put: entry.key, value: encodeRecord('volume', renamed) },
          { delete: keys.name(name) },
          { put: keys.name(newName), value: Buffer.from(record.id) }
        ],
        failure: [{ get: keys.name(newName) }]
      })
      if (succeeded) return renamed
      if (entries[0] !== null) throw nameTaken(newName)
      return null
    })
  }

  /**
   * Changes what `change` says about the record as it is then.
   * @throws StoreError NotFound, and what `change` throws
   */
  async update(id: string, change: (record: VolumeRecord) => VolumeChange): Promise<VolumeRecord> {
    const { keys, store } = this.#cluster
    const key = keys.volume(id)
    return untilSettled(`changing volume ${id}`, async () => {
      const entry = await store.get(key)
      if (entry === null) throw new StoreError(ErrorCode.NotFound, `there is no volume ${id}`)
      const record = decodeRecord('volume', key, entry.value)
      const changed = { ...record, ...change(record) }
      checkLabels(changed.labels)
      checkDescription(changed.description)
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry.modRevision }],
        success: [{ put: key, value: encodeRecord('volume', changed) }]
      })
      return succeeded ? changed : null
    })
  }

  /**
   * Removes the volume and its name, and leaves the positive record of it in the same
   * transaction: from then on its blocks are garbage on every peer, whatever happens.
   * @throws StoreError NotFound, Busy when another peer writes it and not `force`, or clones stand
   * on it
   */
  delete(name: string, options: { readonly force: boolean }): Promise<DeletedRecord> {
    return this.#delete(name, options.force, () => this.#find(name))
  }

  /** The same of a volume that is hidden. @throws StoreError NotFound */
  deleteHidden(id: string): Promise<DeletedRecord> {
    const { keys, store } = this.#cluster
    return this.#delete(id, true, async () => {
      const entry = await store.get(keys.volume(id))
      const record = entry === null ? null : decodeRecord('volume', entry.key, entry.value)
      if (entry !== null && record?.hidden !== undefined) return { record, entry }
      throw new StoreError(ErrorCode.NotFound, `volume ${id} is gone, or was restored`)
    })
  }

  #delete(
    what: string,
    force: boolean,
    find: () => Promise<{ record: VolumeRecord; entry: Entry }>
  ): Promise<DeletedRecord> {
    const { keys, store, self } = this.#cluster
    return untilSettled(`deleting ${what}`, async () => {
      const { record, entry } = await find()
      const { name } = record
      await requireChildless(this.#cluster, record)
      const leave = await leaveParent(this.#cluster, record)
      const peers = await this.#cluster.peers()
      const writerKey = keys.writer(record.family)
      const writer = await store.get(writerKey)
      if (writer !== null && !force) {
        const { gateway } = decodeRecord('writer', writerKey, writer.value)
        if (gateway !== self.peerId) {
          throw new StoreError(ErrorCode.Busy, `volume ${name} is open on peer ${gateway}`)
        }
      }
      const deleted: DeletedRecord = {
        v: 1,
        family: record.family,
        ...namedLayers(layersOf(record), this.#cluster.features.has('branches')),
        name,
        deletedAt: this.#cluster.nowText(),
        pendingPeers: peers.filter(mayHoldBlocks).map(({ peerId }) => peerId)
      }
      const { succeeded } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: writerKey, modRevision: writer?.modRevision ?? 0 },
          ...leave.compare
        ],
        success: [
          { delete: entry.key },
          ...leave.success,
          // Another volume may have the name of one that is hidden.
          ...(record.hidden === undefined ? [{ delete: keys.name(name) }] : []),
          { delete: keys.family(record.family) },
          { delete: writerKey },
          { delete: keys.volumeKeys(record.family) },
          { delete: keys.volumeEvents(record.id) },
          { delete: keys.clientSession(record.id) },
          { put: keys.deleted(record.family), value: encodeRecord('deleted', deleted) }
        ]
      })
      if (!succeeded) return null
      // They lead nowhere any more: what is left of them in a crash does no harm.
      await new SnapshotDirectory(this.#cluster).removeAll(record.id)
      for (const { key } of await this.#cluster.readAll(keys.bases(record.family))) {
        await store.transact({ success: [{ delete: key }] })
      }
      return deleted
    })
  }

  async #find(name: string): Promise<{ record: VolumeRecord; entry: Entry }> {
    const { keys, store } = this.#cluster
    checkVolumeName(name)
    return untilSettled(`looking up ${name}`, async () => {
      const id = await store.get(keys.name(name))
      if (id === null) throw notFound(name)
      const entry = await store.get(keys.volume(id.value.toString()))
      if (entry === null) return null
      const record = decodeRecord('volume', entry.key, entry.value)
      // A rename between the two reads: look again.
      return record.name === name ? { record, entry } : null
    })
  }
}

const nameTaken = (name: string): StoreError =>
  new StoreError(ErrorCode.AlreadyExists, `there is a volume ${JSON.stringify(name)} already`)
