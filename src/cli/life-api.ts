import type * as branches from '../admin/branch-schemas.ts'
import type * as life from '../admin/life-schemas.ts'
import type { Volume, VolumeCreate } from '../admin/schemas.ts'
import type * as snapshots from '../admin/snapshot-schemas.ts'

export type VolumeEvent = life.VolumeEvent
export type Deleted = life.Deleted
export type ExportQuery = life.ExportQuery
export type Import = life.Import
export type Trashed = life.Trashed
export type Snapshot = snapshots.Snapshot
export type Schedule = snapshots.Schedule
export type Child = branches.Child
export type VolumeBase = branches.VolumeBase

type Stream = (path: string) => Promise<AsyncIterable<Buffer>>
type Send = <T>(method: string, path: string, body?: unknown) => Promise<T>

/** The life of volumes, as functions over the admin API. */
export class LifeApi {
  readonly #send: Send
  readonly #stream: Stream

  constructor(send: Send, stream: Stream) {
    this.#send = send
    this.#stream = stream
  }

  /** The volume, or its snapshot, in the format of torus from a byte on. */
  export(volume: string, wanted: Partial<life.ExportQuery>): Promise<AsyncIterable<Buffer>> {
    const given = Object.entries(wanted).filter(([, value]) => value !== undefined)
    const query = new URLSearchParams(
      given.map(([name, value]): [string, string] => [name, `${value}`])
    )
    return this.#stream(`${pathOf(volume)}/export?${query}`)
  }

  async events(name: string): Promise<VolumeEvent[]> {
    const path = `${pathOf(name)}/events`
    return (await this.#send<{ events: VolumeEvent[] }>('GET', path)).events
  }

  async imports(): Promise<Import[]> {
    return (await this.#send<{ imports: Import[] }>('GET', '/v1/imports')).imports
  }

  import(id: string): Promise<Import> {
    return this.#send('GET', `/v1/imports/${id}`)
  }

  beginImport(volume: VolumeCreate): Promise<Import> {
    return this.#send('POST', '/v1/imports', volume)
  }

  writeImport(id: string, piece: Buffer, until: number): Promise<Import> {
    return this.#send('POST', `/v1/imports/${id}/data?until=${until}`, piece)
  }

  finishImport(id: string, expected: life.ImportFinish): Promise<Import> {
    return this.#send('POST', `/v1/imports/${id}/finish`, expected)
  }

  abandonImport(id: string): Promise<void> {
    return this.#send('DELETE', `/v1/imports/${id}`)
  }

  async snapshots(volume: string): Promise<Snapshot[]> {
    const path = `${pathOf(volume)}/snapshots`
    return (await this.#send<{ snapshots: Snapshot[] }>('GET', path)).snapshots
  }

  snapshot(volume: string, name: string): Promise<Snapshot> {
    return this.#send('GET', snapshotPath(volume, name))
  }

  createSnapshot(volume: string, request: snapshots.SnapshotCreate): Promise<Snapshot> {
    return this.#send('POST', `${pathOf(volume)}/snapshots`, request)
  }

  changeSnapshot(
    volume: string,
    name: string,
    change: snapshots.SnapshotChange
  ): Promise<Snapshot> {
    return this.#send('POST', snapshotPath(volume, name), change)
  }

  deleteSnapshot(volume: string, name: string): Promise<void> {
    return this.#send('DELETE', snapshotPath(volume, name))
  }

  schedule(volume: string): Promise<Schedule> {
    return this.#send('GET', `${pathOf(volume)}/schedule`)
  }

  setSchedule(volume: string, change: snapshots.ScheduleChange): Promise<Schedule> {
    return this.#send('POST', `${pathOf(volume)}/schedule`, change)
  }

  removeSchedule(volume: string): Promise<void> {
    return this.#send('DELETE', `${pathOf(volume)}/schedule`)
  }

  restoreSnapshot(volume: string, name: string, force: boolean): Promise<Volume> {
    return this.#send('POST', `${snapshotPath(volume, name)}/restore`, { force })
  }

  clone(volume: string, snapshot: string, request: branches.CloneBody): Promise<Volume> {
    return this.#send('POST', `${snapshotPath(volume, snapshot)}/clone`, request)
  }

  async children(volume: string, snapshot: string | null): Promise<Child[]> {
    const path = snapshot === null ? pathOf(volume) : snapshotPath(volume, snapshot)
    return (await this.#send<{ children: Child[] }>('GET', `${path}/children`)).children
  }

  base(volume: string): Promise<VolumeBase> {
    return this.#send('GET', `${pathOf(volume)}/base`)
  }

  flatten(volume: string): Promise<VolumeBase> {
    return this.#send('POST', `${pathOf(volume)}/flatten`)
  }

  async trash(): Promise<Trashed[]> {
    return (await this.#send<{ volumes: Trashed[] }>('GET', '/v1/trash')).volumes
  }

  /** `entry` is an id or a name. */
  restore(entry: string, name: string | undefined): Promise<Volume> {
    const body = name === undefined ? {} : { name }
    return this.#send('POST', `/v1/trash/${encodeURIComponent(entry)}/restore`, body)
  }

  /** One of them, or all. */
  emptyTrash(entry: string | undefined, force: boolean): Promise<life.Emptied> {
    const path = entry === undefined ? '' : `/${encodeURIComponent(entry)}`
    return this.#send('DELETE', `/v1/trash${path}?force=${force}`)
  }
}

const pathOf = (name: string): string => `/v1/volumes/${encodeURIComponent(name)}`

const snapshotPath = (volume: string, name: string): string =>
  `${pathOf(volume)}/snapshots/${encodeURIComponent(name)}`
