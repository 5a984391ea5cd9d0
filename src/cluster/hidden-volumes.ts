import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Entry } from '../metadata/store.ts'
import { requireChildless } from './clone-links.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { checkVolumeName } from './names.ts'
import { decodeRecord, encodeRecord, type VolumeRecord } from './records.ts'

export type Hidden = NonNullable<VolumeRecord['hidden']>
export type HiddenVolume = VolumeRecord & { readonly hidden: Hidden }

export const isHidden = (record: VolumeRecord): record is HiddenVolume =>
  record.hidden !== undefined

/**
 * Volumes that nobody can open: those in the trash, and imports that go on. Their records stand
 * where all others do, so that their blocks are kept, copied and repaired, but no name leads to
 * them. Several may have had the same name.
 */
export class HiddenVolumes {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /**
   * By its id, or by a name that one of them alone has.
   * @throws StoreError NotFound, Conflict (several of that name)
   */
  async find(which: string, why: Hidden['why']): Promise<HiddenVolume> {
    const all = (await this.list()).filter(({ hidden }) => hidden.why === why)
    const found = all.filter(({ id, name }) => id === which || name === which)
    if (found.length === 1) return found[0]!
    const shown = JSON.stringify(which)
    if (found.length === 0) {
      const what = why === 'deleted' ? 'volume' : 'import'
      const where = why === 'deleted' ? ' in the trash' : ''
      throw new StoreError(ErrorCode.NotFound, `there is no ${what} ${shown}${where}`)
    }
    const ids = found.map(({ id }) => id).join(', ')
    const text = `there are ${found.length} named ${shown}: name one by its id, of ${ids}`
    throw new StoreError(ErrorCode.Conflict, text)
  }

  /** Those hidden first come first. */
  async list(): Promise<HiddenVolume[]> {
    const { keys } = this.#cluster
    const entries = await this.#cluster.readAll(keys.volumes)
    const records = entries.map(({ key, value }) => decodeRecord('volume', key, value))
    const hidden = records.filter(isHidden)
    return hidden.sort((a, b) => (a.hidden.since < b.hidden.since ? -1 : 1))
  }

  /**
   * Takes the name away from a volume. From then on nobody can open it.
   * @throws StoreError NotFound, Busy when another peer writes it, or clones stand on it
   */
  async hide(volume: VolumeRecord, hidden: Hidden): Promise<HiddenVolume> {
    const { keys, store, self } = this.#cluster
    const { name, id } = volume
    return untilSettled(`deleting ${name}`, async () => {
      const writerKey = keys.writer(volume.family)
      const { entries } = await store.transact({
        success: [{ get: keys.volume(id) }, { get: writerKey }, { get: keys.name(name) }]
      })
      const [entry = null, writer = null, named = null] = entries
      if (entry === null || named?.value.toString() !== id) {
        throw new StoreError(ErrorCode.NotFound, `there is no volume ${JSON.stringify(name)}`)
      }
      if (writer !== null) {
        const { gateway } = decodeRecord('writer', writerKey, writer.value)
        if (gateway !== self.peerId) {
          throw new StoreError(ErrorCode.Busy, `volume ${name} is open on peer ${gateway}`)
        }
      }
      const record = { ...decodeRecord('volume', entry.key, entry.value), hidden }
      await requireChildless(this.#cluster, record)
      const { succeeded } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: named.key, modRevision: named.modRevision },
          { key: writerKey, modRevision: writer?.modRevision ?? 0 }
        ],
        success: [
          { put: entry.key, value: encodeRecord('volume', record) },
          { delete: named.key },
          { delete: writerKey }
        ]
      })
      return succeeded ? record : null
    })
  }

  /** Gives it a name, its old one or another. @throws StoreError NotFound, AlreadyExists */
  async show(id: string, name: string): Promise<VolumeRecord> {
    checkVolumeName(name)
    const { keys, store } = this.#cluster
    return untilSettled(`making ${name} available`, async () => {
      const entry = await this.#entry(id)
      const { hidden: _, ...record } = decodeRecord('volume', entry.key, entry.value)
      const shown: VolumeRecord = { ...record, name }
      const { succeeded, entries } = await store.transact({
        compare: [
          { key: entry.key, modRevision: entry.modRevision },
          { key: keys.name(name), is: 'absent' }
        ],
        success: [
          { put: entry.key, value: encodeRecord('volume', shown) },
          { put: keys.name(name), value: Buffer.from(id) }
        ],
        failure: [{ get: keys.name(name) }]
      })
      if (succeeded) return shown
      if (entries[0] === null) return null
      const text = `there is a volume ${JSON.stringify(name)} already: give it another name`
      throw new StoreError(ErrorCode.AlreadyExists, text)
    })
  }

  /** An import got so far, and is kept for longer. @throws StoreError NotFound */
  async mark(id: string, doneBytes: number, until: string): Promise<void> {
    const { store } = this.#cluster
    await untilSettled('noting how far an import is', async () => {
      const { key, value, modRevision } = await this.#entry(id)
      const record = decodeRecord('volume', key, value)
      const hidden = { ...record.hidden!, doneBytes, until }
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision }],
        success: [{ put: key, value: encodeRecord('volume', { ...record, hidden }) }]
      })
      return succeeded ? true : null
    })
  }

  async #entry(id: string): Promise<Entry> {
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.volume(id))
    if (entry !== null && isHidden(decodeRecord('volume', entry.key, entry.value))) return entry
    throw new StoreError(ErrorCode.NotFound, `there is no volume ${id} that could be restored`)
  }
}
