/**
 * Objects of a backup store: pieces of volumes, and pages, which list pieces. Their names tell what
 * is in them, and the run that put them, so that no name is ever used again (prune.ts).
 *
 *   objects/<first two digits of id>/<id>.<run>
 *
 *   id    32 bytes: SHA-256 of the content, of encrypted volumes HMAC-SHA-256 under their id key
 *   run   8 bytes, random, of the backup that put it
 *
 * An object, big-endian:
 *
 *   offset  size  field
 *        0     4  magic 'TBO1'
 *        4     1  flags         1: deflated (zlib); 2: sealed (XChaCha20-Poly1305)
 *        5     3  zero
 *        8     4  plain bytes   of the content
 *       12     4  checksum      CRC-32C of all but these four bytes
 *       16    24  nonce         if sealed
 *        …        the content, deflated where that is shorter, then sealed; the additional data is
 *                 the id
 *        …    16  tag           if sealed
 */
import { createHash, createHmac, randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { deflate, inflateSync } from 'node:zlib'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { aead, NONCE_BYTES, TAG_BYTES } from '../seal/aead.ts'
import { secretBuffer, wipe } from '../seal/secret.ts'

const HEADER_SIZE = 16
const AT_CHECKSUM = 12
const MAGIC = 0x54424f31
const DEFLATED = 1
const SEALED = 2
/** Content that does not get smaller by this is stored as it is. */
const DEFLATE_GAIN = 0.9
const SAMPLE_BYTES = 16 * 1024
const PLAIN_BYTES_MAX = 1024 * 1024

export const ID_BYTES = 32
export const RUN_BYTES = 8

/** `<id>.<run>`, hex. */
export type ObjectRef = string

export const OBJECTS = 'objects/'

export const objectKey = (ref: ObjectRef): string => `${OBJECTS}${ref.slice(0, 2)}/${ref}`

/** Null: it is not the name of an object. */
export function refOf(key: string): ObjectRef | null {
  const ref = key.slice(key.lastIndexOf('/') + 1)
  return /^[0-9a-f]{64}\.[0-9a-f]{16}$/.test(ref) && objectKey(ref) === key ? ref : null
}

export const runOf = (ref: ObjectRef): string => ref.slice(ref.indexOf('.') + 1)
const idOf = (ref: ObjectRef): Buffer => Buffer.from(ref.slice(0, 2 * ID_BYTES), 'hex')

/** Of one encrypted volume in one store. */
export class BackupKeys {
  readonly #ids: Buffer
  readonly #objects: Buffer
  readonly #manifests: Buffer

  /** Takes `key` over: it is wiped. */
  constructor(key: Buffer) {
    const made = (what: string): Buffer => {
      const digest = createHmac('sha256', key).update(what).digest()
      const secret = secretBuffer(digest.length)
      digest.copy(secret)
      wipe(digest)
      return secret
    }
    this.#ids = made('torus backup ids')
    this.#objects = made('torus backup objects')
    this.#manifests = made('torus backup manifests')
    wipe(key)
  }

  idOf(content: Buffer): Buffer {
    return createHmac('sha256', this.#ids).update(content).digest()
  }

  manifestSum(text: string): string {
    return createHmac('sha256', this.#manifests).update(text).digest('hex')
  }

  seal(id: Buffer, plain: Buffer): Buffer {
    const nonce = randomBytes(NONCE_BYTES)
    const cipher = Buffer.from(new ArrayBuffer(plain.length))
    const tag = Buffer.from(new ArrayBuffer(TAG_BYTES))
    aead.seal(this.#objects, nonce, id, plain, cipher, tag)
    return Buffer.concat([nonce, cipher, tag])
  }

  open(id: Buffer, sealed: Buffer): Buffer | null {
    const end = sealed.length - TAG_BYTES
    if (end < NONCE_BYTES) return null
    const cipher = sealed.subarray(NONCE_BYTES, end)
    const plain = Buffer.from(new ArrayBuffer(cipher.length))
    const nonce = sealed.subarray(0, NONCE_BYTES)
    const isOpen = aead.open(this.#objects, nonce, id, cipher, sealed.subarray(end), plain)
    return isOpen ? plain : null
  }

  close(): void {
    for (const key of [this.#ids, this.#objects, this.#manifests]) wipe(key)
  }
}

export const contentId = (content: Buffer, keys: BackupKeys | null): Buffer =>
  keys === null ? createHash('sha256').update(content).digest() : keys.idOf(content)

const deflated = promisify(deflate) as (content: Buffer, options: object) => Promise<Buffer>

/** Null: it does not get smaller. What begins so is not looked at any further. */
async function shortened(content: Buffer): Promise<Buffer | null> {
  for (const part of [content.subarray(0, SAMPLE_BYTES), content]) {
    const short = await deflated(part, { level: 1 })
    if (short.length >= part.length * DEFLATE_GAIN) return null
    if (part.length === content.length) return short
  }
  return null
}

export async function encodeObject(
  id: Buffer,
  content: Buffer,
  keys: BackupKeys | null
): Promise<Buffer> {
  const short = await shortened(content)
  const isShort = short !== null
  const body = short ?? content
  const header = Buffer.alloc(HEADER_SIZE)
  header.writeUInt32BE(MAGIC, 0)
  header.writeUInt8((isShort ? DEFLATED : 0) | (keys === null ? 0 : SEALED), 4)
  header.writeUInt32BE(content.length, 8)
  const bytes = Buffer.concat([header, keys === null ? body : keys.seal(id, body)])
  bytes.writeUInt32BE(checksumOf(bytes), AT_CHECKSUM)
  return bytes
}

/** Without the field itself. */
const checksumOf = (bytes: Buffer): number =>
  crc32c(Buffer.concat([bytes.subarray(0, AT_CHECKSUM), bytes.subarray(HEADER_SIZE)]))

/** Is it an object, as it was put? That takes no key. */
export function isIntact(bytes: Buffer): boolean {
  if (bytes.length < HEADER_SIZE || bytes.readUInt32BE(0) !== MAGIC) return false
  return checksumOf(bytes) === bytes.readUInt32BE(AT_CHECKSUM)
}

/** The content of an object. @throws StoreError Corrupt, Forbidden (no key) */
export function decodeObject(ref: ObjectRef, bytes: Buffer, keys: BackupKeys | null): Buffer {
  const key = objectKey(ref)
  if (!isIntact(bytes)) throw corrupt(key, 'its checksum does not match')
  const flags = bytes.readUInt8(4)
  const plainBytes = bytes.readUInt32BE(8)
  if (plainBytes > PLAIN_BYTES_MAX) throw corrupt(key, 'it is larger than objects are')
  const isSealed = (flags & SEALED) !== 0
  if (isSealed !== (keys !== null)) {
    const text = isSealed ? 'is encrypted, and no key is given' : 'is not encrypted, and should be'
    throw new StoreError(ErrorCode.Forbidden, `object ${key} ${text}`)
  }
  let body: Buffer | null = bytes.subarray(HEADER_SIZE)
  if (keys !== null) body = keys.open(idOf(ref), body)
  if (body === null) throw corrupt(key, 'it does not open')
  let content = body
  try {
    if ((flags & DEFLATED) !== 0) content = inflateSync(body, { maxOutputLength: plainBytes + 1 })
  } catch {
    throw corrupt(key, 'it does not unfold')
  }
  if (content.length !== plainBytes || !contentId(content, keys).equals(idOf(ref))) {
    throw corrupt(key, 'it has other content than its name says')
  }
  return content
}

const corrupt = (key: string, why: string): StoreError =>
  new StoreError(ErrorCode.Corrupt, `object ${key} of the backup store is damaged: ${why}`)
