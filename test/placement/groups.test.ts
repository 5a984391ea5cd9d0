import { deepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import fc from 'fast-check'
import { suite } from 'uvu'
import { defaultGroupCount, isGroupCount, splitGroups } from '../../src/placement/groups.ts'
import { groupOfChunk, shardOfChunk } from '../../src/placement/hash.ts'

const test = suite('groups')
const u32 = fc.integer({ min: 0, max: 0xffffffff })

// Where bytes are stored follows from these: a change makes stored volumes unreadable.
test('groups of chunks are what they always were', () => {
  const groupsOf = (groups: number): number[] => [
    groupOfChunk(0, 1, 0, groups),
    groupOfChunk(0, 1, 1, groups),
    groupOfChunk(1, 0, 0, groups),
    groupOfChunk(0xfedcba98, 0x76543210, 0, groups),
    groupOfChunk(0xffffffff, 0xffffffff, 0xffffffff, groups)
  ]
  deepStrictEqual(groupsOf(65_536), GOLDEN)
  deepStrictEqual(
    groupsOf(256),
    GOLDEN.map((group) => group % 256)
  )
})
const GOLDEN = [41_219, 64_093, 3170, 19_754, 30_008]

test('splitting a pool sends a chunk of group g to g or to g + groups', () => {
  fc.assert(
    fc.property(u32, u32, u32, fc.integer({ min: 0, max: 15 }), (high, low, chunk, power) => {
      const groups = 2 ** power
      const before = groupOfChunk(high, low, chunk, groups)
      ok(before >= 0 && before < groups)
      const after = groupOfChunk(high, low, chunk, groups * 2)
      ok(after === before || after === before + groups)
    }),
    { seed: 1, numRuns: 2000 }
  )
})

test('a split pool has its data where they were', () => {
  const states = ['a', 'b', 'c', 'd']
  const split = splitGroups(states)
  for (let chunk = 0; chunk < 1000; chunk++) {
    strictEqual(split[groupOfChunk(7, 9, chunk, 8)], states[groupOfChunk(7, 9, chunk, 4)])
  }
})

/** Sum over cells of (count - expected)^2 / expected, in standard deviations from its mean. */
function chiSquareOf(counts: readonly number[], expected: number): number {
  const sum = counts.reduce((all, count) => all + (count - expected) ** 2 / expected, 0)
  const freedom = counts.length - 1
  return (sum - freedom) / Math.sqrt(2 * freedom)
}

test('chunks of a volume spread evenly over groups', () => {
  for (const groups of [2, 256, 4096]) {
    for (const family of [1, 2, 0x80000000, 0xdeadbeef]) {
      const counts = new Array<number>(groups).fill(0)
      for (let chunk = 0; chunk < groups * 64; chunk++) {
        counts[groupOfChunk(family, 7, chunk, groups)]!++
      }
      ok(Math.abs(chiSquareOf(counts, 64)) < 5, `${groups} groups`)
    }
  }
})

test('chunks of one group spread evenly over the shards of a peer, whatever their numbers', () => {
  for (const groups of [4, 256, 1024]) {
    for (const shards of [2, 3, 4, 8, 16, 64]) {
      const counts = new Array<number>(groups * shards).fill(0)
      const chunks = counts.length * 20
      for (let chunk = 0; chunk < chunks; chunk++) {
        const group = groupOfChunk(0x1234, 0x5678, chunk, groups)
        counts[group * shards + shardOfChunk(0x1234, 0x5678, chunk, shards)]!++
      }
      ok(Math.abs(chiSquareOf(counts, 20)) < 5, `${groups} groups, ${shards} shards`)
    }
  }
})

test('a pool has more groups the more peers it has', () => {
  strictEqual(defaultGroupCount(1, 1), 256)
  strictEqual(defaultGroupCount(10, 3), 256)
  strictEqual(defaultGroupCount(100, 3), 4096)
  strictEqual(defaultGroupCount(100, 6), 2048)
  strictEqual(defaultGroupCount(1000, 3), 32_768)
  strictEqual(defaultGroupCount(10_000, 3), 65_536)
  ok(isGroupCount(1) && isGroupCount(65_536))
  ok(![0, 3, 131_072, -2, 1.5].some(isGroupCount))
})

test.run()
