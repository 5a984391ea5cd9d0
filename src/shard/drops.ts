/**
 * Chunks whose copy in this shard was given back (PROTOCOL.md, R27 to R30). The index forgets them
 * at once; their records stand in the segments until compaction comes, so a run in the file `drops`
 * says that what is older than it counts for nothing. It is needed as long as recovery may find
 * something that old: the chunks may be here again by then, without what was trimmed meanwhile.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, type StoreError, storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES, DROPS_MAX, GROUPS_MAX } from '../core/limits.ts'
import type { BlockRecord } from '../format/batch.ts'
import { type DropRun, decodeDrops, encodeDrops } from '../format/drops.ts'
import { groupOfChunk } from '../placement/hash.ts'
import type { ExtentIndex } from './extent-index.ts'
import { DROP_BYTES, DROP_CHUNKS_MAX, type ShardOp } from './op.ts'
import { replaceFile } from './replace-file.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { readShardTable } from './shard-table.ts'
import { shardStatIndex } from './stats.ts'

const DROPS_NAME = 'drops'
assert(DROP_CHUNKS_MAX * DROP_BYTES <= 4 * BLOCK_BYTES, 'an op has four pages')

/** What the op names, in its order: by family, then group, then chunk. */
interface Named {
  readonly familyHigh: number
  readonly familyLow: number
  readonly chunk: number
}

export class Drops {
  /** Names may have changed without being durable: nothing may build on it. Asked after `add`. */
  failure: StoreError | null = null
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private runs: readonly DropRun[] = []
  /** By a hash of family and group. */
  private readonly byGroup = new Map<number, DropRun[]>()
  /** Numbers of groups that families were spread among. */
  private shapes: readonly number[] = []
  private highestLsn = 0

  /** @throws StoreError Corrupt, UnknownVersion, DiskFailure */
  constructor(config: ShardConfig, host: ShardHost) {
    this.config = config
    this.host = host
    this.take(readShardTable(host.files, DROPS_NAME, config, decodeDrops))
  }

  get count(): number {
    return this.runs.length
  }

  /** Batches from now on have at least this lsn, also where the log ends before it. */
  get lsn(): number {
    return this.highestLsn
  }

  /** Was what the record says given back after it was appended, in the batch `lsn`? */
  hides(record: BlockRecord, lsn: number): boolean {
    return lsn < this.highestLsn && this.dropLsnOf(record) > lsn
  }

  /**
   * For what a checkpoint that begins at `startLsn` brought: it may be from before a drop that is
   * not older. What came after the drop is replayed, its lsn is as high.
   */
  applyTo(index: ExtentIndex, startLsn: number): void {
    if (this.highestLsn < startLsn || this.runs.length === 0) return
    index.drops.removeWhere((named) => this.dropLsnOf(named) >= Math.max(1, startLsn))
  }

  private dropLsnOf(named: Named): number {
    let lsn = 0
    for (const groups of this.shapes) {
      const group = groupOfChunk(named.familyHigh, named.familyLow, named.chunk, groups)
      for (const run of this.byGroup.get(hashOf(named, group)) ?? []) {
        const isIn = run.from <= named.chunk && named.chunk <= run.to
        if (isIn && isOf(run, named, groups, group)) lsn = Math.max(lsn, run.lsn)
      }
    }
    return lsn
  }

  /**
   * Carries out an op with chunks in its payload: durable, then gone from the index. `lsn` is that
   * of the next batch. In `resultA` the blocks that went.
   */
  add(op: ShardOp, index: ExtentIndex, lsn: number): void {
    const names = namesOf(op, this.host.memory)
    if (names === null) {
      op.error = ErrorCode.InvalidArgument
      return
    }
    const runs = withRuns(this.runs, runsOf(names, op.chunk, lsn))
    if (runs.length > DROPS_MAX) {
      op.error = ErrorCode.LimitReached
      this.host.log('error', 'too many drops: compact the shard', { limit: DROPS_MAX })
      return
    }
    try {
      this.write(runs)
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      op.error = error.code
      this.host.log('error', 'chunks could not be given back', { why: error.message })
      return
    }
    this.take(runs)
    for (const { familyHigh, familyLow, chunk } of names) {
      op.resultA += index.drops.removeChunk(familyHigh, familyLow, chunk)
    }
    this.host.stats[shardStatIndex.givenBackBytes]! += op.resultA * BLOCK_BYTES
  }

  /** Recovery finds nothing from before `lsn` any more: drops of that time are forgotten. */
  forgetBelow(lsn: number): void {
    const kept = this.runs.filter((run) => run.lsn >= lsn)
    if (kept.length === this.runs.length) return
    try {
      this.write(kept)
    } catch (thrown) {
      const why = storeErrorOf(thrown).message
      this.host.log('warn', 'drops could not be forgotten yet', { why })
      return
    }
    this.take(kept)
  }

  private take(runs: readonly DropRun[]): void {
    this.runs = runs
    this.byGroup.clear()
    this.highestLsn = 0
    for (const run of runs) {
      this.highestLsn = Math.max(this.highestLsn, run.lsn)
      const key = hashOf(run, run.group)
      const others = this.byGroup.get(key)
      if (others === undefined) this.byGroup.set(key, [run])
      else others.push(run)
    }
    this.shapes = [...new Set(runs.map(({ groups }) => groups))]
  }

  /** Replaces the file; durable on return. What throws changed nothing, or is a `failure`. */
  private write(runs: readonly DropRun[]): void {
    const { files } = this.host
    const { clusterId, peerId, shard } = this.config
    replaceFile(files, DROPS_NAME, encodeDrops({ clusterId, peerId, shard, runs }))
    try {
      files.syncDirectory()
    } catch (thrown) {
      this.failure = storeErrorOf(thrown)
      throw thrown
    }
  }
}

type OfFamily = Pick<Named, 'familyHigh' | 'familyLow'>

/** Families are random, so this spreads well; those that meet are told apart by `isOf`. */
const hashOf = ({ familyLow }: OfFamily, group: number): number =>
  (familyLow ^ Math.imul(group + 1, 0x9e3779b1)) >>> 0

const isOf = (run: DropRun, what: OfFamily, groups: number, group: number): boolean =>
  run.group === group &&
  run.groups === groups &&
  run.familyLow === what.familyLow &&
  run.familyHigh === what.familyHigh

/** Null when the op makes no sense. */
function namesOf(op: ShardOp, memory: Buffer): Named[] | null {
  const { chunk: groups, sequence: count } = op
  const isPower = groups >= 1 && groups <= GROUPS_MAX && (groups & (groups - 1)) === 0
  if (!isPower || count < 1 || count > DROP_CHUNKS_MAX) return null
  const names: Named[] = []
  for (let at = op.payload; at < op.payload + count * DROP_BYTES; at += DROP_BYTES) {
    names.push({
      familyLow: memory.readUInt32LE(at),
      familyHigh: memory.readUInt32LE(at + 4),
      chunk: memory.readUInt32LE(at + 8)
    })
  }
  return names
}

/** Whoever lists chunks lists all of a group, in their order: those between two are not here. */
function runsOf(names: readonly Named[], groups: number, lsn: number): DropRun[] {
  const runs: DropRun[] = []
  for (const { familyHigh, familyLow, chunk } of names) {
    const group = groupOfChunk(familyHigh, familyLow, chunk, groups)
    const last = runs.at(-1)
    const goesOn =
      last !== undefined &&
      last.familyHigh === familyHigh &&
      last.familyLow === familyLow &&
      last.group === group &&
      last.to <= chunk
    if (goesOn) runs[runs.length - 1] = { ...last, to: chunk }
    else runs.push({ familyHigh, familyLow, groups, group, from: chunk, to: chunk, lsn })
  }
  return runs
}

/** Older runs that a newer one covers are of no use any more. */
function withRuns(old: readonly DropRun[], added: readonly DropRun[]): DropRun[] {
  const newer = new Map<number, DropRun[]>()
  for (const run of added) {
    const key = hashOf(run, run.group)
    newer.set(key, [...(newer.get(key) ?? []), run])
  }
  const kept = old.filter((run) => {
    const others = newer.get(hashOf(run, run.group)) ?? []
    return !others.some(
      (other) =>
        isOf(other, run, run.groups, run.group) && other.from <= run.from && run.to <= other.to
    )
  })
  return [...kept, ...added]
}
