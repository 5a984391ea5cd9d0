import { systemTimers, type Timers } from '../core/clock.ts'
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import { isBasedLayer } from '../core/layer-ids.ts'
import { shardOfChunk } from '../placement/hash.ts'
import { type BlockOp, OpKind, type ShardedStore } from './block-store.ts'

/** A branch of a family: all of its layers. */
interface Branch {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
}

interface Base extends Branch {
  readonly layerLow: number
}

/** On which layers branches begin: `Bases` of cluster/. */
export interface BranchBases {
  find(familyHigh: number, familyLow: number, layerHigh: number): Base | null | undefined
  /** @throws StoreError */
  fetch(familyHigh: number, familyLow: number, layerHigh: number): Promise<Base | null>
}

/** The metadata is away: asked again after, and so often. */
const RETRY_MS = 1000
const TRIES_MAX = 30

type Shards = Pick<
  ShardedStore,
  'acquireOp' | 'releaseOp' | 'submitTo' | 'readmit' | 'ring' | 'shardCount'
>

/**
 * Tells the shards of this process on which layers branches begin, when one says that it does not
 * know (BaseUnknown), and asks it again: first of all, and after its worker died (LAYERS.md).
 */
export class BaseTeacher {
  private readonly shards: Shards
  private readonly bases: BranchBases

  private readonly timers: Timers

  constructor(shards: Shards, bases: BranchBases, timers: Timers = systemTimers) {
    this.shards = shards
    this.bases = bases
    this.timers = timers
  }

  /** The op is about to go to its shard, and may come back without an answer. */
  watch(op: BlockOp): void {
    if (!isBasedLayer(op.layerLow)) return
    if (op.kind !== OpKind.Read && op.kind !== OpKind.BlockStatus) return
    op.onChanged = op.onDone
    op.onDone = this.done
  }

  /**
   * Is what the layer reads as made of the op's layer too? Not if that is not known: nobody reads
   * it here then.
   */
  isUnder(op: BlockOp, layer: Base): boolean {
    for (let at: Base | null = layer; at !== null && isBasedLayer(at.layerLow); ) {
      const base: Base | null = this.find(at) ?? null
      if (base !== null && isSameBranch(base, op) && op.layerLow <= base.layerLow) return true
      at = base
    }
    return false
  }

  private readonly done = (op: BlockOp): void => {
    op.onDone = op.onChanged
    if (op.error !== ErrorCode.BaseUnknown) op.onDone(op)
    else void this.teach(op)
  }

  private async teach(op: BlockOp): Promise<void> {
    const isKnown = await this.learn(op)
    const error = isKnown ? this.shards.readmit(op) : ErrorCode.Unavailable
    if (error !== ErrorCode.Ok) {
      op.error = error
      op.onDone(op)
      return
    }
    const shard = shardOfChunk(op.familyHigh, op.familyLow, op.chunk, this.shards.shardCount)
    // What is known may change while it is waited for: told is what is known now, all at once.
    const layer: Base = op
    for (let at: Base | null = layer; at !== null && isBasedLayer(at.layerLow); ) {
      const base: Base | null | undefined = this.find(at)
      if (base === undefined) break
      this.tell(shard, at, base)
      at = base
    }
    this.watch(op)
    this.shards.submitTo(shard, op)
    this.shards.ring()
  }

  /** Brings what the layer stands on; false: the metadata does not answer. */
  private async learn(layer: Base): Promise<boolean> {
    for (let at: Base | null = layer, tries = 0; at !== null && isBasedLayer(at.layerLow); ) {
      let base: Base | null | undefined = this.find(at)
      if (base === undefined) {
        if (tries++ === TRIES_MAX) return false
        base = await this.bases
          .fetch(at.familyHigh, at.familyLow, at.layerHigh)
          .catch((thrown: unknown) => this.waitAfter(thrown))
        if (base === undefined) continue
      }
      at = base
    }
    return true
  }

  private async waitAfter(thrown: unknown): Promise<undefined> {
    storeErrorOf(thrown)
    await new Promise<void>((resolve) => void this.timers.start(RETRY_MS, resolve))
    return undefined
  }

  private find({ familyHigh, familyLow, layerHigh }: Branch): Base | null | undefined {
    return this.bases.find(familyHigh, familyLow, layerHigh)
  }

  private tell(shard: number, branch: Branch, base: Base | null): void {
    const op = this.shards.acquireOp()
    fillSetBase(op, branch, base)
    op.onDone = (answered) => this.shards.releaseOp(answered)
    this.shards.submitTo(shard, op)
  }
}

/** The op tells a shard on which layer the branch begins. */
function fillSetBase(op: BlockOp, branch: Branch, base: Base | null): void {
  op.kind = OpKind.SetBase
  op.flags = 0
  op.familyHigh = branch.familyHigh
  op.familyLow = branch.familyLow
  op.layerHigh = branch.layerHigh
  op.layerLow = base?.layerLow ?? 0
  op.chunk = base?.familyHigh ?? 0
  op.firstBlock = 0
  op.blockCount = 0
  op.writerEpoch = base?.familyLow ?? 0
  op.sequence = base?.layerHigh ?? 0
  op.payload = 0
}

const isSameBranch = (one: Branch, other: Branch): boolean =>
  one.layerHigh === other.layerHigh &&
  one.familyLow === other.familyLow &&
  one.familyHigh === other.familyHigh
