import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { storeErrorOf } from '../../src/core/errors.ts'
import { decodeMerges, encodeMerges } from '../../src/format/merges.ts'
import { equalGolden, refusesFlips } from '../helpers/golden.ts'

const test = suite('merges')

test('a file of merged layers has its golden bytes', () => {
  const file = {
    clusterId: '000102030405060708090a0b0c0d0e0f',
    peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    shard: 2,
    runs: [
      {
        familyHigh: 0xa0000001,
        familyLow: 2,
        layerHigh: 0xb0000003,
        lowest: 77,
        highest: 0xff000005
      }
    ]
  }
  const bytes = encodeMerges(file)
  equalGolden(bytes, [
    '544d5247dbfe700f0000000100000001',
    '000102030405060708090a0b0c0d0e0f',
    'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    '00000002000000000000000000000000',
    'a000000100000002b00000030000004d',
    'ff00000500000000'
  ])
  assert.equal(decodeMerges(bytes, 'merges'), file)
  refusesFlips(bytes, bytes.length, (flipped) => {
    try {
      return decodeMerges(flipped, 'merges')
    } catch (thrown) {
      storeErrorOf(thrown)
      return null
    }
  })
})

test.run()
