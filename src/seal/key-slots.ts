/**
 * Who can open an encrypted volume.
 *
 *   secret (passphrase, key file, command)
 *     --Argon2id or HKDF--> slot key --opens--> master key   one sealed copy in every slot
 *     --HKDF--> wrap key of a generation --opens--> data key  one a generation
 *
 * A clone has the master key and the data key of what it was cloned from, whose blocks it reads, in
 * a generation of its own; its slots are copies, which change apart from then on.
 *
 * The master key is made with the volume and stays, also through a rekey;
 * slots are added, rotated and revoked without touching data. Every wrap key seals exactly one
 * thing: slots and generations have salts of their own, also a generation that is made once more
 * because the metadata went back to an earlier moment. The nonce can be zero for that.
 *
 * What is sealed is bound to its place by the additional data: a slot moved to another volume,
 * given another number or other parameters does not open. What stands in the metadata is useless
 * without the secret of a slot.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  randomBytes,
  randomFillSync
} from 'node:crypto'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { KEY_BYTES } from './key-mailbox.ts'
import { secretBuffer, takeSecret, wipe } from './secret.ts'

/** A volume has at most so many. */
export const VOLUME_SLOTS_MAX = 16
/** Of a passphrase, key file or a command's output. */
export const SECRET_BYTES_MAX = 8 * 1024
/** A key file with less would be guessed: HKDF does not slow anybody down. */
const KEY_FILE_BYTES_MIN = 32
/** Longer passphrases are better, shorter ones are a mistake. */
const PASSPHRASE_BYTES_MIN = 8

/** Argon2id: about a second of one core, and memory that graphics cards are short of. */
const ARGON2_DEFAULTS = { opsLimit: 3, memoryBytes: 256 * 1024 * 1024 } as const
/** What a slot may ask of whoever opens it: metadata comes from outside. */
const ARGON2_OPS_MAX = 64
const ARGON2_MEMORY_MIN = 8 * 1024 * 1024
const ARGON2_MEMORY_MAX = 2 * 1024 * 1024 * 1024

const TAG_BYTES = 16
const SALT_BYTES = 16
const ZERO_NONCE = Buffer.alloc(12)
const CIPHER = 'chacha20-poly1305'

export const secretKinds = ['passphrase', 'key-file', 'command'] as const
/** Where the secret of a slot comes from. */
export type SecretKind = (typeof secretKinds)[number]
/** For people. */
export const secretWords: Readonly<Record<SecretKind, string>> = {
  passphrase: 'passphrase',
  'key-file': 'key file',
  command: 'command'
}

export type SlotKdf =
  | {
      readonly name: 'argon2id'
      /** Base64, 16 bytes. */
      readonly salt: string
      readonly opsLimit: number
      readonly memoryBytes: number
    }
  | { readonly name: 'hkdf-sha256'; readonly salt: string }

export interface KeySlot {
  readonly id: number
  readonly kind: SecretKind
  /** A note for people. */
  readonly label: string
  readonly createdAt: string
  readonly kdf: SlotKdf
  /** Base64 of the master key under the slot's key, and its tag: 48 bytes. */
  readonly sealed: string
  /** Of a slot that came with a clone: the family for which it was made, and is bound to. */
  readonly family?: string | undefined
}

/** A data key: blocks of writer epochs from `fromEpoch` on, up to the next one's, are under it. */
export interface KeyGeneration {
  readonly generation: number
  readonly fromEpoch: number
  /** Base64, 16 bytes. */
  readonly salt: string
  /** Base64 of the data key under a key made of the master key, and its tag: 48 bytes. */
  readonly sealed: string
}

interface Argon2Costs {
  readonly opsLimit: number
  readonly memoryBytes: number
}

/** Computes Argon2id away from the main thread. */
export interface PasswordHash {
  /** Takes a copy of `secret`. The result is secret memory of KEY_BYTES. */
  argon2id(secret: Buffer, salt: Buffer, costs: Argon2Costs): Promise<Buffer>
}

export interface SlotSpec {
  readonly id: number
  readonly kind: SecretKind
  readonly label: string
  readonly createdAt: string
  /** Of Argon2id; ARGON2_DEFAULTS otherwise. */
  readonly costs?: Argon2Costs
}

/** @throws StoreError InvalidArgument naming what is wrong, never the secret */
function checkSecret(kind: SecretKind, secret: Buffer): void {
  const least = kind === 'passphrase' ? PASSPHRASE_BYTES_MIN : KEY_FILE_BYTES_MIN
  const what = kind === 'passphrase' ? 'a passphrase' : `a key from a ${kind}`
  if (secret.length >= least && secret.length <= SECRET_BYTES_MAX) return
  const range = `${least} to ${SECRET_BYTES_MAX} bytes`
  const hint = kind === 'passphrase' ? '' : '; shorter ones only as a passphrase, which is slowed'
  const text = `${what} has ${range}, this one has ${secret.length}${hint}`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

/** Seals the master key of `family` for whoever has `secret`. @throws StoreError InvalidArgument */
export async function makeSlot(
  family: string,
  spec: SlotSpec,
  masterKey: Buffer,
  secret: Buffer,
  hash: PasswordHash
): Promise<KeySlot> {
  checkSecret(spec.kind, secret)
  const salt = randomBytes(SALT_BYTES).toString('base64')
  const { id, kind, label, createdAt } = spec
  const kdf: SlotKdf =
    kind === 'passphrase'
      ? { name: 'argon2id', salt, ...(spec.costs ?? ARGON2_DEFAULTS) }
      : { name: 'hkdf-sha256', salt }
  const bare = { id, kind, label, createdAt, kdf }
  const key = await slotKey(bare, secret, hash)
  try {
    return { ...bare, sealed: sealKey(key, slotData(family, bare), masterKey) }
  } finally {
    wipe(key)
  }
}

/**
 * The master key, in secret memory, if `secret` is the slot's; null if it is not, or the slot was
 * changed: nothing tells which.
 */
export async function openSlot(
  family: string,
  slot: KeySlot,
  secret: Buffer,
  hash: PasswordHash
): Promise<Buffer | null> {
  const key = await slotKey(slot, secret, hash)
  try {
    return openKey(key, slotData(slot.family ?? family, slot), slot.sealed)
  } finally {
    wipe(key)
  }
}

/** Seals a data key under the master key. */
export function sealGeneration(
  family: string,
  { generation, fromEpoch }: { readonly generation: number; readonly fromEpoch: number },
  masterKey: Buffer,
  dataKey: Buffer
): KeyGeneration {
  const salt = randomBytes(SALT_BYTES).toString('base64')
  const key = generationKey(family, generation, salt, masterKey)
  const data = generationData(family, generation, fromEpoch)
  try {
    return { generation, fromEpoch, salt, sealed: sealKey(key, data, dataKey) }
  } finally {
    wipe(key)
  }
}

/** A data key in secret memory. @throws StoreError Corrupt if it was not sealed by this key */
export function openGeneration(
  family: string,
  { generation, fromEpoch, salt, sealed }: KeyGeneration,
  masterKey: Buffer
): Buffer {
  const key = generationKey(family, generation, salt, masterKey)
  try {
    const dataKey = openKey(key, generationData(family, generation, fromEpoch), sealed)
    if (dataKey !== null) return dataKey
  } finally {
    wipe(key)
  }
  const text = `data key ${generation} of family ${family} does not open: its record was changed`
  throw new StoreError(ErrorCode.Corrupt, text)
}

/** For backups of a family in one store, whose `salt` it is. In secret memory. */
export const backupKeyOf = (family: string, salt: Buffer, masterKey: Buffer): Buffer =>
  hkdf(masterKey, salt, `torus backup of ${family}`)

/**
 * Keys that come from a file, in place of those that are there: what nothing would open is refused.
 * @throws StoreError InvalidArgument naming the slot or data key
 */
export function checkWhole(slots: readonly KeySlot[], generations: readonly KeyGeneration[]): void {
  const isWhole = (sealed: string, salt: string): boolean =>
    Buffer.from(sealed, 'base64').length === KEY_BYTES + TAG_BYTES &&
    Buffer.from(salt, 'base64').length === SALT_BYTES
  for (const { id, sealed, kdf } of slots) {
    if (isWhole(sealed, kdf.salt) && (kdf.name !== 'argon2id' || areCosts(kdf))) continue
    throw new StoreError(ErrorCode.InvalidArgument, `key slot ${id} is cut off or damaged`)
  }
  for (const { generation, sealed, salt } of generations) {
    if (isWhole(sealed, salt)) continue
    const text = `data key ${generation} is cut off or damaged`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
}

const areCosts = ({ opsLimit, memoryBytes }: Argon2Costs): boolean =>
  opsLimit >= 1 &&
  opsLimit <= ARGON2_OPS_MAX &&
  memoryBytes >= ARGON2_MEMORY_MIN &&
  memoryBytes <= ARGON2_MEMORY_MAX

function slotKey(
  { kdf, id }: Pick<KeySlot, 'kdf' | 'id'>,
  secret: Buffer,
  hash: PasswordHash
): Promise<Buffer> {
  const salt = Buffer.from(kdf.salt, 'base64')
  if (kdf.name === 'hkdf-sha256') {
    return Promise.resolve(hkdf(secret, salt, 'torus key slot'))
  }
  const { opsLimit, memoryBytes } = kdf
  const fits = salt.length === SALT_BYTES && areCosts(kdf)
  if (fits) return hash.argon2id(secret, salt, { opsLimit, memoryBytes })
  const asked = `salt of ${salt.length} bytes, ${opsLimit} passes over ${memoryBytes} bytes`
  const most = `at most ${ARGON2_OPS_MAX} passes over ${ARGON2_MEMORY_MIN}..${ARGON2_MEMORY_MAX}`
  throw new StoreError(ErrorCode.Corrupt, `key slot ${id} asks for ${asked}; ${most} is done`)
}

function generationKey(
  family: string,
  generation: number,
  salt: string,
  masterKey: Buffer
): Buffer {
  const info = `torus data key ${generation} of ${family}`
  return hkdf(masterKey, Buffer.from(salt, 'base64'), info)
}

/**
 * HKDF-SHA-256 (RFC 5869) of one block. Not Node's own: that keeps a copy of the secret until it is
 * garbage collected, where nobody can zero it. Here the secret is hashed, and is nobody's key.
 */
function hkdf(secret: Buffer, salt: Buffer, info: string): Buffer {
  const extracted = createHmac('sha256', salt).update(secret).digest()
  try {
    return takeSecret(createHmac('sha256', extracted).update(info).update(ONE).digest())
  } finally {
    wipe(extracted)
  }
}

/** The number of the only block. */
const ONE = Buffer.from([1])

/** Everything about a slot but what is sealed, and its label, which may change. */
const slotData = (
  family: string,
  { id, kind, kdf }: Pick<KeySlot, 'id' | 'kind' | 'kdf'>
): Buffer =>
  Buffer.from(
    JSON.stringify([
      'torus key slot 1',
      family,
      id,
      kind,
      kdf.name,
      kdf.salt,
      ...(kdf.name === 'argon2id' ? [kdf.opsLimit, kdf.memoryBytes] : [])
    ])
  )

const generationData = (family: string, generation: number, fromEpoch: number): Buffer =>
  Buffer.from(JSON.stringify(['torus data key 1', family, generation, fromEpoch]))

function sealKey(key: Buffer, data: Buffer, plain: Buffer): string {
  const cipher = createCipheriv(CIPHER, key, ZERO_NONCE, { authTagLength: TAG_BYTES })
  cipher.setAAD(data, { plaintextLength: plain.length })
  const sealed = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()])
  return sealed.toString('base64')
}

function openKey(key: Buffer, data: Buffer, sealed: string): Buffer | null {
  const bytes = Buffer.from(sealed, 'base64')
  if (bytes.length !== KEY_BYTES + TAG_BYTES) return null
  const decipher = createDecipheriv(CIPHER, key, ZERO_NONCE, { authTagLength: TAG_BYTES })
  decipher.setAAD(data, { plaintextLength: KEY_BYTES })
  decipher.setAuthTag(bytes.subarray(KEY_BYTES))
  const plain = decipher.update(bytes.subarray(0, KEY_BYTES))
  try {
    decipher.final()
  } catch {
    wipe(plain)
    return null
  }
  return takeSecret(plain)
}

/** A new key in secret memory. Never from a seeded source. */
export const makeKey = (): Buffer => randomFillSync(secretBuffer(KEY_BYTES))
