/** The admin API of volumes, line by line. */
import { z } from 'zod'
import { maySee } from './access.ts'
import type { AdminBackend } from './backend.ts'
import { deletedSchema } from './life-schemas.ts'
import { type Route, route } from './route.ts'
import * as schemas from './schemas.ts'
import { withheldOfVolume } from './withheld.ts'

const trueOrFalse = z.enum(['true', 'false']).default('false')
const byName = z.strictObject({ name: schemas.volumeNameSchema })

/** For the audit log: of a key slot no more than that there is one. */
export const toldOfNew = ({ sizeBytes, type, pool, access, encrypt }: schemas.VolumeCreate) => ({
  ...{ sizeBytes, type, pool, access },
  ...(encrypt === undefined ? {} : { encrypted: true })
})

export const volumeRoutesOf = (backend: AdminBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/volumes',
    operationId: 'listVolumes',
    summary: 'All volumes, sorted by name',
    role: 'viewer',
    volumeUse: 'any',
    answer: schemas.volumeListSchema,
    handle: async ({ visitor }) => {
      const volumes = await backend.listVolumes()
      return { volumes: volumes.filter(({ name }) => maySee(visitor.rights, name)) }
    }
  }),
  route({
    method: 'POST',
    path: '/v1/volumes',
    operationId: 'createVolume',
    summary: 'Create a thin volume',
    role: 'operator',
    tell: toldOfNew,
    body: schemas.volumeCreateSchema,
    answer: schemas.volumeSchema,
    status: 201,
    handle: ({ body }) => backend.createVolume(body)
  }),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}',
    operationId: 'getVolume',
    summary: 'One volume',
    role: 'viewer',
    volumeUse: 'see',
    params: byName,
    answer: schemas.volumeSchema,
    handle: ({ params }) => backend.volume(params.name)
  }),
  route({
    method: 'DELETE',
    path: '/v1/volumes/{name}',
    operationId: 'deleteVolume',
    summary:
      'Put a volume into the trash, or delete it for good with `now`; ' +
      '`force` disconnects its clients',
    role: 'operator',
    params: byName,
    query: z.strictObject({ force: trueOrFalse, now: trueOrFalse }),
    answer: deletedSchema,
    handle: ({ params, query }) => {
      const [force, now] = [query.force === 'true', query.now === 'true']
      return backend.deleteVolume(params.name, { force, now })
    }
  })
]

/** What is changed about one that is there. */
export const volumeChangesOf = (backend: AdminBackend): readonly Route[] => [
  route({
    method: 'POST',
    path: '/v1/volumes/{name}',
    operationId: 'changeVolume',
    summary: 'Change what is set about a volume; holds at once for its clients',
    role: 'operator',
    volumeUse: 'change',
    withheld: withheldOfVolume,
    tell: (body) => body,
    params: byName,
    body: schemas.volumeChangeSchema,
    answer: schemas.volumeSchema,
    handle: ({ params, body }) => backend.changeVolume(params.name, body)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/rename',
    operationId: 'renameVolume',
    summary: 'Give a volume another name',
    role: 'operator',
    tell: (body) => body,
    params: byName,
    body: schemas.volumeRenameSchema,
    answer: schemas.volumeSchema,
    handle: ({ params, body }) => backend.renameVolume(params.name, body.newName)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/resize',
    operationId: 'resizeVolume',
    summary: 'Give a volume another size; a smaller one only with `shrink`, and without clients',
    role: 'operator',
    tell: (body) => body,
    params: byName,
    body: schemas.volumeResizeSchema,
    answer: schemas.volumeSchema,
    handle: ({ params, body }) => backend.resizeVolume(params.name, body)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/take',
    operationId: 'takeVolume',
    summary: 'Move a volume to this peer; `takeover` drops its clients on others',
    role: 'operator',
    volumeUse: 'change',
    tell: (body) => body,
    params: byName,
    body: schemas.volumeTakeSchema,
    answer: schemas.volumeSchema,
    handle: ({ params, body }) => backend.takeVolume(params.name, body.takeover)
  })
]
