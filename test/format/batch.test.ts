import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  BATCH_PREFIX_BYTES,
  BatchHeader,
  BlockRecord,
  dataRecordBytes,
  decodeBatchHeader,
  getRecord,
  peekHeaderPages,
  RECORD_PREFIX_BYTES,
  RecordType,
  SEAL_TAG_BYTES,
  sealBatchHeader,
  setRecord,
  tagsAtOf
} from '../../src/format/batch.ts'
import { viewOf } from '../../src/format/fields.ts'
import { equalGolden, refusesFlips } from '../helpers/golden.ts'

const test = suite('batch')

const life = { saltHigh: 0x11223344, saltLow: 0x55667788 }

function goldenBatch(): Buffer {
  const bytes = Buffer.alloc(4096, 0xee)
  const view = viewOf(bytes)
  const record = Object.assign(new BlockRecord(), {
    type: RecordType.Data,
    chunk: 6,
    familyHigh: 0xa1a2a3a4,
    familyLow: 0xa5a6a7a8,
    layerHigh: 0xb1b2b3b4,
    layerLow: 0xb5b6b7b8,
    firstBlock: 1020,
    blockCount: 2,
    writerEpoch: 77,
    sequence: 2 ** 39 + 1
  })
  setRecord(view, BATCH_PREFIX_BYTES, record)
  view.setUint32(128, 0xc0c1c2c3)
  view.setUint32(132, 0xd0d1d2d3)
  Object.assign(record, { type: RecordType.Trim, originLsn: 12, blockCount: 4 })
  setRecord(view, BATCH_PREFIX_BYTES + dataRecordBytes(2, 0), record)
  const header = Object.assign(new BatchHeader(), {
    ...life,
    headerPages: 1,
    payloadPages: 2,
    recordCount: 2,
    recordBytes: dataRecordBytes(2, 0) + dataRecordBytes(0, 0),
    page: 3,
    lsn: 2 ** 33 + 2,
    durableLsn: 2 ** 33
  })
  sealBatchHeader(bytes, view, 0, header)
  return bytes
}

test('a batch header with its records has its golden bytes', () => {
  equalGolden(goldenBatch(), [
    '54424154e76cf0650001000100000002',
    '00000002000000681122334455667788',
    '00000003000000000000000200000002',
    '00000002000000000000000000000000',
    '00000000000000000000000000000000',
    '0100000000000006a1a2a3a4a5a6a7a8',
    'b1b2b3b4b5b6b7b803fc00020000004d',
    '00000080000000010000000000000000',
    'c0c1c2c3d0d1d2d30200000000000006',
    'a1a2a3a4a5a6a7a8b1b2b3b4b5b6b7b8',
    '03fc00040000004d0000008000000001',
    '000000000000000c'
  ])
})

test('a record of sealed blocks has its tags behind the checksums', () => {
  const bytes = Buffer.alloc(RECORD_PREFIX_BYTES + 2 * (4 + SEAL_TAG_BYTES))
  const view = viewOf(bytes)
  const record = Object.assign(new BlockRecord(), {
    type: RecordType.Data,
    tagBytes: SEAL_TAG_BYTES,
    chunk: 6,
    familyHigh: 0xa1a2a3a4,
    familyLow: 0xa5a6a7a8,
    layerHigh: 0xb1b2b3b4,
    layerLow: 0xb5b6b7b8,
    firstBlock: 1020,
    blockCount: 2,
    writerEpoch: 77,
    sequence: 5
  })
  setRecord(view, 0, record)
  view.setUint32(48, 0xc0c1c2c3)
  view.setUint32(52, 0xd0d1d2d3)
  bytes.fill(0xe1, 56, 72).fill(0xe2, 72)
  equalGolden(bytes, [
    '0100001000000006a1a2a3a4a5a6a7a8',
    'b1b2b3b4b5b6b7b803fc00020000004d',
    '00000000000000050000000000000000',
    'c0c1c2c3d0d1d2d3e1e1e1e1e1e1e1e1',
    'e1e1e1e1e1e1e1e1e2e2e2e2e2e2e2e2',
    'e2e2e2e2e2e2e2e2'
  ])
  const read = new BlockRecord()
  assert.is(getRecord(view, 0, bytes.length, read), bytes.length)
  assert.is(read.tagBytes, SEAL_TAG_BYTES)
  assert.is(tagsAtOf(read), 56)
  assert.is(dataRecordBytes(2, SEAL_TAG_BYTES), bytes.length)
  assert.is(getRecord(view, 0, bytes.length - 1, read), -1)
})

test('header and records are read back as they were written', () => {
  const bytes = goldenBatch()
  const view = viewOf(bytes)
  const header = new BatchHeader()
  assert.ok(decodeBatchHeader(bytes, view, 0, header))
  assert.is(header.lsn, 2 ** 33 + 2)
  assert.is(header.durableLsn, 2 ** 33)
  assert.is(header.page, 3)
  const record = new BlockRecord()
  const end = BATCH_PREFIX_BYTES + header.recordBytes
  const second = getRecord(view, BATCH_PREFIX_BYTES, end, record)
  assert.is(record.sequence, 2 ** 39 + 1)
  assert.is(record.checksumsAt, 128)
  assert.is(getRecord(view, second, end, record), end)
  assert.is(record.type, RecordType.Trim)
  assert.is(record.originLsn, 12)
  assert.is(getRecord(view, end, end, record), -1)
})

test('a header verifies only as a whole, and only in its own life and place', () => {
  const bytes = goldenBatch()
  refusesFlips(bytes, 200, (flipped) =>
    decodeBatchHeader(flipped, viewOf(flipped), 0, new BatchHeader()) ? true : null
  )
  const view = viewOf(bytes)
  assert.is(peekHeaderPages(view, 0, { ...life, page: 3 }), 1)
  assert.is(peekHeaderPages(view, 0, { ...life, page: 4 }), 0)
  assert.is(peekHeaderPages(view, 0, { ...life, saltLow: 1, page: 3 }), 0)
})

test('records that make no sense are refused', () => {
  const refused = (change: Partial<BlockRecord>): void => {
    const bytes = Buffer.alloc(256)
    const view = viewOf(bytes)
    const record = Object.assign(new BlockRecord(), { type: 1, blockCount: 1 }, change)
    setRecord(view, 0, record)
    assert.is(getRecord(view, 0, 200, new BlockRecord()), -1, JSON.stringify(change))
  }
  refused({ type: 0 })
  refused({ type: 9 })
  refused({ blockCount: 0 })
  refused({ blockCount: 100 })
  refused({ firstBlock: 1023, blockCount: 2 })
  refused({ sequence: 2 ** 40 })
  refused({ flags: 1 })
  refused({ tagBytes: 15 })
  refused({ tagBytes: 32 })
  refused({ tagBytes: 16, blockCount: 8 })
  refused({ tagBytes: 16, type: RecordType.Trim })
  refused({ type: RecordType.DeleteLayer, blockCount: 1 })
})

test.run()
