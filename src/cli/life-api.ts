import type * as life from '../admin/life-schemas.ts'

export type VolumeEvent = life.VolumeEvent

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
}

const pathOf = (name: string): string => `/v1/volumes/${encodeURIComponent(name)}`
