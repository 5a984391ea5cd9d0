import type { Bases } from '../cluster/bases.ts'
import { BranchDirectory } from '../cluster/branches.ts'
import type { Cluster } from '../cluster/cluster.ts'
import type { DeletedRecord, SnapshotRecord, VolumeRecord } from '../cluster/records.ts'
import { type NewSnapshot, type SnapshotChange, SnapshotDirectory } from '../cluster/snapshots.ts'
import { parseId64 } from '../cluster/ids.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Id64 } from '../core/id64.ts'
import { isBasedLayer, standsOn } from '../core/layer-ids.ts'
import type { SnapshotBase } from './block-device.ts'
import type { ManagedVolume } from './managed-volume.ts'

/** A snapshot as it is shown. Sizes are bytes, times ISO 8601, ids hex. */
export interface SnapshotInfo {
  readonly name: string
  /** Never used again, also when another one gets the name. */
  readonly id: string
  readonly volume: string
  /** Of the volume, as it was then. */
  readonly sizeBytes: number
  readonly layer: string
  readonly protected: boolean
  readonly description: string
  readonly labels: Readonly<Record<string, string>>
  readonly createdAt: string
}

export type SnapshotOptions = Pick<NewSnapshot, 'description' | 'labels' | 'due'>

export interface SnapshotsParts {
  readonly cluster: Cluster
  readonly bases: Bases
  readonly findVolume: (name: string) => Promise<VolumeRecord>
  /** Runs `work` alone among all that change or open the volume. */
  readonly exclusively: <T>(
    volume: string,
    work: (managed: ManagedVolume) => Promise<T>
  ) => Promise<T>
  /** Drops the blocks of layers that nobody reads any more. */
  readonly reclaim: (deleted: DeletedRecord) => Promise<void>
}

/**
 * The snapshots of volumes. One shows what its volume held at a moment at which no change was in
 * flight, for ever: `Volumes.open` and `openFile` take `volume@snapshot`, read-only. Taking one
 * copies nothing; clients that write wait until what is in flight is over, a few milliseconds.
 */
export class Snapshots {
  readonly directory: SnapshotDirectory
  readonly #branches: BranchDirectory
  readonly #parts: SnapshotsParts

  constructor(parts: SnapshotsParts) {
    this.#branches = new BranchDirectory(parts.cluster)
    this.directory = new SnapshotDirectory(parts.cluster)
    this.#parts = parts
  }

  /**
   * Takes a snapshot while clients go on: every write that was acknowledged before this call is in
   * it, none that begins after its end is. On stable storage when it resolves. The volume has to be
   * served here, or by nobody.
   * @throws StoreError NotFound, AlreadyExists, InvalidArgument, LimitReached, Busy when another
   * peer serves the volume or the cluster's level is too low, Unavailable when writes in flight do
   * not end, Closed when the writer lease is lost meanwhile
   */
  create(volume: string, name: string, options: SnapshotOptions = {}): Promise<SnapshotInfo> {
    return this.#parts.exclusively(volume, async (managed) => {
      if (managed.record.state !== 'ready') {
        throw new StoreError(ErrorCode.Busy, `volume ${volume} is still being made`)
      }
      try {
        const record = await managed.head.snapshotAlone(this.directory, { ...options, name })
        return infoOf(managed.record, record)
      } finally {
        await managed.release()
      }
    })
  }

  /** Oldest first. @throws StoreError NotFound */
  async list(volume: string): Promise<SnapshotInfo[]> {
    const record = await this.#parts.findVolume(volume)
    return (await this.directory.list(record.id)).map((each) => infoOf(record, each))
  }

  /** @throws StoreError NotFound */
  async show(volume: string, name: string): Promise<SnapshotInfo> {
    const record = await this.#parts.findVolume(volume)
    return infoOf(record, await this.directory.get(record, name))
  }

  /** Those that the volume, or this snapshot of it, stands on, oldest first. @throws StoreError */
  async bases(volume: string, snapshot: string | null): Promise<SnapshotBase[]> {
    const record = await this.#parts.findVolume(volume)
    const all = await this.directory.list(record.id)
    const top = snapshot === null ? record.headLayer : all.find(named(snapshot))?.layer
    if (top === undefined) return []
    const bases: SnapshotBase[] = []
    for (const { name, layer: id } of all) {
      const layer = parseId64(id)
      const isBelow = name !== snapshot && (await this.isOn(record.family, parseId64(top), layer))
      if (isBelow) bases.push({ name, layer })
    }
    return bases
  }

  /**
   * Does a read of `top` see what is in `lower`, both of the family? Restores leave branches of a
   * volume that stand on layers of each other. @throws StoreError Unavailable
   */
  async isOn(family: string, top: Id64, lower: Id64): Promise<boolean> {
    const { high, low } = parseId64(family)
    const { bases } = this.#parts
    let at = top
    while (at.high !== lower.high) {
      if (!isBasedLayer(at.low)) return false
      const base = await bases.get(high, low, at.high)
      if (base?.familyLow !== low || base.familyHigh !== high) return false
      at = { high: base.layerHigh, low: base.layerLow }
    }
    return standsOn(at, lower)
  }

  /** What `change` does not name stays. @throws StoreError NotFound, InvalidArgument */
  change(volume: string, name: string, change: SnapshotChange): Promise<SnapshotInfo> {
    return this.#parts.exclusively(volume, async ({ record }) => {
      return infoOf(record, await this.directory.update(record, name, () => change))
    })
  }

  /** Who has it open keeps it. @throws StoreError NotFound, AlreadyExists, InvalidArgument */
  rename(volume: string, name: string, newName: string): Promise<SnapshotInfo> {
    return this.#parts.exclusively(volume, async ({ record }) => {
      return infoOf(record, await this.directory.rename(record, name, newName))
    })
  }

  /**
   * Nobody reads it any more, and every peer gives back what it alone had, bit by bit. `mayGo`
   * throws where it has to stay.
   * @throws StoreError NotFound, Busy while it is open or another peer serves the volume, and what
   * `mayGo` throws
   */
  delete(
    volume: string,
    name: string,
    mayGo: (snapshot: SnapshotRecord) => void = () => {}
  ): Promise<SnapshotInfo> {
    return this.#parts.exclusively(volume, async (managed) => {
      const { record, opens } = managed
      const { layer } = await this.directory.get(record, name)
      if ([...opens].some((open) => open.snapshotLayer === layer)) {
        throw new StoreError(ErrorCode.Busy, `snapshot ${volume}@${name} is in use by clients`)
      }
      // Nobody has it open on another peer then.
      await managed.ensureWriter()
      try {
        const removed = await this.directory.remove(record, name, mayGo)
        await this.#reclaim(record)
        return infoOf(record, removed)
      } finally {
        await managed.release()
      }
    })
  }

  /**
   * The volume is what the snapshot shows from now on; what was written since goes, but for what
   * other snapshots show, also later ones, which stay. Nobody may have it open; with `force` they
   * are disconnected.
   * @throws StoreError NotFound, Busy while it is open and not `force` (or the feature level),
   * ReadOnly, LimitReached, Closed when the writer lease is lost meanwhile
   */
  restore(volume: string, name: string, { force = false } = {}): Promise<VolumeRecord> {
    return this.#parts.exclusively(volume, async (managed) => {
      const { record } = managed
      this.#parts.cluster.features.require('branches', 'restoring a snapshot')
      await this.directory.get(record, name)
      if (record.readOnly) {
        const text = `volume ${volume} is read-only: a restore would change it`
        throw new StoreError(ErrorCode.ReadOnly, text)
      }
      await managed.leaveAlone(force)
      try {
        const restored = await managed.head.restoreAlone(this.#branches, name)
        await this.#reclaim(restored)
        return restored
      } finally {
        await managed.release()
      }
    })
  }

  async #reclaim({ id }: VolumeRecord): Promise<void> {
    const dead = await this.#branches.dropDead(id)
    if (dead !== null) await this.#parts.reclaim(dead)
  }
}

const named =
  (wanted: string) =>
  ({ name }: SnapshotRecord): boolean =>
    name === wanted

function infoOf(volume: VolumeRecord, snapshot: SnapshotRecord): SnapshotInfo {
  const { name, id, sizeBytes, layer, description, labels, createdAt } = snapshot
  const known = { name, id, volume: volume.name, sizeBytes, layer, createdAt }
  return { ...known, protected: snapshot.protected ?? false, description, labels }
}
