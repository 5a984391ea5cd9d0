import { ErrorCode, StoreError } from '../core/errors.ts'
import { layerNumber, nextLayerLow } from '../core/layer-ids.ts'
import { SCHEDULE_AHEAD_MS, SNAPSHOTS_MAX, VOLUME_NAME_BYTES_MAX } from '../core/limits.ts'
import { follow } from '../metadata/follow.ts'
import type { Entry, Operation } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { formatId64, parseId64, randomId64 } from './ids.ts'
import { requireChildless } from './clone-links.ts'
import { checkDescription, checkLabels } from './names.ts'
import { decodeRecord, encodeRecord, type SnapshotRecord, type VolumeRecord } from './records.ts'
import { ownWriter, volumeEntry } from './volume-entry.ts'

export interface NewSnapshot {
  readonly name: string
  readonly description?: string
  readonly labels?: Readonly<Record<string, string>>
  /** ISO 8601 time at which the volume's schedule wanted it: it is taken once. */
  readonly due?: string
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

/** What a clock that was wrong wrote is not believed: a schedule would wait for that time. */
export function doneUntilMs(
  { doneUntil }: NonNullable<VolumeRecord['schedule']>,
  nowMs: number
): number {
  const doneMs = Date.parse(doneUntil)
  return doneMs > nowMs + SCHEDULE_AHEAD_MS ? 0 : doneMs
}

/** Records of snapshots. Each change is one transaction. */
export class SnapshotDirectory {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /**
   * Begins a snapshot in the name of who has the writer lease of the volume under `writerEpoch`:
   * the next layer becomes the head. Until that process follows it writes to the layer below, which
   * is as well: a read of the new one sees that.
   * @throws StoreError AlreadyExists, LimitReached, InvalidArgument, NotFound, Busy (feature level,
   * rekey), Closed when the lease is lost
   */
  async begin(
    id: string,
    writerEpoch: number,
    spec: NewSnapshot
  ): Promise<{ volume: VolumeRecord; snapshot: SnapshotRecord }> {
    this.#cluster.features.require('layers', 'a snapshot')
    const { keys, store, random, clock } = this.#cluster
    const { name, description = '', labels = {} } = spec
    checkSnapshotName(name)
    checkLabels(labels)
    checkDescription(description)
    return untilSettled(`beginning snapshot ${name}`, async () => {
      const { entry, record } = await volumeEntry(this.#cluster, id)
      if (spec.due !== undefined && isDone(record.schedule, spec.due, clock.wallMs())) {
        const text = `volume ${record.name}: its schedule wants nothing any more`
        throw new StoreError(ErrorCode.Conflict, text)
      }
      const writer = await ownWriter(this.#cluster, record, writerEpoch)
      await this.#checkKeys(record)
      await this.#checkRoom(record, name, writer)
      const { high, low } = parseId64(record.headLayer)
      const headLayer = formatId64(high, nextLayerLow(low))
      const volume = { ...record, headLayer, rootLayer: record.rootLayer ?? record.headLayer }
      const createdAt = this.#cluster.nowText()
      const snapshot: SnapshotRecord = {
        ...{ v: 1, id: randomId64(random), name, volume: id, layer: record.headLayer },
        ...{ sizeBytes: record.sizeBytes, touchedBytes: record.touchedBytes, taking: true },
        ...{ description, labels, createdAt },
        ...(spec.due === undefined ? {} : { scheduled: { due: spec.due, name } })
      }
      const key = keys.snapshot(id, name)
      const { succeeded } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: writer.key, modRevision: writer.modRevision },
          { key, is: 'absent' }
        ],
        success: [
          { put: keys.volume(id), value: encodeRecord('volume', volume) },
          { put: key, value: encodeRecord('snapshot', snapshot) }
        ]
      })
      return succeeded ? { volume, snapshot } : null
    })
  }

  /**
   * What the snapshot shows is on stable storage: from now on it is there, and the schedule that
   * wanted it knows.
   * @throws StoreError Closed when the lease was lost meanwhile, or another one was begun
   */
  async finish(
    begun: SnapshotRecord,
    writerEpoch: number,
    sizeBytes: number
  ): Promise<SnapshotRecord> {
    const { keys, store } = this.#cluster
    const key = keys.snapshot(begun.volume, begun.name)
    const { taking: _, ...rest } = begun
    const finished = { ...rest, sizeBytes }
    return untilSettled(`recording snapshot ${begun.name}`, async () => {
      const { record, entry: volume } = await volumeEntry(this.#cluster, begun.volume)
      const writer = await ownWriter(this.#cluster, record, writerEpoch)
      const entry = await store.get(key)
      const known = entry === null ? null : decode(entry)
      if (entry === null || known?.id !== begun.id) {
        const text = `snapshot ${record.name}@${begun.name} was given up meanwhile`
        throw new StoreError(ErrorCode.Closed, text)
      }
      if (known.taking !== true) return known // the answer to an earlier attempt was lost
      const done = doneOf(volume.key, record, begun, this.#cluster.clock.wallMs())
      const { succeeded } = await store.transact({
        compare: [
          { key, modRevision: entry.modRevision },
          { key: writer.key, modRevision: writer.modRevision },
          ...done.map(() => ({ key: volume.key, modRevision: volume.modRevision }))
        ],
        success: [{ put: key, value: encodeRecord('snapshot', finished) }, ...done]
      })
      return succeeded ? finished : null
    })
  }

  /** One that was begun will not be. */
  async giveUp(begun: SnapshotRecord): Promise<void> {
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.snapshot(begun.volume, begun.name))
    if (entry === null || decode(entry).id !== begun.id) return
    await store.transact({
      compare: [{ key: entry.key, modRevision: entry.modRevision }],
      success: [{ delete: entry.key }]
    })
  }

  /**
   * There may be one more of that name. Those that another run began and did not finish go: who has
   * the lease knows that nobody does. @throws StoreError AlreadyExists, LimitReached
   */
  async #checkRoom({ id, name: volume }: VolumeRecord, name: string, writer: Entry): Promise<void> {
    const { keys, store } = this.#cluster
    let count = 0
    for (const { key, value, modRevision } of await this.#cluster.readAll(keys.snapshots(id))) {
      const known = decodeRecord('snapshot', key, value)
      if (known.taking === true) {
        await store.transact({
          compare: [
            { key, modRevision },
            { key: writer.key, modRevision: writer.modRevision }
          ],
          success: [{ delete: key }]
        })
      } else if (known.name === name) throw nameTaken(volume, name)
      else count++
    }
    if (count < SNAPSHOTS_MAX) return
    const text = `volume ${volume} has ${count} snapshots, the most that it may have`
    throw new StoreError(ErrorCode.LimitReached, text)
  }

  /** Layers that snapshots show, or are about to. */
  async layers(id: string): Promise<string[]> {
    return (await this.#all(id)).map(({ layer }) => layer)
  }

  /** Oldest first. */
  async list(id: string): Promise<SnapshotRecord[]> {
    return (await this.#all(id)).filter(({ taking }) => taking !== true)
  }

  async #all(id: string): Promise<SnapshotRecord[]> {
    const entries = await this.#cluster.readAll(this.#cluster.keys.snapshots(id))
    const all = entries.map(({ key, value }) => decodeRecord('snapshot', key, value))
    return all.sort(byAge)
  }

  /** @throws StoreError NotFound */
  async get(volume: VolumeRecord, name: string): Promise<SnapshotRecord> {
    return (await this.find(volume, name)).known
  }

  /** As `get`, with its entry. @throws StoreError NotFound */
  async find(
    { id, name: volume }: VolumeRecord,
    name: string
  ): Promise<{ entry: Entry; known: SnapshotRecord }> {
    checkSnapshotName(name)
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.snapshot(id, name))
    const known = entry === null ? null : decode(entry)
    if (entry !== null && known !== null && known.taking !== true) return { entry, known }
    throw new StoreError(ErrorCode.NotFound, `volume ${volume} has no snapshot ${name}`)
  }

  /** Changes what `change` says. @throws StoreError NotFound, and what `change` throws */
  async update(
    volume: VolumeRecord,
    name: string,
    change: (snapshot: SnapshotRecord) => SnapshotChange
  ): Promise<SnapshotRecord> {
    const { store } = this.#cluster
    return untilSettled(`changing snapshot ${name}`, async () => {
      const { entry, known } = await this.find(volume, name)
      const { key, modRevision } = entry
      const changed = { ...known, ...change(known) }
      checkLabels(changed.labels)
      checkDescription(changed.description)
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision }],
        success: [{ put: key, value: encodeRecord('snapshot', changed) }]
      })
      return succeeded ? changed : null
    })
  }

  /** @throws StoreError NotFound, AlreadyExists, InvalidArgument */
  async rename(volume: VolumeRecord, name: string, newName: string): Promise<SnapshotRecord> {
    checkSnapshotName(newName)
    const { keys, store } = this.#cluster
    const newKey = keys.snapshot(volume.id, newName)
    return untilSettled(`renaming snapshot ${name}`, async () => {
      const { entry, known } = await this.find(volume, name)
      if (name === newName) return known
      const renamed = { ...known, name: newName }
      const { succeeded, entries } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: newKey, is: 'absent' }
        ],
        success: [{ delete: entry.key }, { put: newKey, value: encodeRecord('snapshot', renamed) }],
        failure: [{ get: newKey }]
      })
      if (succeeded) return renamed
      if (entries[0] !== null) throw nameTaken(volume.name, newName)
      return null
    })
  }

  /**
   * The record goes. `mayGo` throws where it must not.
   * @throws StoreError NotFound, Busy when clones stand on it
   */
  async remove(
    volume: VolumeRecord,
    name: string,
    mayGo: (snapshot: SnapshotRecord) => void = () => {}
  ): Promise<SnapshotRecord> {
    const { store } = this.#cluster
    return untilSettled(`deleting snapshot ${name}`, async () => {
      const { entry: ofVolume, record } = await volumeEntry(this.#cluster, volume.id)
      const { entry, known } = await this.find(volume, name)
      await requireChildless(this.#cluster, record, known)
      mayGo(known)
      const { succeeded } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: ofVolume.key, modRevision: ofVolume.modRevision }
        ],
        success: [{ delete: entry.key }]
      })
      return succeeded ? known : null
    })
  }

  /** Calls `listener` with the id of each volume that lost a snapshot; returns what ends it. */
  onRemoved(listener: (volume: string) => void): () => void {
    const { keys, store, timers } = this.#cluster
    const onDelete = (key: string): void =>
      listener(key.slice(keys.allSnapshots.length).split('/')[0]!)
    const following = follow(store, keys.allSnapshots, { onPut: () => {}, onDelete }, timers)
    return () => following.stop()
  }

  /** Removes the records of a volume that is gone. */
  async removeAll(id: string): Promise<void> {
    for (const { key } of await this.#cluster.readAll(this.#cluster.keys.snapshots(id))) {
      await this.#cluster.store.transact({ success: [{ delete: key }] })
    }
  }

  /** Nothing below the head may need a key that a rekey is about to forget. @throws StoreError */
  async #checkKeys({ family, name, encryption }: VolumeRecord): Promise<void> {
    // Older versions, which may be the gateway next, forget the old key whatever snapshots need.
    if (encryption === undefined || this.#cluster.features.has('branches')) return
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.volumeKeys(family))
    if (entry === null || decodeRecord('volumeKeys', entry.key, entry.value).rekey === null) return
    throw new StoreError(ErrorCode.Busy, `volume ${name} is being rekeyed: wait until that is done`)
  }
}

/** Was a snapshot that is due then taken, or is none wanted? */
function isDone(schedule: VolumeRecord['schedule'], due: string, nowMs: number): boolean {
  return schedule === undefined || doneUntilMs(schedule, nowMs) >= Date.parse(due)
}

/** The schedule has what it wanted. */
function doneOf(
  key: string,
  volume: VolumeRecord,
  { scheduled }: SnapshotRecord,
  nowMs: number
): Operation[] {
  const { schedule: known } = volume
  if (known === undefined || scheduled === undefined) return []
  // One that was set anew meanwhile begins then.
  if (isDone(known, scheduled.due, nowMs)) return []
  const schedule = { ...known, doneUntil: scheduled.due }
  return [{ put: key, value: encodeRecord('volume', { ...volume, schedule }) }]
}

const decode = ({ key, value }: Entry): SnapshotRecord => decodeRecord('snapshot', key, value)

const numberOf = ({ layer }: SnapshotRecord): number => layerNumber(parseId64(layer).low)

/** Numbers of one line of layers go up, whatever clocks say; lines follow each other in time. */
function byAge(one: SnapshotRecord, other: SnapshotRecord): number {
  const isSameLine = one.layer.slice(0, 8) === other.layer.slice(0, 8)
  if (isSameLine) return numberOf(one) - numberOf(other)
  return one.createdAt < other.createdAt ? -1 : 1
}

const nameTaken = (volume: string, name: string): StoreError =>
  new StoreError(ErrorCode.AlreadyExists, `volume ${volume} has a snapshot ${name} already`)
