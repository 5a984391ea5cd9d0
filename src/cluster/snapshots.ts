import { ErrorCode, StoreError } from '../core/errors.ts'
import { layerNumber, nextLayerLow } from '../core/layer-ids.ts'
import { SNAPSHOTS_MAX, VOLUME_NAME_BYTES_MAX } from '../core/limits.ts'
import type { Entry } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { formatId64, parseId64, randomId64 } from './ids.ts'
import { checkDescription, checkLabels } from './names.ts'
import { decodeRecord, encodeRecord, type SnapshotRecord, type VolumeRecord } from './records.ts'

export interface NewSnapshot {
  readonly name: string
  readonly layer: string
  readonly sizeBytes: number
  readonly description?: string
  readonly labels?: Readonly<Record<string, string>>
}

/** What may change about a snapshot. */
export type SnapshotChange = Partial<Pick<SnapshotRecord, 'description' | 'labels' | 'protected'>>

const NAME = /^[A-Za-z0-9][A-Za-z0-9._:-]*$/

/**
 * Made of letters, digits and . _ : - so that `volume@snapshot` needs no quoting.
 * @throws StoreError InvalidArgument
 */
function checkSnapshotName(name: string): void {
  if (NAME.test(name) && name.length <= VOLUME_NAME_BYTES_MAX) return
  const rule = `1 to ${VOLUME_NAME_BYTES_MAX} letters, digits and . _ : -, the first no sign`
  const text = `snapshot name ${JSON.stringify(name.slice(0, 64))} is not made of ${rule}`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

/** The parts of `volume@snapshot`; null for what has no `@`. */
export function splitSnapshotName(name: string): { volume: string; snapshot: string } | null {
  const at = name.indexOf('@')
  return at < 0 ? null : { volume: name.slice(0, at), snapshot: name.slice(at + 1) }
}

/** All layers that a volume may have blocks in, lowest first. */
export function layersOf({ rootLayer, headLayer }: VolumeRecord): string[] {
  if (rootLayer === undefined) return [headLayer]
  const layers = [rootLayer]
  const { high, low: end } = parseId64(headLayer)
  for (let { low } = parseId64(rootLayer); layerNumber(low) < layerNumber(end); ) {
    low = nextLayerLow(low)
    layers.push(formatId64(high, low))
  }
  return layers
}

/** Records of snapshots. Each change is one transaction. */
export class SnapshotDirectory {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /**
   * Moves the head of a volume to its next layer, in the name of who has its writer lease under
   * `writerEpoch`. Until that process follows it writes to the layer below, which is as well: a
   * read of the new one sees that. Returns the record as it is then, and as it was.
   * @throws StoreError Busy (feature level), Closed when the lease is lost, NotFound, LimitReached
   */
  async openLayer(
    id: string,
    writerEpoch: number
  ): Promise<{ record: VolumeRecord; before: VolumeRecord }> {
    this.#cluster.features.require('layers', 'a snapshot')
    const { keys, store } = this.#cluster
    return untilSettled(`opening a layer of volume ${id}`, async () => {
      const { entry, record: before } = await this.#volume(id)
      const writer = await this.#writer(before, writerEpoch)
      await this.#checkKeys(before)
      const { high, low } = parseId64(before.headLayer)
      const headLayer = formatId64(high, nextLayerLow(low))
      const record = { ...before, headLayer, rootLayer: before.rootLayer ?? before.headLayer }
      const { succeeded } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: writer.key, modRevision: writer.modRevision }
        ],
        success: [{ put: keys.volume(id), value: encodeRecord('volume', record) }]
      })
      return succeeded ? { record, before } : null
    })
  }

  /**
   * Records a snapshot of the volume, under its writer lease: what it shows is on stable storage.
   * @throws StoreError AlreadyExists, Closed when the lease is lost, NotFound, InvalidArgument
   */
  async add(id: string, writerEpoch: number, spec: NewSnapshot): Promise<SnapshotRecord> {
    const { keys, store, random } = this.#cluster
    checkSnapshotName(spec.name)
    checkLabels(spec.labels ?? {})
    checkDescription(spec.description ?? '')
    const snapshot: SnapshotRecord = {
      v: 1,
      id: randomId64(random),
      name: spec.name,
      volume: id,
      layer: spec.layer,
      sizeBytes: spec.sizeBytes,
      description: spec.description ?? '',
      labels: { ...spec.labels },
      createdAt: this.#cluster.nowText()
    }
    const key = keys.snapshot(id, spec.name)
    return untilSettled(`recording snapshot ${spec.name}`, async () => {
      const { entry, record } = await this.#volume(id)
      const writer = await this.#writer(record, writerEpoch)
      const { succeeded, entries } = await store.transact({
        compare: [
          { key, is: 'absent' },
          { key: entry.key, is: 'present' },
          { key: writer.key, modRevision: writer.modRevision }
        ],
        success: [{ put: key, value: encodeRecord('snapshot', snapshot) }],
        failure: [{ get: key }]
      })
      if (succeeded) return snapshot
      const there = entries[0] ?? null
      if (there === null) return null
      // The answer to an earlier attempt may have been lost.
      const found = decodeRecord('snapshot', key, there.value)
      if (found.id === snapshot.id) return found
      throw nameTaken(record.name, spec.name)
    })
  }

  /** @throws StoreError AlreadyExists, LimitReached: one more of that name cannot be */
  async checkRoom(volume: VolumeRecord, name: string): Promise<void> {
    checkSnapshotName(name)
    const all = await this.list(volume.id)
    if (all.some((each) => each.name === name)) throw nameTaken(volume.name, name)
    if (all.length < SNAPSHOTS_MAX) return
    const text = `volume ${volume.name} has ${all.length} snapshots, the most that it may have`
    throw new StoreError(ErrorCode.LimitReached, text)
  }

  /** Oldest first. */
  async list(id: string): Promise<SnapshotRecord[]> {
    const entries = await this.#cluster.readAll(this.#cluster.keys.snapshots(id))
    const all = entries.map(({ key, value }) => decodeRecord('snapshot', key, value))
    return all.sort((one, other) => numberOf(one) - numberOf(other))
  }

  /** @throws StoreError NotFound */
  async get({ id, name }: VolumeRecord, snapshot: string): Promise<SnapshotRecord> {
    checkSnapshotName(snapshot)
    const { keys, store } = this.#cluster
    const key = keys.snapshot(id, snapshot)
    const entry = await store.get(key)
    if (entry !== null) return decodeRecord('snapshot', key, entry.value)
    throw new StoreError(ErrorCode.NotFound, `volume ${name} has no snapshot ${snapshot}`)
  }

  /** Changes what `change` says. @throws StoreError NotFound, and what `change` throws */
  async update(
    volume: VolumeRecord,
    name: string,
    change: (snapshot: SnapshotRecord) => SnapshotChange
  ): Promise<SnapshotRecord> {
    const { keys, store } = this.#cluster
    const key = keys.snapshot(volume.id, name)
    return untilSettled(`changing snapshot ${name}`, async () => {
      const entry = await store.get(key)
      const known = entry === null ? await this.get(volume, name) : decode(entry)
      const changed = { ...known, ...change(known) }
      checkLabels(changed.labels)
      checkDescription(changed.description)
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry?.modRevision ?? 0 }],
        success: [{ put: key, value: encodeRecord('snapshot', changed) }]
      })
      return succeeded ? changed : null
    })
  }

  /** @throws StoreError NotFound, AlreadyExists, InvalidArgument */
  async rename(volume: VolumeRecord, name: string, newName: string): Promise<SnapshotRecord> {
    checkSnapshotName(newName)
    const { keys, store } = this.#cluster
    const [oldKey, newKey] = [keys.snapshot(volume.id, name), keys.snapshot(volume.id, newName)]
    return untilSettled(`renaming snapshot ${name}`, async () => {
      const entry = await store.get(oldKey)
      const known = entry === null ? await this.get(volume, name) : decode(entry)
      if (name === newName) return known
      const renamed = { ...known, name: newName }
      const { succeeded, entries } = await store.transact({
        compare: [
          { key: oldKey, modRevision: entry?.modRevision ?? 0 },
          { key: newKey, is: 'absent' }
        ],
        success: [{ delete: oldKey }, { put: newKey, value: encodeRecord('snapshot', renamed) }],
        failure: [{ get: newKey }]
      })
      if (succeeded) return renamed
      if (entries[0] !== null) throw nameTaken(volume.name, newName)
      return null
    })
  }

  /** The record goes. `mayGo` throws where it must not. @throws StoreError NotFound */
  async remove(
    volume: VolumeRecord,
    name: string,
    mayGo: (snapshot: SnapshotRecord) => void = () => {}
  ): Promise<SnapshotRecord> {
    const { keys, store } = this.#cluster
    const key = keys.snapshot(volume.id, name)
    return untilSettled(`deleting snapshot ${name}`, async () => {
      const entry = await store.get(key)
      const known = entry === null ? await this.get(volume, name) : decode(entry)
      mayGo(known)
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry?.modRevision ?? 0 }],
        success: [{ delete: key }]
      })
      return succeeded ? known : null
    })
  }

  /** Removes the records of a volume that is gone. */
  async removeAll(id: string): Promise<void> {
    for (const { key } of await this.#cluster.readAll(this.#cluster.keys.snapshots(id))) {
      await this.#cluster.store.transact({ success: [{ delete: key }] })
    }
  }

  /** Nothing below the head may need a key that a rekey is about to forget. @throws StoreError */
  async #checkKeys({ family, name, encryption }: VolumeRecord): Promise<void> {
    if (encryption === undefined) return
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.volumeKeys(family))
    if (entry === null || decodeRecord('volumeKeys', entry.key, entry.value).rekey === null) return
    throw new StoreError(ErrorCode.Busy, `volume ${name} is being rekeyed: wait until that is done`)
  }

  async #volume(id: string): Promise<{ entry: Entry; record: VolumeRecord }> {
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.volume(id))
    if (entry === null) throw new StoreError(ErrorCode.NotFound, `there is no volume ${id}`)
    return { entry, record: decodeRecord('volume', entry.key, entry.value) }
  }

  /** The writer record, if it is of this process and this epoch. @throws StoreError Closed */
  async #writer({ family, name }: VolumeRecord, writerEpoch: number): Promise<Entry> {
    const { keys, store, self } = this.#cluster
    const key = keys.writer(family)
    const entry = await store.get(key)
    if (entry !== null) {
      const writer = decodeRecord('writer', key, entry.value)
      const isOurs = writer.gateway === self.peerId && writer.bootId === self.bootId
      if (isOurs && writer.writerEpoch === writerEpoch) return entry
    }
    throw new StoreError(ErrorCode.Closed, `volume ${name}: its writer lease was lost`)
  }
}

const decode = ({ key, value }: Entry): SnapshotRecord => decodeRecord('snapshot', key, value)

const numberOf = ({ layer }: SnapshotRecord): number => layerNumber(parseId64(layer).low)

const nameTaken = (volume: string, name: string): StoreError =>
  new StoreError(ErrorCode.AlreadyExists, `volume ${volume} has a snapshot ${name} already`)
