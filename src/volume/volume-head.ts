import type { BranchDirectory } from '../cluster/branches.ts'
import { parseId64 } from '../cluster/ids.ts'
import type { SnapshotRecord, VolumeRecord } from '../cluster/records.ts'
import type { NewSnapshot, SnapshotDirectory } from '../cluster/snapshots.ts'
import { SNAPSHOT_HOLD_MS } from '../core/limits.ts'
import type { ManagedVolume } from './managed-volume.ts'

/**
 * The layer that changes of an open volume go to: snapshots, restores and flattens put another one
 * there. Methods that say *alone* are called under the volume's lock.
 */
export class VolumeHead {
  readonly #managed: ManagedVolume

  constructor(managed: ManagedVolume) {
    this.#managed = managed
  }

  /**
   * Takes a snapshot, alone, while clients go on: what was acknowledged before is in it, what is
   * begun afterwards is not. Changes are held only until those in flight are over.
   *
   *   flush -> the next layer is the head in the metadata, the snapshot is *taking* -> changes are
   *     held, none is in flight -> ops are for that layer -> changes go on -> flush -> it is there
   *
   * Whatever fails in between leaves a layer more, which nobody sees.
   * @throws StoreError AlreadyExists, LimitReached, Busy, Closed, Unavailable
   */
  async snapshotAlone(snapshots: SnapshotDirectory, spec: NewSnapshot): Promise<SnapshotRecord> {
    const managed = this.#managed
    const { volume } = managed
    managed.checkThere()
    await managed.ensureWriter()
    // Then the flush below is short, and so is what writes wait for that go on beside it.
    await managed.flush(`before snapshot ${spec.name}`)
    const begun = await snapshots.begin(managed.record.id, volume.ops.writerEpoch, spec)
    managed.record = begun.volume
    try {
      await volume.quiesce(SNAPSHOT_HOLD_MS)
      const { sizeBytes } = volume
      volume.ops.openLayer(parseId64(begun.volume.headLayer))
      volume.resume()
      await managed.flush(`for snapshot ${spec.name}`)
      return await snapshots.finish(begun.snapshot, volume.ops.writerEpoch, sizeBytes)
    } catch (thrown) {
      await snapshots.giveUp(begun.snapshot)
      throw thrown
    }
  }

  /**
   * From its return on nobody writes to the lowest layer of a volume that has a base, alone, while
   * clients go on: as with a snapshot. @throws StoreError
   */
  async startFlattenAlone(branches: BranchDirectory): Promise<VolumeRecord> {
    const managed = this.#managed
    const { volume } = managed
    managed.checkThere()
    await managed.ensureWriter()
    const record = await branches.startFlatten(managed.record.id, volume.ops.writerEpoch)
    managed.record = record
    const { high, low } = parseId64(record.headLayer)
    if (volume.ops.identity.layerHigh === high && volume.ops.identity.layerLow === low) {
      return record
    }
    await volume.quiesce(SNAPSHOT_HOLD_MS)
    volume.ops.openLayer({ high, low })
    volume.resume()
    return managed.record
  }

  /** The volume is what the snapshot shows, alone; nobody has it open. @throws StoreError */
  async restoreAlone(branches: BranchDirectory, snapshot: string): Promise<VolumeRecord> {
    const managed = this.#managed
    const { volume } = managed
    managed.checkThere()
    await managed.ensureWriter()
    managed.record = await branches.restore(managed.record.id, volume.ops.writerEpoch, snapshot)
    volume.ops.openLayer(parseId64(managed.record.headLayer))
    volume.ops.tenure++
    volume.sizeBytes = managed.record.sizeBytes
    await managed.end.trimLeftovers()
    return managed.record
  }
}
