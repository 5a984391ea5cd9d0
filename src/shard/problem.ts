import { hexOf } from './block-reader.ts'
import type { LayerKey } from './extent-index.ts'

/** What recovery, scrub or an offline check found wrong, by name. */
export interface Problem {
  readonly kind:
    | 'superblock'
    | 'checkpoint'
    | 'segmentHeader'
    | 'segmentMissing'
    | 'segmentShort'
    | 'footer'
    | 'batchHeader'
    | 'batchLost'
    | 'payload'
    | 'blocksLost'
    | 'foreignFile'
  /** File name, '' when it is not about one. */
  readonly file: string
  /** Byte offset in the file. */
  readonly offset: number
  readonly detail: string
  /** Names the first block that is concerned, where it is known. */
  readonly block?: BlockName
}

/** A block as operators and clients can find it: ids in hex, chunk and block as in the volume. */
export interface BlockName {
  readonly family: string
  readonly layer: string
  readonly chunk: number
  readonly block: number
}

export const blockName = (key: LayerKey, chunk: number, block: number): BlockName => ({
  family: hexOf(key.familyHigh, key.familyLow),
  layer: hexOf(key.layerHigh, key.layerLow),
  chunk,
  block
})
