/** The life of volumes in the admin API: what happened to them, and what is done to them. */
import type { Readable } from 'node:stream'
import { z } from 'zod'
import * as life from './life-schemas.ts'
import { RawAnswer, type Route, route } from './route.ts'
import { type Volume, volumeNameSchema, volumeSchema } from './schemas.ts'

/** What the admin API asks of the program about it. Failures are StoreErrors. */
export interface LifeBackend {
  /** Oldest first. @throws StoreError NotFound */
  events(name: string): Promise<readonly life.VolumeEvent[]>
  /** A volume, or its snapshot, as a stream. @throws StoreError NotFound, Busy, Locked */
  export(name: string, what: life.ExportQuery): Promise<Readable>
  /** Deleted first come first. */
  trash(): Promise<readonly life.Trashed[]>
  /** `entry` is an id or a name. @throws StoreError NotFound, Conflict, AlreadyExists */
  restoreVolume(entry: string, name?: string): Promise<Volume>
  /**
   * Deletes for good: one, or all, but without `force` none that has protected snapshots.
   * @throws StoreError NotFound, Conflict, Busy
   */
  emptyTrash(force: boolean, entry?: string): Promise<life.Emptied>
}

const STREAM_TYPE = 'application/octet-stream'
const byName = z.strictObject({ name: volumeNameSchema })

const byEntry = z.strictObject({
  entry: volumeNameSchema.meta({ description: 'Id, or name, of a volume in the trash' })
})

/** Volumes with protected snapshots go too. */
const byForce = z.strictObject({ force: z.stringbool().default(false) })

export const lifeRoutesOf = (backend: LifeBackend): readonly Route[] => [
  ...trashRoutesOf(backend),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/export',
    operationId: 'exportVolume',
    summary:
      'All data of a volume, or of its snapshot, with checksums, from byte `start` on; ' +
      'with `from` what changed since that snapshot',
    role: 'operator',
    volumeUse: 'change',
    audited: true,
    params: byName,
    query: life.exportQuerySchema,
    contentType: STREAM_TYPE,
    handle: async ({ params, query }) =>
      new RawAnswer(STREAM_TYPE, await backend.export(params.name, query))
  }),
  route({
    method: 'GET',
    path: '/v1/volumes/{name}/events',
    operationId: 'listVolumeEvents',
    summary: 'What happened to a volume, oldest first: its last 64 events',
    role: 'viewer',
    volumeUse: 'see',
    params: byName,
    answer: life.volumeEventListSchema,
    handle: async ({ params, visitor: { rights } }) => {
      const events = await backend.events(params.name)
      return { events: rights.role === 'volume' ? events.map(withoutOthers) : [...events] }
    }
  })
]

/** Details of events that name another volume. */
const otherOf: Readonly<Record<string, string>> = { cloned: 'to', created: 'from' }

/** As somebody may know it who may see this volume alone. */
function withoutOthers(event: life.VolumeEvent): life.VolumeEvent {
  const other = otherOf[event.kind]
  const details = Object.entries(event.details).filter(([key]) => key !== other)
  return { ...event, details: Object.fromEntries(details) }
}

const trashRoutesOf = (backend: LifeBackend): readonly Route[] => [
  route({
    method: 'GET',
    path: '/v1/trash',
    operationId: 'listTrash',
    summary: 'Deleted volumes that can be restored',
    role: 'viewer',
    answer: life.trashSchema,
    handle: async () => ({ volumes: [...(await backend.trash())] })
  }),
  route({
    method: 'DELETE',
    path: '/v1/trash',
    operationId: 'emptyTrash',
    summary: 'Delete all volumes in the trash for good; their space comes back',
    role: 'operator',
    tell: (_, answer) => ({ names: answer?.names }),
    answer: life.emptiedSchema,
    query: byForce,
    handle: ({ query }) => backend.emptyTrash(query.force)
  }),
  route({
    method: 'DELETE',
    path: '/v1/trash/{entry}',
    operationId: 'deleteTrashed',
    summary: 'Delete one volume in the trash for good',
    role: 'operator',
    tell: (_, answer) => ({ name: answer?.names[0] }),
    params: byEntry,
    answer: life.emptiedSchema,
    query: byForce,
    handle: ({ params, query }) => backend.emptyTrash(query.force, params.entry)
  }),
  route({
    method: 'POST',
    path: '/v1/trash/{entry}/restore',
    operationId: 'restoreVolume',
    summary: 'Bring a deleted volume back, under its name or another',
    role: 'operator',
    tell: (_, answer) => ({ name: answer?.name }),
    params: byEntry,
    body: life.restoreSchema,
    answer: volumeSchema,
    handle: ({ params, body }) => backend.restoreVolume(params.entry, body.name)
  })
]
