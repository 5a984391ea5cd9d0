/**
 * Somebody with the disk in hand: finds blocks in the files of a shard, puts them elsewhere, and
 * makes every checksum right again. They have no key.
 */
import { crc32c } from '../../src/core/checksum.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import {
  BATCH_PREFIX_BYTES,
  BatchHeader,
  BlockRecord,
  decodeBatchHeader,
  getRecord,
  RecordType,
  SEAL_TAG_BYTES,
  tagsAtOf
} from '../../src/format/batch.ts'
import { PAGE_BYTES, viewOf } from '../../src/format/fields.ts'
import type { FaultyFiles } from './faulty-files.ts'

const AT_HEADER_CHECKSUM = 4

/** One block of one data record, where its parts stand in a file. */
export interface FoundBlock {
  readonly bytes: Buffer
  readonly header: { readonly at: number; readonly bytes: number }
  readonly recordAt: number
  readonly crcAt: number
  readonly tagAt: number
  readonly payloadAt: number
  readonly familyLow: number
  readonly layerLow: number
  readonly chunk: number
  readonly block: number
  readonly writerEpoch: number
  readonly sequence: number
}

/** Sealed blocks of all batches, of whichever life of a segment, in the order of the files. */
export function findBlocks(files: FaultyFiles): FoundBlock[] {
  const found: FoundBlock[] = []
  const header = new BatchHeader()
  for (const name of files.list().sort()) {
    const bytes = files.bytesOf(name)
    const view = viewOf(bytes)
    for (let at = 0; at + PAGE_BYTES <= bytes.length; at += PAGE_BYTES) {
      if (decodeBatchHeader(bytes, view, at, header)) found.push(...blocksOf(bytes, at, header))
    }
  }
  return found
}

function* blocksOf(bytes: Buffer, at: number, header: BatchHeader): Generator<FoundBlock> {
  const view = viewOf(bytes)
  const record = new BlockRecord()
  const end = at + BATCH_PREFIX_BYTES + header.recordBytes
  const headerBytes = header.headerPages * PAGE_BYTES
  let payloadAt = at + headerBytes
  for (let next = at + BATCH_PREFIX_BYTES; next < end; ) {
    const recordAt = next
    next = getRecord(view, next, end, record)
    if (next <= 0) throw new Error('a batch holds records')
    if (record.type !== RecordType.Data) continue
    for (let i = 0; i < record.blockCount; i++, payloadAt += BLOCK_BYTES) {
      const { familyLow, layerLow, chunk, writerEpoch, sequence } = record
      yield {
        ...{ bytes, recordAt, payloadAt, familyLow, layerLow, chunk, writerEpoch, sequence },
        header: { at, bytes: headerBytes },
        crcAt: record.checksumsAt + 4 * i,
        tagAt: tagsAtOf(record) + SEAL_TAG_BYTES * i,
        block: record.firstBlock + i
      }
    }
  }
}

/** Each block, with its checksum and tag, where the other is. */
export function swapBlocks(a: FoundBlock, b: FoundBlock): void {
  swap(a.bytes, a.payloadAt, b.bytes, b.payloadAt, BLOCK_BYTES)
  swap(a.bytes, a.crcAt, b.bytes, b.crcAt, 4)
  swap(a.bytes, a.tagAt, b.bytes, b.tagAt, SEAL_TAG_BYTES)
  for (const { bytes, header } of [a, b]) fixHeader(bytes, header)
}

const fieldsOfRecord = {
  family: [8, 8],
  layer: [16, 8],
  chunk: [4, 4],
  'first block': [24, 2]
} as const

export type RecordField = keyof typeof fieldsOfRecord

/** The whole records, versions and all, say of the other's place that it is theirs. */
export function swapField(field: RecordField, a: FoundBlock, b: FoundBlock): void {
  const [at, length] = fieldsOfRecord[field]
  swap(a.bytes, a.recordAt + at, b.bytes, b.recordAt + at, length)
  for (const { bytes, header } of [a, b]) fixHeader(bytes, header)
}

function swap(a: Buffer, aAt: number, b: Buffer, bAt: number, length: number): void {
  const kept = Buffer.from(a.subarray(aAt, aAt + length))
  b.copy(a, aAt, bAt, bAt + length)
  kept.copy(b, bAt)
}

function fixHeader(bytes: Buffer, { at, bytes: length }: FoundBlock['header']): void {
  const sum = crc32c(bytes.subarray(at + AT_HEADER_CHECKSUM + 4, at + length))
  bytes.writeUInt32BE(sum >>> 0, at + AT_HEADER_CHECKSUM)
}
