import { crc32c } from '../core/checksum.ts'
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { DamageList } from './damage-list.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { Files } from './files.ts'
import { pageAlignedBuffer } from './memory.ts'
import type { ShardOp } from './op.ts'
import { LOCATION_END, type RunList } from './run-list.ts'
import { SegmentState, type Segments } from './segments.ts'

export interface ReadDamageParts {
  readonly files: Files
  readonly segments: Segments
  readonly index: ExtentIndex
  readonly damage: DamageList
}

/**
 * Of a read that found damage: lists each block that is damaged, under the layer that it is
 * read from, as a scrub would. Who reads knows only the layer that it asked for, which may stand on
 * thousands of others, and of the range only that something in it is bad.
 */
export class ReadDamage {
  private readonly parts: ReadDamageParts
  private buffer: Buffer | null = null

  constructor(parts: ReadDamageParts) {
    this.parts = parts
  }

  /** `runs` are those of the read, of what `layer` reads as or, `isAlone`, has itself. */
  note(op: Readonly<ShardOp>, layer: number, runs: RunList, isAlone: boolean): void {
    const { chunk } = op
    const add = (block: number): void => {
      const { index, damage } = this.parts
      const from = isAlone ? layer : index.layerShown(layer, chunk, block)
      damage.add(index.layerKey(from), chunk, block)
    }
    // Its checksum may be right: then somebody changed both.
    if (op.error === ErrorCode.SealBroken) add(op.resultA)
    if (op.error !== ErrorCode.ChecksumMismatch) return
    for (let run = 0; run < runs.length; run++) {
      const location = runs.locations[run]!
      if (location >= LOCATION_END) continue
      const first = runs.firsts[run]!
      for (let i = 0; i < runs.counts[run]!; i++) {
        const block = first + i
        if (!this.isGood(location + i, runs.crcs[block - op.firstBlock]!)) add(block)
      }
    }
  }

  private isGood(location: number, crc: number): boolean {
    const { files, segments } = this.parts
    const segment = segments.get(location >>> segments.pageShift)
    if (segment === null || segment.state === SegmentState.Free) return false
    this.buffer ??= pageAlignedBuffer(BLOCK_BYTES)
    const at = segments.pageOf(location) * BLOCK_BYTES
    try {
      const got = files.read(segments.open(segment), at, this.buffer, 0, BLOCK_BYTES)
      return got === BLOCK_BYTES && crc32c(this.buffer) === crc
    } catch (thrown) {
      storeErrorOf(thrown)
      return false
    }
  }
}
