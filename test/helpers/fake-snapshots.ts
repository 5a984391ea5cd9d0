/** A SnapshotBackend over a list. */
import type { SnapshotBackend } from '../../src/admin/snapshot-routes.ts'
import type {
  Schedule,
  ScheduleChange,
  Snapshot,
  SnapshotChange,
  SnapshotCreate
} from '../../src/admin/snapshot-schemas.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'

export class FakeSnapshots implements SnapshotBackend {
  readonly all: Snapshot[] = []
  readonly scheduled = new Map<string, ScheduleChange>()

  async list(volume: string): Promise<readonly Snapshot[]> {
    return this.all.filter((each) => each.volume === volume)
  }

  async show(volume: string, name: string): Promise<Snapshot> {
    return this.#find(volume, name)
  }

  async create(volume: string, request: SnapshotCreate): Promise<Snapshot> {
    const known = { volume, id: '0123456789abcdef', sizeBytes: 4096, protected: false }
    const made = { ...request, ...known, createdAt: '2026-01-31T12:00:00.000Z' }
    this.all.push(made)
    return made
  }

  async change(volume: string, name: string, change: SnapshotChange): Promise<Snapshot> {
    const found = this.#find(volume, name)
    const { newName = name, description = found.description, protected: kept = false } = change
    return Object.assign(found, { name: newName, description, protected: kept })
  }

  async delete(volume: string, name: string): Promise<void> {
    this.all.splice(this.all.indexOf(this.#find(volume, name)), 1)
  }

  async schedule(volume: string): Promise<Schedule> {
    const { rules } = this.scheduled.get(volume) ?? { rules: [] }
    const time = rules.length === 0 ? null : '2026-01-31T12:00:00.000Z'
    return { volume, rules, nextAt: time, doneUntil: time, snapshots: 0 }
  }

  async setSchedule(volume: string, change: ScheduleChange): Promise<Schedule> {
    this.scheduled.set(volume, change)
    return this.schedule(volume)
  }

  async removeSchedule(volume: string): Promise<void> {
    this.scheduled.delete(volume)
  }

  #find(volume: string, name: string): Snapshot {
    const found = this.all.find((each) => each.volume === volume && each.name === name)
    if (found !== undefined) return found
    throw new StoreError(ErrorCode.NotFound, `volume ${volume} has no snapshot ${name}`)
  }
}
