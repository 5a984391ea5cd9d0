import type { Edits } from './edits.ts'
import { RequestFlag, type VolumeRequest } from './request.ts'

/** A change that holds or awaits a range of its volume, see `RangeHolds`. Pooled. */
export class Edit {
  request: VolumeRequest | null = null
  edits: Edits | null = null
  /** Blocks that it holds, [firstBlock, endBlock). */
  firstBlock: number = 0
  endBlock: number = 0
  /** Bytes to keep at the start of the first block and at the end of the last one. */
  headBytes: number = 0
  tailBytes: number = 0

  /** Writes again what is there, see RequestFlag.Again. */
  get isAgain(): boolean {
    return (this.request!.flags & RequestFlag.Again) !== 0
  }
  get oneBlock(): boolean {
    return this.endBlock - this.firstBlock === 1
  }
  get readsFirst(): boolean {
    return this.headBytes > 0 || this.tailBytes > 0
  }

  /**
   * Scratch pages with the old first and last block, as offsets in the arena; -1 where that edge
   * needs none. `headPage` serves both edges of a change within one block.
   */
  headPage: number = -1
  tailPage: number = -1
  /** Its own ops that are still out: reads and writes of edges, pieces of trims and zeroes. */
  pending: number = 0
  /** Whole blocks of a trim or of zeroes that are still to be given out, [nextBlock, lastBlock). */
  nextBlock: number = 0
  lastBlock: number = 0
  /** Is it in RangeHolds? */
  held: boolean = false
  // Links of RangeHolds.
  older: Edit | null = null
  newer: Edit | null = null
  firstWaiter: Edit | null = null
  lastWaiter: Edit | null = null
  nextWaiter: Edit | null = null
}
