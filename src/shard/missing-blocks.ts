/** Blocks whose segment file is not there any more: named for who may have them elsewhere. */
import type { DamageList } from './damage-list.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { Segments } from './segments.ts'

export interface MissingParts {
  readonly segments: Segments
  readonly index: ExtentIndex
  readonly damage: DamageList
}

/** Walks the index where there may be any. Returns how many. */
export function listMissing({ segments, index, damage }: MissingParts): number {
  for (const slot of segments.missing.keys()) {
    segments.missing.set(slot, 0)
    if (segments.live[slot] === 0) continue
    let blocks = 0
    const [start, end] = [segments.locationOf(slot, 0), segments.locationOf(slot + 1, 0)]
    index.forEachWithin(start, end, (layer, chunk, first, count) => {
      const key = index.layerKey(layer)
      for (let block = first; block < first + count; block++) damage.add(key, chunk, block)
      blocks += count
    })
    segments.missing.set(slot, blocks)
  }
  return segments.missingBlocks
}
