/** What changed in volumes, in the admin API. */
import { z } from 'zod'
import { BLOCK_BYTES } from '../core/limits.ts'
import * as life from './life-schemas.ts'
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
  /** @throws StoreError NotFound (no base), AlreadyExists, Conflict (changed since the base) */
  beginIncrement(name: string, increment: life.Increment): Promise<life.Import>
  /** @throws StoreError NotFound */
  increment(name: string): Promise<life.Import>
  /** @throws StoreError Corrupt, InvalidArgument, Busy, NotFound */
  writeIncrement(name: string, piece: Buffer, untilBytes: number): Promise<life.Import>
  /** In the background: see its state. @throws StoreError NotFound, InvalidArgument */
  finishIncrement(name: string, digest: string): Promise<life.Import>
}

const byName = z.strictObject({ name: volumeNameSchema })

export const streamRoutesOf = (backend: StreamBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/diff',
    operationId: 'diffVolume',
    summary: 'Extents of a volume, or of its snapshot, that changed since the snapshot `from`',
    role: 'viewer',
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
  }),
  ...incrementRoutesOf(backend)
]

const INCREMENT = '/v1/volumes/{name}/increment'

const incrementRoutesOf = (backend: StreamBackend): readonly Route[] => [
  route({
    method: 'POST',
    path: INCREMENT,
    operationId: 'beginIncrement',
    summary: 'Begin to put an increment on a volume, which becomes read-only, or go on with it',
    role: 'operator',
    tell: ({ snapshot }) => ({ snapshot: snapshot.name }),
    params: byName,
    body: life.incrementSchema,
    answer: life.importSchema,
    status: 201,
    handle: ({ params, body }) => backend.beginIncrement(params.name, body)
  }),
  route({
    method: 'GET',
    path: INCREMENT,
    operationId: 'getIncrement',
    summary: 'How far an increment is',
    role: 'viewer',
    params: byName,
    answer: life.importSchema,
    handle: ({ params }) => backend.increment(params.name)
  }),
  route({
    method: 'POST',
    path: `${INCREMENT}/data`,
    operationId: 'writeIncrement',
    summary: 'The next piece, a stream as export gives it, up to byte `until`',
    role: 'operator',
    audited: false,
    params: byName,
    query: z.strictObject({ until: z.coerce.number().int().nonnegative() }),
    takesBytes: true,
    answer: life.importSchema,
    handle: ({ params, query, bytes }) => backend.writeIncrement(params.name, bytes, query.until)
  }),
  route({
    method: 'POST',
    path: `${INCREMENT}/finish`,
    operationId: 'finishIncrement',
    summary: 'Read all back, compare, and take the snapshot; getIncrement tells how far it is',
    role: 'operator',
    params: byName,
    body: life.incrementFinishSchema,
    answer: life.importSchema,
    status: 202,
    handle: ({ params, body }) => backend.finishIncrement(params.name, body.digest)
  })
]
