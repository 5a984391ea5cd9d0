import { ok } from 'node:assert'
import {
  BATCH_PREFIX_BYTES,
  BatchHeader,
  BlockRecord,
  decodeBatchHeader,
  getRecord,
  RecordType
} from '../../src/format/batch.ts'
import { PAGE_BYTES, viewOf } from '../../src/format/fields.ts'

/** Records of data in the bytes of segments, whatever became of them. The record is used again. */
export function* dataRecordsIn(bytes: Buffer) {
  const view = viewOf(bytes)
  const header = new BatchHeader()
  const record = new BlockRecord()
  for (let page = 0; page + PAGE_BYTES <= bytes.length; page += PAGE_BYTES) {
    if (!decodeBatchHeader(bytes, view, page, header)) continue
    const end = page + BATCH_PREFIX_BYTES + header.recordBytes
    for (let at = page + BATCH_PREFIX_BYTES; at < end; ) {
      at = getRecord(view, at, end, record)
      ok(at > 0, 'a batch holds records')
      if (record.type === RecordType.Data) yield { record, bytes, view }
    }
  }
}
