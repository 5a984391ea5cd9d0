/** Records of volumes, of their snapshots, and of what happened to them: see records.ts. */
import { z } from 'zod'
import { count, id64, id128, time, version } from './record-fields.ts'

export const volumeSchema = z.looseObject({
  v: version,
  id: id64,
  name: z.string(),
  type: z.string(),
  /** Name of the pool that has its blocks; `default` where none is named. */
  pool: z.string().optional(),
  family: id64,
  /** The layer that is written, or about to be: who serves the volume may be one behind. */
  headLayer: id64,
  /** Its first layer, once it had another: all up to the head follow it (core/layer-ids.ts). */
  rootLayer: id64.optional(),
  /** Lines of layers that it had before it was restored: each from its first one to its last. */
  branches: z.array(z.object({ root: id64, last: id64 })).optional(),
  /** It was cloned from a snapshot, and reads from there what it has not itself. */
  base: z
    .looseObject({
      volume: id64,
      snapshot: id64,
      /** The highest layer of the snapshot, and whose it is. */
      family: id64,
      layer: id64,
      /** The lowest layer of this volume. */
      root: id64,
      /** Nothing is read from the base behind it. */
      endBytes: count
    })
    .optional(),
  /** Those that were cloned from its snapshots, and stand on them. */
  clones: z.array(z.object({ snapshot: id64, volume: id64 })).optional(),
  /** It is being made to stand on no other: has all of the base before this chunk. */
  flatten: z.object({ nextChunk: count, startedAt: time }).optional(),
  sizeBytes: count,
  /**
   * Nothing was ever written from here on. Between `sizeBytes` and this there may be leftovers of
   * a shrink or of appends that no flush recorded: they are trimmed before the size passes them.
   * Invariant: sizeBytes <= touchedBytes.
   */
  touchedBytes: count,
  /** `creating` until its type has prepared it; one found so at start is removed. */
  state: z.enum(['creating', 'ready']),
  readOnly: z.boolean(),
  /**
   * Milliseconds after which a request that cannot be done, because members are away, ends with an
   * error; null: it waits.
   */
  unavailableMs: z.number().int().positive().nullable().optional(),
  /** How its blocks are sealed; absent: they are not. */
  encryption: z.enum(['xchacha20-poly1305']).optional(),
  /** Who may open it over protocols for clients; absent: everybody. */
  access: z
    .looseObject({
      addresses: z.array(z.string()),
      tlsNames: z.array(z.string()),
      readOnly: z.boolean(),
      listSnapshots: z.boolean().optional()
    })
    .optional(),
  labels: z.record(z.string(), z.string()),
  description: z.string(),
  /** Requests and bytes a second that its clients get at most; absent, or null: all they can. */
  limits: z
    .object({
      iops: z.number().int().positive().nullable(),
      /** Requests that it may do at once after it was idle; null: what it may do in 100 ms. */
      iopsBurst: z.number().int().positive().nullable(),
      bandwidth: z.number().int().positive().nullable()
    })
    .optional(),
  /** Snapshots that are taken by themselves. */
  schedule: z
    .looseObject({
      rules: z.array(
        z.object({ everyMs: z.number().int().positive(), keep: z.number().int().min(1) })
      ),
      /** All that was due until then was taken, or is not wanted. */
      doneUntil: time
    })
    .optional(),
  /** No name leads to it: it was deleted and can be restored, or is being imported. */
  hidden: z
    .looseObject({
      why: z.enum(['deleted', 'import']),
      since: time,
      /** Then it is deleted for good. */
      until: time,
      /** Of an import: all before it is durable. */
      doneBytes: z.number().int().nonnegative().optional()
    })
    .optional(),
  /** What the volume's type keeps about it. */
  settings: z.record(z.string(), z.json()),
  createdAt: time
})
export type VolumeRecord = z.infer<typeof volumeSchema>

const volumeEventSchema = z.object({
  at: time,
  kind: z.string(),
  /** Who did it, or where it was done. */
  peer: id128,
  details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])),
  /** So often, the last time at `lastAt`. */
  count: z.number().int().min(1),
  lastAt: time
})
export type VolumeEventRecord = z.infer<typeof volumeEventSchema>

/** What happened to a volume, oldest first. */
export const volumeEventsSchema = z.looseObject({ v: version, events: z.array(volumeEventSchema) })

/** What a volume was at one moment: a layer that nobody writes any more, and all below it. */
export const snapshotSchema = z.looseObject({
  v: version,
  id: id64,
  name: z.string(),
  /** Id of the volume. */
  volume: id64,
  /** The highest of its layers. */
  layer: id64,
  sizeBytes: count,
  /** Of the volume, as it was then. */
  touchedBytes: count.optional(),
  /** It is not deleted by mistake. */
  protected: z.boolean().optional(),
  /** It was taken by the volume's schedule, was due then, and had that name. */
  scheduled: z.object({ due: time, name: z.string() }).optional(),
  /** Not on stable storage yet, and perhaps never: nobody may open it, and its layer stays. */
  taking: z.boolean().optional(),
  description: z.string(),
  labels: z.record(z.string(), z.string()),
  createdAt: time
})
export type SnapshotRecord = z.infer<typeof snapshotSchema>

/** On which layer a branch of a family begins. */
export const baseSchema = z.looseObject({
  v: version,
  /** Id of the volume that has the branch. */
  volume: id64,
  family: id64,
  layer: id64,
  /** So many branches stand on each other, this one included. */
  depth: z.number().int().min(1)
})
export type BaseRecord = z.infer<typeof baseSchema>
