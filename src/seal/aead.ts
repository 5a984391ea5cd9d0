/**
 * XChaCha20-Poly1305 (IETF, draft-irtf-cfrg-xchacha-03) with the tag apart from the ciphertext:
 * sodium-native where it loads, else JavaScript, which writes and reads the same bytes and takes
 * some ten times as long.
 */
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js'
import { type Sodium, sodium } from './sodium.ts'

export const TAG_BYTES = 16
export const NONCE_BYTES = 24

export interface Aead {
  readonly isNative: boolean
  /** `cipher` and `plain` may be the same memory, also one that threads share. */
  seal(
    key: Buffer,
    nonce: Buffer,
    additional: Buffer,
    plain: Buffer,
    cipher: Buffer,
    tag: Buffer
  ): void
  /** False when the tag does not fit: what is in `plain` means nothing then. */
  open(
    key: Buffer,
    nonce: Buffer,
    additional: Buffer,
    cipher: Buffer,
    tag: Buffer,
    plain: Buffer
  ): boolean
}

function aeadOfSodium(sodium: Sodium): Aead {
  return {
    isNative: true,
    seal: (key, nonce, additional, plain, cipher, tag) => {
      sodium.crypto_aead_xchacha20poly1305_ietf_encrypt_detached(
        ...([cipher, tag, plain, additional, null, nonce, key] as const)
      )
    },
    open: (key, nonce, additional, cipher, tag, plain) => {
      try {
        sodium.crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
          ...([plain, null, cipher, tag, additional, nonce, key] as const)
        )
        return true
      } catch {
        return false
      }
    }
  }
}

/** The library has the tag behind the ciphertext: both go through memory that has room for both. */
let scratch = Buffer.alloc(0)

function scratchOf(bytes: number): Buffer {
  if (scratch.length < bytes) scratch = Buffer.from(new ArrayBuffer(bytes))
  return scratch.subarray(0, bytes)
}

export const nativeFreeAead: Aead = {
  isNative: false,
  seal: (key, nonce, additional, plain, cipher, tag) => {
    const both = scratchOf(plain.length + TAG_BYTES)
    xchacha20poly1305(key, nonce, additional).encrypt(plain, both)
    both.copy(cipher, 0, 0, plain.length)
    both.copy(tag, 0, plain.length)
  },
  open: (key, nonce, additional, cipher, tag, plain) => {
    const both = scratchOf(cipher.length + TAG_BYTES)
    cipher.copy(both)
    tag.copy(both, cipher.length)
    try {
      xchacha20poly1305(key, nonce, additional).decrypt(both, plain)
      return true
    } catch {
      return false
    }
  }
}

/** Null where sodium-native does not load. */
export const nativeAead: Aead | null = sodium === null ? null : aeadOfSodium(sodium)

export const aead: Aead = nativeAead ?? nativeFreeAead
