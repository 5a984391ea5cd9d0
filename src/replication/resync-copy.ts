import type { Arena } from '../core/arena.ts'
import { crc32cOfBlocks } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { layerNumber } from '../core/layer-ids.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import {
  READ_VERSIONS_BLOCKS_MAX,
  READ_VERSIONS_CRCS_AT,
  VERSION_RUN_BYTES,
  VOID_BYTES,
  VersionKind
} from '../shard/op.ts'
import { type BlockOp, OpFlag, OpKind, type ShardedStore } from './block-store.ts'
import { askForTags, copyPages, takeTags } from './copied-tags.ts'
import type { Member } from './member.ts'
import type { Pace } from './pace.ts'
import { decodeHeld, type HeldRun, planChunk } from './resync-plan.ts'
import {
  clearOp,
  type DamagedBlocks,
  errorOf,
  type LayerId,
  setLayer,
  type ShardQuestions
} from './shard-questions.ts'

const VOIDS_PER_OP = Math.floor(BLOCK_BYTES / VOID_BYTES)

/** Where a chunk is copied from, and by which epoch of its group the source admits it. */
export interface CopySource {
  /** The authority first; the others are asked for blocks that it cannot read. */
  readonly members: readonly Member[]
  readonly pool: number
  readonly group: number
  readonly groupEpoch: number
  /** Asked before versions are given up of which the source has nothing at all. */
  readonly isDeleted: (family: string) => Promise<boolean>
  /** R28: asked in the moment in which something is written here. */
  readonly isOvertaken: () => boolean
}

type WriteHere = (
  layer: LayerId,
  chunk: number,
  runs: readonly HeldRun[],
  read: BlockOp | null
) => Promise<void>

/** Makes chunks of this peer's shards what they are at the source. */
export class ChunkCopier {
  voidedBlocks = 0
  /** Ops of ours at the local shards. */
  inFlight = 0
  /** Families that have sealed blocks. */
  readonly #sealed = new Set<string>()
  readonly #store: ShardedStore
  readonly #arena: Arena
  readonly #questions: ShardQuestions
  readonly #pace: Pace
  readonly #onCopied: (bytes: number) => void

  constructor(parts: {
    store: ShardedStore
    arena: Arena
    questions: ShardQuestions
    pace: Pace
    onCopied: (bytes: number) => void
  }) {
    this.#store = parts.store
    this.#arena = parts.arena
    this.#questions = parts.questions
    this.#pace = parts.pace
    this.#onCopied = parts.onCopied
  }

  /**
   * Returns the oldest writerEpoch of what was left alone, 0 for nothing: see ChunkPlan.
   * @throws StoreError whatever a member, or a local shard, answered
   */
  async copyChunk(
    source: CopySource,
    layer: LayerId,
    chunk: number,
    settledEpoch: number
  ): Promise<number> {
    const family = hexOf(layer.familyHigh, layer.familyLow)
    const write: WriteHere = (...what) => {
      // What this peer has of the group may have been given back since: nothing comes after that.
      if (!source.isOvertaken()) return this.#write(...what)
      throw new StoreError(ErrorCode.Conflict, `group ${source.pool}/${source.group} changed`)
    }
    const { data } = await source.members[0]!.call({
      call: 'versions',
      family,
      layer: hexOf(layer.layerHigh, layer.layerLow),
      chunk
    })
    const held = await this.#questions.versions(layer, chunk)
    const isStacked = layerNumber(layer.layerLow) > 0
    const plan = planChunk(heldOf(data), heldOf(held), settledEpoch, isStacked)
    // It may have nothing because the volume was deleted since: that is no reason to void.
    const isNothing = data.length === 0 && plan.voids.length > 0
    if (isNothing && (await source.isDeleted(family))) {
      throw new StoreError(ErrorCode.Conflict, `family ${family} was deleted meanwhile`)
    }
    for (let at = 0; at < plan.voids.length; at += VOIDS_PER_OP) {
      const voids = plan.voids.slice(at, at + VOIDS_PER_OP)
      await this.#questions.addVoids(layer, chunk, voids)
      for (const { blockCount } of voids) this.voidedBlocks += blockCount
    }
    await write(layer, chunk, plan.marks, null)
    for (const { firstBlock, blockCount } of plan.copies) {
      const end = firstBlock + blockCount
      for (let first = firstBlock; first < end; first += READ_VERSIONS_BLOCKS_MAX) {
        const count = Math.min(READ_VERSIONS_BLOCKS_MAX, end - first)
        await this.#copyBlocks(source, layer, chunk, { first, count }, write)
      }
    }
    return plan.leftEpoch
  }

  /**
   * R32: brings other bytes for blocks that are damaged here, of exactly the versions that they
   * have. Returns how many got them; at the others the members have something else.
   * @throws StoreError ChecksumMismatch when a block cannot be read from any, and what they answer
   */
  async mend(source: CopySource, layer: LayerId, damage: DamagedBlocks): Promise<number> {
    const { chunk, firstBlock, blockCount } = damage
    let mended = 0
    const write: WriteHere = async (_layer, _chunk, runs, read) => {
      for (const run of runs) mended += await this.#replace(layer, chunk, run, read!)
    }
    const end = firstBlock + blockCount
    for (let first = firstBlock; first < end; first += READ_VERSIONS_BLOCKS_MAX) {
      const count = Math.min(READ_VERSIONS_BLOCKS_MAX, end - first)
      await this.#copyBlocks(source, layer, chunk, { first, count }, write)
    }
    return mended
  }

  /** Returns how many of the run's blocks stood here in its version. */
  async #replace(layer: LayerId, chunk: number, run: HeldRun, read: BlockOp): Promise<number> {
    if (run.kind !== VersionKind.Data) return 0
    const writes: Promise<number>[] = []
    for (let block = run.firstBlock; block < run.firstBlock + run.blockCount; block++) {
      const op = this.#writeOp(layer, chunk, { ...run, firstBlock: block, blockCount: 1 }, read)
      op.flags |= OpFlag.SameVersion
      writes.push(this.#runHere(op))
    }
    this.#store.ring()
    const errors = await Promise.all(writes)
    const error = errors.find((each) => each !== ErrorCode.Ok && each !== ErrorCode.Conflict)
    if (error !== undefined) throw errorOf(error, `chunk ${chunk} cannot be written here`)
    return errors.filter((each) => each === ErrorCode.Ok).length
  }

  /** Bytes of one range with the versions that they have, from the first member that can. */
  async #copyBlocks(
    source: CopySource,
    layer: LayerId,
    chunk: number,
    range: { first: number; count: number },
    write: WriteHere
  ): Promise<void> {
    const { first, count } = range
    await this.#pace.take(count * BLOCK_BYTES)
    const payload = await this.#acquire(copyPages(count))
    try {
      let error: number = ErrorCode.ChecksumMismatch
      for (const member of source.members) {
        const op = this.#readOp(source, layer, chunk, range)
        op.payload = payload
        error = await this.#read(member, op, layer)
        const runs = error === 0 ? this.#heldAt(payload, op.resultA) : []
        if (error === 0 && !this.#isWhole(payload, runs, first)) error = ErrorCode.ChecksumMismatch
        if (error === 0) await write(layer, chunk, runs, op)
        this.#store.releaseOp(op)
        if (error === 0) {
          this.#onCopied(count * BLOCK_BYTES)
          return
        }
        if (error !== ErrorCode.ChecksumMismatch) break
      }
      // One bad block must not hide the others, nor which one it is.
      if (error !== ErrorCode.ChecksumMismatch || count === 1) {
        throw errorOf(error, `${nameOf(layer, chunk, range)} cannot be read from its source`)
      }
    } finally {
      this.#arena.release(payload)
    }
    const half = count >>> 1
    await this.#copyBlocks(source, layer, chunk, { first, count: half }, write)
    const rest = { first: first + half, count: count - half }
    await this.#copyBlocks(source, layer, chunk, rest, write)
  }

  #readOp(
    source: CopySource,
    layer: LayerId,
    chunk: number,
    range: { first: number; count: number }
  ): BlockOp {
    const op = clearOp(this.#store.acquireOp())
    setLayer(op, layer)
    op.kind = OpKind.ReadVersions
    op.chunk = chunk
    op.firstBlock = range.first
    op.blockCount = range.count
    op.pool = source.pool
    op.group = source.group
    op.groupEpoch = source.groupEpoch
    return op
  }

  #heldAt(payload: number, count: number): HeldRun[] {
    if (count * VERSION_RUN_BYTES > READ_VERSIONS_CRCS_AT) return []
    return decodeHeld(this.#arena.bytes, payload, count)
  }

  /** Every block of data came as its checksum says. */
  #isWhole(payload: number, runs: readonly HeldRun[], first: number): boolean {
    const { bytes } = this.#arena
    const crcsAt = bytes.byteOffset + payload + READ_VERSIONS_CRCS_AT
    const crcs = new Uint32Array(bytes.buffer, crcsAt, READ_VERSIONS_BLOCKS_MAX)
    for (const { kind, firstBlock, blockCount } of runs) {
      if (kind !== VersionKind.Data) continue
      const start = firstBlock - first
      if (start < 0 || start + blockCount > READ_VERSIONS_BLOCKS_MAX) return false
      const at = payload + (1 + start) * BLOCK_BYTES
      const sum = this.#arena.checksum(bytes.subarray(at, at + blockCount * BLOCK_BYTES))
      if (sum !== crc32cOfBlocks(crcs, start, blockCount)) return false
    }
    return true
  }

  /** A member that has sealed blocks wants to be asked for their tags too. */
  async #read(member: Member, op: BlockOp, { familyHigh, familyLow }: LayerId): Promise<number> {
    const family = hexOf(familyHigh, familyLow)
    if (this.#sealed.has(family)) askForTags(op)
    const error = await runAt(member, op)
    if (error !== ErrorCode.TagsWanted) return error
    this.#sealed.add(family)
    askForTags(op)
    return runAt(member, op)
  }

  /** Appends runs here under their versions; their data stands in the answer to `read`. */
  readonly #write: WriteHere = async (layer, chunk, runs, read) => {
    const writes = runs.map((run) => this.#runHere(this.#writeOp(layer, chunk, run, read)))
    if (writes.length === 0) return
    this.#store.ring()
    const errors = await Promise.all(writes)
    const error = errors.find((each) => each !== ErrorCode.Ok)
    if (error === undefined) return
    throw errorOf(error, `chunk ${chunk} cannot be written here`)
  }

  #writeOp(layer: LayerId, chunk: number, run: HeldRun, read: BlockOp | null): BlockOp {
    const op = clearOp(this.#store.acquireOp())
    setLayer(op, layer)
    op.chunk = chunk
    op.firstBlock = run.firstBlock
    op.blockCount = run.blockCount
    op.writerEpoch = run.writerEpoch
    op.sequence = run.sequence
    setKind(op, run.kind)
    if (op.kind === OpKind.Write && read !== null) {
      op.payload = read.payload + (1 + run.firstBlock - read.firstBlock) * BLOCK_BYTES
      takeTags(this.#arena.bytes, read, op)
    }
    return op
  }

  #runHere(op: BlockOp): Promise<number> {
    this.inFlight++
    return new Promise((resolve) => {
      op.onDone = ({ error }) => {
        this.inFlight--
        this.#store.releaseOp(op)
        resolve(error)
      }
      this.#store.submit(op)
    })
  }

  async #acquire(pages: number): Promise<number> {
    for (;;) {
      const payload = this.#arena.acquire(pages)
      if (payload >= 0) return payload
      await new Promise<void>((resolve) => this.#arena.onFree(resolve))
    }
  }
}

const heldOf = (data: Buffer): HeldRun[] =>
  decodeHeld(data, 0, Math.min(CHUNK_BLOCKS, Math.floor(data.length / VERSION_RUN_BYTES)))

function runAt(member: Member, op: BlockOp): Promise<number> {
  return new Promise((resolve) => {
    op.onDone = ({ error }) => resolve(error)
    member.submit(op)
    member.ring()
  })
}

function setKind(op: BlockOp, kind: number): void {
  switch (kind) {
    case VersionKind.Data:
      op.kind = OpKind.Write
      return
    case VersionKind.Zeroes:
      op.kind = OpKind.WriteZeroes
      op.flags = OpFlag.NoHole
      return
    case VersionKind.Hole:
      op.kind = OpKind.Trim
      op.flags = OpFlag.KeepHole
      return
    default:
      throw new StoreError(ErrorCode.Corrupt, `a member sent versions of kind ${kind}`)
  }
}

export const hexOf = (high: number, low: number): string =>
  high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')

const nameOf = (layer: LayerId, chunk: number, range: { first: number; count: number }): string =>
  `layer ${hexOf(layer.layerHigh, layer.layerLow)} chunk ${chunk} ` +
  `block ${range.first}${range.count > 1 ? `..${range.first + range.count - 1}` : ''}`
