import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { crc32c, crc32cOfWords } from '../../src/core/checksum.ts'
import {
  FRAME_HEADER_BYTES,
  FrameKind,
  type FrameOp,
  frameFreeBytes,
  frameJsonBytes,
  frameKind,
  framePayloadBytes,
  framePayloadCrc,
  frameRequestId,
  isFrameHeader,
  isPlainFrame,
  putAnswerFrame,
  putOpFrame,
  putPlainFrame,
  takeAnswerFrame,
  takeOpFrame
} from '../../src/format/peer-frames.ts'
import { viewOf } from '../../src/format/fields.ts'
import { equalGolden } from '../helpers/golden.ts'

const test = suite('peer frames')

const op: FrameOp = {
  flags: 4,
  familyHigh: 0x11121314,
  familyLow: 0x15161718,
  layerHigh: 0x21222324,
  layerLow: 0x25262728,
  chunk: 0xfffffffe,
  firstBlock: 1023,
  blockCount: 1,
  writerEpoch: 0x31323334,
  sequence: 0x41_42434445,
  fenceEpoch: 0xf1f2f3f4,
  pool: 0x5152,
  group: 0x6162,
  groupEpoch: 0x71727374
}

function frame(fill: (view: DataView) => void): { bytes: Buffer; view: DataView } {
  const bytes = Buffer.alloc(FRAME_HEADER_BYTES, 0xee)
  const view = viewOf(bytes)
  fill(view)
  return { bytes, view }
}

test('a request that is an op has these bytes', () => {
  const { bytes, view } = frame((at) => {
    putOpFrame(at, 0, FrameKind.Write, 0x81828384, op, 4096, 0x91929394)
  })
  equalGolden(bytes, [
    'd3f5a1d1020400418182838400001000',
    '91929394fffffffe1112131415161718',
    '212223242526272803ff000131323334',
    '42434445f1f2f3f45152616271727374'
  ])
  ok(isFrameHeader(view, 0))
  strictEqual(frameKind(view, 0), FrameKind.Write)
  strictEqual(frameRequestId(view, 0), 0x81828384)
  strictEqual(framePayloadBytes(view, 0), 4096)
  strictEqual(framePayloadCrc(view, 0), 0x91929394)
  const taken: FrameOp = { ...op, flags: 0, sequence: 0, chunk: 0, group: 0, fenceEpoch: 0 }
  takeOpFrame(view, 0, taken)
  deepStrictEqual(taken, op)
})

test('an answer has these bytes', () => {
  const result = { error: 4, resultA: 0x11121314, resultB: 0x21222324 }
  const { bytes, view } = frame((at) => {
    putAnswerFrame(at, 0, FrameKind.Answer, 7, result, 0x1_0000_0002, 33, 44, 0x51525354)
  })
  equalGolden(bytes, [
    '9e5df53220000000000000070000002c',
    '51525354000400001112131421222324',
    '00000001000000020000002100000000',
    '00000000000000000000000000000000'
  ])
  const taken = { error: 0, resultA: 0, resultB: 0 }
  ok(takeAnswerFrame(view, 0, taken))
  deepStrictEqual(taken, result)
  strictEqual(frameFreeBytes(view, 0), 0x1_0000_0002)
  strictEqual(frameJsonBytes(view, 0), 33)
})

test('a frame without fields has these bytes', () => {
  const { bytes, view } = frame((at) => putPlainFrame(at, 0, FrameKind.Ping, 9, 0, 0))
  equalGolden(bytes, [
    'f084fa11110000000000000900000000',
    '00000000000000000000000000000000',
    '00000000000000000000000000000000',
    '00000000000000000000000000000000'
  ])
  ok(isPlainFrame(view, 0))
})

test('a header with any one bit flipped is refused', () => {
  const { bytes } = frame((view) => putOpFrame(view, 0, FrameKind.Read, 1, op, 0, 0))
  for (let bit = 0; bit < FRAME_HEADER_BYTES * 8; bit++) {
    const flipped = Buffer.from(bytes)
    flipped[bit >> 3]! ^= 1 << (bit & 7)
    ok(!isFrameHeader(viewOf(flipped), 0), `bit ${bit}`)
  }
})

test('reserved bytes of an answer and of a plain frame are looked at', () => {
  const result = { error: 0, resultA: 0, resultB: 0 }
  for (const at of [5, 6, 7, 22, 23, 44, 63]) {
    const { bytes, view } = frame((made) => {
      putAnswerFrame(made, 0, FrameKind.Answer, 7, result, 1, 0, 0, 0)
    })
    bytes[at] = 1
    ok(!takeAnswerFrame(view, 0, result), `byte ${at}`)
  }
  for (const at of [5, 6, 20, 63]) {
    const { bytes, view } = frame((made) => putPlainFrame(made, 0, FrameKind.Ping, 7, 0, 0))
    bytes[at] = 1
    ok(!isPlainFrame(view, 0), `byte ${at}`)
  }
})

test('the sum of words is the checksum of their bytes', () => {
  const bytes = Buffer.alloc(256)
  for (let at = 0; at < bytes.length; at++) bytes[at] = (at * 167 + 13) & 0xff
  const view = viewOf(bytes)
  for (let words = 0; words <= 60; words++) {
    strictEqual(crc32cOfWords(view, 3, words), crc32c(bytes.subarray(3, 3 + words * 4)))
  }
})

test.run()
