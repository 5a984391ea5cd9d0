/** The audit log and tokens, as they go in and out of the admin API. */
import { z } from 'zod'
import { tokenRoles } from '../cluster/records.ts'
import { volumeNameSchema } from './schemas.ts'

/** How somebody was known. */
const callerKinds = ['socket', 'loopback', 'open', 'token', 'tls', 'nbd', 'peer', 'nobody'] as const

export const callerSchema = z
  .object({
    kind: z.enum(callerKinds).meta({
      description:
        'socket: owner of the unix socket; loopback: this machine, before the first token; open: ' +
        'another machine, by --insecure; token; tls: client certificate; nbd: NBD client; peer: ' +
        'this one by itself, as by --unlock-with; nobody: who showed nothing valid'
    }),
    /** Of the token. */
    id: z.string().optional(),
    label: z.string().optional(),
    /** Of the certificate, or the identity of an NBD client's shared key. */
    name: z.string().optional()
  })
  .meta({ id: 'Caller' })
export type Caller = z.infer<typeof callerSchema>

export const auditEntrySchema = z
  .object({
    /** Grows by one with each entry of this peer. */
    n: z.number().int(),
    time: z.string().meta({ description: 'ISO 8601 time' }),
    who: callerSchema,
    address: z.string(),
    action: z.string().meta({
      description:
        'operationId of the request; of NBD clients nbdOpen, nbdClose, nbdTls; of the peer by ' +
        'itself unlock, trashExpired, importExpired, scheduledSnapshot, expiredSnapshot'
    }),
    volume: z.string().optional(),
    details: z.record(z.string(), z.unknown()).optional(),
    outcome: z.string().meta({ description: '`ok`, or the code of the error' }),
    /** Entries that were lost just before this one: the disk did not take them. */
    lostBefore: z.number().int().optional()
  })
  .meta({ id: 'AuditEntry' })
export type AuditEntry = z.infer<typeof auditEntrySchema>

export const auditListSchema = z
  .object({ entries: z.array(auditEntrySchema) })
  .meta({ id: 'AuditList' })

const LABEL_MAX = 64
const YEAR_MS = 365 * 24 * 3600 * 1000
const EXPIRES_MS_MAX = 10 * YEAR_MS

const tokenFields = {
  id: z.string(),
  role: z.enum(tokenRoles),
  volume: z.string().nullable().meta({ description: 'Of the role `volume`; null for others' }),
  readOnly: z.boolean(),
  label: z.string(),
  createdAt: z.string(),
  expiresAt: z.string().nullable()
}

export const tokenSchema = z.object(tokenFields).meta({ id: 'Token' })
export type Token = z.infer<typeof tokenSchema>

export const tokenListSchema = z.object({ tokens: z.array(tokenSchema) }).meta({ id: 'TokenList' })

export const createdTokenSchema = z
  .object({
    ...tokenFields,
    token: z.string().meta({ description: 'The token itself: shown this once' })
  })
  .meta({ id: 'CreatedToken' })
export type CreatedToken = z.infer<typeof createdTokenSchema>

export const tokenCreateSchema = z
  .strictObject({
    role: z.enum(tokenRoles),
    volume: volumeNameSchema.nullable().default(null),
    readOnly: z.boolean().default(false),
    label: z.string().max(LABEL_MAX).default(''),
    expiresInMs: z
      .number()
      .int()
      .min(1000, { error: 'must be a second at least' })
      .max(EXPIRES_MS_MAX, { error: 'must be ten years at most' })
      .nullable()
      .default(null)
  })
  .refine(({ role, volume }) => (role === 'volume') === (volume !== null), {
    error: 'a volume belongs to the role "volume", and to no other'
  })
  .refine(({ role, readOnly }) => role === 'volume' || !readOnly, {
    error: 'readOnly belongs to the role "volume": a viewer changes nothing anyway'
  })
  .meta({ id: 'TokenCreate' })
export type TokenCreate = z.infer<typeof tokenCreateSchema>
