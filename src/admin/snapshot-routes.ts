/** Snapshots in the admin API. */
import { z } from 'zod'
import { type Route, route } from './route.ts'
import { volumeNameSchema } from './schemas.ts'
import * as schemas from './snapshot-schemas.ts'
import { withheldOfNewSnapshot, withheldOfSnapshot } from './withheld.ts'

/** What the admin API asks of the program about snapshots. Failures are StoreErrors. */
export interface SnapshotBackend {
  /** Oldest first. @throws StoreError NotFound */
  list(volume: string): Promise<readonly schemas.Snapshot[]>
  /** @throws StoreError NotFound */
  show(volume: string, name: string): Promise<schemas.Snapshot>
  /** While clients go on. @throws StoreError NotFound, AlreadyExists, Busy, LimitReached */
  create(volume: string, request: schemas.SnapshotCreate): Promise<schemas.Snapshot>
  /** @throws StoreError NotFound, AlreadyExists */
  change(volume: string, name: string, change: schemas.SnapshotChange): Promise<schemas.Snapshot>
  /** @throws StoreError NotFound, Busy (open, or protected) */
  delete(volume: string, name: string): Promise<void>
  /** @throws StoreError NotFound */
  schedule(volume: string): Promise<schemas.Schedule>
  /** @throws StoreError NotFound, InvalidArgument */
  setSchedule(volume: string, change: schemas.ScheduleChange): Promise<schemas.Schedule>
  /** The snapshots that it took stay. @throws StoreError NotFound */
  removeSchedule(volume: string): Promise<void>
}

const byVolume = z.strictObject({ name: volumeNameSchema })
const bySnapshot = z.strictObject({ name: volumeNameSchema, snapshot: volumeNameSchema })

export const snapshotRoutesOf = (backend: SnapshotBackend): readonly Route[] => [
  ...scheduleRoutesOf(backend),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/snapshots',
    operationId: 'listSnapshots',
    summary: 'The snapshots of a volume, oldest first',
    role: 'viewer',
    volumeUse: 'see',
    params: byVolume,
    answer: schemas.snapshotListSchema,
    handle: async ({ params }) => ({ snapshots: [...(await backend.list(params.name))] })
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/snapshots',
    operationId: 'createSnapshot',
    summary: 'Take a snapshot of a volume while its clients go on',
    role: 'operator',
    volumeUse: 'change',
    withheld: withheldOfNewSnapshot,
    tell: ({ name }) => ({ snapshot: name }),
    params: byVolume,
    body: schemas.snapshotCreateSchema,
    answer: schemas.snapshotSchema,
    status: 201,
    handle: ({ params, body }) => backend.create(params.name, body)
  }),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/snapshots/{snapshot}',
    operationId: 'getSnapshot',
    summary: 'One snapshot',
    role: 'viewer',
    volumeUse: 'see',
    params: bySnapshot,
    answer: schemas.snapshotSchema,
    handle: ({ params }) => backend.show(params.name, params.snapshot)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/snapshots/{snapshot}',
    operationId: 'changeSnapshot',
    summary: 'Rename, describe, protect or unprotect a snapshot',
    role: 'operator',
    volumeUse: 'change',
    withheld: withheldOfSnapshot,
    tell: (body) => body,
    params: bySnapshot,
    body: schemas.snapshotChangeSchema,
    answer: schemas.snapshotSchema,
    handle: ({ params, body }) => backend.change(params.name, params.snapshot, body)
  }),
  route({
    method: 'DELETE',
    path: '/v1/volumes/{name}/snapshots/{snapshot}',
    operationId: 'deleteSnapshot',
    summary: 'Delete a snapshot that is neither open nor protected',
    role: 'operator',
    params: bySnapshot,
    status: 204,
    handle: async ({ params }) => {
      await backend.delete(params.name, params.snapshot)
      return null
    }
  })
]

const scheduleRoutesOf = (backend: SnapshotBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/schedule',
    operationId: 'getSchedule',
    summary: 'Which snapshots of a volume are taken by themselves',
    role: 'viewer',
    volumeUse: 'see',
    params: byVolume,
    answer: schemas.scheduleSchema,
    handle: ({ params }) => backend.schedule(params.name)
  }),
  route({
    method: 'POST',
    path: '/v1/volumes/{name}/schedule',
    operationId: 'setSchedule',
    summary: 'Take snapshots of a volume by themselves, and delete those whose time is over',
    role: 'operator',
    tell: (body) => body,
    params: byVolume,
    body: schemas.scheduleChangeSchema,
    answer: schemas.scheduleSchema,
    handle: ({ params, body }) => backend.setSchedule(params.name, body)
  }),
  route({
    method: 'DELETE',
    path: '/v1/volumes/{name}/schedule',
    operationId: 'removeSchedule',
    summary: 'Take no more snapshots of a volume; those there are stay',
    role: 'operator',
    params: byVolume,
    status: 204,
    handle: async ({ params }) => {
      await backend.removeSchedule(params.name)
      return null
    }
  })
]
