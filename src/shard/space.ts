/** Whether a shard may grow: capacity, the reserve, and compaction when either is near. */
import { storeErrorOf } from '../core/errors.ts'
import type { Compactor } from './compactor.ts'
import { OpKind, type ShardOp } from './op.ts'
import { SLICE_BLOCKS } from './segment-copy.ts'
import type { Segments } from './segments.ts'
import {
  COMPACTION_SEGMENTS,
  RESERVE_SEGMENTS,
  type ShardConfig,
  type ShardHost
} from './shard-config.ts'

/** One compaction slice for each of these written while compaction is behind: a copy a write. */
const PACE_BLOCKS = SLICE_BLOCKS
/** The same while space is short: copies run ahead of writes. */
const PACE_BLOCKS_PRESSED = SLICE_BLOCKS / 2

export class Space {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly compactor: Compactor
  /** Counts blocks of deleted layers dead; whether there are more. */
  private readonly reclaim: () => boolean
  private readonly segmentsMax: number
  private makingRoom = false
  /** Blocks written while space was short and compaction did not yet answer for. */
  private debtBlocks = 0

  constructor(
    config: ShardConfig,
    host: ShardHost,
    parts: { segments: Segments; compactor: Compactor; reclaim: () => boolean }
  ) {
    this.config = config
    this.host = host
    this.segments = parts.segments
    this.compactor = parts.compactor
    this.reclaim = parts.reclaim
    this.segmentsMax = Math.floor(config.capacityBytes / config.segmentBytes)
  }

  /**
   * May another segment begin: for data, or with the reserve for what gives space back. Compacts
   * first where that helps, which may take as long as a client has to wait then anyway.
   */
  mayRotate(forData: boolean): boolean {
    return this.findRoom(forData ? RESERVE_SEGMENTS : COMPACTION_SEGMENTS)
  }

  /**
   * The segment that is written to began for what gives space back. Data there would leave no room
   * for that: it may begin no other.
   */
  get isInReserve(): boolean {
    return this.segments.usedCount + RESERVE_SEGMENTS > this.segmentsMax
  }

  leaveReserve(): boolean {
    return this.findRoom(RESERVE_SEGMENTS - 1)
  }

  private findRoom(reserve: number): boolean {
    if (this.hasRoom(reserve)) return true
    if (this.makingRoom) return false
    this.makingRoom = true
    try {
      return this.makeRoom(reserve)
    } finally {
      this.makingRoom = false
    }
  }

  /** Whether another segment leaves `reserve` more to begin. */
  hasRoom(reserve: number): boolean {
    const { segments } = this
    if (segments.usedCount + 1 + reserve > this.segmentsMax) return false
    if (segments.freeCount > reserve) return true
    try {
      return this.host.files.freeBytes() >= (1 + reserve) * this.config.segmentBytes
    } catch (thrown) {
      storeErrorOf(thrown)
      return true // the write itself will tell
    }
  }

  /** Space is short: compaction takes its share of every call, however busy the shard is. */
  get isPressed(): boolean {
    const soft = Math.max(2, Math.floor(this.segmentsMax / 16))
    return this.segments.usedCount + RESERVE_SEGMENTS + soft >= this.segmentsMax
  }

  /** Lets compaction keep step with what was just written. */
  pace(ops: readonly ShardOp[], count: number): void {
    const pressed = this.isPressed
    if (!pressed && !this.compactor.isBehind) return
    const blocksPerSlice = pressed ? PACE_BLOCKS_PRESSED : PACE_BLOCKS
    for (let i = 0; i < count; i++) {
      if (ops[i]!.kind === OpKind.Write) this.debtBlocks += ops[i]!.blockCount
    }
    while (this.debtBlocks >= blocksPerSlice && this.compactor.step(pressed)) {
      this.debtBlocks -= blocksPerSlice
    }
    this.debtBlocks = Math.min(this.debtBlocks, blocksPerSlice)
  }

  private makeRoom(reserve: number): boolean {
    while (this.reclaim());
    // Each segment once, with a margin: what that does not gain, another round would not.
    const slices = 2 * Math.ceil(this.segments.pagesPerSegment / SLICE_BLOCKS) + 2
    let isSealed = false
    for (let left = 2 * this.segments.usedCount * slices; left > 0; left--) {
      if (!this.compactor.step(true)) {
        if (!this.compactor.isWaiting) {
          if (isSealed || !this.compactor.sealWasted()) return this.hasRoom(reserve)
          isSealed = true
          continue
        }
        const before = this.segments.usedCount
        this.settle()
        if (this.segments.usedCount >= before && !this.compactor.step(true)) return false
      }
      if (this.hasRoom(reserve)) return true
    }
    return false
  }

  /** Waits for what compaction waits for. */
  private settle(): void {
    const { tracker } = this.host
    tracker.syncNow() // copies become durable,
    this.compactor.drain() // free headers are written,
    tracker.syncNow() // become durable,
    this.compactor.drain() // and the segments are free
  }
}
