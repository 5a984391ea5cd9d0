import type { Import, Increment } from '../admin/life-schemas.ts'
import type { VolumeSpaceAnswer } from '../admin/space-schemas.ts'
import type { Diff } from '../admin/stream-schemas.ts'

type Send = <T>(method: string, path: string, body?: unknown) => Promise<T>

export type VolumeSpace = VolumeSpaceAnswer
export type SnapshotSpace = NonNullable<VolumeSpace['figures']>['snapshots'][number]

export type ChangedExtent = Diff['extents'][number]

/** What volumes hold and what changed in them, as functions over the admin API. */
export class StreamApi {
  readonly #send: Send

  constructor(send: Send) {
    this.#send = send
  }

  beginIncrement(volume: string, increment: Increment): Promise<Import> {
    return this.#send('POST', pathOf(volume), increment)
  }

  increment(volume: string): Promise<Import> {
    return this.#send('GET', pathOf(volume))
  }

  writeIncrement(volume: string, piece: Buffer, until: number): Promise<Import> {
    return this.#send('POST', `${pathOf(volume)}/data?until=${until}`, piece)
  }

  finishIncrement(volume: string, digest: string): Promise<Import> {
    return this.#send('POST', `${pathOf(volume)}/finish`, { digest })
  }

  /** What the volume and its snapshots take, counted now. */
  space(volume: string): Promise<VolumeSpaceAnswer> {
    return this.#send('GET', `/v1/volumes/${encodeURIComponent(volume)}/space`)
  }

  /** What changed after snapshot `from`, up to `snapshot` or now. */
  async diff(
    volume: string,
    from: string,
    snapshot: string | undefined
  ): Promise<{ sizeBytes: number; extents: ChangedExtent[] }> {
    const query = new URLSearchParams({ from, ...(snapshot === undefined ? {} : { snapshot }) })
    const extents: ChangedExtent[] = []
    for (let start = 0; ; ) {
      query.set('start', `${start}`)
      const path = `/v1/volumes/${encodeURIComponent(volume)}/diff?${query}`
      const { sizeBytes, nextBytes, ...answer } = await this.#send<Diff>('GET', path)
      extents.push(...answer.extents)
      if (nextBytes === null) return { sizeBytes, extents }
      start = nextBytes
    }
  }
}

const pathOf = (volume: string): string => `/v1/volumes/${encodeURIComponent(volume)}/increment`
