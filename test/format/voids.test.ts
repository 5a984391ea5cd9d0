import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { storeErrorOf } from '../../src/core/errors.ts'
import { decodeVoids, encodeVoids } from '../../src/format/voids.ts'
import { equalGolden, refusesFlips } from '../helpers/golden.ts'

const test = suite('voids')

test('a file of void versions has its golden bytes', () => {
  const file = {
    clusterId: '000102030405060708090a0b0c0d0e0f',
    peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    shard: 2,
    runs: [
      {
        familyHigh: 0xa0000001,
        familyLow: 2,
        layerHigh: 0xb0000003,
        layerLow: 4,
        chunk: 5,
        firstBlock: 6,
        blockCount: 7,
        writerEpoch: 9,
        sequence: 2 ** 39 + 10,
        floorEpoch: 8,
        floorSequence: 2 ** 33 + 11,
        lsn: 2 ** 34 + 12
      }
    ]
  }
  const bytes = encodeVoids(file)
  equalGolden(bytes, [
    '54564f49ce887aad0000000100000001',
    '000102030405060708090a0b0c0d0e0f',
    'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    '00000002000000000000000000000000',
    'a000000100000002b000000300000004',
    '00000005000600070000000900000008',
    '000000800000000a000000020000000b',
    '000000040000000c0000000000000000'
  ])
  assert.equal(decodeVoids(bytes, 'voids'), file)
  refusesFlips(bytes, bytes.length, (flipped) => {
    try {
      return decodeVoids(flipped, 'voids')
    } catch (thrown) {
      storeErrorOf(thrown)
      return null
    }
  })
})

test.run()
