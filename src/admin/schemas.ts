/**
 * Everything that goes in or out of the admin API, once: these schemas validate requests, type the
 * backend, and become /openapi.json. Times are ISO 8601 strings, sizes are bytes, ids of families
 * and peers are lower-case hex. `null` means "known to be none".
 */
import { z } from 'zod'
import { LATENCY_BOUNDS_SECONDS } from '../core/histogram.ts'
import {
  BLOCK_BYTES,
  UNAVAILABLE_MS_MAX,
  VOLUME_BYTES_MAX,
  VOLUME_NAME_BYTES_MAX
} from '../core/limits.ts'
import { formatSizeExact } from '../core/units.ts'
import { memberScrubSchema } from './scrub-schemas.ts'
import { newSlotSchema } from './key-schemas.ts'

const count = z.number().nonnegative()
const bytes = z.number().nonnegative().meta({ description: 'Bytes' })
const time = z
  .string()
  .meta({ description: 'ISO 8601 time', examples: ['2026-01-31T12:00:00.000Z'] })

export const volumeNameSchema = z
  .string()
  .min(1, { error: 'must not be empty' })
  .max(VOLUME_NAME_BYTES_MAX, { error: `must be at most ${VOLUME_NAME_BYTES_MAX} bytes` })
  .meta({ description: 'Name of the volume', examples: ['demo'] })

const sizeRule =
  `must be a multiple of ${BLOCK_BYTES} bytes, from ${formatSizeExact(BLOCK_BYTES)} ` +
  `to ${formatSizeExact(VOLUME_BYTES_MAX)}`

export const volumeSizeSchema = z
  .number()
  .positive({ error: sizeRule })
  .multipleOf(BLOCK_BYTES, { error: sizeRule })
  .max(VOLUME_BYTES_MAX, { error: sizeRule })
  .meta({ description: `Size in bytes, a multiple of ${BLOCK_BYTES}`, examples: [1073741824] })

/** A failover takes a few seconds, so less than one makes no sense. */
const unavailable = z
  .number()
  .int()
  .min(1000, { error: 'must be a second at least' })
  .max(UNAVAILABLE_MS_MAX, { error: 'must be a week at most' })
  .nullable()
  .meta({
    description:
      'Milliseconds after which a request that cannot be done, because members are away, ends ' +
      'with an error (EIO); null: it waits without limit'
  })

/** Who may open a volume over NBD. */
const access = z.strictObject({
  addresses: z.array(z.string()).meta({
    description: 'Addresses, networks like 10.0.0.0/8, and `unix` for unix sockets; none: all'
  }),
  tlsNames: z.array(z.string()).meta({
    description: 'Names of client certificates, one of which is needed; none: no certificate is'
  }),
  readOnly: z.boolean().meta({ description: 'Clients get it read-only' }),
  listSnapshots: z.boolean().meta({ description: 'Its newest snapshots are among the exports' })
})

const limit = (what: string) => z.number().int().positive().nullable().meta({ description: what })

/** What the clients of a volume get at most. */
const limits = z.strictObject({
  iops: limit('Requests a second; null: no limit'),
  iopsBurst: limit('Requests at once after it was idle; null: those of 100 ms'),
  bandwidth: limit('Bytes a second that reads and writes move; null: no limit')
})

// ---------------------------------------------------------------- volumes

export const volumeSchema = z
  .object({
    name: volumeNameSchema,
    type: z.string().meta({ description: 'Volume type; `block` unless a plugin added others' }),
    sizeBytes: bytes,
    pool: z.string().meta({ description: 'Pool that has its blocks' }),
    /** Random 64-bit id that all layers of the volume share. */
    family: z.string(),
    readOnly: z.boolean(),
    unavailableMs: unavailable,
    access,
    limits,
    encryption: z
      .enum(['xchacha20-poly1305'])
      .nullable()
      .meta({ description: 'How its blocks are sealed; null: they are not' }),
    description: z.string(),
    labels: z.record(z.string(), z.string()),
    createdAt: time,
    /** Connections that have it open now. */
    clients: count,
    /** Bytes that its blocks hold on this peer; null while a shard does not serve. */
    usedBytes: bytes.nullable()
  })
  .meta({ id: 'Volume' })
export type Volume = z.infer<typeof volumeSchema>

export const volumeListSchema = z
  .object({ volumes: z.array(volumeSchema) })
  .meta({ id: 'VolumeList' })

export const volumeCreateSchema = z
  .strictObject({
    name: volumeNameSchema,
    sizeBytes: volumeSizeSchema,
    type: z.string().min(1).max(64).default('block'),
    description: z.string().max(1024).default(''),
    pool: z
      .string()
      .min(1)
      .max(63)
      .optional()
      .meta({ description: 'Pool that has its blocks; `default` without one' }),
    access: access.partial().optional(),
    encrypt: newSlotSchema
      .optional()
      .meta({ description: 'Seals its blocks under a key that this slot opens' })
  })
  .meta({ id: 'VolumeCreate' })
export type VolumeCreate = z.infer<typeof volumeCreateSchema>

export const volumeRenameSchema = z
  .strictObject({ newName: volumeNameSchema })
  .meta({ id: 'VolumeRename' })
export type VolumeRename = z.infer<typeof volumeRenameSchema>

export const volumeResizeSchema = z
  .strictObject({
    sizeBytes: volumeSizeSchema,
    shrink: z
      .boolean()
      .default(false)
      .meta({ description: 'Allows a smaller size; what lies behind the new end is lost' }),
    force: z
      .boolean()
      .default(false)
      .meta({ description: 'Disconnects its clients before it shrinks; without, they forbid it' })
  })
  .meta({ id: 'VolumeResize' })
export type VolumeResize = z.infer<typeof volumeResizeSchema>

export const volumeChangeSchema = z
  .strictObject({
    unavailableMs: unavailable.optional(),
    access: access.partial().optional(),
    limits: limits.partial().optional(),
    readOnly: z
      .boolean()
      .optional()
      .meta({ description: 'Nobody may change its bytes; who has it open for writing is cut off' }),
    description: z.string().max(1024).optional(),
    labels: z
      .record(z.string(), z.string().nullable())
      .optional()
      .meta({ description: 'Labels to add or replace; null takes one away' })
  })
  .meta({ id: 'VolumeChange' })
export type VolumeChange = z.infer<typeof volumeChangeSchema>

export const volumeTakeSchema = z
  .strictObject({ takeover: z.boolean().default(false) })
  .meta({ id: 'VolumeTake' })

export interface VolumeDelete {
  /** Disconnects its clients first instead of refusing with Busy. */
  readonly force: boolean
  /** For good, and not into the trash. */
  readonly now: boolean
}

// ---------------------------------------------------------------- clients

export const clientSchema = z
  .object({
    id: z.number().int(),
    protocol: z.string().meta({ examples: ['nbd'] }),
    address: z.string(),
    tls: z.boolean(),
    volume: z.string().meta({ description: 'Empty while the client has not chosen an export' }),
    connectedAt: time,
    inFlight: count,
    reads: count,
    writes: count,
    readBytes: bytes,
    writtenBytes: bytes
  })
  .meta({ id: 'Client' })
export type Client = z.infer<typeof clientSchema>

export const clientListSchema = z
  .object({ clients: z.array(clientSchema) })
  .meta({ id: 'ClientList' })

// ---------------------------------------------------------------- shards

export const shardStates = ['recovering', 'serving', 'failed', 'stopped'] as const

export const histogramSchema = z
  .object({
    counts: z
      .array(count)
      .length(LATENCY_BOUNDS_SECONDS.length + 1)
      .readonly(),
    sumSeconds: count
  })
  .meta({
    id: 'Histogram',
    description:
      'Count of operations per latency bucket, not cumulative. Upper bounds in seconds: ' +
      `${LATENCY_BOUNDS_SECONDS.join(', ')}, +Inf`
  })

/** One number each, as src/shard/stats.ts names them (a test holds the two lists together). */
export const shardStatsSchema = z
  .object({
    state: count,
    capacityBytes: bytes,
    usedBytes: bytes,
    liveBytes: bytes,
    deadBytes: bytes,
    /** Blocks whose segment file is not there. */
    missingBlocks: count,
    segments: count,
    segmentsFree: count,
    indexEntries: count,
    indexBytes: bytes,
    tagBytes: bytes,
    appendedLsn: count,
    durableLsn: count,
    checkpointLsn: count,
    recoveryRecords: count,
    recoveryMs: count,
    scrubActive: count,
    scrubBytesTotal: bytes,
    scrubBytesDone: bytes,
    /** Damaged blocks that the last round of scrub found, or the one under way if more. */
    scrubErrorsLast: count,
    /** `checksumErrors` as it was before the last round of scrub that found nothing. */
    checksumErrorsChecked: count,
    compactionActive: count,
    compactionBytesTotal: bytes,
    compactionBytesDone: bytes,
    reads: count,
    readBytes: bytes,
    writes: count,
    writeBytes: bytes,
    trims: count,
    batches: count,
    headerBytes: bytes,
    checksumErrors: count,
    sealErrors: count,
    damagedBatches: count,
    compactedSegments: count,
    compactionReadBytes: bytes,
    compactionWrittenBytes: bytes,
    scrubbedBytes: bytes,
    scrubErrors: count,
    scrubRounds: count,
    givenBackBytes: bytes,
    checkpoints: count,
    checkpointBytes: bytes,
    syncs: count,
    syncFailures: count,
    busyMs: count,
    nearReads: count,
    nearReadBytes: bytes
  })
  .meta({ id: 'ShardStats' })
export type ShardStats = z.infer<typeof shardStatsSchema>

export const shardSchema = z
  .object({
    shard: z.number().int(),
    state: z.enum(shardStates),
    /** Why it failed or stopped, in words; empty otherwise. */
    reason: z.string(),
    /** Operations given to the shard and not answered yet. */
    queueDepth: count,
    /** Times its worker was started again after it died. */
    restarts: count,
    /** Duration of fdatasync, where the peer measures it per shard. */
    syncLatency: histogramSchema.nullable(),
    stats: shardStatsSchema
  })
  .meta({ id: 'Shard' })
export type Shard = z.infer<typeof shardSchema>

export const shardListSchema = z.object({ shards: z.array(shardSchema) }).meta({ id: 'ShardList' })

// ---------------------------------------------------------------- operations of volumes

/** Kinds of client requests; also the values of the `operation` label of metrics. */
export const operationNames = [
  'read',
  'write',
  'flush',
  'trim',
  'write_zeroes',
  'block_status',
  'cache'
] as const
export type OperationName = (typeof operationNames)[number]

export const operationStatsSchema = z
  .object({
    /** Requests completed, failed ones included. */
    count,
    errors: count,
    bytes,
    latency: histogramSchema
  })
  .meta({ id: 'OperationStats' })
export type OperationStats = z.infer<typeof operationStatsSchema>

export const volumeStatsSchema = z
  .object({
    volume: volumeNameSchema,
    inFlight: count,
    /** Only operations that happened need be there. */
    operations: z.partialRecord(z.enum(operationNames), operationStatsSchema)
  })
  .meta({ id: 'VolumeStats' })
export type VolumeStats = z.infer<typeof volumeStatsSchema>

// ---------------------------------------------------------------- peer and status

export const peerSchema = z
  .object({
    peerId: z.string(),
    clusterId: z.string(),
    bootId: z.string(),
    bootCounter: count,
    version: z.string(),
    nodeVersion: z.string(),
    pid: z.number().int(),
    hostname: z.string(),
    startedAt: time,
    dataDir: z.string(),
    formatVersion: z.number().int(),
    shards: z.number().int(),
    segmentBytes: bytes,
    capacityBytes: bytes,
    /** Bytes of files of all shards. */
    usedBytes: bytes,
    liveBytes: bytes,
    deadBytes: bytes,
    /** What the filesystem of the data directory still has. */
    filesystemFreeBytes: bytes,
    /** Addresses that clients can use, as NBD URIs and URLs. */
    nbdAddresses: z.array(z.string()),
    adminAddresses: z.array(z.string())
  })
  .meta({ id: 'Peer' })
export type Peer = z.infer<typeof peerSchema>

export const healthLevels = ['ok', 'warning', 'error'] as const

export const healthProblemSchema = z
  .object({
    level: z.enum(['warning', 'error']),
    /** Stable word for programs: `shardFailed`, `nearFull`, `scrubErrors`, … */
    code: z.string(),
    message: z.string().meta({ description: 'What is wrong and what to do about it' })
  })
  .meta({ id: 'HealthProblem' })
export type HealthProblem = z.infer<typeof healthProblemSchema>

export const certificateSchema = z
  .object({
    use: z.string().meta({ description: 'nbd, admin, peer or etcd' }),
    file: z.string(),
    /** DNS names and addresses. */
    names: z.array(z.string()),
    subject: z.string(),
    issuer: z.string(),
    isAuthority: z.boolean(),
    validFrom: time,
    validTo: time
  })
  .meta({ id: 'Certificate' })
export type CertificateInfo = z.infer<typeof certificateSchema>

export const certificateListSchema = z
  .object({ certificates: z.array(certificateSchema) })
  .meta({ id: 'CertificateList' })

export const statusSchema = z
  .object({
    health: z.enum(healthLevels),
    problems: z.array(healthProblemSchema),
    peer: peerSchema,
    volumeCount: count,
    /** Sum of the sizes of all volumes: how far the capacity is promised (thin volumes). */
    promisedBytes: bytes,
    clientCount: count,
    arenaBytes: bytes,
    arenaFreeBytes: bytes,
    requestsInFlight: count,
    shards: z.array(shardSchema),
    volumes: z.array(volumeStatsSchema)
  })
  .meta({ id: 'Status' })
export type Status = z.infer<typeof statusSchema>

// ---------------------------------------------------------------- background tasks

export const taskNames = ['scrub', 'compact', 'checkpoint'] as const
export type TaskName = (typeof taskNames)[number]

const taskProgressFields = { active: z.boolean(), bytesTotal: bytes, bytesDone: bytes }

export const taskSchema = z
  .object({
    task: z.enum(taskNames),
    ...taskProgressFields,
    /** Scrub: blocks that failed their checksum since start. Others: 0. */
    errors: count,
    /** Rounds, compacted segments or checkpoints completed since start, all shards together. */
    completed: count,
    shards: z.array(z.object({ shard: z.number().int(), ...taskProgressFields })),
    /** Scrub of a peer of a cluster: with other members. Others: null. */
    members: memberScrubSchema.nullable()
  })
  .meta({ id: 'Task' })
export type Task = z.infer<typeof taskSchema>

// ---------------------------------------------------------------- configuration, health, errors

export const configEntrySchema = z
  .object({
    name: z.string(),
    value: z.unknown(),
    /** `flag --capacity`, `environment TORUS_CAPACITY`, `file /etc/torus.yaml:3`, `default`. */
    source: z.string(),
    description: z.string()
  })
  .meta({ id: 'ConfigEntry' })

export const configSchema = z.object({ entries: z.array(configEntrySchema) }).meta({ id: 'Config' })

export const readySchema = z
  .object({ ready: z.boolean(), reasons: z.array(z.string()) })
  .meta({ id: 'Ready' })
export type Ready = z.infer<typeof readySchema>

export const errorSchema = z
  .object({ error: z.object({ code: z.string(), message: z.string() }) })
  .meta({ id: 'Error' })
