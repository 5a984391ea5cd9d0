/** XChaCha20-Poly1305 of every block of a payload, each with a nonce and a tag of its own. */
import {
  type Aead,
  nativeAead,
  nativeFreeAead,
  NONCE_BYTES,
  TAG_BYTES
} from '../../src/seal/aead.ts'
import { blocksOf, type Kernel, type Prepared, seededPayload } from '../kernel.ts'

const KEY_BYTES = 32
/** Format, family, block address and version, as the product binds them. */
const ADDITIONAL_BYTES = 32

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

const sealOf =
  (aead: Aead): SealBlock =>
  (cipher, tag, plain, nonce, { key, additional }) =>
    aead.seal(key, nonce, additional, plain, cipher, tag)

const openOf =
  (aead: Aead): OpenBlock =>
  (plain, tag, cipher, nonce, { key, additional }) => {
    if (!aead.open(key, nonce, additional, cipher, tag, plain)) throw new Error('a tag is wrong')
  }

function native(): Aead {
  if (nativeAead === null) throw new Error('sodium-native does not load here')
  return nativeAead
}

export const seal: Kernel = {
  name: 'seal',
  what: 'XChaCha20-Poly1305 of every 4 KiB block',
  variants: [
    {
      name: '@noble/ciphers',
      native: false,
      prepare: async (payload) => preparedSeal(payload, sealOf(nativeFreeAead))
    },
    {
      name: 'sodium-native',
      native: true,
      prepare: async (payload) => preparedSeal(payload, sealOf(native()))
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
      prepare: async (payload) =>
        preparedOpen(payload, sealOf(nativeFreeAead), openOf(nativeFreeAead))
    },
    {
      name: 'sodium-native',
      native: true,
      prepare: async (payload) => preparedOpen(payload, sealOf(native()), openOf(native()))
    }
  ]
}
