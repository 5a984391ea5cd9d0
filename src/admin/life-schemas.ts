/** What the admin API says about the life of volumes. */
import { z } from 'zod'
import { BLOCK_BYTES } from '../core/limits.ts'
import { volumeNameSchema, volumeSchema } from './schemas.ts'
import { snapshotName } from './snapshot-schemas.ts'

const snapshotId = z
  .string()
  .regex(/^[0-9a-f]{16}$/)
  .meta({ description: 'Of the snapshot that was exported' })

/** Of pieces in which increments tell all. */
const ALIGN_MAX = 64 * 1024 * 1024

export const exportQuerySchema = z.strictObject({
  snapshot: volumeNameSchema.optional(),
  from: volumeNameSchema.optional(),
  align: z.coerce.number().int().positive().multipleOf(BLOCK_BYTES).max(ALIGN_MAX).optional(),
  start: z.coerce.number().int().nonnegative().multipleOf(BLOCK_BYTES).default(0),
  digest: z
    .enum(['all', 'rest'])
    .default('all')
    .meta({ description: 'Of which blocks the digest is: with `rest` of those that are sent' })
})
export type ExportQuery = z.infer<typeof exportQuerySchema>

const time = z.string().meta({ description: 'ISO 8601 time' })

export const volumeEventSchema = z
  .object({
    at: time,
    kind: z.string().meta({
      description: 'created, served, resized, changed, renamed, moved, deleted, restored, …'
    }),
    peer: z.string().meta({ description: 'Id of the peer that did it' }),
    details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])),
    count: z.number().int().meta({ description: 'So often in a row, the last time at `lastAt`' }),
    lastAt: time
  })
  .meta({ id: 'VolumeEvent' })
export type VolumeEvent = z.infer<typeof volumeEventSchema>

export const volumeEventListSchema = z
  .object({ events: z.array(volumeEventSchema) })
  .meta({ id: 'VolumeEventList' })

export const deletedSchema = z
  .object({
    id: z.string(),
    name: z.string(),
    until: time.nullable().meta({
      description: 'When it is deleted for good; until then it can be restored. null: it is gone'
    })
  })
  .meta({ id: 'DeletedVolume' })
export type Deleted = z.infer<typeof deletedSchema>

export const trashedSchema = z
  .object({
    id: z.string().meta({ description: 'Names it where several had the same name' }),
    name: z.string(),
    sizeBytes: z.number(),
    pool: z.string(),
    encryption: z.string().nullable(),
    deletedAt: time,
    until: time.meta({ description: 'When it is deleted for good' }),
    usedBytes: z
      .number()
      .nullable()
      .meta({ description: 'Bytes that its blocks hold on this peer; null: not known now' }),
    protectedSnapshots: z
      .number()
      .int()
      .meta({ description: 'With any it stays beyond its time, until somebody insists' })
  })
  .meta({ id: 'TrashedVolume' })
export type Trashed = z.infer<typeof trashedSchema>

export const trashSchema = z.object({ volumes: z.array(trashedSchema) }).meta({ id: 'Trash' })

export const restoreSchema = z
  .strictObject({
    name: volumeNameSchema.optional().meta({ description: 'Another name than it had' })
  })
  .meta({ id: 'VolumeRestore' })

export const emptiedSchema = z
  .object({
    volumes: z.number().int().meta({ description: 'Deleted for good' }),
    kept: z.number().int().meta({ description: 'Those with protected snapshots' }),
    names: z.array(z.string()).meta({ description: 'Of those deleted' })
  })
  .meta({ id: 'TrashEmptied' })
export type Emptied = z.infer<typeof emptiedSchema>

export const importSchema = z
  .object({
    id: z.string(),
    name: z.string(),
    sizeBytes: z.number(),
    state: z.enum(['receiving', 'verifying', 'done', 'failed']),
    doneBytes: z.number().meta({ description: 'All before it was received' }),
    verifiedBytes: z.number().meta({ description: 'All before it was read back' }),
    error: z
      .object({ code: z.string(), message: z.string() })
      .nullable()
      .meta({ description: 'Why it failed' }),
    makes: volumeSchema
      .pick({ pool: true, encryption: true, access: true })
      .nullable()
      .meta({ description: 'What kind of volume; null for an increment, which makes none' })
  })
  .meta({ id: 'Import' })
export type Import = z.infer<typeof importSchema>

export const importListSchema = z
  .object({ imports: z.array(importSchema) })
  .meta({ id: 'ImportList' })

export const importFinishSchema = z
  .strictObject({
    digest: z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .meta({ description: 'Of all that was sent, as src/backup/stream-format.ts defines it' }),
    snapshot: z
      .strictObject({ id: snapshotId, name: snapshotName })
      .optional()
      .meta({ description: 'What it is of: a snapshot of that name is made, for increments' })
  })
  .meta({ id: 'ImportFinish' })
export const incrementFinishSchema = importFinishSchema
  .pick({ digest: true })
  .meta({ id: 'IncrementFinish' })
export type ImportFinish = z.infer<typeof importFinishSchema>

export const incrementSchema = z
  .strictObject({
    sizeBytes: z.number().int().positive(),
    snapshot: z.strictObject({ id: snapshotId, name: snapshotName, base: snapshotId })
  })
  .meta({ id: 'Increment' })
export type Increment = z.infer<typeof incrementSchema>
