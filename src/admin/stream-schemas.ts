/** What the admin API says about what changed in volumes. */
import { z } from 'zod'

export const diffSchema = z
  .object({
    sizeBytes: z.number().meta({ description: 'Of the newer one' }),
    extents: z.array(
      z.object({
        offset: z.number(),
        length: z.number(),
        kind: z
          .enum(['data', 'zeroes'])
          .meta({ description: 'zeroes: it reads as such, holds no data' })
      })
    ),
    nextBytes: z
      .number()
      .nullable()
      .meta({ description: 'All before it was told: ask on from there. null: that was all' })
  })
  .meta({ id: 'VolumeDiff' })
export type Diff = z.infer<typeof diffSchema>
