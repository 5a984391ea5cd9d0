/** Snapshots in the admin API. */
import { z } from 'zod'
import { VOLUME_NAME_BYTES_MAX } from '../core/limits.ts'

const snapshotName = z
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
