import { strictEqual, throws } from 'node:assert'
import { test } from 'uvu'
import {
  BLOCK_BYTES,
  BlockModel,
  fillBlock,
  stampOf,
  ZERO_STAMP
} from '../../scripts/torture/block-model.ts'
import { checkBlocks } from '../../scripts/torture/load.ts'

const WORDS = BLOCK_BYTES / 4

function write(model: BlockModel, block: number, acknowledged: boolean, fua = false): number {
  const stamp = model.issue(block, 1, false)
  if (acknowledged) model.acknowledge(block, 1, fua, stamp)
  return stamp
}

test('a block tells whose write it holds, and a torn or misplaced one is found', () => {
  const words = new Int32Array(WORDS)
  strictEqual(stampOf(words, 0, 9), ZERO_STAMP)
  fillBlock(words, 0, 9, 5)
  strictEqual(stampOf(words, 0, 9), 5)
  throws(() => stampOf(words, 0, 8), /block 8 is torn/)
  const other = new Int32Array(WORDS)
  fillBlock(other, 0, 9, 6)
  words.set(other.subarray(WORDS / 2), WORDS / 2)
  throws(() => stampOf(words, 0, 9), /write 5, but from byte 2052 on block 9 of 6/)
  words.fill(0, WORDS / 2)
  throws(() => stampOf(words, 0, 9), /torn/)
})

test('while the server runs, only the newest acknowledged write may be read', () => {
  const model = new BlockModel(4)
  const first = write(model, 1, true)
  strictEqual(model.checkRunning(1, first), '')
  const second = write(model, 1, true)
  strictEqual(model.checkRunning(1, second), '')
  strictEqual(model.checkRunning(1, first) === '', false)
  strictEqual(model.checkRunning(0, ZERO_STAMP), '')
  const unanswered = write(model, 1, false)
  strictEqual(model.checkRunning(1, unanswered), '')
  strictEqual(model.checkRunning(1, second), '')
})

test('after a crash nothing older than the last flush may come back', () => {
  const model = new BlockModel(4)
  const flushed = write(model, 1, true)
  const settle = model.beginFlush()
  const later = write(model, 1, true)
  settle()
  strictEqual(model.checkRecovered(0, ZERO_STAMP), '')
  strictEqual(model.checkRecovered(1, ZERO_STAMP) === '', false)
  strictEqual(model.checkRecovered(1, flushed), '')
  strictEqual(model.checkRecovered(1, later) === '', false, 'it was read as lost once')
})

test('a write that nobody flushed may be there or not, but a write with FUA must', () => {
  const model = new BlockModel(4)
  const unanswered = write(model, 2, false)
  strictEqual(model.checkRecovered(2, unanswered), '')
  const forced = write(model, 3, true, true)
  strictEqual(model.checkRecovered(3, ZERO_STAMP) === '', false)
  strictEqual(model.checkRecovered(3, forced), '')
})

test('a flush covers nothing that was not answered before it was sent', () => {
  const model = new BlockModel(4)
  model.issue(1, 1, false)
  const settle = model.beginFlush()
  model.acknowledge(1, 1, false, 2)
  settle()
  strictEqual(model.checkRecovered(1, ZERO_STAMP), '')
})

test('blocks of a read are checked one by one', () => {
  const model = new BlockModel(4)
  const bytes = Buffer.alloc(2 * BLOCK_BYTES)
  fillBlock(new Int32Array(bytes.buffer, bytes.byteOffset), WORDS, 2, 7)
  throws(
    () => checkBlocks(bytes, 1, (block, stamp) => model.checkRunning(block, stamp)),
    /block 2 holds write 7/
  )
})

test.run()
