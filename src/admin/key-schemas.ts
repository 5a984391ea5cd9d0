/** Keys of encrypted volumes, as they go in and out of the admin API. */
import { z } from 'zod'
import { SECRET_BYTES_MAX, secretKinds, VOLUME_SLOTS_MAX } from '../seal/key-slots.ts'

const SECRET_TEXT_MAX = Math.ceil(SECRET_BYTES_MAX / 3) * 4

/** `secret` is never told in an answer, an error or a log. */
const secretSchema = z
  .base64({ error: 'must be base64' })
  .max(SECRET_TEXT_MAX, { error: `must be at most ${SECRET_BYTES_MAX} bytes` })
  .meta({ description: `Base64 of at most ${SECRET_BYTES_MAX} bytes` })

export const credentialSchema = z
  .strictObject({ kind: z.enum(secretKinds), secret: secretSchema })
  .meta({ id: 'Credential', description: 'What opens a key slot' })
export type CredentialBody = z.infer<typeof credentialSchema>

export const newSlotSchema = z
  .strictObject({
    kind: z.enum(secretKinds),
    secret: secretSchema,
    label: z.string().max(64).default('')
  })
  .meta({ id: 'NewKeySlot' })
export type NewSlotBody = z.infer<typeof newSlotSchema>

export const unlockSchema = z
  .strictObject({
    ...credentialSchema.shape,
    slot: z.number().int().min(1).optional().meta({ description: 'Only this slot is tried' })
  })
  .meta({ id: 'VolumeUnlock' })
export type UnlockBody = z.infer<typeof unlockSchema>

export const slotChangeSchema = z
  .strictObject({ credential: credentialSchema, slot: newSlotSchema })
  .meta({ id: 'KeySlotChange' })
export type SlotChangeBody = z.infer<typeof slotChangeSchema>

export const keySlotSchema = z
  .object({
    id: z.number().int(),
    kind: z.enum(secretKinds),
    label: z.string(),
    createdAt: z.string(),
    kdf: z.string().meta({ description: 'How the key of the slot is made of its secret' })
  })
  .meta({ id: 'KeySlot' })
export type KeySlotAnswer = z.infer<typeof keySlotSchema>

const rekeySchema = z.object({
  startedAt: z.string(),
  doneBytes: z.number(),
  totalBytes: z.number(),
  running: z.boolean().meta({ description: 'On this peer' })
})

export const keySlotListSchema = z
  .object({
    /** On this peer. */
    unlocked: z.boolean(),
    /** null: none goes on. */
    rekey: rekeySchema.nullable(),
    slots: z.array(keySlotSchema).max(VOLUME_SLOTS_MAX)
  })
  .meta({ id: 'KeySlotList' })
export type KeySlotList = z.infer<typeof keySlotListSchema>

/** Sealed: useless without a slot's secret. */
export const exportedKeysSchema = z
  .looseObject({ v: z.number(), family: z.string() })
  .meta({ id: 'ExportedKeys' })
export type ExportedKeys = z.infer<typeof exportedKeysSchema>

export const backupKeyQuerySchema = z
  .strictObject({
    salt: z
      .string()
      .regex(/^[0-9a-f]{16}$/)
      .meta({ description: 'Id of the backup store' })
  })
  .meta({ id: 'BackupKeyQuery' })

export const backupKeySchema = z
  .object({
    key: z.base64().meta({ description: 'Secret: backups of the volume there are sealed with it' }),
    family: z.string(),
    slots: z.array(z.looseObject({ id: z.number().int() })).meta({
      description: 'As `volume key export` has them: with the secret of one the key can be made'
    })
  })
  .meta({ id: 'BackupKey' })
export type BackupKey = z.infer<typeof backupKeySchema>
