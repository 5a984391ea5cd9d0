import type { Arena } from '../core/arena.ts'
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import { READ_VERSIONS_BLOCKS_MAX, READ_VERSIONS_CRCS_AT, VersionKind } from '../shard/op.ts'
import { type CopyRange, pagesOf, readVersions } from './block-copy.ts'
import type { BlockSum } from './compare-plan.ts'
import type { BlockOp } from './block-store.ts'
import { copyPages, isSealed } from './copied-tags.ts'
import type { Member } from './member.ts'
import type { Pace } from './pace.ts'
import { decodeHeld } from './resync-plan.ts'
import { errorOf } from './shard-questions.ts'

/** Reads what one member has of one chunk, for its checksums. */
export class BlockSumReader {
  /** By block of data; null where it cannot be read. */
  readonly sums = new Map<number, BlockSum | null>()
  readonly #arena: Arena
  readonly #pace: Pace
  readonly #member: Member
  readonly #range: CopyRange

  constructor(arena: Arena, pace: Pace, member: Member, range: CopyRange) {
    this.#arena = arena
    this.#pace = pace
    this.#member = member
    this.#range = range
  }

  /** @throws StoreError whatever the member answers, but for damage */
  async read(): Promise<void> {
    for (let first = 0; first < CHUNK_BLOCKS; first += READ_VERSIONS_BLOCKS_MAX) {
      await this.#part(first, READ_VERSIONS_BLOCKS_MAX)
    }
  }

  async #part(first: number, count: number): Promise<void> {
    await this.#pace.take(count * BLOCK_BYTES)
    const pages = await pagesOf(this.#arena, copyPages(count))
    let error: number
    try {
      const answer = await readVersions(this.#member, this.#range, { first, count, pages })
      error = answer.error
      if (error === ErrorCode.Ok) this.#take(pages, answer.read, first)
    } finally {
      this.#arena.release(pages)
    }
    if (error === ErrorCode.Ok) return
    if (error !== ErrorCode.ChecksumMismatch) throw errorOf(error, 'a member cannot be compared')
    if (count === 1) {
      this.sums.set(first, null)
      return
    }
    const half = count >>> 1
    await this.#part(first, half)
    await this.#part(first + half, count - half)
  }

  #take(pages: number, read: BlockOp, first: number): void {
    const { bytes } = this.#arena
    for (const run of decodeHeld(bytes, pages, read.resultA)) {
      if (run.kind !== VersionKind.Data) continue
      const version = `${run.writerEpoch}.${run.sequence}`
      for (let block = run.firstBlock; block < run.firstBlock + run.blockCount; block++) {
        const crc = bytes.readUInt32LE(pages + READ_VERSIONS_CRCS_AT + 4 * (block - first))
        this.sums.set(block, { version, crc, isSealed: isSealed(bytes, read, block) })
      }
    }
  }
}
