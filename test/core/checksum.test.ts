import { deepStrictEqual, strictEqual } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { suite } from 'uvu'
import { crc32c, crc32cOfBlocks } from '../../src/core/checksum.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'

const test = suite('checksum')

test('crc32c is Castagnoli: the check value of its catalogue entry', () => {
  strictEqual(crc32c(Buffer.from('123456789')), 0xe3069283)
})

test('the checksum of blocks in a row follows from those of each', () => {
  const bytes = randomBytes(64 * BLOCK_BYTES)
  bytes.fill(0, 8 * BLOCK_BYTES, 11 * BLOCK_BYTES)
  bytes.fill(0xff, 20 * BLOCK_BYTES, 21 * BLOCK_BYTES)
  const block = (at: number): Buffer => bytes.subarray(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES)
  const crcs = Uint32Array.from({ length: 64 }, (_, at) => crc32c(block(at)))
  for (let first = 0; first < 64; first += 3) {
    for (let count = 1; first + count <= 64; count++) {
      const whole = bytes.subarray(first * BLOCK_BYTES, (first + count) * BLOCK_BYTES)
      strictEqual(crc32cOfBlocks(crcs, first, count), crc32c(whole), `${count} from ${first}`)
    }
  }
})

test('blocks that changed places do not have the checksum of the row', () => {
  const crcs = Uint32Array.from([1, 2, 3, 4], (seed) => crc32c(Buffer.alloc(BLOCK_BYTES, seed)))
  const swapped = Uint32Array.from([crcs[0]!, crcs[2]!, crcs[1]!, crcs[3]!])
  deepStrictEqual(crc32cOfBlocks(crcs, 0, 4) === crc32cOfBlocks(swapped, 0, 4), false)
})

test.run()
