import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Operation } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { decodeRecord, encodeRecord, type VolumeKeysRecord } from './records.ts'

/** The key slots and sealed data keys of encrypted volumes, by family. */
export class VolumeKeys {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** @throws StoreError NotFound */
  async get(family: string): Promise<VolumeKeysRecord> {
    const key = this.#cluster.keys.volumeKeys(family)
    const entry = await this.#cluster.store.get(key)
    if (entry !== null) return decodeRecord('volumeKeys', key, entry.value)
    const hint = 'if they were exported, "torus volume key import" brings them back'
    throw new StoreError(ErrorCode.NotFound, `family ${family} has no key slots: ${hint}`)
  }

  /**
   * Changes what stands there then; what `change` throws is thrown.
   * @throws StoreError NotFound
   */
  update(
    family: string,
    change: (record: VolumeKeysRecord) => Partial<VolumeKeysRecord>
  ): Promise<VolumeKeysRecord> {
    const { keys, store } = this.#cluster
    const key = keys.volumeKeys(family)
    return untilSettled(`changing the keys of family ${family}`, async () => {
      const entry = await store.get(key)
      if (entry === null) return this.get(family)
      const record = decodeRecord('volumeKeys', key, entry.value)
      const changed = { ...record, ...change(record) }
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry.modRevision }],
        success: [{ put: key, value: encodeRecord('volumeKeys', changed) }]
      })
      return succeeded ? changed : null
    })
  }

  /**
   * Adds a data key for every writer epoch above the last that was given out, as of one moment.
   * `make` is told which is the first.
   */
  startGeneration(
    family: string,
    make: (record: VolumeKeysRecord, fromEpoch: number) => Partial<VolumeKeysRecord>
  ): Promise<VolumeKeysRecord> {
    const { keys, store } = this.#cluster
    const key = keys.volumeKeys(family)
    const familyKey = keys.family(family)
    return untilSettled(`adding a data key to family ${family}`, async () => {
      const { entries } = await store.transact({
        compare: [],
        success: [{ get: key }, { get: familyKey }]
      })
      const [own, of] = entries
      if (own == null || of == null) return this.get(family)
      const { writerEpoch } = decodeRecord('family', familyKey, of.value)
      const record = decodeRecord('volumeKeys', key, own.value)
      const changed = { ...record, ...make(record, writerEpoch + 1) }
      const { succeeded } = await store.transact({
        compare: [
          { key, modRevision: own.modRevision },
          { key: familyKey, modRevision: of.modRevision }
        ],
        success: [{ put: key, value: encodeRecord('volumeKeys', changed) }]
      })
      return succeeded ? changed : null
    })
  }

  /** Puts back what was exported. @throws StoreError InvalidArgument for another volume's keys */
  async replace(family: string, record: VolumeKeysRecord): Promise<void> {
    if (record.family !== family) {
      const text = `these keys are of family ${record.family}, not of ${family}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    const value = encodeRecord('volumeKeys', record)
    const put: Operation = { put: this.#cluster.keys.volumeKeys(family), value }
    await this.#cluster.store.transact({ compare: [], success: [put] })
  }
}
