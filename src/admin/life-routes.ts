/** The life of volumes in the admin API: what happened to them, and what is done to them. */
import { z } from 'zod'
import * as life from './life-schemas.ts'
import { type Route, route } from './route.ts'
import { volumeNameSchema } from './schemas.ts'

/** What the admin API asks of the program about it. Failures are StoreErrors. */
export interface LifeBackend {
  /** Oldest first. @throws StoreError NotFound */
  events(name: string): Promise<readonly life.VolumeEvent[]>
}

const byName = z.strictObject({ name: volumeNameSchema })

export const lifeRoutesOf = (backend: LifeBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/events',
    operationId: 'listVolumeEvents',
    summary: 'What happened to a volume, oldest first: its last 64 events',
    role: 'viewer',
    volumeUse: 'see',
    params: byName,
    answer: life.volumeEventListSchema,
    handle: async ({ params }) => ({ events: [...(await backend.events(params.name))] })
  })
]
