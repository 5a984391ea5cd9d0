import { hasKin, randomKinOf } from '../core/family-ids.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BASED_START, isBasedLayer, nextLayerLow } from '../core/layer-ids.ts'
import {
  APPEND_RESERVE_BYTES,
  BRANCH_DEPTH_MAX,
  CLONES_MAX,
  RESTORED_LINES_MAX,
  VOLUME_BYTES_MAX
} from '../core/limits.ts'
import type { Compare } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { formatId64, parseId64, randomId64 } from './ids.ts'
import { linesOf, namedLayers, withoutDead } from './layer-lines.ts'
import { checkDescription, checkLabels, checkVolumeName } from './names.ts'
import {
  type BaseRecord,
  type DeletedRecord,
  decodeRecord,
  encodeRecord,
  type SnapshotRecord,
  type VolumeKeysRecord,
  type VolumeRecord
} from './records.ts'
import { leaveParent } from './clone-links.ts'
import { mayHoldBlocks } from './deletions.ts'
import { SnapshotDirectory } from './snapshots.ts'
import { ownWriter, volumeEntry } from './volume-entry.ts'

export interface NewClone {
  readonly name: string
  readonly description?: string
  readonly labels?: Readonly<Record<string, string>>
  /** Of an encrypted volume: keys of the clone, made for the family that it is told. */
  readonly keys?: (family: string) => Promise<VolumeKeysRecord>
}

/**
 * Volumes that begin on snapshots: clones, and volumes that were restored. Each change is one
 * transaction.
 */
export class BranchDirectory {
  readonly #cluster: Cluster
  readonly #snapshots: SnapshotDirectory

  constructor(cluster: Cluster) {
    this.#cluster = cluster
    this.#snapshots = new SnapshotDirectory(cluster)
  }

  /**
   * A volume that begins as what the snapshot shows.
   * @throws StoreError NotFound, AlreadyExists, InvalidArgument, Forbidden for a volume that cannot
   * have clones, LimitReached, Busy (feature level)
   */
  async clone(source: string, snapshot: string, spec: NewClone): Promise<VolumeRecord> {
    const { keys, store, features } = this.#cluster
    const { name, description = '', labels = {} } = spec
    features.require('branches', 'a clone')
    checkVolumeName(name)
    checkLabels(labels)
    checkDescription(description)
    return untilSettled(`cloning ${name}`, async () => {
      const { entry, record: parent } = await volumeEntry(this.#cluster, source)
      checkParent(parent)
      const shown = await this.#snapshots.find(parent, snapshot)
      const record = this.#cloneOf(parent, shown.known, { name, description, labels })
      const { root, family, layer } = record.base
      const base = await this.#baseRecord(record.id, family, layer)
      const clones = [...(parent.clones ?? []), { snapshot: shown.known.id, volume: record.id }]
      const sealed = await spec.keys?.(record.family)
      const { succeeded, entries } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: shown.entry.key, modRevision: shown.entry.modRevision },
          ...absent(
            ...[keys.name(name), keys.volume(record.id), keys.family(record.family)],
            keys.deleted(record.family)
          )
        ],
        success: [
          { put: entry.key, value: encodeRecord('volume', { ...parent, clones }) },
          { put: keys.name(name), value: Buffer.from(record.id) },
          { put: keys.volume(record.id), value: encodeRecord('volume', record) },
          { put: keys.base(record.family, root), value: encodeRecord('base', base) },
          {
            put: keys.family(record.family),
            value: encodeRecord('family', { v: 1, writerEpoch: 0 })
          },
          ...(sealed === undefined
            ? []
            : [{ put: keys.volumeKeys(record.family), value: encodeRecord('volumeKeys', sealed) }])
        ],
        failure: [{ get: keys.name(name) }]
      })
      if (succeeded) return record
      if (entries[0] === null) return null
      const text = `there is a volume ${JSON.stringify(name)} already`
      throw new StoreError(ErrorCode.AlreadyExists, text)
    })
  }

  #cloneOf(
    parent: VolumeRecord,
    { id: snapshot, layer, sizeBytes, ...shown }: SnapshotRecord,
    own: Pick<VolumeRecord, 'name' | 'description' | 'labels'>
  ): VolumeRecord & { readonly base: NonNullable<VolumeRecord['base']> } {
    const { random } = this.#cluster
    const kin = randomKinOf(parseId64(parent.family), random)
    const root = formatId64(random.u32(), BASED_START)
    const touchedBytes = touchedOf({ sizeBytes, ...shown }, parent)
    const { pool, encryption, type, settings, access } = parent
    return {
      ...{ v: 1, id: randomId64(random), ...own, type },
      ...(pool === undefined ? {} : { pool }),
      ...(encryption === undefined ? {} : { encryption }),
      // Who may not read the one must not read the same in the other.
      ...(access === undefined ? {} : { access: { ...access, readOnly: false } }),
      family: formatId64(kin.high, kin.low),
      headLayer: root,
      rootLayer: root,
      base: {
        ...{ volume: parent.id, snapshot, family: parent.family, layer, root },
        endBytes: touchedBytes
      },
      ...{ sizeBytes, touchedBytes, state: 'ready', readOnly: false, settings },
      createdAt: this.#cluster.nowText()
    }
  }

  /** @throws StoreError LimitReached */
  async #baseRecord(volume: string, family: string, layer: string): Promise<BaseRecord> {
    const { keys, store } = this.#cluster
    let depth = 1
    if (isBasedLayer(parseId64(layer).low)) {
      const below = await store.get(keys.base(family, layer))
      if (below !== null) depth += decodeRecord('base', below.key, below.value).depth
    }
    if (depth <= BRANCH_DEPTH_MAX) return { v: 1, volume, family, layer, depth }
    const text = `it stands on ${depth - 1} clones and restores, one on the other`
    const advice = '"torus volume flatten" makes it fewer'
    throw new StoreError(ErrorCode.LimitReached, `${text}, the most there may be: ${advice}`)
  }

  /**
   * The volume is what the snapshot shows, in the name of who has the writer lease under
   * `writerEpoch`; nobody has it open. Its other snapshots stay as they are.
   * @throws StoreError NotFound, LimitReached, Busy (feature level), Closed when the lease is lost
   */
  async restore(id: string, writerEpoch: number, snapshot: string): Promise<VolumeRecord> {
    const { keys, store, features, random } = this.#cluster
    features.require('branches', 'restoring a snapshot')
    return untilSettled(`restoring ${snapshot}`, async () => {
      const { entry, record } = await volumeEntry(this.#cluster, id)
      const writer = await ownWriter(this.#cluster, record, writerEpoch)
      const shown = await this.#snapshots.find(record, snapshot)
      const { layer, sizeBytes } = shown.known
      const headLayer = formatId64(random.u32(), BASED_START)
      const branches = linesOf(record)
      if (branches.length > RESTORED_LINES_MAX) {
        const text = `volume ${record.name} has snapshots of ${branches.length} lines of restores`
        throw new StoreError(ErrorCode.LimitReached, `${text}, the most there may be`)
      }
      const restored = {
        ...{ ...record, headLayer, rootLayer: headLayer, branches, sizeBytes },
        touchedBytes: touchedOf(shown.known, record)
      }
      const base = await this.#baseRecord(id, record.family, layer)
      const { succeeded } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: writer.key, modRevision: writer.modRevision },
          { key: shown.entry.key, modRevision: shown.entry.modRevision }
        ],
        success: [
          { put: entry.key, value: encodeRecord('volume', restored) },
          { put: keys.base(record.family, headLayer), value: encodeRecord('base', base) },
          // What a client kept to write it again was of what the volume is no more.
          { delete: keys.clientSession(id) }
        ]
      })
      return succeeded ? restored : null
    })
  }

  /**
   * Layers that restores left and nobody reads: their blocks are garbage on every peer from then
   * on. Null: there are none.
   */
  async dropDead(id: string): Promise<DeletedRecord | null> {
    const { keys, store, random } = this.#cluster
    return untilSettled(`looking for layers of volume ${id} that nobody reads`, async () => {
      const entry = await store.get(keys.volume(id))
      if (entry === null) return { dropped: null }
      const record = decodeRecord('volume', entry.key, entry.value)
      if (record.branches === undefined) return { dropped: null }
      const { kept, dead } = withoutDead(record, await this.readLayers(record))
      if (dead.length === 0) return { dropped: null }
      const { family, name } = record
      const peers = (await this.#cluster.peers()).filter(mayHoldBlocks)
      const part = randomId64(random)
      const deletedAt = this.#cluster.nowText()
      const dropped: DeletedRecord = {
        ...{ v: 1, family, part, name, deletedAt },
        pendingPeers: peers.map(({ peerId }) => peerId),
        ...namedLayers(dead, true)
      }
      const roots = new Set(kept.map(({ root }) => root))
      const gone = record.branches.filter(({ root }) => !roots.has(root))
      const { succeeded } = await store.transact({
        compare: [{ key: entry.key, modRevision: entry.modRevision }],
        success: [
          { put: entry.key, value: encodeRecord('volume', { ...record, branches: kept }) },
          { put: keys.deletedPart(family, part), value: encodeRecord('deleted', dropped) },
          ...gone.map(({ root }) => ({ delete: keys.base(family, root) }))
        ]
      })
      return succeeded ? { dropped } : null
    }).then(({ dropped }) => dropped)
  }

  /** Layers of the volume, besides its head, that are read from somewhere. */
  async readLayers({ id, family }: VolumeRecord): Promise<string[]> {
    const { keys } = this.#cluster
    // In this order: what stands on a snapshot has its record before that one can go. Twice: one
    // that is renamed while pages of the list are read may be missing in one of them.
    const read = await this.#snapshots.layers(id)
    read.push(...(await this.#snapshots.layers(id)))
    for (const { key, value } of await this.#cluster.readAll(keys.allBases)) {
      const base = decodeRecord('base', key, value)
      if (base.family === family) read.push(base.layer)
    }
    return read
  }

  /**
   * The volume is to stand on no other: from then on nobody writes to its lowest layer. One that is
   * flattened already goes on. @throws StoreError InvalidArgument for a volume that has no base,
   * Closed when the lease is lost, LimitReached
   */
  async startFlatten(id: string, writerEpoch: number): Promise<VolumeRecord> {
    return this.#change(id, writerEpoch, 'beginning to flatten', (record) => {
      const { base, headLayer, name } = record
      if (base === undefined) {
        const text = `volume ${name} is no clone, or was flattened: it stands on no other`
        throw new StoreError(ErrorCode.InvalidArgument, text)
      }
      if (record.flatten !== undefined) return record
      const flatten = { nextChunk: 0, startedAt: this.#cluster.nowText() }
      if (headLayer !== base.root) return { ...record, flatten }
      const { high, low } = parseId64(headLayer)
      return { ...record, flatten, headLayer: formatId64(high, nextLayerLow(low)) }
    })
  }

  /** What the base has before chunk `nextChunk` is copied, durably. */
  noteFlattened(id: string, writerEpoch: number, nextChunk: number): Promise<VolumeRecord> {
    return this.#change(id, writerEpoch, 'flattening', ({ flatten, ...record }) =>
      flatten === undefined ? record : { ...record, flatten: { ...flatten, nextChunk } }
    )
  }

  async #change(
    id: string,
    writerEpoch: number,
    what: string,
    change: (record: VolumeRecord) => VolumeRecord
  ): Promise<VolumeRecord> {
    return untilSettled(`${what} volume ${id}`, async () => {
      const { entry, record } = await volumeEntry(this.#cluster, id)
      const writer = await ownWriter(this.#cluster, record, writerEpoch)
      const changed = change(record)
      const { succeeded } = await this.#cluster.store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: writer.key, modRevision: writer.modRevision }
        ],
        success: [{ put: entry.key, value: encodeRecord('volume', changed) }]
      })
      return succeeded ? changed : null
    })
  }

  /** It has all that it read from its base, durably: it stands on no other from now on. */
  async endFlatten(id: string, writerEpoch: number): Promise<VolumeRecord> {
    const { keys, store } = this.#cluster
    return untilSettled(`ending the flattening of volume ${id}`, async () => {
      const { entry, record } = await volumeEntry(this.#cluster, id)
      const { base, flatten: _, ...rest } = record
      if (base === undefined) return record
      const writer = await ownWriter(this.#cluster, record, writerEpoch)
      const leave = await leaveParent(this.#cluster, record)
      const { succeeded } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: writer.key, modRevision: writer.modRevision },
          ...leave.compare
        ],
        success: [
          { put: entry.key, value: encodeRecord('volume', rest) },
          { delete: keys.base(record.family, base.root) },
          ...leave.success
        ]
      })
      return succeeded ? rest : null
    })
  }
}

/** Has what a snapshot shows never been written behind this end? */
const touchedOf = (
  { sizeBytes, touchedBytes }: Pick<SnapshotRecord, 'sizeBytes' | 'touchedBytes'>,
  volume: VolumeRecord
): number =>
  Math.min(
    touchedBytes ?? Math.max(volume.touchedBytes, sizeBytes + APPEND_RESERVE_BYTES),
    VOLUME_BYTES_MAX
  )

/** @throws StoreError Busy, Forbidden, LimitReached */
function checkParent({ name, family, state, hidden, clones = [] }: VolumeRecord): void {
  if (hidden !== undefined) throw inTrash(name)
  if (state !== 'ready') {
    throw new StoreError(ErrorCode.Busy, `volume ${name} is still being made`)
  }
  if (!hasKin(parseId64(family).high)) {
    const text = `volume ${name} was made before feature level 4, and can have no clones`
    throw new StoreError(ErrorCode.Forbidden, `${text}: export it and import it as a new one`)
  }
  if (clones.length < CLONES_MAX) return
  const text = `volume ${name} has ${clones.length} clones, the most that it may have`
  throw new StoreError(ErrorCode.LimitReached, text)
}

const absent = (...keys: string[]): Compare[] => keys.map((key) => ({ key, is: 'absent' }))

const inTrash = (name: string): StoreError =>
  new StoreError(
    ErrorCode.NotFound,
    `volume ${name} is in the trash: "torus volume trash restore ${name}" comes first`
  )
