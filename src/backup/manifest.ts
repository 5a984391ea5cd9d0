/** What a backup is made of, as JSON: manifests, and those of backups that are not finished. */
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { secretKinds } from '../seal/key-slots.ts'
import { type BackupKeys, objectKey, refOf } from './objects.ts'

export const FORMAT = 1

export const hex = (bytes: number): z.ZodString =>
  z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`))
const ref = z.string().refine((text) => refOf(objectKey(text)) !== null)

/** As `volume key export` has them. */
const slotSchema = z.object({
  id: z.number().int(),
  kind: z.enum(secretKinds),
  label: z.string(),
  createdAt: z.string(),
  /** Under which it is sealed, where that is another than the volume's: clones. */
  family: hex(8).optional(),
  kdf: z.discriminatedUnion('name', [
    z.object({
      name: z.literal('argon2id'),
      salt: z.string(),
      opsLimit: z.number(),
      memoryBytes: z.number()
    }),
    z.object({ name: z.literal('hkdf-sha256'), salt: z.string() })
  ]),
  sealed: z.string()
})

export const manifestSchema = z.object({
  torusBackup: z.literal(FORMAT),
  run: hex(8),
  volume: z.string(),
  snapshot: z.object({ id: hex(8), name: z.string() }),
  createdAt: z.string(),
  sizeBytes: z.number().int().nonnegative(),
  /** Of this backup alone: what was read of the volume, and what was put into the store. */
  readBytes: z.number(),
  storedBytes: z.number(),
  /** Name of the backup on which it stands; it needs it no more once it is there. */
  base: z.string().nullable(),
  pages: z.array(ref.nullable()),
  /** Of an encrypted volume; the family is that of the volume at the root of its clones. */
  keys: z.object({ family: hex(8), slots: z.array(slotSchema) }).nullable()
})
export type Manifest = z.infer<typeof manifestSchema>

export const unfinishedSchema = manifestSchema.extend({
  progress: z.object({
    /** Pages tell all before it; from there on they are those of the base. */
    doneBytes: z.number().int().nonnegative(),
    /** Id of the snapshot of the base. */
    since: hex(8).nullable(),
    /** It was to rely on nothing that was there. */
    isFull: z.boolean()
  })
})
export type UnfinishedManifest = z.infer<typeof unfinishedSchema>

/** A manifest as it is stored, and of an encrypted volume its HMAC. */
export interface Signed<T> {
  readonly manifest: T
  readonly text: string
  readonly mac: string | null
}

/** What stands around a manifest. */
const signedSchema = z.object({ text: z.string(), sum: hex(32), mac: hex(32).nullable() })

const sumOf = (text: string): string => createHash('sha256').update(text).digest('hex')

export function signed(manifest: Manifest, keys: BackupKeys | null): Buffer {
  const text = JSON.stringify(manifest)
  return jsonOf({ text, sum: sumOf(text), mac: keys === null ? null : keys.manifestSum(text) })
}

/** @throws StoreError Corrupt */
export function unsigned<T>(schema: z.ZodType<T>, key: string, bytes: Buffer): Signed<T> {
  const { text, sum, mac } = parsed(signedSchema, key, bytes.toString())
  if (sum !== sumOf(text)) throw damagedError(key)
  return { manifest: parsed(schema, key, text), text, mac }
}

export const jsonOf = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value, null, 1)}\n`)

/** @throws StoreError Corrupt */
export function parsed<T>(schema: z.ZodType<T>, key: string, text: string): T {
  try {
    return schema.parse(JSON.parse(text))
  } catch {
    throw damagedError(key)
  }
}

export function damagedError(key: string): StoreError {
  const text = `${key} of the backup store is damaged, or of a newer version`
  const advice = key.startsWith('backups/') ? ': delete it to forget that backup' : ''
  return new StoreError(ErrorCode.Corrupt, `${text}${advice}`)
}
