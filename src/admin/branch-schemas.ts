/** Volumes that begin on snapshots, in the admin API. */
import { z } from 'zod'
import { volumeNameSchema } from './schemas.ts'

export const restoreBodySchema = z
  .strictObject({
    force: z.boolean().default(false).meta({ description: 'Disconnect its clients' })
  })
  .meta({ id: 'SnapshotRestore' })

export const cloneBodySchema = z
  .strictObject({
    name: volumeNameSchema,
    description: z.string().max(1024).default(''),
    labels: z.record(z.string(), z.string()).default({})
  })
  .meta({ id: 'SnapshotClone' })
export type CloneBody = z.infer<typeof cloneBodySchema>

const childSchema = z.object({
  name: z.string(),
  id: z.string(),
  snapshot: z.string().meta({ description: 'Name of the snapshot that it stands on' }),
  createdAt: z.string(),
  inTrash: z.boolean(),
  isFlattening: z.boolean()
})
export type Child = z.infer<typeof childSchema>

export const childListSchema = z
  .object({ children: z.array(childSchema) })
  .meta({ id: 'ChildList' })

const progressSchema = z.object({
  startedAt: z.string(),
  doneBytes: z.number(),
  totalBytes: z.number(),
  running: z.boolean().meta({ description: 'On this peer' })
})

export const flattenSchema = z
  .object({
    base: z
      .object({ volume: z.string(), snapshot: z.string() })
      .nullable()
      .meta({ description: 'What the volume stands on; null: on no other' }),
    flatten: progressSchema.nullable().meta({ description: 'null: it was not asked for' })
  })
  .meta({ id: 'VolumeBase' })
export type VolumeBase = z.infer<typeof flattenSchema>
