/** The admin API's view of snapshots. */
import type { SnapshotBackend } from '../admin/snapshot-routes.ts'
import type {
  Schedule,
  ScheduleChange,
  Snapshot,
  SnapshotChange,
  SnapshotCreate
} from '../admin/snapshot-schemas.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { withoutUndefined } from '../core/without-undefined.ts'
import type { ScheduleInfo, SnapshotSchedules } from '../volume/snapshot-schedules.ts'
import type { SnapshotInfo } from '../volume/snapshots.ts'
import type { Volumes } from '../volume/volumes.ts'

export class PeerSnapshotBackend implements SnapshotBackend {
  readonly #volumes: Volumes
  readonly #schedules: SnapshotSchedules

  constructor(volumes: Volumes, schedules: SnapshotSchedules) {
    this.#volumes = volumes
    this.#schedules = schedules
  }

  async list(volume: string): Promise<readonly Snapshot[]> {
    return (await this.#volumes.snapshots.list(volume)).map(answerOf)
  }

  async show(volume: string, name: string): Promise<Snapshot> {
    return answerOf(await this.#volumes.snapshots.show(volume, name))
  }

  async create(volume: string, { name, ...options }: SnapshotCreate): Promise<Snapshot> {
    const snapshot = await this.#volumes.snapshots.create(volume, name, options)
    await this.#volumes.tell(volume, 'snapshot', { name })
    return answerOf(snapshot)
  }

  async change(
    volume: string,
    name: string,
    { newName = name, ...change }: SnapshotChange
  ): Promise<Snapshot> {
    const { snapshots } = this.#volumes
    if (newName !== name) await snapshots.rename(volume, name, newName)
    return answerOf(await snapshots.change(volume, newName, withoutUndefined(change)))
  }

  async delete(volume: string, name: string): Promise<void> {
    await this.#volumes.snapshots.delete(volume, name, (snapshot) => {
      if (snapshot.protected !== true) return
      const text = `snapshot ${volume}@${name} is protected: "torus snapshot unprotect" comes first`
      throw new StoreError(ErrorCode.Busy, text)
    })
    await this.#volumes.tell(volume, 'snapshotDeleted', { name })
  }

  async schedule(volume: string): Promise<Schedule> {
    const found = await this.#schedules.show(volume)
    if (found !== null) return scheduleOf(found)
    return { volume, rules: [], nextAt: null, doneUntil: null, snapshots: 0 }
  }

  async setSchedule(volume: string, { rules }: ScheduleChange): Promise<Schedule> {
    return scheduleOf(await this.#schedules.set(volume, rules))
  }

  removeSchedule(volume: string): Promise<void> {
    return this.#schedules.remove(volume)
  }
}

const scheduleOf = ({ rules, ...info }: ScheduleInfo): Schedule => ({ ...info, rules: [...rules] })

const answerOf = ({ layer: _, labels, ...info }: SnapshotInfo): Snapshot => ({
  ...info,
  labels: { ...labels }
})
