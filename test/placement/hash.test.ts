import { deepStrictEqual, ok } from 'node:assert/strict'
import { suite } from 'uvu'
import { chunkHash } from '../../src/placement/hash.ts'

const test = suite('chunk hash')

// Where bytes are stored follows from these: a change makes stored volumes unreadable.
test('hashes are what they always were', () => {
  deepStrictEqual(
    [
      chunkHash(0, 1, 0),
      chunkHash(0, 1, 1),
      chunkHash(1, 0, 0),
      chunkHash(0xfedcba98, 0x76543210, 0),
      chunkHash(0xffffffff, 0xffffffff, 0xffffffff)
    ],
    [0x4268a896, 0x09b74422, 0x97c755dc, 0xe26142c7, 0x25e854b9]
  )
})

test('neighbouring chunks of any family spread evenly over any number of shards', () => {
  for (const shards of [2, 3, 4, 7, 8, 64]) {
    for (const family of [1, 2, 0x80000000, 0xdeadbeef]) {
      const counts = new Array<number>(shards).fill(0)
      const chunks = shards * 1000
      for (let chunk = 0; chunk < chunks; chunk++) counts[chunkHash(family, 7, chunk) % shards]!++
      // Six standard deviations of 1,000 random draws.
      for (const count of counts) ok(Math.abs(count - 1000) < 200)
    }
  }
})

test.run()
