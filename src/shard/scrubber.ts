/**
 * Reads everything that is live and compares it with its checksums, so that damage is found while
 * another copy exists. A round begins at a random segment: a peer that restarts often still gets
 * everywhere.
 */
import { crc32c } from '../core/checksum.ts'
import { storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { RecordType } from '../format/batch.ts'
import type { DamageList } from './damage-list.ts'
import type { ExtentIndex } from './extent-index.ts'
import { listMissing } from './missing-blocks.ts'
import { BlockViews, pageAlignedBuffer } from './memory.ts'
import { type BlockName, blockName } from './problem.ts'
import { openRecords, RecordCursor } from './record-source.ts'
import { RunList } from './run-list.ts'
import { type Segment, SegmentState, type Segments } from './segments.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { shardStatIndex } from './stats.ts'

/** Read by one slice: 1 MiB. */
const SLICE_BLOCKS = 256
const SLICE_RECORDS = 2000

export class Scrubber {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly damage: DamageList
  private readonly appender: { seal(): void }
  private buffer: Buffer | null = null
  private views: BlockViews | null = null
  private readonly cursor = new RecordCursor()
  private readonly runs = new RunList()
  private readonly checksums = new Uint32Array(CHUNK_BLOCKS)
  /** Segments of this round that are still to do, by slot and birth. */
  private todo: { slot: number; birth: number }[] = []
  private current: Segment | null = null
  private currentBirth = 0
  private active = false
  /** As fast as slices allow, because an operator asked. */
  private forced = false
  private roundStartMs: number
  private errorsInRound = 0
  /** Of these, blocks whose segment file is not there. */
  private missingInRound = 0
  /** Reads that failed before the round began. */
  private checksumErrorsBefore = 0

  constructor(
    config: ShardConfig,
    host: ShardHost,
    parts: {
      readonly segments: Segments
      readonly index: ExtentIndex
      readonly damage: DamageList
      readonly appender: { seal(): void }
    }
  ) {
    this.config = config
    this.host = host
    this.segments = parts.segments
    this.index = parts.index
    this.damage = parts.damage
    this.appender = parts.appender
    this.roundStartMs = host.clock.monotonicMs()
  }

  /** Starts a round now, or makes the present one go on at full rate. */
  force(): void {
    this.forced = true
    if (!this.active) this.beginRound()
  }

  stop(): void {
    this.forced = false
    this.active = false
    this.current = null
    this.todo = []
    this.host.stats[shardStatIndex.scrubActive] = 0
  }

  /** Its share of the period has come, or somebody waits for it. */
  get isDue(): boolean {
    if (this.forced) return true
    const { scrubPeriodMs } = this.config
    if (scrubPeriodMs === 0) return false
    const elapsedMs = this.host.clock.monotonicMs() - this.roundStartMs
    if (!this.active) {
      if (elapsedMs < scrubPeriodMs * PAUSE_SHARE) return false
      this.beginRound()
    }
    const { stats } = this.host
    const done = stats[shardStatIndex.scrubBytesDone]!
    const wanted = (stats[shardStatIndex.scrubBytesTotal]! * elapsedMs) / scrubPeriodMs
    return done <= wanted
  }

  /** One slice. */
  step(): void {
    if (!this.active) return
    if (this.current === null && !this.nextSegment()) {
      this.endRound()
      return
    }
    const segment = this.current!
    const isSame = segment.birth === this.currentBirth && segment.state === SegmentState.Sealed
    if (!isSame || !this.verifySlice(segment)) this.current = null
  }

  private beginRound(): void {
    this.active = true
    this.errorsInRound = 0
    this.missingInRound = 0
    this.segments.noteMissingFiles()
    this.noteMissing()
    this.checksumErrorsBefore = this.host.stats[shardStatIndex.checksumErrors]!
    this.roundStartMs = this.host.clock.monotonicMs()
    // Where little is written all there is may be in the active segment, for ever.
    if (!this.config.readOnly) this.appender.seal()
    const sealed = this.segments.used().filter(({ state }) => state === SegmentState.Sealed)
    const start = sealed.length === 0 ? 0 : this.host.random.u32() % sealed.length
    const order = [...sealed.slice(start), ...sealed.slice(0, start)]
    this.todo = order.map(({ slot, birth }) => ({ slot, birth })).reverse()
    const { stats } = this.host
    let blocks = 0
    for (const segment of sealed) blocks += this.segments.live[segment.slot]!
    stats[shardStatIndex.scrubBytesTotal] = blocks * BLOCK_BYTES
    stats[shardStatIndex.scrubBytesDone] = 0
    stats[shardStatIndex.scrubActive] = 1
  }

  private endRound(): void {
    const { stats } = this.host
    stats[shardStatIndex.scrubRounds]!++
    stats[shardStatIndex.scrubBytesDone] = stats[shardStatIndex.scrubBytesTotal]!
    stats[shardStatIndex.scrubErrorsLast] = this.errorsInRound
    if (this.errorsInRound === 0) {
      stats[shardStatIndex.checksumErrorsChecked] = this.checksumErrorsBefore
    }
    const level = this.errorsInRound > 0 ? 'error' : 'info'
    this.host.log(level, 'a scrub round is done', { errors: this.errorsInRound })
    this.stop()
  }

  private nextSegment(): boolean {
    for (;;) {
      const next = this.todo.pop()
      if (next === undefined) return false
      const segment = this.segments.get(next.slot)
      if (segment === null || segment.birth !== next.birth) continue
      if (segment.state !== SegmentState.Sealed) continue
      if (this.segments.missing.has(segment.slot)) continue
      try {
        openRecords(this.host.files, this.segments, segment, this.cursor)
      } catch (thrown) {
        const { message } = storeErrorOf(thrown)
        if (this.segments.missing.has(segment.slot)) this.noteMissing()
        else this.note(segment, message, null)
        continue
      }
      this.current = segment
      this.currentBirth = next.birth
      return true
    }
  }

  /** False when the segment is done. */
  private verifySlice(segment: Segment): boolean {
    let blocks = 0
    for (let looked = 0; looked < SLICE_RECORDS && blocks < SLICE_BLOCKS; looked++) {
      if (!this.cursor.advance()) return false
      const { record, page } = this.cursor
      if (record.type !== RecordType.Data) continue
      const { familyHigh, familyLow, layerHigh, layerLow, chunk, firstBlock, blockCount } = record
      const layer = this.index.layerIndex(familyHigh, familyLow, layerHigh, layerLow, false)
      const location = this.segments.locationOf(segment.slot, page)
      const { runs } = this
      blocks += this.index.liveRuns(layer, chunk, firstBlock, blockCount, location, runs)
      if (runs.length > 0) this.cursor.checksums(this.checksums)
      for (let run = 0; run < runs.length; run++) this.verifyRun(segment, layer, run)
    }
    return true
  }

  private verifyRun(segment: Segment, layer: number, run: number): void {
    this.buffer ??= pageAlignedBuffer(CHUNK_BLOCKS * BLOCK_BYTES)
    this.views ??= new BlockViews(this.buffer)
    const first = this.runs.firsts[run]!
    const bytes = this.runs.counts[run]! * BLOCK_BYTES
    const { record } = this.cursor
    const page = this.segments.pageOf(this.runs.locations[run]!)
    const { stats } = this.host
    let got = 0
    let why = 'the checksum does not match'
    try {
      const handle = this.segments.open(segment)
      got = this.host.files.read(handle, page * BLOCK_BYTES, this.buffer, 0, bytes)
    } catch (thrown) {
      why = storeErrorOf(thrown).message
    }
    stats[shardStatIndex.scrubbedBytes]! += bytes
    stats[shardStatIndex.scrubBytesDone]! += bytes
    for (let at = 0; at < bytes; at += BLOCK_BYTES) {
      const block = first + at / BLOCK_BYTES
      const crc = this.checksums[block - record.firstBlock]
      if (at + BLOCK_BYTES <= got && crc32c(this.views.at(at)) === crc) continue
      const key = this.index.layerKey(layer)
      this.note(segment, why, blockName(key, record.chunk, block))
      this.damage.add(key, record.chunk, block)
    }
  }

  /** No segment of the round has them. */
  private noteMissing(): void {
    const { segments, index, damage } = this
    const missing = listMissing({ segments, index, damage })
    if (missing <= this.missingInRound) return
    this.addErrors(missing - this.missingInRound)
    this.missingInRound = missing
    this.host.log('error', 'segment files are missing', { blocks: missing })
  }

  private addErrors(count: number): void {
    this.errorsInRound += count
    const { stats } = this.host
    stats[shardStatIndex.scrubErrors]! += count
    const last = stats[shardStatIndex.scrubErrorsLast]!
    stats[shardStatIndex.scrubErrorsLast] = Math.max(last, this.errorsInRound)
  }

  private note(segment: Segment, why: string, name: BlockName | null): void {
    this.addErrors(1)
    this.host.log('error', 'scrub found damage', { segment: segment.slot, why, ...name })
  }
}

/** Of the period, from a start or the end of a round to the next one. */
const PAUSE_SHARE = 0.01
