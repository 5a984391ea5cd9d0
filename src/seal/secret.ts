/** Memory for keys and passphrases. */
import { sodium } from './sodium.ts'

/**
 * Zeroed memory that is kept from swap and core dumps where sodium-native is there. It is never in
 * a pool that other buffers share. Posted to a thread it would become an ordinary copy: keys go to
 * workers by KeyMailbox.
 */
export const secretBuffer = (bytes: number): Buffer =>
  sodium === null ? Buffer.from(new ArrayBuffer(bytes)) : sodium.sodium_malloc(bytes)

/** Zeroes for certain: no compiler leaves it out. Also takes memory that threads share. */
export function wipe(buffer: Buffer): void {
  if (sodium === null || buffer.buffer instanceof SharedArrayBuffer) buffer.fill(0)
  else sodium.sodium_memzero(buffer)
}

/** Moves `bytes` into memory for secrets: where they were is zeroed. */
export function takeSecret(bytes: Buffer): Buffer {
  const secret = secretBuffer(bytes.length)
  bytes.copy(secret)
  wipe(bytes)
  return secret
}
