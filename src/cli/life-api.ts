import type * as life from '../admin/life-schemas.ts'
import type { Volume } from '../admin/schemas.ts'

export type VolumeEvent = life.VolumeEvent
export type Deleted = life.Deleted
export type Trashed = life.Trashed

type Send = <T>(method: string, path: string, body?: unknown) => Promise<T>

/** The life of volumes, as functions over the admin API. */
export class LifeApi {
  readonly #send: Send

  constructor(send: Send) {
    this.#send = send
  }

  async events(name: string): Promise<VolumeEvent[]> {
    const path = `${pathOf(name)}/events`
    return (await this.#send<{ events: VolumeEvent[] }>('GET', path)).events
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
  emptyTrash(entry: string | undefined): Promise<{ volumes: number }> {
    const path = entry === undefined ? '' : `/${encodeURIComponent(entry)}`
    return this.#send('DELETE', `/v1/trash${path}`)
  }
}

const pathOf = (name: string): string => `/v1/volumes/${encodeURIComponent(name)}`
