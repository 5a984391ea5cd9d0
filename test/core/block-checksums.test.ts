import { deepStrictEqual, strictEqual } from 'node:assert'
import { randomFillSync } from 'node:crypto'
import { suite } from 'uvu'
import { BlockChecksums, SUMS_SCRATCH_BYTES } from '../../src/core/block-checksums.ts'
import { crc32c, crc32cOfWords } from '../../src/core/checksum.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { privateMemory, sharedMemory } from '../../src/core/wasm.ts'

const test = suite('block checksums')

const BLOCKS = 1100
const BYTES = 18 * 256 * 1024
const memories = [sharedMemory, privateMemory].map((make) => {
  const memory = make(BYTES + SUMS_SCRATCH_BYTES)
  const sums = new BlockChecksums(memory, BYTES)
  return { bytes: Buffer.from(memory.buffer, 0, BLOCKS * BLOCK_BYTES), sums }
})
const { bytes, sums } = memories[0]!
const blockOf = (from: Buffer, block: number): Buffer =>
  from.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
const runOf = (first: number, count: number, taker = sums): number[] => {
  const taken = new Uint32Array(count + 2).fill(7)
  taker.ofRun(first * BLOCK_BYTES, count, taken, 1)
  strictEqual(taken[0], 7)
  strictEqual(taken[count + 1], 7)
  return [...taken.subarray(1, count + 1)]
}
const expected = (first: number, count: number, from = bytes): number[] =>
  Array.from({ length: count }, (_, i) => crc32c(blockOf(from, first + i)))

test('each of any number of blocks has the CRC-32C that the native package takes', () => {
  for (const { bytes, sums } of memories) {
    randomFillSync(bytes)
    for (const count of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 256, 1024, 1026]) {
      deepStrictEqual(runOf(3, count, sums), expected(3, count, bytes), `${count} blocks`)
    }
  }
})

test('the table algorithm in JavaScript, which shares no code with either, agrees', () => {
  randomFillSync(bytes)
  const view = new DataView(bytes.buffer)
  const words = BLOCK_BYTES / 4
  const tabled = [0, 1, 2, 3].map((block) => crc32cOfWords(view, block * BLOCK_BYTES, words))
  deepStrictEqual(runOf(0, 4), tabled)
})

test('zeroes and ones have the sums that iSCSI gives them', () => {
  bytes.fill(0, 0, 2 * BLOCK_BYTES)
  bytes.fill(0xff, 2 * BLOCK_BYTES, 4 * BLOCK_BYTES)
  deepStrictEqual(runOf(0, 4), [0x98f9_4189, 0x98f9_4189, 0x25c1_fe13, 0x25c1_fe13])
})

test('a bit counts wherever it stands, in its own block alone', () => {
  bytes.fill(0, 0, 8 * BLOCK_BYTES)
  for (let at = 0; at < 8 * BLOCK_BYTES; at += 61) {
    bytes[at] = 1 << (at % 8)
    deepStrictEqual(runOf(0, 8), expected(0, 8), `a bit at ${at}`)
    bytes[at] = 0
  }
})

test('blocks from anywhere, twice or in any order, are taken together', () => {
  randomFillSync(bytes)
  const blocks = [700, 3, 3, 12, 11, 1099, 0]
  const taken = Uint32Array.from(blocks, (block) => block * BLOCK_BYTES)
  sums.of(taken, 0, blocks.length)
  deepStrictEqual(
    [...taken],
    blocks.map((block) => crc32c(blockOf(bytes, block)))
  )
})

test.run()
