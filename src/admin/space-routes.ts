/** The space of volumes in the admin API. */
import { z } from 'zod'
import { type Route, route } from './route.ts'
import { volumeNameSchema } from './schemas.ts'
import { type VolumeSpaceAnswer, volumeSpaceSchema } from './space-schemas.ts'

export interface SpaceBackend {
  /** Counted now. @throws StoreError NotFound */
  space(volume: string): Promise<VolumeSpaceAnswer>
}

export const spaceRoutesOf = (backend: SpaceBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/space',
    operationId: 'getVolumeSpace',
    summary: 'What a volume and each of its snapshots take, counted now',
    role: 'viewer',
    volumeUse: 'see',
    params: z.strictObject({ name: volumeNameSchema }),
    answer: volumeSpaceSchema,
    handle: ({ params }) => backend.space(params.name)
  })
]
