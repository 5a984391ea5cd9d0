import { deepStrictEqual, notStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import { type Aead, nativeAead, nativeFreeAead, TAG_BYTES } from '../../src/seal/aead.ts'
import { randomFamily, randomKinOf } from '../../src/core/family-ids.ts'
import { BlockSeal } from '../../src/seal/block-seal.ts'
import { seededRandom } from '../helpers/shard-rig.ts'

const BLOCK_BYTES = 4096
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const variants: readonly (readonly [string, Aead])[] = [
  ['JavaScript', nativeFreeAead],
  ...(nativeAead === null ? [] : [['sodium-native', nativeAead] as const])
]
const KEY = Buffer.alloc(32, 0x42)

// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
const plaintext = Buffer.from(
  "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, " +
    'sunscreen would be it.'
)
const draft = {
  additional: hex('50515253c0c1c2c3c4c5c6c7'),
  key: hex('808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f'),
  nonce: hex('404142434445464748494a4b4c4d4e4f5051525354555657'),
  cipher: hex(`
    bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb
    731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452
    2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
    21f9664c97637da9768812f615c68b13b52e`),
  tag: hex('c0875924c1c7987947deafd8780acf49')
}

for (const [name, aead] of variants) {
  test(`${name} answers as the vectors of the draft say`, () => {
    const { key, nonce, additional } = draft
    const shared = Buffer.from(new SharedArrayBuffer(plaintext.length + TAG_BYTES))
    const bytes = shared.subarray(0, plaintext.length)
    const tag = shared.subarray(plaintext.length)
    plaintext.copy(bytes)
    aead.seal(key, nonce, additional, bytes, bytes, tag)
    strictEqual(bytes.toString('hex'), draft.cipher.toString('hex'))
    strictEqual(tag.toString('hex'), draft.tag.toString('hex'))
    ok(aead.open(key, nonce, additional, bytes, tag, bytes))
    strictEqual(bytes.toString(), plaintext.toString())
  })

  test(`${name} opens nothing of which one bit is another`, () => {
    const { key, nonce, additional, cipher, tag } = draft
    const parts = { key, nonce, additional, cipher, tag }
    for (const part of Object.keys(parts) as (keyof typeof parts)[]) {
      for (let bit = 0; bit < parts[part].length * 8; bit += 7) {
        const changed = { ...parts, [part]: Buffer.from(parts[part]) }
        changed[part][bit >>> 3]! ^= 1 << (bit & 7)
        const into = Buffer.alloc(cipher.length)
        ok(
          !aead.open(
            changed.key,
            changed.nonce,
            changed.additional,
            changed.cipher,
            changed.tag,
            into
          ),
          `${part} bit ${bit}`
        )
      }
    }
  })
}

test('a sealed block has its golden bytes', () => {
  for (const [, aead] of variants) {
    const seal = new BlockSeal(aead)
    const bytes = Buffer.alloc(BLOCK_BYTES, 0x61)
    const tag = Buffer.alloc(TAG_BYTES)
    seal.version(0xa1a2a3a4, 0xa5a6a7a8, 77, 2 ** 39 + 1)
    seal.seal(KEY, 2 ** 30 - 1, 1023, bytes, bytes, tag)
    strictEqual(bytes.toString('hex', 0, 16), GOLDEN_START)
    strictEqual(tag.toString('hex'), GOLDEN_TAG)
  }
})

test('what one sealed the other opens', () => {
  const random = seededRandom(7)
  for (let round = 0; round < 40; round++) {
    const [sealing, opening] = [random.below(variants.length), random.below(variants.length)]
    const plain = Buffer.from(Array.from({ length: BLOCK_BYTES }, () => random.below(256)))
    const bytes = Buffer.from(plain)
    const tag = Buffer.alloc(TAG_BYTES)
    const version = [
      random.u32(),
      random.u32(),
      1 + random.below(9),
      random.below(2 ** 40)
    ] as const
    const [chunk, block] = [random.below(2 ** 30), random.below(1024)]
    const one = new BlockSeal(variants[sealing]![1])
    const other = new BlockSeal(variants[opening]![1])
    one.version(...version)
    one.seal(KEY, chunk, block, bytes, bytes, tag)
    notStrictEqual(bytes.toString('hex', 0, 32), plain.toString('hex', 0, 32))
    other.version(...version)
    ok(other.open(KEY, chunk, block, bytes, tag, bytes))
    ok(bytes.equals(plain))
  }
})

test('a block opens nowhere but where it was sealed, and as no other write', () => {
  const place = { high: 1, low: 2, epoch: 3, sequence: 2 ** 33 + 4, chunk: 5, block: 6 }
  const sealed = Buffer.alloc(BLOCK_BYTES, 7)
  const tag = Buffer.alloc(TAG_BYTES)
  const seal = new BlockSeal()
  seal.version(place.high, place.low, place.epoch, place.sequence)
  seal.seal(KEY, place.chunk, place.block, sealed, sealed, tag)
  const opens = (change: Partial<typeof place>): boolean => {
    const { high, low, epoch, sequence, chunk, block } = { ...place, ...change }
    seal.version(high, low, epoch, sequence)
    return seal.open(KEY, chunk, block, sealed, tag, Buffer.alloc(BLOCK_BYTES))
  }
  ok(opens({}))
  for (const change of [
    { high: 0 },
    { low: 3 },
    { epoch: 4 },
    { sequence: 4 },
    { sequence: 2 ** 33 + 5 },
    { chunk: 6 },
    { block: 7 }
  ]) {
    ok(!opens(change), JSON.stringify(change))
  }
})

test('nonces of different blocks and writes are different', () => {
  const nonces: string[] = []
  const recorded: Aead = {
    isNative: false,
    seal: (_key, nonce) => {
      nonces.push(nonce.toString('hex'))
    },
    open: () => true
  }
  const seal = new BlockSeal(recorded)
  const none = Buffer.alloc(0)
  // Neighbours of every bit that a field may carry into the next one.
  const near = (limit: number): number[] => {
    const values = new Set<number>([0, 1, limit - 1])
    for (let power = 2; power < limit; power *= 2) {
      for (const value of [power - 1, power]) if (value < limit) values.add(value)
    }
    return [...values]
  }
  const epochs = near(2 ** 32).filter((epoch) => epoch > 0)
  let count = 0
  for (const epoch of epochs) {
    for (const sequence of near(2 ** 40)) {
      seal.version(0, 0, epoch, sequence)
      for (const chunk of [0, 1, 2 ** 22 - 1, 2 ** 22, 2 ** 30]) {
        for (const block of [0, 1, 1023]) {
          seal.seal(KEY, chunk, block, none, none, none)
          count++
        }
      }
    }
  }
  strictEqual(new Set(nonces).size, count)
  deepStrictEqual(
    nonces.filter((nonce) => !nonce.endsWith('00000000')),
    []
  )
})

test('families that share a key have no nonce in common, nor a block', () => {
  const random = seededRandom(11)
  const nonces = new Set<string>()
  const recorded: Aead = {
    ...nativeFreeAead,
    seal: (key, nonce, additional, plain, cipher, tag) => {
      nonces.add(nonce.toString('hex'))
      nativeFreeAead.seal(key, nonce, additional, plain, cipher, tag)
    }
  }
  const seal = new BlockSeal(recorded)
  const origin = randomFamily(random)
  const kin = [origin, ...Array.from({ length: 20 }, () => randomKinOf(origin, random))]
  const sealed = kin.map(({ high, low }) => {
    // The worst case: each writes its first blocks under its first epoch.
    const bytes = Buffer.alloc(BLOCK_BYTES)
    const tag = Buffer.alloc(TAG_BYTES)
    seal.version(high, low, 1, 1)
    seal.seal(KEY, 0, 0, bytes, bytes, tag)
    return { bytes, tag }
  })
  strictEqual(nonces.size, kin.length)
  strictEqual(new Set(sealed.map(({ bytes }) => bytes.toString('hex', 0, 32))).size, kin.length)
  for (const [at, { bytes, tag }] of sealed.entries()) {
    for (const [as, { high, low }] of kin.entries()) {
      seal.version(high, low, 1, 1)
      strictEqual(seal.open(KEY, 0, 0, bytes, tag, Buffer.alloc(BLOCK_BYTES)), at === as)
    }
  }
})

const GOLDEN_START = '83fe8dcf9ac37873a29f9bdf19dad463'
const GOLDEN_TAG = 'd1739f9418f05d6dbbda11b517077ec0'

test.run()
