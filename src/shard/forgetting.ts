/** Carries out what takes versions and chunks out of the shard by files beside the segments. */
import type { Appender } from './appender.ts'
import type { CheckpointWriter } from './checkpoint-writer.ts'
import type { Compactor } from './compactor.ts'
import type { Drops } from './drops.ts'
import type { ExtentIndex } from './extent-index.ts'
import { OpKind, type ShardOp } from './op.ts'
import type { Segments } from './segments.ts'
import type { Voids } from './voids.ts'

export interface ForgettingParts {
  readonly voids: Voids
  readonly drops: Drops
  readonly index: ExtentIndex
  readonly segments: Segments
  readonly appender: Appender
  readonly checkpoint: CheckpointWriter
  readonly compactor: Compactor
}

export const isForgetting = (kind: number): boolean =>
  kind === OpKind.Void || kind === OpKind.DropChunks

export class Forgetting {
  private readonly parts: ForgettingParts
  /** Checkpoints and segments when it was last looked at what is of no use any more. */
  private seen = ''

  constructor(parts: ForgettingParts) {
    this.parts = parts
  }

  /** Why the shard may take no more, '' while it may. */
  get failure(): string {
    return this.parts.drops.failure?.message ?? ''
  }

  execute(op: ShardOp): void {
    const { voids, drops, index, segments, appender, compactor } = this.parts
    if (op.kind === OpKind.Void) voids.add(op, index, appender.nextLsn)
    else if (op.sequence > 0) drops.add(op, index, appender.nextLsn)
    // What nobody writes to any more would hold its last segments for ever.
    else if (segments.liveBlocks === 0) compactor.force()
  }

  /** Voids and drops whose records are all gone are forgotten. */
  step(): void {
    const { voids, drops, segments, checkpoint } = this.parts
    if (voids.count === 0 && drops.count === 0) return
    const seen = `${checkpoint.generation} ${segments.usedCount} ${segments.nextBirth}`
    if (seen === this.seen) return
    this.seen = seen
    const lsn = Math.min(checkpoint.coveredLsn, segments.oldestLsn(null))
    voids.forgetBelow(lsn)
    drops.forgetBelow(lsn)
  }
}
