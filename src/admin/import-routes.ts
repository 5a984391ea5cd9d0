/** Imports in the admin API. */
import { z } from 'zod'
import * as life from './life-schemas.ts'
import { type Route, route } from './route.ts'
import { type VolumeCreate, volumeCreateSchema } from './schemas.ts'
import { toldOfNew } from './volume-routes.ts'

/** What the admin API asks of the program about imports. Failures are StoreErrors. */
export interface ImportBackend {
  list(): Promise<readonly life.Import[]>
  /** @throws StoreError AlreadyExists, InvalidArgument */
  begin(volume: VolumeCreate): Promise<life.Import>
  /** @throws StoreError NotFound */
  show(id: string): Promise<life.Import>
  /** @throws StoreError Corrupt, InvalidArgument, Busy, NotFound */
  write(id: string, piece: Buffer, untilBytes: number): Promise<life.Import>
  /** In the background: see its state. @throws StoreError NotFound, InvalidArgument */
  finish(id: string, expected: life.ImportFinish): Promise<life.Import>
  /** @throws StoreError NotFound, Busy */
  abandon(id: string): Promise<void>
}

const byId = z.strictObject({ id: z.string().min(1).max(64) })

export const importRoutesOf = (backend: ImportBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/imports',
    operationId: 'listImports',
    summary: 'Imports that are not done',
    role: 'viewer',
    answer: life.importListSchema,
    handle: async () => ({ imports: [...(await backend.list())] })
  }),
  route({
    method: 'POST',
    path: '/v1/imports',
    operationId: 'beginImport',
    summary: 'Make a volume that nobody sees until all of it came and was verified',
    role: 'operator',
    tell: (body, answer) => ({ id: answer?.id, name: body.name, ...toldOfNew(body) }),
    body: volumeCreateSchema,
    answer: life.importSchema,
    status: 201,
    handle: ({ body }) => backend.begin(body)
  }),
  route({
    method: 'GET',
    path: '/v1/imports/{id}',
    operationId: 'getImport',
    summary: 'How far an import is',
    role: 'viewer',
    params: byId,
    answer: life.importSchema,
    handle: ({ params }) => backend.show(params.id)
  }),
  route({
    method: 'POST',
    path: '/v1/imports/{id}/data',
    operationId: 'writeImport',
    summary: 'The next piece, a stream as export gives it, up to byte `until`',
    role: 'operator',
    audited: false,
    params: byId,
    query: z.strictObject({ until: z.coerce.number().int().nonnegative() }),
    takesBytes: true,
    answer: life.importSchema,
    handle: ({ params, query, bytes }) => backend.write(params.id, bytes, query.until)
  }),
  route({
    method: 'POST',
    path: '/v1/imports/{id}/finish',
    operationId: 'finishImport',
    summary: 'Read all back, compare, and give the volume its name; getImport tells how far it is',
    role: 'operator',
    tell: (_, answer) => ({ name: answer?.name }),
    params: byId,
    body: life.importFinishSchema,
    answer: life.importSchema,
    status: 202,
    handle: ({ params, body }) => backend.finish(params.id, body)
  }),
  route({
    method: 'DELETE',
    path: '/v1/imports/{id}',
    operationId: 'abandonImport',
    summary: 'Remove what came of an import',
    role: 'operator',
    params: byId,
    status: 204,
    handle: async ({ params }) => {
      await backend.abandon(params.id)
      return null
    }
  })
]
