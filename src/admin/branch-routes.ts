/** Restoring snapshots, cloning and flattening volumes, in the admin API. */
import { z } from 'zod'
import * as schemas from './branch-schemas.ts'
import { type Route, route } from './route.ts'
import { type Volume, volumeNameSchema, volumeSchema } from './schemas.ts'

/** What the admin API asks of the program about them. Failures are StoreErrors. */
export interface BranchBackend {
  /** @throws StoreError NotFound, Busy (open and not `force`), ReadOnly */
  restore(volume: string, snapshot: string, force: boolean): Promise<Volume>
  /** @throws StoreError NotFound, AlreadyExists, InvalidArgument, Forbidden, Busy, Locked */
  clone(volume: string, snapshot: string, request: schemas.CloneBody): Promise<Volume>
  /** Of one snapshot, or of all. @throws StoreError NotFound */
  children(volume: string, snapshot: string | null): Promise<readonly schemas.Child[]>
  /** @throws StoreError NotFound */
  base(volume: string): Promise<schemas.VolumeBase>
  /** In the background. @throws StoreError NotFound, InvalidArgument (no clone), Busy, Locked */
  flatten(volume: string): Promise<schemas.VolumeBase>
}

const byVolume = z.strictObject({ name: volumeNameSchema })
const bySnapshot = z.strictObject({ name: volumeNameSchema, snapshot: volumeNameSchema })

export const branchRoutesOf = (backend: BranchBackend): readonly Route[] => [
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/snapshots/{snapshot}/restore',
    operationId: 'restoreSnapshot',
    summary: 'Make a volume what its snapshot shows',
    role: 'operator',
    tell: ({ force }) => ({ force }),
    params: bySnapshot,
    body: schemas.restoreBodySchema,
    answer: volumeSchema,
    handle: ({ params, body }) => backend.restore(params.name, params.snapshot, body.force)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/snapshots/{snapshot}/clone',
    operationId: 'cloneSnapshot',
    summary: 'Make a volume that begins as what a snapshot shows',
    role: 'operator',
    tell: ({ name }) => ({ clone: name }),
    params: bySnapshot,
    body: schemas.cloneBodySchema,
    answer: volumeSchema,
    status: 201,
    handle: ({ params, body }) => backend.clone(params.name, params.snapshot, body)
  }),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/snapshots/{snapshot}/children',
    operationId: 'listSnapshotChildren',
    summary: 'The volumes that stand on a snapshot',
    role: 'viewer',
    params: bySnapshot,
    answer: schemas.childListSchema,
    handle: async ({ params }) => ({
      children: [...(await backend.children(params.name, params.snapshot))]
    })
  }),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/children',
    operationId: 'listVolumeChildren',
    summary: 'The volumes that stand on snapshots of a volume',
    role: 'viewer',
    params: byVolume,
    answer: schemas.childListSchema,
    handle: async ({ params }) => ({ children: [...(await backend.children(params.name, null))] })
  }),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/base',
    operationId: 'getVolumeBase',
    summary: 'The snapshot that a volume stands on, and how far it is flattened',
    role: 'viewer',
    params: byVolume,
    answer: schemas.flattenSchema,
    handle: ({ params }) => backend.base(params.name)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/flatten',
    operationId: 'flattenVolume',
    summary: 'Give a clone all that it reads from its snapshot, in the background',
    role: 'operator',
    params: byVolume,
    answer: schemas.flattenSchema,
    status: 202,
    handle: ({ params }) => backend.flatten(params.name)
  })
]
