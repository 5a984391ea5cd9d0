/**
 * Gives space back: copies what is live in a segment to the active one and frees the segment.
 *
 *   pick a victim -> copy its records, slice by slice -> wait until the copies are durable
 *     -> write its free header -> wait until that is durable -> free
 *
 * Nothing of a victim is freed before everything that superseded its dead blocks is durable too,
 * nor while its header is what voids the remains of a failed write elsewhere (`mendFooters`).
 */
import { ErrorCode, type StoreError, storeErrorOf } from '../core/errors.ts'
import { RECORD_PREFIX_BYTES } from '../format/batch.ts'
import { PAGE_BYTES } from '../format/fields.ts'
import { SegmentUse } from '../format/segment.ts'
import type { Appender } from './appender.ts'
import type { CheckpointWriter } from './checkpoint-writer.ts'
import type { ExtentIndex } from './extent-index.ts'
import { SegmentCopy, type SegmentCopyParts } from './segment-copy.ts'
import { type Segment, SegmentState, type Segments } from './segments.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'

/** Compaction begins when more than this share of the pages in use holds nothing live … */
const WASTE_SHARE_START = 0.245
/** … and goes on until it is below this one. */
const WASTE_SHARE_STOP = 0.23
/** Above this one compaction is too slow for the writes. */
const WASTE_SHARE_BEHIND = 0.265
/** A victim gives back at least this share of a segment … */
const GARBAGE_SHARE_MIN = 0.1
/** … or this one when space is short or an operator asked. */
const GARBAGE_SHARE_MIN_PRESSED = 0.05
/** In the small segments of tests headers alone are more than that. */
const GARBAGE_PAGES_MIN = 3
/**
 * When space is short what was never used of a segment counts as well, because capacity goes by
 * whole segments and each restart leaves one half empty. Only where no more than this share is
 * kept: packing segments that are fuller would not end.
 */
const KEPT_SHARE_SPARSE = 3 / 8
/** Header and footer pages that a live block needs when it is packed well. */
const OVERHEAD_SHARE = 0.03
/** Pause after a failure: its cause may go away. */
const RETRY_MS = 1000
/** So long after the last segment began, up to so many times the usual free ones are kept. */
const KEEP_FREE_MS = 10_000
const BUSY_FREE_FACTOR = 8
/** Victims that wait for their copies to become durable at once. */
const DRAINING_MAX = 4

export class Compactor {
  private readonly host: ShardHost
  private readonly config: ShardConfig
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly appender: Appender
  private readonly checkpoint: CheckpointWriter
  private readonly copy: SegmentCopy
  private readonly hasRoom: (reserve: number) => boolean
  private victim: Segment | null = null
  private draining: { segment: Segment; waitLsn: number }[] = []
  private freeing: Segment[] = []
  private running = false
  /** Waste grows although compaction runs: writes have to share their time with it. */
  isBehind = false
  /** Everything born before this is compacted if it has garbage, because an operator asked. */
  private forcedBirth = 0
  private retryAtMs = 0

  constructor(config: ShardConfig, host: ShardHost, parts: SegmentCopyParts) {
    this.config = config
    this.host = host
    this.segments = parts.segments
    this.index = parts.index
    this.appender = parts.appender
    this.checkpoint = parts.checkpoint
    this.hasRoom = parts.hasRoom
    this.copy = new SegmentCopy(host, parts)
    if (config.holdHoles) this.releasedLsn = 0
  }

  /** Compacts everything that has garbage; what is active now is sealed for that. */
  force(): void {
    this.appender.seal()
    this.forcedBirth = this.segments.nextBirth
    const { stats } = this.host
    stats[shardStatIndex.compactionBytesDone] = 0
    stats[shardStatIndex.compactionBytesTotal] = this.segments.usedCount * this.config.segmentBytes
  }

  /**
   * Space is short, and nothing is left to compact but what is written to now, if that has garbage:
   * it is sealed and durable then. False: it has none.
   */
  sealWasted(): boolean {
    const { active } = this.appender
    const share = GARBAGE_SHARE_MIN_PRESSED * this.segments.pagesPerSegment
    const garbageMin = Math.max(GARBAGE_PAGES_MIN, share)
    if (active === null || this.garbagePages(active, false) <= garbageMin) return false
    this.appender.seal()
    this.host.tracker.syncNow()
    return true
  }

  /** Keep all tombstones above it: members that lack them may come back with something older. */
  set releasedLsn(lsn: number) {
    this.copy.releasedLsn = lsn
  }

  stop(): void {
    this.forcedBirth = 0
    this.running = false
  }

  get isForced(): boolean {
    return this.forcedBirth > 0
  }

  /** A slice. `pressed`: space is short, so that any gain is welcome. Returns: more to do now. */
  step(pressed: boolean): boolean {
    this.drain()
    this.takeEmptied()
    try {
      if (this.victim === null && !this.choose(pressed)) {
        this.host.stats[shardStatIndex.compactionActive] = this.isWaiting ? 1 : 0
        return false
      }
      this.host.stats[shardStatIndex.compactionActive] = 1
      this.copySlice()
    } catch (thrown) {
      this.leaveVictim(storeErrorOf(thrown))
      return false
    }
    return true
  }

  /** Segments are emptied and wait for a sync. */
  get isWaiting(): boolean {
    return this.draining.length > 0 || this.freeing.length > 0
  }

  /** Victims that nothing speaks against, without a wait: frees what has become durable. */
  drain(): void {
    const durable = this.appender.durableLsn()
    if (this.freeing.length > 0) {
      this.freeing = this.freeing.filter((segment) => {
        if (segment.freeLsn > durable) return true
        this.segments.setFree(segment)
        return false
      })
    }
    this.trimFree()
    if (this.draining.length === 0) return
    const ready = this.draining.filter(({ waitLsn }) => waitLsn <= durable)
    if (ready.length === 0) return
    this.draining = this.draining.filter(({ waitLsn }) => waitLsn > durable)
    for (const { segment } of ready) this.release(segment)
  }

  /**
   * Segments that overwrites left nothing live in need no copying: they go at once, whatever the
   * waste. Those with tombstones are compacted like others.
   */
  private takeEmptied(): void {
    const { emptied } = this.segments
    if (emptied.length === 0) return
    for (const slot of emptied.splice(0)) {
      const segment = this.segments.get(slot)
      if (segment === null || segment === this.victim || this.isDraining(segment)) continue
      const isEmpty = this.segments.live[slot] === 0 && segment.state === SegmentState.Sealed
      if (!isEmpty || segment.markRecords > 0 || !segment.marksCounted) continue
      this.draining.push({ segment, waitLsn: this.appender.nextLsn - 1 })
      this.host.tracker.requestSync()
    }
  }

  /** Share of pages in use that holds nothing live. */
  private wasteShare(): number {
    let pages = 0
    let waste = 0
    for (const segment of this.segments.bySlot) {
      if (segment === null || segment.state !== SegmentState.Sealed) continue
      if (this.isDraining(segment)) continue
      pages += segment.endPage
      waste += this.garbagePages(segment, false)
    }
    return pages === 0 ? 0 : waste / pages
  }

  /**
   * What compaction of the segment would give back, about. Tombstones are taken for live, but for
   * those of the oldest segment that every checkpoint knows: these can go.
   */
  private garbagePages(segment: Segment, isOldest: boolean): number {
    return segment.endPage - 1 - this.keptPages(segment, isOldest)
  }

  /** The same when space is short. */
  private gainPages(segment: Segment, isOldest: boolean): number {
    const { pagesPerSegment } = this.segments
    const kept = this.keptPages(segment, isOldest)
    const isSparse = kept <= KEPT_SHARE_SPARSE * pagesPerSegment
    return (isSparse ? pagesPerSegment : segment.endPage) - 1 - kept
  }

  /** Pages that copies of what is live in the segment take, about. */
  private keptPages(segment: Segment, isOldest: boolean): number {
    const { releasedLsn } = this.copy
    const keepsHoles = releasedLsn < segment.lastLsn || this.index.isLayered
    const marksCanGo = !keepsHoles && isOldest && segment.lastLsn < this.checkpoint.coveredLsn
    const markPages = marksCanGo ? 0 : (segment.markRecords * RECORD_PREFIX_BYTES) / PAGE_BYTES
    const livePages = this.segments.live[segment.slot]! * (1 + OVERHEAD_SHARE)
    return livePages + markPages
  }

  /**
   * Picks the segment that gives back most when space is short, else the one that gives back most
   * for what is copied, times its age: what was overwritten last will be soon, and is better left
   * to die. Of a model's writes, nine of ten to a tenth of the blocks, each took 0.94 copies, where
   * it took 1.43 of the segments with most garbage; of evenly spread ones 1.17 either way.
   * False when there is none worth it.
   */
  private choose(pressed: boolean): boolean {
    if (this.draining.length >= DRAINING_MAX) return false
    // The last segment is for one victim at a time: each gives back what its copies may take.
    if (this.isWaiting && !this.hasRoom(1)) return false
    if (this.retryAtMs > this.host.clock.monotonicMs()) return false
    const hurry = pressed || this.isForced
    if (!hurry && !this.isWasteful()) return false
    const share = hurry ? GARBAGE_SHARE_MIN_PRESSED : GARBAGE_SHARE_MIN
    const garbageMin = Math.max(GARBAGE_PAGES_MIN, share * this.segments.pagesPerSegment)
    const durable = this.appender.durableLsn()
    const used = this.segments.used()
    let best: Segment | null = null
    let bestWorth = 0
    for (const segment of used) {
      if (segment.state !== SegmentState.Sealed || segment.lastLsn > durable) continue
      if (segment.damaged && this.segments.live[segment.slot]! > 0) continue
      if (this.isDraining(segment)) continue
      if (this.isForced && !pressed && segment.birth >= this.forcedBirth) continue
      const isOldest = segment === used[0]
      const garbage = hurry
        ? this.gainPages(segment, isOldest)
        : this.garbagePages(segment, isOldest)
      if (garbage <= garbageMin) continue
      const worth = hurry ? garbage : this.worthOf(segment, garbage)
      if (worth <= bestWorth) continue
      best = segment
      bestWorth = worth
    }
    if (best === null) {
      this.stop()
      return false
    }
    this.begin(best)
    return true
  }

  private worthOf({ birth, slot }: Segment, garbage: number): number {
    const age = this.segments.nextBirth - birth
    return (garbage / (1 + this.segments.live[slot]!)) * age
  }

  private isWasteful(): boolean {
    const waste = this.wasteShare()
    this.isBehind = waste > WASTE_SHARE_BEHIND
    if (this.running) this.running = waste > WASTE_SHARE_STOP
    else this.running = waste > WASTE_SHARE_START
    return this.running
  }

  private isDraining(segment: Segment): boolean {
    return this.draining.some((one) => one.segment === segment)
  }

  /** Copies of it follow, by `copySlice`. */
  begin(victim: Segment): void {
    this.victim = victim
    this.copy.open(victim)
  }

  get isCopying(): boolean {
    return this.victim !== null
  }

  /** @throws StoreError when the disk fails, or no segment may begin: `dropVictim` then */
  copySlice(): void {
    if (this.copy.slice()) return
    const victim = this.victim!
    this.victim = null
    this.draining.push({ segment: victim, waitLsn: this.appender.nextLsn - 1 })
    this.host.stats[shardStatIndex.compactionBytesDone]! += this.config.segmentBytes
    this.host.tracker.requestSync()
    this.drain()
  }

  /** The copies are durable: the segment's records need not be found again. */
  private release(segment: Segment): void {
    if (this.segments.live[segment.slot]! > 0) {
      segment.damaged = true // blocks that could not be read keep it
      return
    }
    if (!this.appender.mendFooters(segment)) {
      this.draining.push({ segment, waitLsn: this.appender.nextLsn - 1 })
      return
    }
    try {
      this.segments.writeHeader(segment, SegmentUse.Free)
      segment.freeLsn = this.appender.appendEmpty()
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      this.host.log('warn', 'a segment could not be freed', { why: error.message })
      this.retryAtMs = this.host.clock.monotonicMs() + RETRY_MS
      return
    }
    segment.state = SegmentState.Freeing
    this.host.tracker.appended(this.segments.open(segment), segment.freeLsn)
    this.freeing.push(segment)
    this.host.stats[shardStatIndex.compactedSegments]!++
    this.host.tracker.requestSync()
  }

  /**
   * One file at a time, which takes milliseconds: a step. More are kept while segments come and
   * go, because to write one anew costs a fraction of making another.
   */
  private trimFree(): void {
    const { segments } = this
    const { freeSegmentsMax } = this.config
    if (segments.freeCount <= freeSegmentsMax) return
    const isBusy = this.host.clock.monotonicMs() - segments.lastBeginMs < KEEP_FREE_MS
    if (isBusy && segments.freeCount <= freeSegmentsMax * BUSY_FREE_FACTOR) return
    const free = segments.bySlot.findLast((segment) => segment?.state === SegmentState.Free)
    if (free) segments.remove(free)
  }

  /** What was copied of it is copied. */
  dropVictim(): Segment | null {
    const { victim } = this
    this.victim = null
    this.appender.dropPlan()
    return victim
  }

  private leaveVictim(error: StoreError): void {
    const victim = this.dropVictim()
    this.host.log('warn', 'compaction stopped', { segment: victim?.slot, why: error.message })
    if (error.code !== ErrorCode.OutOfSpace && victim !== null) victim.damaged = true
    this.retryAtMs = this.host.clock.monotonicMs() + RETRY_MS
    this.stop()
  }
}
