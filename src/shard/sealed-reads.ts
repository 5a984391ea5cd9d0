/**
 * What a read of sealed blocks needs behind the bytes: their versions, their tags, and either the
 * key, to open them where they are, or nothing, to tell the reader all of it.
 */
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import { kinOf } from '../core/family-ids.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { SEAL_TAG_BYTES } from '../format/batch.ts'
import { viewOf } from '../format/fields.ts'
import { BlockSeal, tagViews } from '../seal/block-seal.ts'
import { SEAL_EPOCHS, SEAL_FAMILIES, SEAL_HIGHS, SEAL_LOWS } from './chunk-map.ts'
import { BlockVersions, type IndexQueries } from './index-queries.ts'
import type { BlockViews } from './memory.ts'
import { SEAL_ENTRY_BYTES, SEAL_KIN_SHIFT, SealKind, type ShardOp } from './op.ts'
import { LOCATION_END, type RunList } from './run-list.ts'
import type { Segments } from './segments.ts'
import type { ShardHost } from './shard-config.ts'
import type { TagTable } from './tag-table.ts'

const TWO_32 = 2 ** 32
/** Of data that is not sealed; of what is, one in 2^128. */
const NO_TAG = Buffer.alloc(SEAL_TAG_BYTES)

export class SealedReads {
  /** Of the last failure: the block, counted from the op's first, and why. */
  failedBlock = 0
  why = ''
  private readonly memory: Buffer
  private readonly view: DataView
  private readonly host: ShardHost
  private readonly segments: Segments
  private readonly table: TagTable
  private readonly queries: IndexQueries
  private readonly views: BlockViews
  private readonly versions = new BlockVersions()
  private readonly tags = Buffer.from(new ArrayBuffer(CHUNK_BLOCKS * SEAL_TAG_BYTES))
  private readonly tagWords = new Uint32Array(this.tags.buffer)
  private readonly tagOf = tagViews(this.tags, 0, CHUNK_BLOCKS)
  private readonly seal = new BlockSeal()

  constructor(
    host: ShardHost,
    parts: { segments: Segments; tags: TagTable; queries: IndexQueries; views: BlockViews }
  ) {
    this.host = host
    this.memory = host.memory
    this.view = viewOf(host.memory)
    this.segments = parts.segments
    this.table = parts.tags
    this.queries = parts.queries
    this.views = parts.views
  }

  /** Opens the blocks of `op`, which were read as `runs` says and verified, in place. */
  open(op: ShardOp, layer: number, runs: RunList): ErrorCode {
    const error = this.find(op, layer, runs)
    if (error !== ErrorCode.Ok) return error
    const { versions, seal } = this
    for (let run = 0; run < runs.length; run++) {
      if (runs.locations[run]! >= LOCATION_END) continue
      const first = runs.firsts[run]! - op.firstBlock
      for (let i = first; i < first + runs.counts[run]!; i++) {
        const writerEpoch = versions.epochs[i]!
        const family = versions.familiesLow[i]!
        const key = this.host.keys?.keyOf(op.keySlot, family, writerEpoch) ?? null
        if (key === null) return this.fail(i, ErrorCode.Locked, 'no key for it is unlocked')
        seal.version(op.familyHigh, family, writerEpoch, versions.sequences[i]!)
        const bytes = this.views.at(op.payload + i * BLOCK_BYTES)
        if (seal.open(key, op.chunk, op.firstBlock + i, bytes, this.tagOf[i]!, bytes)) continue
        return this.fail(i, ErrorCode.SealBroken, 'its seal does not open')
      }
    }
    return ErrorCode.Ok
  }

  /** Fills in the seal entries of the blocks at `op.tags`. */
  describe(op: ShardOp, layer: number, runs: RunList): ErrorCode {
    const { memory, view, versions } = this
    memory.fill(0, op.tags, op.tags + op.blockCount * SEAL_ENTRY_BYTES)
    const error = this.find(op, layer, runs)
    if (error !== ErrorCode.Ok) return error
    for (let run = 0; run < runs.length; run++) {
      if (runs.locations[run]! >= LOCATION_END) continue
      const first = runs.firsts[run]! - op.firstBlock
      for (let i = first; i < first + runs.counts[run]!; i++) {
        const at = op.tags + i * SEAL_ENTRY_BYTES
        const tag = this.tagOf[i]!
        tag.copy(memory, at)
        view.setUint32(at + 16, versions.epochs[i]!, true)
        view.setUint32(at + 20, versions.sequences[i]!, true)
        view.setUint32(at + 24, versions.sequences[i]! / TWO_32, true)
        const kind = tag.equals(NO_TAG) ? SealKind.Data : SealKind.Sealed
        view.setUint32(at + 28, kind + foreignKin(op, versions.familiesLow[i]!), true)
      }
    }
    return ErrorCode.Ok
  }

  /** Fills the frame of `map` at word `at` with what opens the blocks of a whole chunk. */
  locate(op: ShardOp, layer: number, runs: RunList, map: Uint32Array, at: number): void {
    const { versions, segments, tagWords } = this
    this.queries.blockVersions(layer, op.chunk, 0, CHUNK_BLOCKS, versions)
    for (let run = 0; run < runs.length; run++) {
      const location = runs.locations[run]!
      if (location >= LOCATION_END) continue
      const first = runs.firsts[run]!
      const end = first + runs.counts[run]!
      const segment = segments.get(location >>> segments.pageShift)!
      const tagAt = first * SEAL_TAG_BYTES
      this.table.copy(segment, segments.pageOf(location), end - first, this.tags, tagAt)
      for (let word = 4 * first; word < 4 * end; word++) map[at + word] = tagWords[word]!
      for (let block = first; block < end; block++) {
        map[at + SEAL_EPOCHS + block] = versions.epochs[block]!
        map[at + SEAL_LOWS + block] = versions.sequences[block]!
        map[at + SEAL_HIGHS + block] = versions.sequences[block]! / TWO_32
        map[at + SEAL_FAMILIES + block] = versions.familiesLow[block]!
      }
    }
  }

  /** Whether any of the blocks is sealed. */
  hasTags(runs: RunList): boolean {
    const { segments, tags } = this
    for (let run = 0; run < runs.length; run++) {
      const location = runs.locations[run]!
      if (location >= LOCATION_END) continue
      const segment = segments.get(location >>> segments.pageShift)!
      if (!segment.hasTags) continue
      const count = runs.counts[run]!
      this.table.copy(segment, segments.pageOf(location), count, tags, 0)
      const bytes = count * SEAL_TAG_BYTES
      for (let at = 0; at < bytes; at++) if (tags[at] !== 0) return true
    }
    return false
  }

  /** Brings versions and tags of the blocks of data. */
  private find(op: ShardOp, layer: number, runs: RunList): ErrorCode {
    const { segments } = this
    this.queries.blockVersions(layer, op.chunk, op.firstBlock, op.blockCount, this.versions)
    for (let run = 0; run < runs.length; run++) {
      const location = runs.locations[run]!
      if (location >= LOCATION_END) continue
      const first = runs.firsts[run]! - op.firstBlock
      const segment = segments.get(location >>> segments.pageShift)!
      const page = segments.pageOf(location)
      try {
        this.table.copy(segment, page, runs.counts[run]!, this.tags, first * SEAL_TAG_BYTES)
      } catch (thrown) {
        return this.fail(first, ErrorCode.DiskFailure, storeErrorOf(thrown).message)
      }
    }
    return ErrorCode.Ok
  }

  private fail(block: number, code: ErrorCode, why: string): ErrorCode {
    this.failedBlock = block
    this.why = why
    return code
  }
}

/** Of a block of another family than the op's, as seal entries have it. */
const foreignKin = (op: ShardOp, familyLow: number): number =>
  familyLow === op.familyLow ? 0 : kinOf(op.familyHigh, familyLow) * 2 ** SEAL_KIN_SHIFT
