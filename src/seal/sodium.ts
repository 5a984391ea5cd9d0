/**
 * What is used of sodium-native, which has no types of its own. It is an addon: where it cannot be
 * loaded (musl, a platform without a prebuild) `sodium` is null, and JavaScript does its work.
 */
import { createRequire } from 'node:module'

export interface Sodium {
  /** Memory that is not swapped, not in core dumps, and between guard pages. Zeroed when freed. */
  sodium_malloc(bytes: number): Buffer
  sodium_memzero(buffer: Buffer): void
  /** Ciphertext, tag, plaintext, additional data, null, nonce, key. */
  crypto_aead_xchacha20poly1305_ietf_encrypt_detached(
    cipher: Buffer,
    tag: Buffer,
    plain: Buffer,
    additional: Buffer,
    secretNonce: null,
    nonce: Buffer,
    key: Buffer
  ): number
  /** Plaintext, null, ciphertext, tag, additional data, nonce, key. Throws for a wrong tag. */
  crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
    plain: Buffer,
    secretNonce: null,
    cipher: Buffer,
    tag: Buffer,
    additional: Buffer,
    nonce: Buffer,
    key: Buffer
  ): void
  /** Output, password, salt, passes, bytes of memory, algorithm. */
  crypto_pwhash(
    output: Buffer,
    password: Buffer,
    salt: Buffer,
    passes: number,
    memoryBytes: number,
    algorithm: number
  ): void
  readonly crypto_pwhash_ALG_ARGON2ID13: number
}

function load(): Sodium | null {
  try {
    return createRequire(import.meta.url)('sodium-native') as Sodium
  } catch {
    return null
  }
}

export const sodium: Sodium | null = load()
