/**
 * What stands in the metadata, as JSON. A record has a version `v`; one that is newer than this
 * program is refused (UnknownVersion), one that does not fit its schema is Corrupt. Fields that a
 * later minor release adds under the same version are kept when a record is written again.
 */
import { z } from 'zod'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { failureDomains } from '../core/failure-domains.ts'
import { secretKinds, VOLUME_SLOTS_MAX } from '../seal/key-slots.ts'
import { count, groupCount, id64, id128, time, u32, version } from './record-fields.ts'
import { baseSchema, snapshotSchema, volumeEventsSchema, volumeSchema } from './volume-records.ts'

export type {
  BaseRecord,
  SnapshotRecord,
  VolumeEventRecord,
  VolumeRecord
} from './volume-records.ts'

const clusterSchema = z.looseObject({ v: version, clusterId: id128, createdAt: time })

/** See secret-verifiers.ts. */
const secretSchema = z.looseObject({
  v: version,
  verifiers: z.array(z.string().length(64)).min(1),
  /** The last peer that wrote it; null: made and not used yet. */
  usedBy: id128.nullable()
})
export type SecretRecord = z.infer<typeof secretSchema>

/** The metadata is being written as a whole; until it is done there is no cluster's record. */
const incomingSchema = z.looseObject({ v: version, clusterId: id128 })

const settingsSchema = z.looseObject({
  v: version,
  /** `approve`: who registers anew is `pending` until an operator adds it. */
  joinPolicy: z.enum(['open', 'approve']).optional(),
  /** How long deleted volumes can be restored; 0: not at all. */
  trashMs: count.optional(),
  /** What may be used: features.ts. Absent: the first level. */
  level: z.number().int().min(1).optional()
})
export type SettingsRecord = z.infer<typeof settingsSchema>

const peerSchema = z.looseObject({
  v: version,
  peerId: id128,
  /** Raised with the superblock's at each start: one that does not follow is a reverted disk. */
  bootCounter: count,
  bootId: id128,
  capacityBytes: count,
  labels: z.record(z.string(), z.string()),
  addedAt: time,
  /** Levels at which the program of its last start can run, and which version that was. */
  speaks: z
    .object({
      version: z.string(),
      min: z.number().int().min(1),
      max: z.number().int().min(1)
    })
    .optional(),
  /** Share of data in proportion to others; null follows the capacity. */
  weight: z.number().min(0).nullable().optional(),
  /**
   * `pending`: registered, but no operator let it in yet; it holds nothing. `drained`: gets no data
   * and gives away what it has. `removed`: never comes back as it is.
   */
  state: z.enum(['pending', 'active', 'drained', 'removed']).optional(),
  /** Who takes its place in its groups, while it is drained. */
  replacedBy: id128.nullable().optional(),
  /** Until then its absence is no reason to make copies elsewhere. */
  maintenanceUntil: time.nullable().optional(),
  /** When it was last seen up, as of the last time that it went away. */
  lastSeenAt: time.optional(),
  /** Set by a clean shutdown to the boot that ended. */
  cleanBootId: id128.nullable().optional(),
  /** The boot before this one, if that ended cleanly: its place in groups is this one's. */
  cleanPredecessor: id128.nullable().optional(),
  /** A boot whose lease another peer ended: it may trust it for a while yet. */
  revokedBootId: id128.optional()
})
export type PeerRecord = z.infer<typeof peerSchema>

const aliveSchema = z.looseObject({
  v: version,
  bootId: id128,
  startedAt: time,
  /** `host:port` where other peers reach it; null for a peer that serves no others. */
  peerAddress: z.string().nullable(),
  adminAddresses: z.array(z.string()),
  nbdAddresses: z.array(z.string()),
  /** Where it runs, for who starts as the same peer there: is it gone? */
  process: z.object({ machine: z.string(), pid: z.number().int().positive() }).optional(),
  /** Bytes of segments, as of the last time they changed much. */
  usedBytes: count
})
export type AliveRecord = z.infer<typeof aliveSchema>

const poolSchema = z.looseObject({
  v: version,
  name: z.string(),
  /** Stands in keys and on the wire; never used again for another pool. */
  number: z.number().int().min(0).max(0xffff),
  /** `replicated:N` or `erasure:K+M`. */
  redundancy: z.string(),
  failureDomain: z.enum(failureDomains),
  /** Kind of ring. */
  ring: z.string(),
  /** Placement groups, a power of two. */
  groups: groupCount,
  /** With how many it began, once it was split: group-shape.ts. */
  firstGroups: groupCount.optional(),
  /** Groups are being doubled: there may be records for `from` of them yet. It ends at `to`. */
  splitting: z.object({ from: groupCount, to: groupCount }).optional(),
  seed: u32,
  /** Members in sync below which writes wait; null for the rule of the redundancy. */
  writeMinimum: z.number().int().min(1).nullable(),
  /** Peers that hold its data; null is every peer. */
  peers: z.array(id128).nullable(),
  createdAt: time
})
export type PoolRecord = z.infer<typeof poolSchema>

const controllerSchema = z.looseObject({ v: version, peer: id128, bootId: id128 })

/** A process of a peer. */
const memberSchema = z.object({ peer: id128, boot: id128 })

const familySchema = z.looseObject({
  v: version,
  /** Highest that was given out: the next writer gets one more. */
  writerEpoch: u32,
  /**
   * Of replicated pools: every member in sync agreed about all versions below this epoch. What
   * one has below it that no member in sync has was never acknowledged.
   */
  settledEpoch: u32.optional(),
  /** The last writer left nothing undone: every write is on every member's disk. */
  clean: z.boolean().optional(),
  /** Who has the right to write it, or had it last. */
  gateway: memberSchema.optional(),
  /** Who had it before, and may not know yet that it has not: until a takeover came to its end. */
  former: z.array(memberSchema).optional()
})
export type FamilyRecord = z.infer<typeof familySchema>

const writerSchema = z.looseObject({
  v: version,
  /** Peer whose process may write. */
  gateway: id128,
  bootId: id128,
  writerEpoch: u32
})

/** Who alone has written a volume since it began, if it would write again; null: nobody. */
const clientSessionSchema = z.looseObject({ v: version, session: id64.nullable() })

/**
 * A gateway asks the writer of a family to let it go, or only if that offers it. Bound to the
 * lease of who asks.
 */
const handoverSchema = z.looseObject({
  v: version,
  gateway: id128,
  ifOffered: z.boolean().optional()
})

/** The writer of a family lets it go for whoever asks. Bound to its lease. */
const offerSchema = z.looseObject({ v: version, gateway: id128 })

const base64 = z.base64()

const keySlotSchema = z.object({
  id: z.number().int().min(1),
  kind: z.enum(secretKinds),
  label: z.string(),
  createdAt: time,
  kdf: z.discriminatedUnion('name', [
    z.object({ name: z.literal('argon2id'), salt: base64, opsLimit: count, memoryBytes: count }),
    z.object({ name: z.literal('hkdf-sha256'), salt: base64 })
  ]),
  sealed: base64,
  family: id64.optional()
})

const keyGenerationSchema = z.object({
  generation: count,
  fromEpoch: u32,
  salt: base64,
  sealed: base64
})

const volumeKeysSchema = z.looseObject({
  v: version,
  family: id64,
  /** The next slot's id: none is given twice. */
  nextSlot: z.number().int().min(1),
  slots: z.array(keySlotSchema).min(1).max(VOLUME_SLOTS_MAX),
  /** By `fromEpoch`, lowest first. More than one only while a rekey goes on. */
  generations: z
    .array(keyGenerationSchema)
    .min(1)
    .refine(
      (all) => all.every(({ fromEpoch }, at) => at === 0 || all[at - 1]!.fromEpoch < fromEpoch),
      'each data key is for higher epochs than the one before'
    ),
  /** Of a clone: families whose blocks it may read. They have its master key. */
  readsFrom: z.array(id64).optional(),
  /** What a rekey has done: blocks before chunk `nextChunk` are under the last generation. */
  rekey: z.object({ nextChunk: count, startedAt: time }).nullable()
})
export type VolumeKeysRecord = z.infer<typeof volumeKeysSchema>

const deletedSchema = z.looseObject({
  v: version,
  family: id64,
  /** Of some layers of a volume that is there: tells one such record from others. */
  part: id64.optional(),
  layers: z.array(id64),
  /** And these, in a row each. Feature level 4. */
  lines: z.array(z.object({ root: id64, last: id64 })).optional(),
  /** Name that the volume had, for messages. */
  name: z.string(),
  deletedAt: time,
  /** Peers that may still hold blocks: each leaves the list when its removal is durable. */
  pendingPeers: z.array(id128)
})
export type DeletedRecord = z.infer<typeof deletedSchema>

/**
 * Of a group in metadata that was restored from a copy: its record may be older than what its
 * members did. Until that is settled nobody has it in sync: boots in the record are NO_BOOT.
 */
const restoredSchema = z.object({
  /** Of the record in the copy; 0: the copy has none. */
  epoch: u32,
  /** Peers of the record that did not say yet what they remember. */
  unproven: z.array(id128),
  /** Those that remember nothing newer, with their present boots. */
  proven: z.array(memberSchema),
  /** Those that remember a newer epoch: an operator has to decide. */
  behind: z.array(z.object({ peer: id128, epoch: u32 }))
})
export type RestoredGroup = z.infer<typeof restoredSchema>

/** The metadata was restored: what that leaves open. */
const restoreSchema = z.looseObject({
  v: version,
  restoredAt: time,
  /** Groups that have no record begin above it. */
  epochFloor: u32,
  /** Peers that may know of groups that the copy does not have. */
  pendingPeers: z.array(id128)
})
export type RestoreRecord = z.infer<typeof restoreSchema>

const groupSchema = z.looseObject({
  v: version,
  /** Raised by every change of this record. */
  epoch: u32,
  /** Peers that placement wants. */
  members: z.array(id128),
  inSync: z.array(memberSchema),
  syncing: z.array(memberSchema),
  /**
   * Of `members`: those taken in anew that may have an old copy. They are not listed as syncing
   * before they have given it up.
   */
  fresh: z.array(id128).optional(),
  /** For which number of groups this is, and the epochs at which those it came from were split. */
  split: z.object({ groups: groupCount, epochs: z.array(u32) }).optional(),
  restored: restoredSchema.optional()
})
export type GroupRecord = z.infer<typeof groupSchema>
export type GroupMember = z.infer<typeof memberSchema>

export const tokenRoles = ['admin', 'operator', 'viewer', 'volume'] as const

const tokenSchema = z.looseObject({
  v: version,
  id: id64,
  /** SHA-256 of the whole text of the token, base64. The text itself is nowhere. */
  hash: z.base64().length(44),
  role: z.enum(tokenRoles),
  /** Name of the one volume that a token of the role `volume` is for; null for other roles. */
  volume: z.string().nullable(),
  readOnly: z.boolean(),
  label: z.string(),
  createdAt: time,
  /** null: it does not end by itself. */
  expiresAt: time.nullable()
})
export type TokenRecord = z.infer<typeof tokenSchema>

const tokensRequiredSchema = z.looseObject({ v: version, since: time })

const kinds = {
  cluster: clusterSchema,
  secret: secretSchema,
  incoming: incomingSchema,
  restore: restoreSchema,
  settings: settingsSchema,
  peer: peerSchema,
  volume: volumeSchema,
  snapshot: snapshotSchema,
  base: baseSchema,
  family: familySchema,
  writer: writerSchema,
  volumeKeys: volumeKeysSchema,
  volumeEvents: volumeEventsSchema,
  deleted: deletedSchema,
  group: groupSchema,
  alive: aliveSchema,
  pool: poolSchema,
  controller: controllerSchema,
  clientSession: clientSessionSchema,
  handover: handoverSchema,
  offer: offerSchema,
  token: tokenSchema,
  tokensRequired: tokensRequiredSchema
}
export type RecordKind = keyof typeof kinds
type RecordOf<K extends RecordKind> = z.infer<(typeof kinds)[K]>

const RECORD_VERSION = 1

/** @throws StoreError UnknownVersion, Corrupt */
export function decodeRecord<K extends RecordKind>(
  kind: K,
  key: string,
  value: Uint8Array
): RecordOf<K> {
  return checkRecord(kind, `metadata ${key}`, parse(key, value))
}

/** `what` names where `json` came from. @throws StoreError UnknownVersion, Corrupt */
export function checkRecord<K extends RecordKind>(
  kind: K,
  what: string,
  json: unknown
): RecordOf<K> {
  const found = typeof json === 'object' && json !== null ? (json as { v?: unknown }).v : null
  if (typeof found === 'number' && found > RECORD_VERSION) {
    const known = `this program knows ${RECORD_VERSION}`
    const text = `${what}: ${kind} record of version ${found}, ${known}`
    throw new StoreError(ErrorCode.UnknownVersion, text)
  }
  const result = kinds[kind].safeParse(json)
  if (result.success) return result.data as RecordOf<K>
  const text = `${what}: not a ${kind} record: ${z.prettifyError(result.error)}`
  throw new StoreError(ErrorCode.Corrupt, text, { cause: result.error })
}

function parse(key: string, value: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(value).toString('utf8'))
  } catch (cause) {
    throw new StoreError(ErrorCode.Corrupt, `metadata ${key}: not JSON`, { cause })
  }
}

/** Checked on the way out too: a record that cannot be read again is a bug. */
export function encodeRecord<K extends RecordKind>(kind: K, record: RecordOf<K>): Buffer {
  return Buffer.from(JSON.stringify(kinds[kind].parse(record)))
}
