/** What the admin API says about the space of volumes. */
import { z } from 'zod'

const bytes = z.number().nonnegative()

export const figuresSchema = z
  .object({
    usedBytes: bytes.meta({ description: 'All that the volume has, snapshots too' }),
    allocatedBytes: bytes.meta({ description: 'What the volume reads as data now' }),
    exclusiveBytes: bytes.meta({ description: 'Of that what no snapshot sees' }),
    snapshotBytes: bytes.nullable().meta({
      description: 'What deleting all snapshots would give back; null for a clone'
    }),
    pendingBytes: bytes.meta({ description: 'Dead already, and being given back' }),
    snapshots: z.array(
      z.object({
        name: z.string(),
        id: z.string(),
        allocatedBytes: bytes.meta({ description: 'What it reads as data' }),
        exclusiveBytes: bytes.meta({ description: 'What deleting this one would give back' }),
        sharedBytes: bytes.meta({ description: 'What others see too' })
      })
    )
  })
  .meta({ id: 'SpaceFigures' })

export const volumeSpaceSchema = z
  .object({
    volume: z.string(),
    copies: z.number().int().meta({ description: 'Of each block, on so many peers' }),
    countedAt: z.string().nullable().meta({ description: 'Of the figures, ISO 8601 time' }),
    why: z.string().nullable().meta({ description: 'Why they are not of now, or not there' }),
    figures: figuresSchema.nullable().meta({ description: 'Of one copy' })
  })
  .meta({ id: 'VolumeSpace' })
export type VolumeSpaceAnswer = z.infer<typeof volumeSpaceSchema>
