/** XChaCha20-Poly1305 of every block of a payload, each with a nonce and a tag of its own. */
import { createRequire } from 'node:module'
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { blocksOf, type Kernel, type Prepared, seededPayload } from '../kernel.ts'

const KEY_BYTES = 32
const NONCE_BYTES = 24
const TAG_BYTES = 16
/** Family, block address and version, as the product binds them. */
const ADDITIONAL_BYTES = 40

/** Detached: ciphertext, tag, plaintext, additional data, null, nonce, key. */
interface Sodium {
  crypto_aead_xchacha20poly1305_ietf_encrypt_detached(
    ...args: readonly [Buffer, Buffer, Buffer, Buffer, null, Buffer, Buffer]
  ): number
  /** Plaintext, null, ciphertext, tag, additional data, nonce, key. */
  crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
    ...args: readonly [Buffer, null, Buffer, Buffer, Buffer, Buffer, Buffer]
  ): void
}

interface Keys {
  readonly key: Buffer
  readonly nonces: readonly Buffer[]
  readonly additional: Buffer
}

function keysFor(blockCount: number): Keys {
  const unshared = (bytes: number, seed: number) => Buffer.from(seededPayload(bytes, seed))
  return {
    key: unshared(KEY_BYTES, 1),
    nonces: Array.from({ length: blockCount }, (_, block) => unshared(NONCE_BYTES, 3 + 2 * block)),
    additional: unshared(ADDITIONAL_BYTES, 2)
  }
}

type SealBlock = (cipher: Buffer, tag: Buffer, plain: Buffer, nonce: Buffer, keys: Keys) => void
type OpenBlock = (plain: Buffer, tag: Buffer, cipher: Buffer, nonce: Buffer, keys: Keys) => void

function preparedSeal(
  payload: Buffer,
  seal: SealBlock
): Prepared & { cipher: Buffer; tags: Buffer } {
  const plain = blocksOf(payload)
  const cipher = Buffer.from(new SharedArrayBuffer(payload.length))
  const tags = Buffer.alloc(plain.length * TAG_BYTES)
  const keys = keysFor(plain.length)
  const cipherBlocks = blocksOf(cipher)
  const tagOf = plain.map((_, block) => tags.subarray(block * TAG_BYTES, (block + 1) * TAG_BYTES))
  return {
    cipher,
    tags,
    run: () => {
      for (let block = 0; block < plain.length; block++) {
        seal(cipherBlocks[block]!, tagOf[block]!, plain[block]!, keys.nonces[block]!, keys)
      }
    },
    fingerprint: () => tags.toString('hex')
  }
}

function preparedOpen(payload: Buffer, seal: SealBlock, open: OpenBlock): Prepared {
  const sealed = preparedSeal(payload, seal)
  sealed.run()
  const plain = Buffer.from(new SharedArrayBuffer(payload.length))
  const [plainBlocks, cipherBlocks] = [blocksOf(plain), blocksOf(sealed.cipher)]
  const keys = keysFor(plainBlocks.length)
  const tagOf = plainBlocks.map((_, block) =>
    sealed.tags.subarray(block * TAG_BYTES, (block + 1) * TAG_BYTES)
  )
  return {
    run: () => {
      for (let block = 0; block < plainBlocks.length; block++) {
        open(plainBlocks[block]!, tagOf[block]!, cipherBlocks[block]!, keys.nonces[block]!, keys)
      }
    },
    fingerprint: () => String(plain.equals(payload))
  }
}

/** The library writes the tag behind the ciphertext, so it needs a buffer with room for both. */
const scratch = Buffer.alloc(BLOCK_BYTES + TAG_BYTES)

const nobleSeal: SealBlock = (cipher, tag, plain, nonce, keys) => {
  const both = scratch.subarray(0, plain.length + TAG_BYTES)
  xchacha20poly1305(keys.key, nonce, keys.additional).encrypt(plain, both)
  both.copy(cipher, 0, 0, plain.length)
  both.copy(tag, 0, plain.length)
}

const nobleOpen: OpenBlock = (plain, tag, cipher, nonce, keys) => {
  const both = scratch.subarray(0, cipher.length + TAG_BYTES)
  cipher.copy(both)
  tag.copy(both, cipher.length)
  xchacha20poly1305(keys.key, nonce, keys.additional).decrypt(both, plain)
}

async function loadSodium(): Promise<{ seal: SealBlock; open: OpenBlock }> {
  const sodium = createRequire(import.meta.url)('sodium-native') as Sodium
  return {
    seal: (cipher, tag, plain, nonce, keys) => {
      sodium.crypto_aead_xchacha20poly1305_ietf_encrypt_detached(
        ...([cipher, tag, plain, keys.additional, null, nonce, keys.key] as const)
      )
    },
    open: (plain, tag, cipher, nonce, keys) => {
      sodium.crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
        ...([plain, null, cipher, tag, keys.additional, nonce, keys.key] as const)
      )
    }
  }
}

export const seal: Kernel = {
  name: 'seal',
  what: 'XChaCha20-Poly1305 of every 4 KiB block',
  variants: [
    {
      name: '@noble/ciphers',
      native: false,
      prepare: async (payload) => preparedSeal(payload, nobleSeal)
    },
    {
      name: 'sodium-native',
      native: true,
      prepare: async (payload) => preparedSeal(payload, (await loadSodium()).seal)
    }
  ]
}

export const open: Kernel = {
  name: 'open',
  what: 'the same backwards, tags verified',
  variants: [
    {
      name: '@noble/ciphers',
      native: false,
      prepare: async (payload) => preparedOpen(payload, nobleSeal, nobleOpen)
    },
    {
      name: 'sodium-native',
      native: true,
      prepare: async (payload) => {
        const sodium = await loadSodium()
        return preparedOpen(payload, sodium.seal, sodium.open)
      }
    }
  ]
}
