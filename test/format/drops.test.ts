import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { storeErrorOf } from '../../src/core/errors.ts'
import { decodeDrops, encodeDrops } from '../../src/format/drops.ts'
import { equalGolden, refusesFlips } from '../helpers/golden.ts'

const test = suite('drops')

test('a file of chunks that were given back has its golden bytes', () => {
  const file = {
    clusterId: '000102030405060708090a0b0c0d0e0f',
    peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    shard: 2,
    runs: [
      {
        familyHigh: 0xa0000001,
        familyLow: 2,
        groups: 256,
        group: 7,
        from: 5,
        to: 0xffffffff,
        lsn: 2 ** 34 + 12
      }
    ]
  }
  const bytes = encodeDrops(file)
  equalGolden(bytes, [
    '544452507e3d83060000000100000001',
    '000102030405060708090a0b0c0d0e0f',
    'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    '00000002000000000000000000000000',
    'a0000001000000020000010000000007',
    '00000005ffffffff000000040000000c',
    '0000000000000000'
  ])
  assert.equal(decodeDrops(bytes, 'drops'), file)
  refusesFlips(bytes, bytes.length, (flipped) => {
    try {
      return decodeDrops(flipped, 'drops')
    } catch (thrown) {
      storeErrorOf(thrown)
      return null
    }
  })
})

test.run()
