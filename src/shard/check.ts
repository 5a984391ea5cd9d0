/**
 * Offline check: reads every record of every segment and compares every block with its checksum.
 * Changes nothing. The data directory must not be in use.
 */
import { join } from 'node:path'
import { crc32c } from '../core/checksum.ts'
import { systemClock, systemRandom } from '../core/clock.ts'
import { type StoreError, storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { RecordType } from '../format/batch.ts'
import type { Superblock } from '../format/superblock.ts'
import { hexOf } from './block-reader.ts'
import { DiskFiles } from './disk-files.ts'
import { readFailureMarker } from './failure-marker.ts'
import type { Files } from './files.ts'
import { LocalSyncTracker } from './local-sync-tracker.ts'
import { BlockViews, pageAlignedBuffer } from './memory.ts'
import type { Problem } from './problem.ts'
import { openFooterRecords, openRecords, RecordCursor } from './record-source.ts'
import { type RecoveredShard, recoverShard } from './recovery.ts'
import { RunList } from './run-list.ts'
import { type Segment, segmentName } from './segments.ts'
import { resolveShardConfig, type ShardConfig, type ShardHost } from './shard-config.ts'
import { shardStatNames } from './stats.ts'
import {
  requirePeerSuperblock,
  requireServable,
  requireShardSuperblock
} from './superblock-file.ts'

export interface CheckProgress {
  readonly shard: number
  readonly shards: number
  /** Of this shard. */
  readonly bytesDone: number
  readonly bytesTotal: number
}

export interface CheckReport {
  shards: number
  segments: number
  records: number
  /** Payload read and compared. */
  blocks: number
  /** Blocks that are live and cannot be read. */
  damagedLiveBlocks: number
  problems: number
}

export interface CheckOptions {
  onProgress?: (progress: CheckProgress) => void
  onProblem?: (problem: Problem & { readonly shard: number }) => void
}

export const shardDirectory = (dataDirectory: string, shard: number): string =>
  join(dataDirectory, `shard-${shard}`)

/** What an offline tool gives a shard for a host. */
export function offlineHost(files: Files, memory: Buffer, log: ShardHost['log']): ShardHost {
  return {
    files,
    tracker: new LocalSyncTracker(files),
    memory,
    stats: new Float64Array(shardStatNames.length),
    clock: systemClock,
    random: systemRandom,
    log
  }
}

export const offlineConfig = (superblock: Superblock, options: Partial<ShardConfig>): ShardConfig =>
  resolveShardConfig({
    shard: 0,
    shards: superblock.shards,
    clusterId: superblock.clusterId,
    peerId: superblock.peerId,
    segmentBytes: superblock.segmentBytes,
    capacityBytes: Number.MAX_SAFE_INTEGER,
    scrubPeriodMs: 0,
    holdHoles: true, // whether they may go is not known here
    ...options
  })

/**
 * Checks all shards of a data directory.
 * @throws StoreError NotFound when it is none, Corrupt or UnknownVersion when its superblock cannot
 *   be used, InvalidArgument when a reshard is unfinished
 */
export function checkDirectory(directory: string, options: CheckOptions = {}): CheckReport {
  const superblock = requirePeerSuperblock(directory)
  requireServable(superblock, 0)
  const report: CheckReport = {
    shards: superblock.shards,
    segments: 0,
    records: 0,
    blocks: 0,
    damagedLiveBlocks: 0,
    problems: 0
  }
  for (let shard = 0; shard < superblock.shards; shard++) {
    const files = new DiskFiles(shardDirectory(directory, shard))
    checkShard(offlineConfig(superblock, { shard, readOnly: true }), files, report, options)
  }
  return report
}

/** Checks one shard and adds to `report`. */
export function checkShard(
  config: ShardConfig,
  files: Files,
  report: CheckReport,
  options: CheckOptions
): void {
  const note = (problem: Problem): void => {
    report.problems++
    options.onProblem?.({ ...problem, shard: config.shard })
  }
  const host = offlineHost(files, Buffer.alloc(0), () => {})
  let recovered: RecoveredShard
  try {
    requireShardSuperblock(config, host)
    const marker = readFailureMarker(files)
    recovered = recoverShard(config, host, { report: note, marker })
  } catch (thrown) {
    const error: StoreError = storeErrorOf(thrown)
    note({ kind: 'superblock', file: '', offset: 0, detail: error.message })
    return
  }
  report.damagedLiveBlocks += recovered.result.lostBlocks
  new SegmentCheck(config, files, recovered, report, note).run(options)
  recovered.segments.closeAll()
}

class SegmentCheck {
  private readonly config: ShardConfig
  private readonly files: Files
  private readonly recovered: RecoveredShard
  private readonly report: CheckReport
  private readonly note: (problem: Problem) => void
  private readonly cursor = new RecordCursor()
  private readonly checksums = new Uint32Array(CHUNK_BLOCKS)
  private readonly buffer = pageAlignedBuffer(CHUNK_BLOCKS * BLOCK_BYTES)
  private readonly views = new BlockViews(this.buffer)
  private readonly runs = new RunList()

  constructor(
    config: ShardConfig,
    files: Files,
    recovered: RecoveredShard,
    report: CheckReport,
    note: (problem: Problem) => void
  ) {
    this.config = config
    this.files = files
    this.recovered = recovered
    this.report = report
    this.note = note
  }

  run(options: CheckOptions): void {
    const { shard, shards } = this.config
    const used = this.recovered.segments.used()
    const bytesTotal = used.reduce((bytes, segment) => bytes + segment.endPage * BLOCK_BYTES, 0)
    let bytesDone = 0
    for (const segment of used) {
      this.report.segments++
      try {
        this.checkSegment(segment)
      } catch (thrown) {
        const detail = storeErrorOf(thrown).message
        this.note({ kind: 'segmentShort', file: segmentName(segment.slot), offset: 0, detail })
      }
      bytesDone += segment.endPage * BLOCK_BYTES
      options.onProgress?.({ shard, shards, bytesDone, bytesTotal })
    }
  }

  private checkSegment(segment: Segment): void {
    const { cursor } = this
    const { segments } = this.recovered
    const hasFooter = segment.footerPages > 0
    if (!hasFooter || !openFooterRecords(this.files, segments, segment, cursor)) {
      if (hasFooter) {
        const offset = segment.footerPage * BLOCK_BYTES
        const detail = 'the footer does not verify'
        this.note({ kind: 'footer', file: segmentName(segment.slot), offset, detail })
      }
      openRecords(this.files, segments, segment, cursor)
    }
    while (cursor.advance()) {
      this.report.records++
      if (cursor.record.type === RecordType.Data) this.checkRecord(segment)
    }
    if (!cursor.broken) return
    const detail = 'a record in it makes no sense'
    this.note({ kind: 'footer', file: segmentName(segment.slot), offset: 0, detail })
  }

  private checkRecord(segment: Segment): void {
    const { record, page } = this.cursor
    const bytes = record.blockCount * BLOCK_BYTES
    const handle = this.recovered.segments.open(segment)
    const got = this.files.read(handle, page * BLOCK_BYTES, this.buffer, 0, bytes)
    this.cursor.checksums(this.checksums)
    this.report.blocks += record.blockCount
    for (let i = 0; i < record.blockCount; i++) {
      const at = i * BLOCK_BYTES
      if (at + BLOCK_BYTES <= got && crc32c(this.views.at(at)) === this.checksums[i]) continue
      const isShort = at + BLOCK_BYTES > got
      const isLive = this.isLive(segment, i)
      if (isLive) this.report.damagedLiveBlocks++
      this.note({
        kind: isShort ? 'segmentShort' : 'payload',
        file: segmentName(segment.slot),
        offset: (page + i) * BLOCK_BYTES,
        detail: `${isShort ? 'the file ends before' : 'the checksum does not match in'} a ${
          isLive ? 'live' : 'superseded'
        } block`,
        block: {
          family: hexOf(record.familyHigh, record.familyLow),
          layer: hexOf(record.layerHigh, record.layerLow),
          chunk: record.chunk,
          block: record.firstBlock + i
        }
      })
    }
  }

  private isLive(segment: Segment, i: number): boolean {
    const { record, page } = this.cursor
    const { index, segments } = this.recovered
    const { familyHigh, familyLow, layerHigh, layerLow, chunk, firstBlock } = record
    const layer = index.layerIndex(familyHigh, familyLow, layerHigh, layerLow, false)
    const location = segments.locationOf(segment.slot, page + i)
    return index.liveRuns(layer, chunk, firstBlock + i, 1, location, this.runs) > 0
  }
}
