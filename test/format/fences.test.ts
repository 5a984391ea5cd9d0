import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { storeErrorOf } from '../../src/core/errors.ts'
import { decodeFences, encodeFences, FenceKind } from '../../src/format/fences.ts'
import { equalGolden, refusesFlips } from '../helpers/golden.ts'

const test = suite('fences')

test('a file of fences has its golden bytes', () => {
  const file = {
    clusterId: '000102030405060708090a0b0c0d0e0f',
    peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    entries: [
      { kind: FenceKind.Family, high: 0xa0000001, low: 2, epoch: 3 },
      { kind: FenceKind.Group, high: 4, low: 5, epoch: 0xb0000006 }
    ]
  }
  const bytes = encodeFences(file)
  equalGolden(bytes, [
    '5446454ee73d1a2d0000000100000002',
    '000102030405060708090a0b0c0d0e0f',
    'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    '00000000000000000000000000000000',
    '00000001a00000010000000200000003',
    '000000020000000400000005b0000006'
  ])
  assert.equal(decodeFences(bytes, 'fences'), file)
  refusesFlips(bytes, bytes.length, (flipped) => {
    try {
      return decodeFences(flipped, 'fences')
    } catch (thrown) {
      storeErrorOf(thrown)
      return null
    }
  })
})

test.run()
