import {
  type VolumeEventDetails,
  type VolumeEventKind,
  VolumeEvents
} from '../cluster/volume-events.ts'
import type { Cluster } from '../cluster/cluster.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { SERVED_EVENT_MS } from '../core/limits.ts'

/** Tells what happens to volumes. What cannot be told is no reason for it not to happen. */
export class VolumeHistory {
  readonly #cluster: Cluster
  readonly #events: VolumeEvents
  readonly #trouble: (what: string, thrown: unknown) => void
  /** By volume id: when it was last told that a volume is served here. */
  readonly #servedMs = new Map<string, number>()
  /** Told and not written yet. */
  readonly #pending = new Set<Promise<void>>()

  constructor(cluster: Cluster, trouble: (what: string, thrown: unknown) => void) {
    this.#cluster = cluster
    this.#events = new VolumeEvents(cluster)
    this.#trouble = trouble
  }

  list(id: string): ReturnType<VolumeEvents['list']> {
    return this.#events.list(id)
  }

  async tell(
    { id, name }: Pick<VolumeRecord, 'id' | 'name'>,
    kind: VolumeEventKind,
    details: VolumeEventDetails = {}
  ): Promise<void> {
    try {
      await this.#events.note(id, kind, details)
    } catch (thrown) {
      this.#trouble(`noting what happened to volume ${name}`, thrown)
    }
  }

  /** Clients begin to use it here. Nobody waits for that to be written. */
  served(volume: Pick<VolumeRecord, 'id' | 'name'>): void {
    const nowMs = this.#cluster.clock.monotonicMs()
    const lastMs = this.#servedMs.get(volume.id)
    if (lastMs !== undefined && nowMs - lastMs < SERVED_EVENT_MS) return
    this.#servedMs.set(volume.id, nowMs)
    const told = this.tell(volume, 'served').finally(() => this.#pending.delete(told))
    this.#pending.add(told)
  }

  /** The volume is gone. */
  forget(id: string): void {
    this.#servedMs.delete(id)
  }

  /** Resolves when everything is written. */
  async settled(): Promise<void> {
    await Promise.all(this.#pending)
  }
}
