/** What the admin API says of a cluster: its peers, pools and health. */
import { z } from 'zod'
import { failureDomains } from '../core/failure-domains.ts'
import { memberScrubSchema } from './scrub-schemas.ts'

const count = z.number().nonnegative()
const bytes = z.number().nonnegative().meta({ description: 'Bytes' })
const time = z.string().meta({ description: 'ISO 8601 time' })
const labels = z.record(z.string(), z.string())

/** What one peer brings up to date of its groups, because it was away or they are new to it. */
export const resyncSchema = z
  .object({
    groupsDone: count.meta({ description: 'Since there was last nothing to do' }),
    groupsLeft: count.meta({ description: 'Those that it is to get later included' }),
    bytesCopied: bytes,
    bytesPerSecond: bytes,
    secondsLeft: z.number().nonnegative().nullable().meta({ description: 'null: not known yet' })
  })
  .meta({ id: 'Resync' })
export type Resync = z.infer<typeof resyncSchema>

/** Copies of groups that other peers have instead. */
export const reclaimSchema = z
  .object({
    groupsLeft: count.meta({ description: 'Groups whose copy is being given back' }),
    groupsDone: count.meta({ description: 'Since the peer started' }),
    bytesGivenBack: bytes
  })
  .meta({ id: 'Reclaim' })
export type Reclaim = z.infer<typeof reclaimSchema>

export const clusterPeerSchema = z
  .object({
    peerId: z.string(),
    up: z.boolean(),
    /**
     * `pending`: not let in yet, holds nothing; `drained`: gets no data and gives away what it has.
     */
    state: z.enum(['pending', 'active', 'drained']),
    /** Who takes its copies over; null for nobody. */
    replacedBy: z.string().nullable(),
    bootId: z.string(),
    /** Where other peers reach it; null while it is down or serves no others. */
    address: z.string().nullable(),
    adminAddresses: z.array(z.string()),
    nbdAddresses: z.array(z.string()),
    labels,
    capacityBytes: bytes,
    usedBytes: bytes.nullable(),
    weight: z.number().nullable(),
    groupsInSync: count,
    groupsSyncing: count,
    /** Now while it is up; null when nobody knows. */
    lastSeenAt: time.nullable(),
    /** null: it did not tell. */
    resync: resyncSchema.nullable(),
    reclaim: reclaimSchema.nullable(),
    scrub: memberScrubSchema.nullable(),
    maintenanceUntil: time.nullable(),
    addedAt: time,
    version: z.string().meta({ description: 'Of the program, as of its last start' }),
    levels: z
      .object({ min: count, max: count })
      .meta({ description: 'Feature levels of the cluster at which that program can run' })
  })
  .meta({ id: 'ClusterPeer' })
export type ClusterPeer = z.infer<typeof clusterPeerSchema>

export const clusterPeerListSchema = z
  .object({ peers: z.array(clusterPeerSchema) })
  .meta({ id: 'ClusterPeerList' })

export const peerChangeSchema = z
  .strictObject({
    labels: labels.optional(),
    weight: z.number().nonnegative().nullable().optional(),
    drained: z.boolean().optional(),
    maintenanceMs: z.number().int().nonnegative().optional()
  })
  .meta({ id: 'PeerChange' })
export type PeerChange = z.infer<typeof peerChangeSchema>

export const peerReplaceSchema = z
  .strictObject({ by: z.string().regex(/^[0-9a-f]{1,32}$/, 'must be hex digits') })
  .meta({ id: 'PeerReplace' })

export const poolSchema = z
  .object({
    name: z.string(),
    number: count,
    redundancy: z.string().meta({ examples: ['replicated:2'] }),
    failureDomain: z.enum(failureDomains),
    ring: z.string(),
    groups: count,
    splitting: z
      .object({
        to: count,
        left: count.meta({ description: 'In use, and not split yet into as many as `groups`' })
      })
      .nullable()
      .meta({ description: 'Its groups are being split into `to`; null: they are not' }),
    writeMinimum: count,
    /** null: every peer. */
    peers: z.array(z.string()).nullable(),
    createdAt: time,
    groupsUsed: count,
    degraded: count,
    belowMinimum: count,
    unavailable: count,
    syncing: count
  })
  .meta({ id: 'Pool' })
export type Pool = z.infer<typeof poolSchema>

export const poolListSchema = z.object({ pools: z.array(poolSchema) }).meta({ id: 'PoolList' })

const poolFields = {
  redundancy: z.string().max(64),
  failureDomain: z.enum(failureDomains).optional(),
  ring: z.string().max(64).optional(),
  groups: z.number().int().optional(),
  writeMinimum: z.number().int().positive().nullable().optional(),
  peers: z.array(z.string()).min(1).nullable().optional(),
  force: z.boolean().optional().meta({ description: 'Peers that are down count' })
}

export const poolCreateSchema = z
  .strictObject({ name: z.string().min(1).max(63), ...poolFields })
  .meta({ id: 'PoolCreate' })
export type PoolCreate = z.infer<typeof poolCreateSchema>

export const poolChangeSchema = z
  .strictObject({ ...poolFields, redundancy: z.string().max(64).optional() })
  .meta({ id: 'PoolChange' })
export type PoolChange = z.infer<typeof poolChangeSchema>

/** A pool's ring over the peers there are. */
export const ringSchema = z
  .object({
    pool: z.string(),
    kind: z.string(),
    redundancy: z.string(),
    failureDomain: z.enum(failureDomains),
    groups: count,
    seed: count,
    peers: z.array(
      z.object({
        peerId: z.string(),
        weight: z.number(),
        share: z.number().meta({ description: 'Of the weight of all peers, 0 to 1' }),
        target: count.meta({ description: 'Groups whose member it should be' }),
        members: count.meta({ description: 'Groups whose member it is' })
      })
    ),
    shortage: z.string().nullable()
  })
  .meta({ id: 'Ring' })
export type Ring = z.infer<typeof ringSchema>

export const settingsSchema = z
  .object({
    joinPolicy: z.enum(['open', 'approve']).meta({
      description: '`approve`: new peers wait until an operator adds them'
    }),
    trash: z.string().meta({
      description: 'How long deleted volumes can be restored, as 24h or off',
      examples: ['1d']
    })
  })
  .meta({ id: 'ClusterSettings' })
export type ClusterSettings = z.infer<typeof settingsSchema>

export const settingsChangeSchema = z
  .strictObject({
    joinPolicy: z.enum(['open', 'approve']).optional(),
    trash: z.string().max(32).optional()
  })
  .meta({ id: 'ClusterSettingsChange' })
export type ClusterSettingsChange = z.infer<typeof settingsChangeSchema>

export const clusterProblemSchema = z
  .object({ level: z.enum(['error', 'warning']), code: z.string(), message: z.string() })
  .meta({ id: 'ClusterProblem' })
export type ClusterProblem = z.infer<typeof clusterProblemSchema>

export const upgradeSchema = z
  .object({
    level: count.meta({ description: 'Feature level of the cluster: it only grows' }),
    target: count.meta({ description: 'The one that the answering program brings' }),
    features: z.array(z.string()).meta({ description: 'What raising the level switches on' }),
    behind: z.array(z.string()).meta({ description: 'Peers that do not know it, in words' })
  })
  .meta({ id: 'Upgrade' })
export type Upgrade = z.infer<typeof upgradeSchema>

export const finalizeSchema = z
  .strictObject({ dryRun: z.boolean().default(false) })
  .meta({ id: 'Finalize' })

export const clusterStatusSchema = z
  .object({
    clusterId: z.string(),
    health: z.enum(['ok', 'warning', 'error']),
    problems: z.array(clusterProblemSchema),
    controller: z.string().nullable(),
    metadata: z.string().meta({ description: 'Where the metadata is', examples: ['embedded'] }),
    leaseTrustedMs: z.number().meta({ description: 'How long this peer may go on unrenewed' }),
    upgrade: upgradeSchema,
    peers: z.array(clusterPeerSchema),
    pools: z.array(poolSchema)
  })
  .meta({ id: 'ClusterStatus' })
export type ClusterStatus = z.infer<typeof clusterStatusSchema>
