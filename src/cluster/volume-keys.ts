import { isDeepStrictEqual } from 'node:util'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { checkRecord, decodeRecord, encodeRecord, type VolumeKeysRecord } from './records.ts'

/** The key slots and sealed data keys of encrypted volumes, by family. */
export class VolumeKeys {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** @throws StoreError NotFound */
  async get(family: string): Promise<VolumeKeysRecord> {
    const record = await this.find(family)
    if (record !== null) return record
    const hint = 'if they were exported, "torus volume key import" brings them back'
    throw new StoreError(ErrorCode.NotFound, `family ${family} has no key slots: ${hint}`)
  }

  async find(family: string): Promise<VolumeKeysRecord | null> {
    const key = this.#cluster.keys.volumeKeys(family)
    const entry = await this.#cluster.store.get(key)
    return entry === null ? null : decodeRecord('volumeKeys', key, entry.value)
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

  /**
   * Puts back what was exported: its slots take the place of those that are there. No data key that
   * is there goes, see `mergedKeys`.
   * @throws StoreError InvalidArgument for another volume's keys
   */
  async restore(family: string, exported: VolumeKeysRecord): Promise<void> {
    if (exported.family !== family) {
      const text = `these keys are of family ${exported.family}, not of ${family}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    const { keys, store } = this.#cluster
    const key = keys.volumeKeys(family)
    await untilSettled(`restoring the keys of family ${family}`, async () => {
      const entry = await store.get(key)
      const present = entry === null ? null : decodeRecord('volumeKeys', key, entry.value)
      const record = present === null ? exported : mergedKeys(present, exported)
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry?.modRevision ?? 0 }],
        success: [{ put: key, value: encodeRecord('volumeKeys', record) }]
      })
      return succeeded ? record : null
    })
  }
}

/**
 * Keys that were exported before a rekey do not have its data key, and those that were exported
 * after the present metadata was backed up have one more. A family's slots all open the same master
 * key, and that every data key: so what is known on either side can stand together.
 */
function mergedKeys(present: VolumeKeysRecord, exported: VolumeKeysRecord): VolumeKeysRecord {
  const isNewer = exported.generations.at(-1)!.generation > present.generations.at(-1)!.generation
  const { generations, rekey } = isNewer ? exported : present
  for (const each of exported.generations) {
    const { generation } = each
    const known = present.generations.find((other) => other.generation === generation)
    if (known === undefined || isDeepStrictEqual(known, each)) continue
    const text = `data key ${generation} of family ${present.family} is another one there`
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `${text}: these keys were exported from metadata that was restored since`
    )
  }
  const lost = isNewer
    ? present.generations.filter((known) =>
        generations.every(({ generation }) => generation !== known.generation)
      )
    : []
  const merged = {
    ...present,
    slots: exported.slots,
    nextSlot: Math.max(present.nextSlot, exported.nextSlot),
    generations: [...lost, ...generations].sort((a, b) => a.generation - b.generation),
    rekey
  }
  try {
    return checkRecord('volumeKeys', 'imported keys beside those that are there', merged)
  } catch (cause) {
    throw new StoreError(ErrorCode.InvalidArgument, (cause as Error).message, { cause })
  }
}
