import { VOLUME_EVENTS_MAX } from '../core/limits.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { decodeRecord, encodeRecord, type VolumeEventRecord } from './records.ts'

export type VolumeEvent = VolumeEventRecord
export type VolumeEventKind = VolumeEvent['kind']
export type VolumeEventDetails = VolumeEvent['details']

/**
 * What happened to each volume: its last VOLUME_EVENTS_MAX events, in one record that goes when
 * the volume is deleted for good. It tells people; nothing is decided by it.
 */
export class VolumeEvents {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** Oldest first. */
  async list(id: string): Promise<readonly VolumeEvent[]> {
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.volumeEvents(id))
    return entry === null ? [] : decodeRecord('volumeEvents', entry.key, entry.value).events
  }

  /** The same as the one before it, on the same peer, only counts it up. */
  async note(id: string, kind: VolumeEventKind, details: VolumeEventDetails): Promise<void> {
    const { keys, store, self } = this.#cluster
    const key = keys.volumeEvents(id)
    const at = this.#cluster.nowText()
    const event: VolumeEvent = { at, kind, peer: self.peerId, details, count: 1, lastAt: at }
    await untilSettled(`noting what happened to volume ${id}`, async () => {
      const { entries } = await store.transact({
        success: [{ get: key }, { get: keys.volume(id) }]
      })
      const [entry = null, volume = null] = entries
      if (volume === null) return true
      const known = entry === null ? [] : decodeRecord('volumeEvents', key, entry.value).events
      const events = withEvent(known, event).slice(-VOLUME_EVENTS_MAX)
      const { succeeded } = await store.transact({
        compare: [
          { key, modRevision: entry?.modRevision ?? 0 },
          { key: volume.key, is: 'present' }
        ],
        success: [{ put: key, value: encodeRecord('volumeEvents', { v: 1, events }) }]
      })
      return succeeded ? true : null
    })
  }
}

function withEvent(events: readonly VolumeEvent[], event: VolumeEvent): VolumeEvent[] {
  const last = events.at(-1)
  const isSame =
    last !== undefined &&
    last.kind === event.kind &&
    last.peer === event.peer &&
    JSON.stringify(last.details) === JSON.stringify(event.details)
  if (!isSame) return [...events, event]
  return [...events.slice(0, -1), { ...last, count: last.count + 1, lastAt: event.at }]
}
