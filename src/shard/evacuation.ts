/**
 * What a start does about a sync that failed before it: all that may be in the page cache only is
 * written again, to segments that begin now, and the files that it came from are removed.
 *
 * Nothing of these is freed before all of them are copied and the copies are durable: what one has
 * on disk may be superseded by what another has in the cache only. So it takes room, and waits for
 * that where the disk is full: the shard is read meanwhile, and takes no writes.
 */
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import type { Appender } from './appender.ts'
import type { Compactor } from './compactor.ts'
import { removeFailureMarker } from './failure-marker.ts'
import { type Segment, SegmentState, type Segments } from './segments.ts'
import type { ShardHost } from './shard-config.ts'

/** Pause after an attempt that found no room. */
const RETRY_MS = 1000
/** Copies become durable, free headers are written and become durable, segments are free. */
const SYNC_ROUNDS = 3

export class Evacuation {
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly appender: Appender
  private readonly compactor: Compactor
  private readonly victims: readonly Segment[]
  private readonly left: Segment[]
  private retryAtMs = 0

  /** `provenLsn`: up to there all is on disk. @throws StoreError */
  constructor(
    host: ShardHost,
    parts: {
      readonly segments: Segments
      readonly appender: Appender
      readonly compactor: Compactor
    },
    provenLsn: number
  ) {
    this.host = host
    this.segments = parts.segments
    this.appender = parts.appender
    this.compactor = parts.compactor
    this.appender.durableFloor = Math.min(this.appender.durableFloor, provenLsn)
    this.appender.durableCap = this.appender.durableFloor
    this.removeFree()
    this.victims = this.segments.used().filter(({ lastLsn }) => lastLsn > provenLsn)
    this.left = [...this.victims]
  }

  /** One slice: 'more' to do now, 'later' when there is no room, or 'done'. @throws StoreError */
  step(): 'more' | 'later' | 'done' {
    const { clock, tracker } = this.host
    if (clock.monotonicMs() < this.retryAtMs) return 'later'
    if (tracker.failure() !== '') throw new StoreError(ErrorCode.ShardFailed, tracker.failure())
    try {
      if (this.copySlice()) return 'more'
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      this.compactor.dropVictim()
      if (error.code !== ErrorCode.OutOfSpace) throw error
      this.retryAtMs = clock.monotonicMs() + RETRY_MS
      return 'later'
    }
    this.finish()
    return 'done'
  }

  /** Copies what is live in the next segment; false when none is left. */
  private copySlice(): boolean {
    const [victim] = this.left
    if (victim === undefined) return false
    if (!this.compactor.isCopying) this.compactor.begin(victim)
    this.compactor.copySlice()
    if (!this.compactor.isCopying) this.left.shift()
    return true
  }

  private finish(): void {
    const { tracker, files } = this.host
    for (let round = 0; round < SYNC_ROUNDS; round++) {
      tracker.syncNow()
      if (tracker.failure() !== '') throw new StoreError(ErrorCode.ShardFailed, tracker.failure())
      this.appender.durableCap = Number.POSITIVE_INFINITY
      this.compactor.drain()
    }
    for (const segment of this.victims) {
      const isThere = this.segments.get(segment.slot) === segment
      if (isThere && segment.state === SegmentState.Free) this.segments.remove(segment)
    }
    removeFailureMarker(files)
    this.appender.durableFloor = this.appender.nextLsn - 1
  }

  /**
   * A free header may be in the page cache only, like the rest. On the disk the segment is full
   * then, and what it holds would come back once no tombstone hides it.
   */
  private removeFree(): void {
    for (const segment of this.segments.bySlot) {
      if (segment?.state === SegmentState.Free) this.segments.remove(segment)
    }
    this.host.files.syncDirectory()
  }
}
