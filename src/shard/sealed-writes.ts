/**
 * Seals blocks on their way to the files. The payload of a write stays as it is: should this thread
 * die over it, another one seals the same bytes under the same version once more, and comes to the
 * same ciphertext. Sealed in place, they would be sealed twice.
 */
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES, PIECE_BLOCKS_MAX } from '../core/limits.ts'
import { SEAL_TAG_BYTES } from '../format/batch.ts'
import { BlockSeal, tagViews } from '../seal/block-seal.ts'
import { BlockViews, SummedBlocks, type Summing } from './memory.ts'
import type { ShardOp } from './op.ts'

/** Sealed blocks of one batch: what a drained queue brings at most, and one op more. */
export const SEALED_BLOCKS_MAX = 2 * PIECE_BLOCKS_MAX

export class SealedWrites {
  private readonly blocks = new SummedBlocks(SEALED_BLOCKS_MAX)
  /** Ciphertext of the present batch. */
  readonly memory: Buffer = this.blocks.bytes
  readonly sums: Summing = this.blocks.sums
  private readonly views = new BlockViews(this.memory)
  readonly tags: Buffer = Buffer.from(new ArrayBuffer(SEALED_BLOCKS_MAX * SEAL_TAG_BYTES))
  private readonly tagOf = tagViews(this.tags, 0, SEALED_BLOCKS_MAX)
  private readonly tagWords = new Uint32Array(this.tags.buffer)
  private readonly seal = new BlockSeal()
  private used = 0

  /** A batch begins. */
  clear(): void {
    this.used = 0
  }

  /** Seals the op's blocks, which `plain` has views of. Returns the place of the first, whose tag
   * the op tells. */
  add(op: ShardOp, key: Buffer, plain: BlockViews): number {
    const { seal, used } = this
    assert(used + op.blockCount <= SEALED_BLOCKS_MAX, 'a batch was planned')
    seal.version(op.familyHigh, op.familyLow, op.writerEpoch, op.sequence)
    for (let i = 0; i < op.blockCount; i++) {
      const from = plain.at(op.payload + i * BLOCK_BYTES)
      const to = this.views.at((used + i) * BLOCK_BYTES)
      seal.seal(key, op.chunk, op.firstBlock + i, from, to, this.tagOf[used + i]!)
    }
    this.used = used + op.blockCount
    const { tagWords } = this
    op.tag0 = tagWords[4 * used]!
    op.tag1 = tagWords[4 * used + 1]!
    op.tag2 = tagWords[4 * used + 2]!
    op.tag3 = tagWords[4 * used + 3]!
    return used
  }
}
