import { ErrorCode, StoreError } from '../core/errors.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { decodeRecord, encodeRecord, type VolumeRecord } from './records.ts'
import type { Session } from './session.ts'

const WRITER_EPOCH_MAX = 0xffffffff

/** The right to write a family: one peer has it, bound to its lease, under a fencing token. */
export class Writers {
  readonly #cluster: Cluster
  readonly #session: Session

  constructor(cluster: Cluster, session: Session) {
    this.#cluster = cluster
    this.#session = session
  }

  /**
   * Takes the writer lease of the volume's family, or takes it anew, and returns the writerEpoch:
   * above every one given out before. A lease that an earlier process of this peer left behind is
   * taken over at once, because that process cannot live: this one owns the data directory.
   * @throws StoreError Busy when another peer has it, NotFound when the volume is gone
   */
  async acquire(volume: VolumeRecord): Promise<number> {
    const { keys, store, self } = this.#cluster
    const familyKey = keys.family(volume.family)
    const writerKey = keys.writer(volume.family)
    return untilSettled(`opening ${volume.name} for writing`, async () => {
      const { entries } = await store.transact({
        success: [{ get: familyKey }, { get: writerKey }, { get: keys.volume(volume.id) }]
      })
      const [family = null, writer = null, present = null] = entries
      if (present === null) {
        throw new StoreError(ErrorCode.NotFound, `volume ${volume.name} was deleted`)
      }
      const held = writer === null ? null : decodeRecord('writer', writerKey, writer.value)
      if (held !== null && held.gateway !== self.peerId) {
        const text = `volume ${volume.name} is open for writing on peer ${held.gateway}`
        throw new StoreError(ErrorCode.Busy, text)
      }
      const given =
        family === null ? 0 : decodeRecord('family', familyKey, family.value).writerEpoch
      const writerEpoch = Math.max(given, held?.writerEpoch ?? 0) + 1
      if (writerEpoch > WRITER_EPOCH_MAX) {
        throw new StoreError(ErrorCode.LimitReached, `volume ${volume.name} is out of writerEpochs`)
      }
      const record = { v: 1, gateway: self.peerId, bootId: self.bootId, writerEpoch } as const
      const succeeded = await this.#put({
        compare: [
          { key: familyKey, modRevision: family?.modRevision ?? 0 },
          { key: writerKey, modRevision: writer?.modRevision ?? 0 },
          { key: present.key, is: 'present' }
        ],
        family: { key: familyKey, value: encodeRecord('family', { v: 1, writerEpoch }) },
        writer: { key: writerKey, value: encodeRecord('writer', record) }
      })
      return succeeded ? writerEpoch : null
    })
  }

  /** Gives the lease back, if it is this process's. */
  async release(volume: VolumeRecord): Promise<void> {
    const { keys, store, self } = this.#cluster
    const key = keys.writer(volume.family)
    const entry = await store.get(key)
    if (entry === null) return
    const { gateway, bootId } = decodeRecord('writer', key, entry.value)
    if (gateway !== self.peerId || bootId !== self.bootId) return
    await store.transact({
      compare: [{ key, modRevision: entry.modRevision }],
      success: [{ delete: key }]
    })
  }

  async #put(change: {
    compare: readonly ({ key: string } & ({ modRevision: number } | { is: 'present' }))[]
    family: { key: string; value: Buffer }
    writer: { key: string; value: Buffer }
  }): Promise<boolean> {
    try {
      const { succeeded } = await this.#cluster.store.transact({
        compare: change.compare,
        success: [
          { put: change.family.key, value: change.family.value },
          { put: change.writer.key, value: change.writer.value, lease: this.#session.lease }
        ]
      })
      return succeeded
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      // The session's lease ended, after a long pause of the process for instance.
      await this.#session.renew()
      return false
    }
  }
}
