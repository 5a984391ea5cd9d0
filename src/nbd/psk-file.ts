/**
 * Keys that clients share with the server, as GnuTLS's psktool writes them and qemu, libnbd and
 * nbdkit read them: lines `identity:key`, the key in hexadecimal.
 */
import { readFile, stat } from 'node:fs/promises'
import { ErrorCode, StoreError } from '../core/errors.ts'

/** What OpenSSL takes as an identity. */
const IDENTITY_BYTES_MAX = 128
/** psktool makes 32 bytes; shorter than 16 can be guessed from one handshake that was recorded. */
const KEY_BYTES_MIN = 16
/** RFC 4279 asks for no more. */
const KEY_BYTES_MAX = 64
const KEYS_MAX = 10_000
const FILE_BYTES_MAX = KEYS_MAX * (IDENTITY_BYTES_MAX + 2 * KEY_BYTES_MAX + 2)
const OTHERS = 0o077

/** By identity. Two that differ in case only are refused: rules of access know no case. */
export type PskKeys = ReadonlyMap<string, Buffer>

/** @throws StoreError InvalidArgument; it never has a key in its message */
export async function readPskFile(file: string): Promise<PskKeys> {
  try {
    const { mode, size } = await stat(file)
    if ((mode & OTHERS) !== 0) throw new Error('others can read it: chmod 600')
    if (size > FILE_BYTES_MAX)
      throw new Error(`it has ${size} bytes, the limit is ${FILE_BYTES_MAX}`)
    return parsePskFile(await readFile(file, 'utf8'))
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    const text = `TLS keys ${file} cannot be used: ${code ?? message}`
    throw new StoreError(ErrorCode.InvalidArgument, text, { cause })
  }
}

/** @throws Error that names the line */
export function parsePskFile(text: string): PskKeys {
  const keys = new Map<string, Buffer>()
  const folded = new Set<string>()
  for (const [index, each] of text.split('\n').entries()) {
    const line = each.trim()
    if (line === '' || line.startsWith('#')) continue
    const bad = (why: string): Error => new Error(`line ${index + 1} ${why}`)
    const cut = line.lastIndexOf(':')
    const identity = line.slice(0, Math.max(0, cut))
    const key = line.slice(cut + 1)
    const bytes = Buffer.byteLength(identity)
    if (bytes === 0 || bytes > IDENTITY_BYTES_MAX) throw bad('is not IDENTITY:KEY')
    if (!/^(?:[0-9a-f]{2})+$/i.test(key)) throw bad('has a key that is not hexadecimal')
    if (key.length < 2 * KEY_BYTES_MIN || key.length > 2 * KEY_BYTES_MAX) {
      throw bad(`has a key of other than ${KEY_BYTES_MIN} to ${KEY_BYTES_MAX} bytes`)
    }
    if (folded.has(identity.toLowerCase())) throw bad('has an identity that was there already')
    folded.add(identity.toLowerCase())
    keys.set(identity, Buffer.from(key, 'hex'))
  }
  if (keys.size === 0) throw new Error('it has no line IDENTITY:KEY')
  if (keys.size > KEYS_MAX) throw new Error(`it has ${keys.size} keys, the limit is ${KEYS_MAX}`)
  return keys
}
