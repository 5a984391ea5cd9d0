/** What changed in volumes, in the admin API. */
import { z } from 'zod'
import { BLOCK_BYTES } from '../core/limits.ts'
import { type Route, route } from './route.ts'
import { volumeNameSchema } from './schemas.ts'
import * as schemas from './stream-schemas.ts'

/** What the admin API asks of the program about it. Failures are StoreErrors. */
export interface StreamBackend {
  /**
   * What was written or given up after snapshot `from`, up to `snapshot`, or until now, from byte
   * `start` on. @throws StoreError NotFound, InvalidArgument, Busy
   */
  diff(
    name: string,
    from: string,
    snapshot: string | undefined,
    start: number
  ): Promise<schemas.Diff>
}

const byName = z.strictObject({ name: volumeNameSchema })

export const streamRoutesOf = (backend: StreamBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/diff',
    operationId: 'diffVolume',
    summary: 'Extents of a volume, or of its snapshot, that changed since the snapshot `from`',
    role: 'operator',
    volumeUse: 'see',
    params: byName,
    query: z.strictObject({
      from: volumeNameSchema,
      snapshot: volumeNameSchema.optional(),
      start: z.coerce.number().int().nonnegative().multipleOf(BLOCK_BYTES).default(0)
    }),
    answer: schemas.diffSchema,
    handle: ({ params: { name }, query: { from, snapshot, start } }) =>
      backend.diff(name, from, snapshot, start)
  })
]
