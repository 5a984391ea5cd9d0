/**
 * The segment files of a shard: which slots exist, what lives in each, and open files for them.
 * A location in the index is a page number over all slots: slot * pagesPerSegment + page.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { SEGMENT_SLOTS_MAX } from '../core/limits.ts'
import { PAGE_BYTES } from '../format/fields.ts'
import { encodeSegmentHeader, SEGMENT_HEADER_BYTES, SegmentUse } from '../format/segment.ts'
import { LOCATION_END } from './run-list.ts'
import type { FileHandle, Files, SyncTracker } from './files.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'

export const SegmentState = {
  /** Takes appends. */
  Active: 1,
  /** Takes none: has a footer, or was left behind by a failed write. */
  Sealed: 2,
  /** Emptied; its free header waits to become durable. */
  Freeing: 3,
  /** May begin a new life. */
  Free: 4
} as const
export type SegmentState = (typeof SegmentState)[keyof typeof SegmentState]

export class Segment {
  readonly slot: number
  state: SegmentState = SegmentState.Free
  saltHigh = 0
  saltLow = 0
  birth = 0
  firstLsn = 0
  /** firstLsn - 1 while it has no batch. */
  lastLsn = 0
  /** See SegmentFooter.oldestLsn. */
  oldestLsn = 0
  /** Pages in use from the start of the file: where the next batch or the footer goes. */
  endPage = 1
  /** Pages from the start of the file that are on disk as blocks: writing there only overwrites. */
  allocatedPages = 0
  /** A footer can be read: its position. 0 when there is none. */
  footerPage = 0
  footerPages = 0
  /** Tombstones and zeroes in it, live or not. */
  markRecords = 0
  /** `markRecords` has all of them: false where recovery did not need to read the records. */
  marksCounted = true
  /** A record in it has tags: blocks are sealed. */
  hasTags = false
  /** Holds live blocks that cannot be read: compaction leaves it alone. */
  damaged = false
  /** Freeing: becomes free when this is durable. */
  freeLsn = 0
  handle: FileHandle = -1
  usedTick = 0

  constructor(slot: number) {
    this.slot = slot
  }
}

const NAME_PATTERN = /^seg-(\d{6,})$/
export const segmentName = (slot: number): string => `seg-${String(slot).padStart(6, '0')}`
/** -1 when it is not the name of a segment. */
export function slotOfName(name: string): number {
  const match = NAME_PATTERN.exec(name)
  if (match === null) return -1
  const slot = Number(match[1])
  return segmentName(slot) === name ? slot : -1
}

export class Segments {
  readonly pagesPerSegment: number
  /** log2(pagesPerSegment): slot = location >>> pageShift. */
  readonly pageShift: number
  /** Slots are below this; the slot of this number stands for blocks whose segment is lost. */
  readonly lostSlot: number
  /** Live blocks of each slot. */
  readonly live: Int32Array
  /** All live blocks. */
  liveBlocks = 0
  /**
   * Whose files were not there when they were to be read, and the one that stands for lost ones;
   * how many live blocks each had when they were counted, those of dropped layers left out.
   */
  readonly missing = new Map<number, number>()
  /** Slots whose last live block died, and of segments sealed without one; may have others. */
  readonly emptied: number[] = []
  readonly bySlot: (Segment | null)[] = []
  /** Called when the life of a slot's segment is over. */
  onFree: (slot: number) => void = () => {}
  /** Segments whose state is not Free. */
  usedCount = 0
  freeCount = 0
  nextBirth = 1
  /** When the last segment began, monotonic milliseconds. */
  lastBeginMs = 0
  private readonly config: ShardConfig
  private readonly files: Files
  private readonly tracker: SyncTracker
  private readonly host: ShardHost
  /** Names were created since the directory was entered in the tracker. */
  private hasNewNames = false
  private directory: FileHandle = -1
  private openCount = 0
  private tick = 0

  constructor(config: ShardConfig, host: ShardHost) {
    this.config = config
    this.host = host
    this.files = host.files
    this.tracker = host.tracker
    this.pagesPerSegment = config.segmentBytes / PAGE_BYTES
    this.pageShift = Math.log2(this.pagesPerSegment)
    assert(Number.isInteger(this.pageShift), 'segmentBytes is a power of two')
    this.lostSlot = Math.min(SEGMENT_SLOTS_MAX, Math.floor(LOCATION_END / this.pagesPerSegment) - 1)
    this.live = new Int32Array(this.lostSlot + 1)
    this.missing.set(this.lostSlot, 0)
  }

  /** Their files were taken away under us: what is open is still read. */
  noteMissingFiles(): void {
    const names = new Set(this.files.list())
    for (const { slot } of this.used()) {
      if (!names.has(segmentName(slot))) this.missing.set(slot, this.live[slot]!)
    }
  }

  /** Live blocks whose file is not there. */
  get missingBlocks(): number {
    let blocks = 0
    for (const [slot, counted] of this.missing) blocks += Math.min(counted, this.live[slot]!)
    return blocks
  }

  // LiveCounter, called by the index.
  onLive(location: number, count: number): void {
    this.live[location >>> this.pageShift]! += count
    this.liveBlocks += count
  }

  onDead(location: number, count: number): void {
    const slot = location >>> this.pageShift
    this.live[slot]! -= count
    this.liveBlocks -= count
    if (this.live[slot] === 0) this.emptied.push(slot)
  }

  locationOf(slot: number, page: number): number {
    return slot * this.pagesPerSegment + page
  }

  pageOf(location: number): number {
    return location & (this.pagesPerSegment - 1)
  }

  get(slot: number): Segment | null {
    return this.bySlot[slot] ?? null
  }

  add(segment: Segment): void {
    assert(segment.slot < this.lostSlot, 'a slot number fits a location')
    while (this.bySlot.length <= segment.slot) this.bySlot.push(null)
    assert(this.bySlot[segment.slot] === null, 'a slot is added once')
    this.bySlot[segment.slot] = segment
    if (segment.state === SegmentState.Free) this.freeCount++
    else this.usedCount++
    if (segment.birth >= this.nextBirth) this.nextBirth = segment.birth + 1
  }

  /** No segment in use but `except` has a record that was first appended below this lsn. */
  oldestLsn(except: Segment | null): number {
    let oldest = Number.POSITIVE_INFINITY
    for (const segment of this.bySlot) {
      if (segment === null || segment === except || segment.state === SegmentState.Free) continue
      oldest = Math.min(oldest, segment.oldestLsn)
    }
    return oldest
  }

  /** Oldest first. */
  used(): Segment[] {
    const used = this.bySlot.filter(
      (segment): segment is Segment => segment !== null && segment.state !== SegmentState.Free
    )
    return used.sort((a, b) => a.birth - b.birth)
  }

  setFree(segment: Segment): void {
    assert(segment.state !== SegmentState.Free, 'a segment in use is freed')
    segment.state = SegmentState.Free
    segment.damaged = false
    this.onFree(segment.slot)
    this.usedCount--
    this.freeCount++
  }

  /**
   * A segment begins a new life, as the active one: its header is written (durable with the first
   * sync of the file, like the batches in it). A recycled file is preferred to a new one.
   */
  begin(firstLsn: number): Segment {
    const segment = this.takeFree() ?? this.create()
    this.host.places?.hide(segment.slot)
    segment.saltHigh = this.host.random.u32()
    segment.saltLow = this.host.random.u32()
    segment.birth = this.nextBirth++
    this.lastBeginMs = this.host.clock.monotonicMs()
    segment.firstLsn = firstLsn
    this.writeHeader(segment, SegmentUse.Used)
    segment.lastLsn = firstLsn - 1
    segment.oldestLsn = firstLsn
    segment.endPage = 1
    segment.allocatedPages = Math.floor(this.files.size(segment.handle) / PAGE_BYTES)
    segment.footerPage = 0
    segment.footerPages = 0
    segment.markRecords = 0
    segment.marksCounted = true
    segment.damaged = false
    segment.hasTags = false
    segment.state = SegmentState.Active
    this.freeCount--
    this.usedCount++
    this.show(segment)
    return segment
  }

  /** Lets other threads read the blocks of an open segment. */
  show(segment: Segment): void {
    if (segment.handle < 0 || segment.state === SegmentState.Free) return
    this.host.places?.show(segment.slot, segment.handle, segment.birth)
  }

  /**
   * Writes the header page; not yet durable. A free one tells recovery that nothing in the file
   * counts.
   */
  writeHeader(segment: Segment, use: SegmentUse): void {
    const isUsed = use === SegmentUse.Used
    const header = encodeSegmentHeader({
      use,
      clusterId: this.config.clusterId,
      peerId: this.config.peerId,
      shard: this.config.shard,
      slot: segment.slot,
      segmentBytes: this.config.segmentBytes,
      saltHigh: isUsed ? segment.saltHigh : 0,
      saltLow: isUsed ? segment.saltLow : 0,
      firstLsn: isUsed ? segment.firstLsn : 0,
      birth: segment.birth
    })
    this.files.write(this.open(segment), 0, header, 0, SEGMENT_HEADER_BYTES)
  }

  /** Its file, opened if need be. The least recently used idle ones are closed at the limit. */
  open(segment: Segment): FileHandle {
    segment.usedTick = ++this.tick
    if (segment.handle >= 0) return segment.handle
    if (this.isFullOfOpen) this.closeOldest()
    try {
      const mode = this.config.readOnly ? 'readOnly' : 'existing'
      segment.handle = this.files.open(segmentName(segment.slot), mode)
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      if (error.code === ErrorCode.NotFound) {
        this.missing.set(segment.slot, this.live[segment.slot]!)
      }
      throw error
    }
    this.openCount++
    return segment.handle
  }

  /** To open another file, one has to be closed. */
  get isFullOfOpen(): boolean {
    return this.openCount >= this.config.openFilesMax
  }

  /** Gives the file of a free segment back to the filesystem. */
  remove(segment: Segment): void {
    assert(segment.state === SegmentState.Free, 'only a free segment is removed')
    assert(this.bySlot[segment.slot] === segment, 'a segment is removed once')
    if (!this.tryClose(segment)) return
    this.files.remove(segmentName(segment.slot))
    this.missing.delete(segment.slot)
    this.bySlot[segment.slot] = null
    this.freeCount--
  }

  /** False when something may still be syncing it. */
  tryClose(segment: Segment): boolean {
    if (segment.handle < 0) return true
    if (!this.tracker.isIdle(segment.handle)) return false
    this.tracker.untrack(segment.handle)
    this.host.places?.hide(segment.slot)
    this.files.close(segment.handle)
    segment.handle = -1
    this.openCount--
    return true
  }

  /**
   * To be called with each append: a file whose name is not durable could be gone after a power
   * loss, whatever was synced in it. So the directory counts as one of the files that the batch
   * stands in, and nobody waits for its sync but who waits for the batch's.
   */
  trackNames(lsn: number): void {
    if (!this.hasNewNames) return
    if (this.directory < 0) this.directory = this.files.openDirectory()
    this.tracker.appended(this.directory, lsn)
    this.hasNewNames = false
  }

  closeAll(): void {
    if (this.directory >= 0 && this.tracker.isIdle(this.directory)) {
      this.tracker.untrack(this.directory)
      this.files.close(this.directory)
      this.directory = -1
    }
    for (const segment of this.bySlot) if (segment !== null) this.tryClose(segment)
  }

  private takeFree(): Segment | null {
    if (this.freeCount === 0) return null
    for (const segment of this.bySlot) {
      if (segment !== null && segment.state === SegmentState.Free) return segment
    }
    return null
  }

  private create(): Segment {
    let slot = this.bySlot.indexOf(null)
    if (slot < 0) slot = this.bySlot.length
    if (slot >= this.lostSlot) {
      throw new StoreError(ErrorCode.OutOfSpace, `shard has ${slot} segments, the limit`)
    }
    if (this.isFullOfOpen) this.closeOldest()
    const segment = new Segment(slot)
    segment.handle = this.files.open(segmentName(slot), 'create')
    this.openCount++
    segment.usedTick = ++this.tick
    this.add(segment)
    this.hasNewNames = true
    return segment
  }

  private closeOldest(): void {
    let oldest: Segment | null = null
    for (const segment of this.bySlot) {
      if (segment === null || segment.handle < 0 || segment.state === SegmentState.Active) continue
      if (!this.tracker.isIdle(segment.handle)) continue
      if (oldest === null || segment.usedTick < oldest.usedTick) oldest = segment
    }
    if (oldest !== null) this.tryClose(oldest)
  }
}
