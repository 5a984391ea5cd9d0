/**
 * Brings a shard's index back from its files.
 *
 *   1. read the segments' headers and trailers; those without a trailer are scanned by headers
 *   2. the *mark*: the highest lsn that any header, trailer or checkpoint says is durable
 *   3. checkpoint, then the records above it, segment by segment in the order of their birth.
 *      Batches above the mark count only if every block of them verifies; what fails there was
 *      never durable: it is the torn tail. What fails below the mark is damage, and named.
 *   4. torn batches are voided, segments without a footer get one, everything is synced
 *
 * Only then does the shard serve, and what it appends goes to a new segment with higher lsns.
 */
import { crc32c } from '../core/checksum.ts'
import { storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import {
  BATCH_HEADER_PAGES_MAX,
  BatchHeader,
  decodeBatchHeader,
  RecordType,
  sealBatchHeader
} from '../format/batch.ts'
import { PAGE_BYTES, viewOf } from '../format/fields.ts'
import { isFooterStart, SegmentUse } from '../format/segment.ts'
import { type FoundBatch, PageWindow, type SegmentScan, scanBatches } from './batch-scan.ts'
import {
  CheckpointBroken,
  findCheckpoints,
  loadCheckpoint,
  setGoneAside
} from './checkpoint-reader.ts'
import { Drops } from './drops.ts'
import { ExtentIndex } from './extent-index.ts'
import type { FailureMarker } from './failure-marker.ts'
import type { Files } from './files.ts'
import { FooterBuffer, writeFooter } from './footer-buffer.ts'
import { Merges } from './merges.ts'
import { blockName, type Problem } from './problem.ts'
import { openFooterRecords, RecordCursor } from './record-source.ts'
import { LOCATION_HOLE, LOCATION_ZERO } from './run-list.ts'
import { type Candidate, SegmentFinder } from './segment-finder.ts'
import { type Segment, Segments, segmentName } from './segments.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { Voids } from './voids.ts'

export interface RecoveryResult {
  /** Everything up to this lsn is durable now. The next batch gets a higher one. */
  lastLsn: number
  /** Up to this lsn syncs had succeeded before; none proves it for what is above. */
  provenLsn: number
  /** Records replayed. */
  records: number
  /** Batches below the mark that are lost. */
  damagedBatches: number
  /** Blocks that the index refers to and whose segment is missing. */
  lostBlocks: number
  /** Highest that any checkpoint has. */
  checkpointGeneration: number
  /** Of the checkpoint that was used, and the one before it; 0 without. */
  startLsn: number
  olderStartLsn: number
}

const LOST_FILES_NAMED_MAX = 20
/** More would only flood the log: the number of all is told too. */
const LOST_RUNS_NAMED_MAX = 1000

class Recovery {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly files: Files
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly voids: Voids
  private readonly drops: Drops
  private readonly merges: Merges
  private readonly report: (problem: Problem) => void
  private readonly skipped: ReadonlySet<string>
  private readonly marker: FailureMarker | null
  private readonly window: PageWindow
  private readonly cursor = new RecordCursor()
  private readonly header = new BatchHeader()
  private readonly headerBytes = Buffer.from(new ArrayBuffer(BATCH_HEADER_PAGES_MAX * PAGE_BYTES))
  private readonly headerView = viewOf(this.headerBytes)
  private readonly headerWords = new Uint32Array(this.headerBytes.buffer)
  private readonly crcs = new Uint32Array(CHUNK_BLOCKS)
  private readonly footer = new FooterBuffer()
  /** Lowest lsn to replay. */
  private startLsn = 0
  private mark = 0
  private highestLsn = 0
  private readonly result: RecoveryResult = {
    lastLsn: 0,
    provenLsn: 0,
    records: 0,
    damagedBatches: 0,
    lostBlocks: 0,
    checkpointGeneration: 0,
    startLsn: 0,
    olderStartLsn: 0
  }
  private readonly toSync: Segment[] = []
  /** That the checkpoint refers to, and are not there as it has them. */
  private goneSlots: ReadonlySet<number> = new Set()

  constructor(
    config: ShardConfig,
    host: ShardHost,
    parts: {
      /** Both empty, to be filled; useless after a throw. */
      segments: Segments
      index: ExtentIndex
      voids: Voids
      drops: Drops
      merges: Merges
      report: (problem: Problem) => void
      /** Checkpoints that were found broken before. */
      skipped: ReadonlySet<string>
      /** Of a sync that failed: nothing above it is taken for durable. */
      marker: FailureMarker | null
    }
  ) {
    this.config = config
    this.host = host
    this.files = host.files
    this.segments = parts.segments
    this.index = parts.index
    this.voids = parts.voids
    this.drops = parts.drops
    this.merges = parts.merges
    this.report = parts.report
    this.skipped = parts.skipped
    this.marker = parts.marker
    this.window = new PageWindow(host.files)
  }

  /**
   * @throws CheckpointBroken (start over without it); StoreError DiskFailure when a file cannot
   *   be read or synced, Corrupt when a segment belongs to another shard
   */
  run(): RecoveryResult {
    const finder = new SegmentFinder(this.config, this.files, {
      segments: this.segments,
      window: this.window,
      report: this.report
    })
    const candidates = finder.find()
    this.toSync.push(...finder.free)
    this.mark = finder.mark
    this.highestLsn = finder.highestLsn
    this.loadCheckpoint()
    for (const candidate of candidates) {
      if (candidate.segment.footerPages === 0) this.scan(candidate)
    }
    const mark = this.highestMark(candidates)
    this.highestLsn = Math.max(this.highestLsn, mark)
    this.mark = Math.min(mark, this.marker?.durableLsn ?? mark)
    this.result.provenLsn = this.mark
    for (const candidate of candidates) this.replay(candidate)
    this.index.endReplay()
    this.merges.applyTo(this.index, this.segments.locationOf(this.segments.lostSlot, 0))
    this.reportLostBlocks()
    if (!this.config.readOnly) {
      for (const segment of this.toSync) this.files.sync(this.segments.open(segment))
      this.files.syncDirectory() // the process before may have been killed when it was about to
    }
    // A drop is durable before the batches that came before it: what comes next must not pass for
    // one of these.
    this.result.lastLsn = Math.max(this.mark, this.highestLsn, this.drops.lsn)
    return this.result
  }

  /** The newest checkpoint goes into the index; the next older one only counts for tombstones. */
  private loadCheckpoint(): void {
    const { result } = this
    const found = findCheckpoints(this.files, this.config, (file, detail) =>
      this.report({ kind: 'checkpoint', file, offset: 0, detail })
    )
    for (const { header } of found) {
      result.checkpointGeneration = Math.max(result.checkpointGeneration, header.generation)
    }
    const [newest, older] = found.filter(({ name }) => !this.skipped.has(name))
    if (newest === undefined) return
    const { salts, durableLsn } = loadCheckpoint(this.files, newest, this.index)
    this.goneSlots = setGoneAside(this.index, this.segments, salts)
    const { segments } = this
    this.voids.applyTo(this.index, segments.locationOf(segments.lostSlot, 0))
    this.drops.applyTo(this.index, newest.header.startLsn)
    this.startLsn = newest.header.startLsn
    this.mark = Math.max(this.mark, durableLsn)
    this.highestLsn = Math.max(this.highestLsn, durableLsn)
    this.result.startLsn = this.startLsn
    this.result.olderStartLsn = older === undefined ? 0 : older.header.startLsn
  }

  /** What only a segment that is gone had. Of layers that are dropped nobody misses it. */
  private reportLostBlocks(): void {
    const { segments, index } = this
    if (segments.live[segments.lostSlot] === 0) return
    const start = segments.locationOf(segments.lostSlot, 0)
    const runs: Problem[] = []
    index.forEachWithin(start, Number.MAX_SAFE_INTEGER, (layer, chunk, first, count) => {
      this.result.lostBlocks += count
      if (runs.length === LOST_RUNS_NAMED_MAX) return
      const detail = `${count} blocks stood in a segment that is missing`
      const block = blockName(index.layerKey(layer), chunk, first)
      runs.push({ kind: 'blocksLost', file: '', offset: 0, detail, block })
    })
    const { lostBlocks } = this.result
    if (lostBlocks === 0) return
    const names = [...this.goneSlots].filter((slot) => segments.get(slot) === null).map(segmentName)
    const known = names.slice(0, LOST_FILES_NAMED_MAX).join(', ') || 'unknown'
    const detail = `${lostBlocks} blocks stood in segment files that are missing: ${known}`
    this.report({ kind: 'segmentMissing', file: '', offset: 0, detail })
    for (const run of runs) this.report(run)
  }

  private scan(candidate: Candidate): SegmentScan {
    const { segment } = candidate
    const scan = scanBatches(this.window, this.segments, segment, candidate.voidLsn)
    candidate.scan = scan
    const last = scan.batches.at(-1)
    segment.endPage = scan.endPage
    segment.lastLsn = last === undefined ? segment.firstLsn - 1 : last.lsn
    segment.footerPage = 0
    segment.footerPages = 0
    return scan
  }

  private highestMark(candidates: readonly Candidate[]): number {
    let { mark } = this
    for (const { scan, segment } of candidates) {
      this.highestLsn = Math.max(this.highestLsn, segment.lastLsn)
      if (scan === null) continue
      for (const batch of scan.batches) mark = Math.max(mark, batch.durableLsn)
    }
    return mark
  }

  private replay(candidate: Candidate): void {
    const { segment } = candidate
    const isDurable = segment.lastLsn <= this.mark
    if (candidate.scan === null && isDurable) {
      // The footer has the next lsn: it may be in the page cache only.
      if (segment.lastLsn === this.mark) this.toSync.push(segment)
      const wanted = segment.lastLsn >= this.startLsn
      if (!wanted) segment.marksCounted = false
      if (!wanted || this.replayFooter(segment)) {
        if (candidate.adopted) this.mendHeader(segment)
        return
      }
      if (segment.lastLsn < this.mark) {
        this.problem('footer', segment, segment.footerPage, 'the footer does not verify')
      }
    }
    const scan = candidate.scan ?? this.scan(candidate)
    this.replayScan(candidate, scan)
  }

  /** The header page of a segment that is otherwise whole. */
  private mendHeader(segment: Segment): void {
    this.problem('segmentHeader', segment, 0, 'the header does not verify')
    if (this.config.readOnly) return
    this.segments.writeHeader(segment, SegmentUse.Used)
    this.toSync.push(segment)
  }

  private replayFooter(segment: Segment): boolean {
    if (!openFooterRecords(this.files, this.segments, segment, this.cursor)) return false
    while (this.cursor.advance()) {
      if (this.cursor.lsn >= this.startLsn) this.apply(segment)
      this.count(segment)
    }
    return !this.cursor.broken
  }

  /** Replays what the batch headers say, verifies what is above the mark, and seals the segment. */
  private replayScan(candidate: Candidate, scan: SegmentScan): void {
    const { segment } = candidate
    this.footer.clear()
    this.reportDamage(candidate, scan)
    let kept = 0
    let torn = 0
    for (const batch of scan.batches) {
      if (!this.openBatch(segment, batch)) continue
      const believed =
        batch.lsn <= this.mark || (!candidate.adopted && this.isWhole(segment, batch))
      if (!believed) {
        this.voidBatch(segment, batch)
        torn++
        continue
      }
      kept++
      this.openCopied(batch)
      while (this.cursor.advance()) {
        if (this.cursor.lsn >= this.startLsn) this.apply(segment, true)
        this.count(segment)
        const { page, at, recordBytes } = this.cursor
        this.footer.add(page, batch.lsn - segment.firstLsn, this.headerWords, at, recordBytes)
      }
    }
    if (torn > 0) {
      const name = segmentName(segment.slot)
      this.host.log('info', 'unfinished writes were cut off', { segment: name, batches: torn })
    }
    this.settle(segment, kept, candidate.adopted)
  }

  /** Counts the present record. */
  private count(segment: Segment): void {
    if (this.cursor.page === 0) segment.markRecords++
    if (this.cursor.record.tagBytes > 0) segment.hasTags = true
  }

  /** The segment is whole now: it gets its footer, or is free when nothing was in it. */
  private settle(segment: Segment, batches: number, isAdopted: boolean): void {
    if (this.config.readOnly) return
    this.toSync.push(segment)
    if (batches === 0) {
      this.segments.writeHeader(segment, SegmentUse.Free)
      this.segments.setFree(segment)
      return
    }
    // A header that was damaged is made good: identity and salt are known.
    if (isAdopted) this.segments.writeHeader(segment, SegmentUse.Used)
    writeFooter(this.files, this.segments, segment, this.footer, this.mark)
    this.highestLsn = Math.max(this.highestLsn, segment.lastLsn + 1) // the footer's
  }

  /** What should be there below the mark and is not. */
  private reportDamage(candidate: Candidate, scan: SegmentScan): void {
    const { segment } = candidate
    // Of a new file the header may be missing, like all else that was never durable in it.
    if (candidate.adopted && scan.batches.some(({ lsn }) => lsn <= this.mark)) {
      this.problem('segmentHeader', segment, 0, 'the header does not verify')
    }
    let previousLsn = segment.firstLsn - 1
    let hole = 0
    for (const batch of scan.batches) {
      const gap = batch.page !== (hole === 0 ? 1 : hole)
      if (gap && previousLsn < this.mark) {
        this.lost(segment, hole === 0 ? 1 : hole, previousLsn + 1, batch.lsn - 1)
      }
      previousLsn = batch.lsn
      hole = batch.page + batch.headerPages + batch.payloadPages
    }
    const lastExpected = Math.min(this.mark, candidate.voidLsn - 1)
    // Behind the last batch comes the footer, which has an lsn too. Segments that were born next
    // may be gone, so the lsns of those that are left do not tell how many batches there were.
    if (lastExpected <= previousLsn || this.isFooterAt(segment, scan.endPage)) return
    this.lost(segment, scan.endPage, previousLsn + 1, lastExpected)
  }

  private isFooterAt(segment: Segment, page: number): boolean {
    this.window.reset(this.segments.open(segment))
    const at = this.window.at(page, 1)
    return at >= 0 && isFooterStart(this.window.view, at, segment)
  }

  private lost(segment: Segment, page: number, firstLsn: number, lastLsn: number): void {
    this.result.damagedBatches++
    this.problem('batchLost', segment, page, `batches ${firstLsn}..${lastLsn} cannot be read`)
  }

  /** Copies the batch's header pages to `headerBytes` and its fields to `header`. */
  private openBatch(segment: Segment, batch: FoundBatch): boolean {
    const bytes = batch.headerPages * PAGE_BYTES
    const handle = this.segments.open(segment)
    this.files.read(handle, batch.page * PAGE_BYTES, this.headerBytes, 0, bytes)
    return decodeBatchHeader(this.headerBytes, this.headerView, 0, this.header)
  }

  private openCopied(batch: FoundBatch): void {
    const { recordCount, recordBytes } = this.header
    this.cursor.openBatch(this.headerBytes, recordCount, recordBytes, batch)
  }

  /** Every block of the batch is as its checksum says. */
  private isWhole(segment: Segment, batch: FoundBatch): boolean {
    this.window.reset(this.segments.open(segment))
    this.openCopied(batch)
    while (this.cursor.advance()) {
      if (this.cursor.record.type !== RecordType.Data) continue
      this.cursor.checksums(this.crcs)
      for (let i = 0; i < this.cursor.record.blockCount; i++) {
        const at = this.window.at(this.cursor.page + i, 1)
        if (at < 0) return false
        const block = this.window.buffer.subarray(at, at + BLOCK_BYTES)
        if (crc32c(block) !== this.crcs[i]) return false
      }
    }
    return !this.cursor.broken
  }

  /**
   * A torn batch must never count, also when a later mark is above its lsn: it becomes one without
   * records that reaches as far.
   */
  private voidBatch(segment: Segment, batch: FoundBatch): void {
    if (this.config.readOnly) return
    const { header } = this
    header.payloadPages += header.headerPages - 1
    header.headerPages = 1
    header.recordCount = 0
    header.recordBytes = 0
    sealBatchHeader(this.headerBytes, this.headerView, 0, header)
    const handle = this.segments.open(segment)
    this.files.write(handle, batch.page * PAGE_BYTES, this.headerBytes, 0, PAGE_BYTES)
  }

  private apply(segment: Segment, isScanned = false): void {
    const { record, lsn } = this.cursor
    this.result.records++
    const isDelete = record.type === RecordType.DeleteLayer
    const layer = this.index.layerIndex(
      record.familyHigh,
      record.familyLow,
      record.layerHigh,
      record.layerLow,
      !isDelete
    )
    if (isDelete) {
      if (layer >= 0) this.index.dropLayer(layer)
      return
    }
    if (this.drops.count > 0 && this.drops.hides(record, lsn)) return
    if (record.type === RecordType.Data) this.cursor.checksums(this.crcs)
    else if (lsn > this.highestLsn) this.highestLsn = lsn
    if (this.voids.count === 0 || !this.voids.mark(record)) {
      this.applyBlocks(segment, layer, 0, record.blockCount, isScanned)
      return
    }
    // In pieces, without the blocks of which it never was.
    const { firstBlock, blockCount } = record
    for (let from = 0, to = 0; from < blockCount; from = to + 1) {
      for (to = from; to < blockCount && !this.voids.isVoid(firstBlock + to); ) to++
      if (to > from) this.applyBlocks(segment, layer, from, to, isScanned)
    }
  }

  /** Blocks [from, to) of the present record. */
  private applyBlocks(
    segment: Segment,
    layer: number,
    from: number,
    to: number,
    isScanned: boolean
  ): void {
    const { record, page } = this.cursor
    const { chunk, writerEpoch, sequence } = record
    const firstBlock = record.firstBlock + from
    const blockCount = to - from
    if (record.type === RecordType.Data) {
      const location = this.segments.locationOf(segment.slot, page) + from
      const { crcs, index } = this
      if (!isScanned) {
        index.replayPut(
          layer,
          chunk,
          firstBlock,
          blockCount,
          writerEpoch,
          sequence,
          location,
          crcs,
          from
        )
        return
      }
      const taken = index.put(
        layer,
        chunk,
        firstBlock,
        blockCount,
        writerEpoch,
        sequence,
        location,
        crcs,
        from
      )
      if (taken < blockCount) segment.oldestLsn = 0
      return
    }
    const mark = record.type === RecordType.Trim ? LOCATION_HOLE : LOCATION_ZERO
    // A hole may have been asked to stay; where it hides nothing compaction drops it again.
    this.index.putMark(layer, chunk, firstBlock, blockCount, writerEpoch, sequence, mark, true)
  }

  private problem(kind: Problem['kind'], segment: Segment, page: number, detail: string): void {
    const file = segmentName(segment.slot)
    this.report({ kind, file, offset: page * PAGE_BYTES, detail })
  }
}

export interface RecoveredShard {
  readonly segments: Segments
  readonly index: ExtentIndex
  readonly voids: Voids
  readonly drops: Drops
  readonly merges: Merges
  readonly result: RecoveryResult
}

/** Recovers from the newest checkpoint that is whole, else from the segments alone. */
export function recoverShard(
  config: ShardConfig,
  host: ShardHost,
  parts: { report: (problem: Problem) => void; marker: FailureMarker | null }
): RecoveredShard {
  const { report, marker } = parts
  const skipped = new Set<string>()
  const voids = new Voids(config, host)
  const drops = new Drops(config, host)
  const merges = new Merges(config, host)
  for (;;) {
    const segments = new Segments(config, host)
    const index = new ExtentIndex(segments)
    try {
      const result = new Recovery(config, host, {
        ...{ segments, index, voids, drops, merges, report, skipped, marker }
      }).run()
      return { segments, index, voids, drops, merges, result }
    } catch (thrown) {
      segments.closeAll()
      const error = storeErrorOf(thrown)
      if (!(error instanceof CheckpointBroken)) throw error
      report({ kind: 'checkpoint', file: error.file, offset: 0, detail: error.message })
      skipped.add(error.file)
    }
  }
}
