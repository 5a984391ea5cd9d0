import { BatchHeader, decodeBatchHeader, peekHeaderPages } from '../../src/format/batch.ts'
import { PAGE_BYTES, viewOf } from '../../src/format/fields.ts'
import { decodeSegmentHeader, SegmentUse } from '../../src/format/segment.ts'
import type { FaultyFiles } from '../helpers/faulty-files.ts'

interface Batch {
  readonly name: string
  readonly firstPage: number
  readonly endPage: number
  readonly lsn: number
  readonly durableLsn: number
}

export interface PageOfFile {
  readonly name: string
  readonly page: number
}

/**
 * Payload pages of a shard, all or those below the mark that the disk has for certain. Above it
 * nothing tells damage from a torn tail, and recovery takes it for that: bits that flip there, with
 * the power lost at once and nobody else in sync, are data lost.
 */
export function payloadPages(files: FaultyFiles, isBelowMark: boolean): PageOfFile[] {
  const names = files.list()
  const batches = names.flatMap((name) => batchesOf(name, files.bytesOf(name)))
  const durable = names.flatMap((name) => batchesOf(name, files.durableBytesOf(name)))
  const mark = isBelowMark ? highest(durable) : Number.POSITIVE_INFINITY
  const pages: PageOfFile[] = []
  for (const { name, firstPage, endPage, lsn } of batches) {
    if (lsn > mark) continue
    for (let page = firstPage; page < endPage; page++) pages.push({ name, page })
  }
  return pages
}

const highest = (batches: readonly Batch[]): number =>
  Math.max(0, ...batches.map(({ durableLsn }) => durableLsn))

function batchesOf(name: string, bytes: Buffer): Batch[] {
  if (!name.startsWith('seg-')) return []
  const segment = bytes.length < PAGE_BYTES ? null : decodeSegmentHeader(bytes)
  if (segment === null || segment.use !== SegmentUse.Used) return []
  const view = viewOf(bytes)
  const header = new BatchHeader()
  const batches: Batch[] = []
  const { saltHigh, saltLow } = segment
  for (let page = 1; (page + 1) * PAGE_BYTES <= bytes.length; page++) {
    const at = page * PAGE_BYTES
    if (peekHeaderPages(view, at, { saltHigh, saltLow, page }) === 0) continue
    if (!decodeBatchHeader(bytes, view, at, header)) continue
    const firstPage = page + header.headerPages
    const endPage = firstPage + header.payloadPages
    batches.push({ name, firstPage, endPage, lsn: header.lsn, durableLsn: header.durableLsn })
  }
  return batches
}
