/** Snapshots in the admin API. */
import { z } from 'zod'
import { VOLUME_NAME_BYTES_MAX } from '../core/limits.ts'

export const snapshotName = z
  .string()
  .min(1, { error: 'must not be empty' })
  .max(VOLUME_NAME_BYTES_MAX, { error: `must be at most ${VOLUME_NAME_BYTES_MAX} bytes` })
  .meta({ description: 'Name of the snapshot, the part behind the @', examples: ['monday'] })

const labels = z.record(z.string(), z.string())

export const snapshotSchema = z
  .object({
    name: snapshotName,
    id: z.string().meta({ description: 'Never used again' }),
    volume: z.string(),
    sizeBytes: z.number().meta({ description: 'Of the volume, as it was then' }),
    protected: z.boolean().meta({ description: 'It cannot be deleted' }),
    description: z.string(),
    labels,
    createdAt: z.string().meta({ description: 'ISO 8601 time' })
  })
  .meta({ id: 'Snapshot' })
export type Snapshot = z.infer<typeof snapshotSchema>

export const snapshotListSchema = z
  .object({ snapshots: z.array(snapshotSchema) })
  .meta({ id: 'SnapshotList' })

export const snapshotCreateSchema = z
  .strictObject({
    name: snapshotName,
    description: z.string().max(1024).default(''),
    labels: labels.default({})
  })
  .meta({ id: 'SnapshotCreate' })
export type SnapshotCreate = z.infer<typeof snapshotCreateSchema>

export const snapshotChangeSchema = z
  .strictObject({
    newName: snapshotName.optional(),
    description: z.string().max(1024).optional(),
    protected: z.boolean().optional()
  })
  .meta({ id: 'SnapshotChange' })
export type SnapshotChange = z.infer<typeof snapshotChangeSchema>

const rule = z.object({
  everyMs: z.number().int().meta({ description: 'Whole minutes, in milliseconds' }),
  keep: z.number().int().meta({ description: 'So many of the last intervals keep one' })
})

export const scheduleSchema = z
  .object({
    volume: z.string(),
    rules: z.array(rule).meta({ description: 'Empty: it has no schedule' }),
    nextAt: z.string().nullable().meta({ description: 'When the next one is due, ISO 8601' }),
    doneUntil: z
      .string()
      .nullable()
      .meta({ description: 'All that was due until then was taken, ISO 8601' }),
    snapshots: z.number().int().meta({ description: 'Those there are that it took' })
  })
  .meta({ id: 'SnapshotSchedule' })
export type Schedule = z.infer<typeof scheduleSchema>

export const scheduleChangeSchema = z
  .strictObject({ rules: z.array(rule).meta({ description: 'Take the place of all before' }) })
  .meta({ id: 'SnapshotScheduleChange' })
export type ScheduleChange = z.infer<typeof scheduleChangeSchema>
