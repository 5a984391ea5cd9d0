import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  decodeCheckpointHeader,
  decodePieceHeader,
  encodeCheckpointHeader,
  isPieceWhole,
  PieceKind,
  sealPiece
} from '../../src/format/checkpoint.ts'
import { viewOf } from '../../src/format/fields.ts'
import { equalGolden, refusesFlips } from '../helpers/golden.ts'

const test = suite('checkpoint')

test('a checkpoint header has its golden bytes', () => {
  const header = {
    clusterId: '000102030405060708090a0b0c0d0e0f',
    peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    shard: 2,
    segmentBytes: 134217728,
    generation: 6,
    startLsn: 2 ** 33 + 9
  }
  const bytes = encodeCheckpointHeader(header)
  equalGolden(bytes, [
    '54434b5029c634e20000000100000002',
    '000102030405060708090a0b0c0d0e0f',
    'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    '08000000000000000000000000000006',
    '0000000200000009'
  ])
  assert.equal(decodeCheckpointHeader(bytes), header)
  refusesFlips(bytes, 80, decodeCheckpointHeader)
})

test('a piece has its golden bytes', () => {
  const bytes = Buffer.alloc(64, 0xee)
  bytes.fill(0xcd, 32, 48)
  const piece = { kind: PieceKind.End, bodyBytes: 16, generation: 6, number: 4 }
  sealPiece(bytes, viewOf(bytes), 0, piece)
  equalGolden(bytes, [
    '5443504353db19e60000000300000010',
    '00000000000000060000000000000004',
    'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',
    '00000000000000000000000000000000'
  ])
  assert.equal(decodePieceHeader(viewOf(bytes), 0), piece)
  refusesFlips(bytes, 48, (flipped) => {
    const view = viewOf(flipped)
    const found = decodePieceHeader(view, 0)
    return found !== null && isPieceWhole(flipped, view, 0, found) ? found : null
  })
})

test.run()
