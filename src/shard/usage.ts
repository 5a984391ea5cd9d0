/** What a shard uses: of its capacity, and for one layer or family. */
import { BLOCK_BYTES } from '../core/limits.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { ShardOp } from './op.ts'
import { SegmentState, type Segments } from './segments.ts'
import { shardStatIndex } from './stats.ts'

export function noteUsage(stats: Float64Array, segments: Segments, segmentBytes: number): void {
  stats[shardStatIndex.usedBytes] = segments.usedCount * segmentBytes
  stats[shardStatIndex.liveBytes] = segments.liveBlocks * BLOCK_BYTES
  let usedPages = 0
  for (const segment of segments.bySlot) {
    // The file of a free one is kept for the next: nothing in it waits for compaction.
    if (segment !== null && segment.state !== SegmentState.Free) usedPages += segment.endPage
  }
  stats[shardStatIndex.deadBytes] = Math.max(0, usedPages - segments.liveBlocks) * BLOCK_BYTES
  stats[shardStatIndex.segments] = segments.usedCount
  stats[shardStatIndex.segmentsFree] = segments.freeCount
}

/** Blocks of the op's layer, or of its family where it names none. */
export function usageOf(index: ExtentIndex, op: ShardOp): number {
  const { familyHigh, familyLow, layerHigh, layerLow } = op
  if (layerHigh === 0 && layerLow === 0) return index.familyBlocks(familyHigh, familyLow)
  return index.layerBlocks(familyHigh, familyLow, layerHigh, layerLow)
}
