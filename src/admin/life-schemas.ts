/** What the admin API says about the life of volumes. */
import { z } from 'zod'

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
