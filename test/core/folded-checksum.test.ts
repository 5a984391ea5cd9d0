import { strictEqual } from 'node:assert'
import { randomFillSync } from 'node:crypto'
import { suite } from 'uvu'
import { crc32c } from '../../src/core/checksum.ts'
import { FOLD_SCRATCH_BYTES, FoldedChecksum } from '../../src/core/folded-checksum.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { sharedMemory } from '../../src/core/wasm.ts'

const test = suite('folded checksum')

const BLOCKS = 320
const memory = sharedMemory(BLOCKS * BLOCK_BYTES + FOLD_SCRATCH_BYTES)
const bytes = Buffer.from(memory.buffer, 0, BLOCKS * BLOCK_BYTES)
const folded = new FoldedChecksum(memory, bytes.length)
const viewOf = (first: number, count: number): Buffer =>
  bytes.subarray(first * BLOCK_BYTES, (first + count) * BLOCK_BYTES)

test('runs of any number of blocks have the CRC-32C that the native package takes', () => {
  randomFillSync(bytes)
  for (let count = 1; count <= 300; count += count < 40 ? 1 : 13) {
    const first = (count * 7) % (BLOCKS - count)
    strictEqual(folded.ofBlocks(first * BLOCK_BYTES, count), crc32c(viewOf(first, count)))
  }
})

test('zeroes, ones and single bits anywhere count', () => {
  bytes.fill(0)
  strictEqual(folded.ofBlocks(0, 16), crc32c(viewOf(0, 16)))
  for (let at = 0; at < 16 * BLOCK_BYTES; at += 331) {
    bytes[at] = 1 << (at % 8)
    strictEqual(folded.ofBlocks(0, 16), crc32c(viewOf(0, 16)), `a bit at ${at}`)
    bytes[at] = 0
  }
  bytes.fill(0xff)
  strictEqual(folded.ofBlocks(BLOCK_BYTES, 5), crc32c(viewOf(1, 5)))
})

test('what is behind the run, and the runs before it, do not count', () => {
  randomFillSync(bytes)
  const sum = folded.ofBlocks(0, 9)
  bytes.fill(1, 9 * BLOCK_BYTES)
  folded.ofBlocks(0, BLOCKS)
  strictEqual(folded.ofBlocks(0, 9), sum)
})

test('bytes of any length from anywhere, behind others, have the checksum of all of them', () => {
  randomFillSync(bytes)
  const before = crc32c(Buffer.from('before'))
  for (const length of [0, 1, 5_000, 16_384, 16_385, 65_536, 70_001, 1_048_576]) {
    for (const start of [0, 7, 4_096, 12_345]) {
      const part = bytes.subarray(start, start + length)
      strictEqual(folded.ofBytes(part), crc32c(part), `${length} bytes from ${start}`)
      strictEqual(folded.ofBytes(part, before), crc32c(part, before), 'behind others')
    }
  }
  const elsewhere = Buffer.from(bytes.subarray(0, 100_000))
  strictEqual(folded.ofBytes(elsewhere, before), crc32c(elsewhere, before))
})

test.run()
