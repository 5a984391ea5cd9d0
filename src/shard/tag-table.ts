/**
 * Tags of sealed blocks: 16 bytes for each page of the segments that hold any. A tag belongs to a
 * page of a segment for as long as that life of the segment lasts, so it is not in the index: it is
 * put here with the append, and after a restart read from the segment's footer, or its batch
 * headers, when a block of the segment is first wanted. What was not wanted for longest goes when
 * there are too many, because it can be read again.
 */
import { RecordType, SEAL_TAG_BYTES } from '../format/batch.ts'
import type { Files } from './files.ts'
import { openRecords, RecordCursor } from './record-source.ts'
import { type Segment, SegmentState, type Segments } from './segments.ts'

interface SegmentTags {
  /** The life of the segment that they belong to. */
  readonly birth: number
  readonly tags: Buffer
  usedTick: number
}

export class TagTable {
  /** Memory in use. */
  bytes = 0
  private readonly files: Files
  private readonly segments: Segments
  private readonly bytesMax: number
  private readonly bySlot = new Map<number, SegmentTags>()
  private readonly cursor = new RecordCursor()
  private tick = 0

  constructor(files: Files, segments: Segments, bytesMax: number) {
    this.files = files
    this.segments = segments
    this.bytesMax = bytesMax
  }

  /** Tags of blocks that are appended to the active segment from `page` on. */
  put(segment: Segment, page: number, count: number, tags: Buffer, at: number): void {
    const known = this.known(segment) ?? this.make(segment)
    tags.copy(known.tags, page * SEAL_TAG_BYTES, at, at + count * SEAL_TAG_BYTES)
  }

  /**
   * Copies the tags of the blocks that stand from `page` on. Zeroes for a block that has none:
   * no seal opens with them.
   * @throws StoreError DiskFailure, NotFound when they cannot be read
   */
  copy(segment: Segment, page: number, count: number, into: Buffer, at: number): void {
    if (!segment.hasTags) {
      into.fill(0, at, at + count * SEAL_TAG_BYTES)
      return
    }
    const known = this.known(segment) ?? this.load(segment)
    const from = page * SEAL_TAG_BYTES
    known.tags.copy(into, at, from, from + count * SEAL_TAG_BYTES)
  }

  /** The segment's life is over. */
  drop(slot: number): void {
    const known = this.bySlot.get(slot)
    if (known === undefined) return
    this.bytes -= known.tags.length
    this.bySlot.delete(slot)
  }

  private known(segment: Segment): SegmentTags | null {
    const known = this.bySlot.get(segment.slot)
    if (known === undefined) return null
    if (known.birth !== segment.birth) {
      this.drop(segment.slot)
      return null
    }
    known.usedTick = ++this.tick
    return known
  }

  private make(segment: Segment): SegmentTags {
    const bytes = this.segments.pagesPerSegment * SEAL_TAG_BYTES
    while (this.bytes + bytes > this.bytesMax && this.dropOldest()) {}
    const made = { birth: segment.birth, tags: Buffer.alloc(bytes), usedTick: ++this.tick }
    this.bytes += bytes
    this.bySlot.set(segment.slot, made)
    return made
  }

  /** The active segment has no place on disk from which all of its tags could be read quickly. */
  private dropOldest(): boolean {
    let oldest = -1
    let oldestTick = Number.POSITIVE_INFINITY
    for (const [slot, { usedTick }] of this.bySlot) {
      if (usedTick >= oldestTick) continue
      if (this.segments.get(slot)?.state === SegmentState.Active) continue
      oldest = slot
      oldestTick = usedTick
    }
    if (oldest < 0) return false
    this.drop(oldest)
    return true
  }

  private load(segment: Segment): SegmentTags {
    const { cursor } = this
    openRecords(this.files, this.segments, segment, cursor)
    const { tags } = this.make(segment)
    while (cursor.advance()) {
      const { record, page } = cursor
      if (record.type === RecordType.Data) cursor.tags(tags, page * SEAL_TAG_BYTES)
    }
    return this.bySlot.get(segment.slot)!
  }
}
