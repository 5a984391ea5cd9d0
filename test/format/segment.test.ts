import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  decodeFooter,
  decodeSegmentHeader,
  decodeTrailer,
  encodeSegmentHeader,
  encodeTrailer,
  isFooterStart,
  SegmentUse,
  sealFooter
} from '../../src/format/segment.ts'
import { viewOf } from '../../src/format/fields.ts'
import { equalGolden, refusesFlips } from '../helpers/golden.ts'

const test = suite('segment')

const life = { saltHigh: 0x11223344, saltLow: 0x55667788 }
const header = {
  ...life,
  use: SegmentUse.Used,
  clusterId: '000102030405060708090a0b0c0d0e0f',
  peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
  shard: 2,
  slot: 7,
  segmentBytes: 134217728,
  firstLsn: 2 ** 33 + 1,
  birth: 9
}

test('a segment header has its golden bytes', () => {
  const bytes = encodeSegmentHeader(header)
  equalGolden(bytes, [
    '54534547c272b75a0000000100000001',
    '000102030405060708090a0b0c0d0e0f',
    'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    '00000002000000070800000000000000',
    '11223344556677880000000200000001',
    '0000000000000009'
  ])
  assert.equal(decodeSegmentHeader(bytes), header)
  refusesFlips(bytes, 96, decodeSegmentHeader)
})

const footer = {
  ...life,
  firstLsn: 2 ** 33 + 1,
  lastLsn: 2 ** 33 + 5,
  durableLsn: 2 ** 33 + 3,
  oldestLsn: 1,
  endPage: 40,
  recordCount: 1,
  recordBytes: 56
}

test('a footer has its golden bytes', () => {
  const bytes = Buffer.alloc(4096)
  bytes.fill(0xab, 64, 64 + 56)
  sealFooter(bytes, footer)
  equalGolden(bytes, [
    '54465452fe359ec00000000100000028',
    '11223344556677880000000200000001',
    '00000002000000050000000200000003',
    '00000000000000010000000100000038',
    'abababababababababababababababab',
    'abababababababababababababababab',
    'abababababababababababababababab',
    'abababababababab'
  ])
  assert.equal(decodeFooter(bytes), footer)
  refusesFlips(bytes, 130, decodeFooter)
  assert.ok(isFooterStart(viewOf(bytes), 0, life))
  assert.not(isFooterStart(viewOf(bytes), 0, { ...life, saltLow: 1 }))
})

test('a trailer has its golden bytes', () => {
  const trailer = {
    ...life,
    footerPage: 40,
    footerPages: 1,
    lastLsn: 2 ** 33 + 5,
    durableLsn: 2 ** 33 + 3,
    oldestLsn: 1,
    hasTags: false
  }
  const bytes = encodeTrailer(trailer)
  equalGolden(bytes, [
    '5454524cbd2a67490000000100000028',
    '00000001000000001122334455667788',
    '00000002000000050000000200000003',
    '0000000000000001'
  ])
  assert.equal(decodeTrailer(bytes), trailer)
  refusesFlips(bytes, 56, decodeTrailer)
})

test.run()
