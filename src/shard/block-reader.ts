/** Answers reads and block status: index lookup, one pread per contiguous run, verify. */
import { crc32c, crc32cOfBlocks } from '../core/checksum.ts'
import { ErrorCode, type StoreError, storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { MAP_BIRTHS, MAP_BYTES, MAP_CRCS, SEAL_MAP_WORDS } from './chunk-map.ts'
import { BASE_UNKNOWN, type ExtentIndex } from './extent-index.ts'
import { DamageList } from './damage-list.ts'
import type { Files } from './files.ts'
import type { BlockViews } from './memory.ts'
import { OpFlag, type ShardOp, StatusExtent } from './op.ts'
import { ReadDamage } from './read-damage.ts'
import { LOCATION_END, RunList } from './run-list.ts'
import { SealedReads } from './sealed-reads.ts'
import type { ShardHost } from './shard-config.ts'
import { type Segment, SegmentState, type Segments } from './segments.ts'
import { shardStatIndex } from './stats.ts'
import type { TagTable } from './tag-table.ts'

/** Pairs of u32 in the one page that a status op has. */
const STATUS_PAIRS_MAX = BLOCK_BYTES / 8

/** From this length on a run is verified as one; which block is bad is looked for only then. */
const LONG_RUN_BLOCKS = 4
/** Read at once: what was read is verified while it is in the core's own cache. */
const PIECE_BLOCKS = 64

const GONE = 'its segment file is missing'

export class BlockReader {
  private readonly files: Files
  private readonly memory: Buffer
  private readonly views: BlockViews
  private readonly words: Uint32Array
  private readonly stats: Float64Array
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly index: ExtentIndex
  private readonly runs = new RunList()
  private readonly sealed: SealedReads
  private readonly damaged: ReadDamage
  /** What reads and scrubs found, for who has other copies. */
  readonly damage: DamageList

  constructor(
    host: ShardHost,
    parts: { segments: Segments; index: ExtentIndex; tags: TagTable; views: BlockViews }
  ) {
    const { segments, index, views } = parts
    this.host = host
    this.files = host.files
    this.memory = host.memory
    this.views = views
    this.words = new Uint32Array(
      host.memory.buffer,
      host.memory.byteOffset,
      Math.floor(host.memory.length / 4)
    )
    this.stats = host.stats
    this.segments = segments
    this.index = index
    this.sealed = new SealedReads(host, { ...parts, queries: index.queries() })
    this.damage = new DamageList(host.memory)
    this.damaged = new ReadDamage({ files: host.files, segments, index, damage: this.damage })
  }

  /**
   * Fills the payload and sets error and resultA (first bad block): what the layer reads as, or
   * what it alone has.
   */
  read(op: ShardOp, isAlone = false): void {
    this.stats[shardStatIndex.reads]!++
    this.stats[shardStatIndex.readBytes]! += op.blockCount * BLOCK_BYTES
    const layer = isAlone ? this.layerOf(op) : this.readLayerOf(op)
    const { runs } = this
    if (layer === BASE_UNKNOWN) {
      op.error = ErrorCode.BaseUnknown
      return
    }
    if (layer < 0) {
      this.runs.length = 0
      this.memory.fill(0, op.payload, op.payload + op.blockCount * BLOCK_BYTES)
      if ((op.flags & OpFlag.Sealed) !== 0) this.finishSealed(op, layer)
      return
    }
    const { chunk, firstBlock, blockCount } = op
    if (isAlone) this.index.lookupAlone(layer, chunk, firstBlock, blockCount, runs)
    else this.index.lookup(layer, chunk, firstBlock, blockCount, runs)
    this.bring(op, layer)
    if (op.error !== ErrorCode.Ok) this.damaged.note(op, layer, runs, isAlone)
  }

  private bring(op: ShardOp, layer: number): void {
    const isOpened = op.keySlot !== 0
    // A seal that opens tells more than a checksum.
    if (!this.readRuns(op, !isOpened)) return
    if (isOpened) this.openSealed(op, layer)
    else if ((op.flags & OpFlag.Sealed) !== 0) this.finishSealed(op, layer)
  }

  /** Brings the blocks of `runs`. False when the op failed. */
  private readRuns(op: ShardOp, isVerified: boolean): boolean {
    const { runs } = this
    for (let run = 0; run < runs.length; run++) {
      const first = runs.firsts[run]! - op.firstBlock
      const count = runs.counts[run]!
      const location = runs.locations[run]!
      const offset = op.payload + first * BLOCK_BYTES
      if (location >= LOCATION_END) {
        this.memory.fill(0, offset, offset + count * BLOCK_BYTES)
      } else if (!this.readRun(op, location, first, count, isVerified)) {
        return false
      }
    }
    return true
  }

  /** The bytes are there, not verified: of a block that does not open its checksum tells why. */
  private openSealed(op: ShardOp, layer: number): void {
    const { sealed, runs } = this
    let error = sealed.open(op, layer, runs)
    if (error === ErrorCode.SealBroken) {
      // What was opened stands in the place of what was read.
      if (!this.readRuns(op, true)) return
      error = sealed.open(op, layer, runs)
      const isStale = (op.flags & OpFlag.StaleKeys) !== 0
      if (isStale && error === ErrorCode.SealBroken) error = ErrorCode.Locked
    }
    if (error !== ErrorCode.Ok) this.fail(op, sealed.failedBlock, error, sealed.why)
  }

  /** Adds to the bytes what opens them. */
  private finishSealed(op: ShardOp, layer: number): void {
    const { sealed, runs } = this
    const error = sealed.describe(op, layer, runs)
    if (error !== ErrorCode.Ok) this.fail(op, sealed.failedBlock, error, sealed.why)
  }

  /**
   * Fills the payload page with (count, StatusExtent) pairs and sets resultA to their number: as
   * many as the page holds, which may not reach the end of the range.
   */
  status(op: ShardOp): void {
    const at = op.payload / 4
    const layer = this.readLayerOf(op)
    const isSince = (op.flags & OpFlag.Since) !== 0
    if (layer === BASE_UNKNOWN) {
      op.error = ErrorCode.BaseUnknown
      return
    }
    if (layer < 0) {
      this.words[at] = op.blockCount
      this.words[at + 1] = isSince ? StatusExtent.Unchanged : StatusExtent.Hole
      op.resultA = 1
      return
    }
    const { runs } = this
    const { chunk, firstBlock, blockCount } = op
    if (isSince) {
      const since = { layerHigh: op.writerEpoch, layerLow: op.sequence }
      if (!this.index.changes(layer, chunk, firstBlock, blockCount, since, runs)) {
        op.error = ErrorCode.InvalidArgument
        return
      }
    } else this.index.status(layer, chunk, firstBlock, blockCount, runs)
    const pairs = Math.min(runs.length, STATUS_PAIRS_MAX)
    for (let run = 0; run < pairs; run++) {
      this.words[at + 2 * run] = runs.counts[run]!
      this.words[at + 2 * run + 1] = runs.locations[run]!
    }
    op.resultA = pairs
  }

  /** Checksums of the data blocks of the last read, by block from its first one. */
  copyChecksums(words: Uint32Array, at: number): void {
    const { runs } = this
    for (let run = 0; run < runs.length; run++) {
      if (runs.locations[run]! >= LOCATION_END) continue
      const from = runs.firsts[run]! - runs.firsts[0]!
      for (let i = from; i < from + runs.counts[run]!; i++) words[at + i] = runs.crcs[i]!
    }
  }

  /** Whether the last read found sealed blocks. */
  hasTags(): boolean {
    try {
      return this.sealed.hasTags(this.runs)
    } catch (thrown) {
      storeErrorOf(thrown) // who asks for them finds out
      return true
    }
  }

  /** Fills the frame at `payload` of the maps: what another thread may read by itself. */
  locate(op: ShardOp): void {
    const maps = this.host.maps!
    const at = op.payload / 4
    const { runs } = this
    const layer = this.readLayerOf(op)
    if (layer === BASE_UNKNOWN) {
      op.error = ErrorCode.BaseUnknown
      return
    }
    this.index.lookup(layer, op.chunk, 0, CHUNK_BLOCKS, runs)
    if ((op.flags & OpFlag.Sealed) !== 0) this.locateSeals(op, layer)
    for (let run = 0; run < runs.length; run++) {
      const first = runs.firsts[run]!
      const end = first + runs.counts[run]!
      let location = runs.locations[run]!
      if (location >= LOCATION_END) {
        maps.fill(location, at + first, at + end)
        continue
      }
      const birth = this.showSegment(location)
      for (let block = first; block < end; block++) {
        maps[at + block] = location++
        maps[at + MAP_BIRTHS + block] = birth
        maps[at + MAP_CRCS + block] = runs.crcs[block]!
      }
    }
  }

  private locateSeals(op: ShardOp, layer: number): void {
    const at = (op.payload / MAP_BYTES) * SEAL_MAP_WORDS
    try {
      this.sealed.locate(op, layer, this.runs, this.host.sealMaps!, at)
    } catch (thrown) {
      op.error = storeErrorOf(thrown).code
    }
  }

  /**
   * Opens the segment of `location` for others too; its birth, 0 when it cannot be read. A chunk
   * may be in more segments than there may be open files: none is closed for it.
   */
  private showSegment(location: number): number {
    const segment = this.segments.get(location >>> this.segments.pageShift)
    if (segment === null || segment.state === SegmentState.Free) return 0
    if (segment.handle < 0 && this.segments.isFullOfOpen) return 0
    try {
      this.segments.open(segment)
    } catch (thrown) {
      storeErrorOf(thrown) // who reads it finds out
      return 0
    }
    this.segments.show(segment)
    return segment.birth
  }

  layerOf(op: ShardOp): number {
    return this.index.layerIndex(op.familyHigh, op.familyLow, op.layerHigh, op.layerLow, false)
  }

  private readLayerOf(op: ShardOp): number {
    return this.index.readIndex(op.familyHigh, op.familyLow, op.layerHigh, op.layerLow)
  }

  /** `first` counts from the op's first block. False when the op failed. */
  private readRun(
    op: ShardOp,
    location: number,
    first: number,
    count: number,
    isVerified: boolean
  ): boolean {
    const segment = this.segments.get(location >>> this.segments.pageShift)
    if (segment === null || segment.state === SegmentState.Free) {
      return this.fail(op, first, ErrorCode.ChecksumMismatch, GONE)
    }
    for (let done = 0; done < count; done += PIECE_BLOCKS) {
      const blocks = Math.min(PIECE_BLOCKS, count - done)
      const page = this.segments.pageOf(location) + done
      if (!this.readPiece(op, segment, page, first + done, blocks, isVerified)) return false
    }
    return true
  }

  private readPiece(
    op: ShardOp,
    segment: Segment,
    page: number,
    first: number,
    count: number,
    isVerified: boolean
  ): boolean {
    const { files, memory } = this
    const bytes = count * BLOCK_BYTES
    const offset = op.payload + first * BLOCK_BYTES
    let got = 0
    try {
      got = files.read(this.segments.open(segment), page * BLOCK_BYTES, memory, offset, bytes)
    } catch (thrown) {
      const error: StoreError = storeErrorOf(thrown)
      const missing = error.code === ErrorCode.NotFound
      const code = missing ? ErrorCode.ChecksumMismatch : ErrorCode.DiskFailure
      return this.fail(op, first, code, missing ? GONE : error.message)
    }
    if (!isVerified && got === bytes) return true
    const { crcs } = this.runs
    if (count >= LONG_RUN_BLOCKS && got === bytes) {
      if (this.sumOf(offset, count) === crc32cOfBlocks(crcs, first, count)) return true
    }
    for (let i = 0; i < count; i++) {
      const at = offset + i * BLOCK_BYTES
      if ((i + 1) * BLOCK_BYTES <= got && crc32c(this.views.at(at)) === crcs[first + i]) continue
      const where = `segment ${segment.slot} page ${page + i}`
      return this.fail(op, first + i, ErrorCode.ChecksumMismatch, where)
    }
    return true
  }

  private sumOf(offset: number, count: number): number {
    const { folded } = this.host
    if (folded !== undefined) return folded.ofBlocks(offset, count)
    return crc32c(this.memory.subarray(offset, offset + count * BLOCK_BYTES))
  }

  private fail(op: ShardOp, block: number, code: ErrorCode, why: string): boolean {
    op.error = code
    op.resultA = op.firstBlock + block
    // Others may have it, as of damage; but it is another loss than that of a bad disk.
    const isWrong = code === ErrorCode.ChecksumMismatch && why !== GONE
    if (isWrong) this.stats[shardStatIndex.checksumErrors]!++
    else if (code === ErrorCode.SealBroken) this.stats[shardStatIndex.sealErrors]!++
    // Who asks gets the key, perhaps, and asks again.
    const level = code === ErrorCode.Locked ? 'debug' : 'error'
    this.host.log(level, 'a block cannot be read', {
      family: hexOf(op.familyHigh, op.familyLow),
      layer: hexOf(op.layerHigh, op.layerLow),
      chunk: op.chunk,
      block: op.resultA,
      why
    })
    return false
  }
}

export const hexOf = (high: number, low: number): string =>
  high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')
