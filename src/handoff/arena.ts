import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { SUMS_SCRATCH_BYTES } from '../core/block-checksums.ts'
import { FOLD_SCRATCH_BYTES, FoldedChecksum } from '../core/folded-checksum.ts'
import { ARENA_BYTES_DEFAULT, BLOCK_BYTES, SHARDS_MAX } from '../core/limits.ts'
import {
  moverOf,
  type Mover,
  sharedMemory,
  WASM_PAGE_BYTES,
  type SharedWasmMemory
} from '../core/wasm.ts'
import { PageRuns } from './page-runs.ts'

/**
 * The arena over the buffer of a shared WebAssembly memory: it is a SharedArrayBuffer like any
 * other, but page aligned, so direct I/O works on it. Pages become real memory when first touched.
 *
 * Behind the pages stand some buffers to lend, because between two places of this memory
 * WebAssembly copies: JavaScript copies to and from shared memory byte by byte when the two are
 * not aligned alike, which takes 1.5 microseconds for a block instead of 0.1.
 *
 * Only the main thread takes and gives back; workers see the bytes.
 */
export class SharedArena implements Arena {
  readonly bytes: Buffer
  readonly shared: SharedArrayBuffer
  readonly pagesTotal: number
  readonly memory: SharedWasmMemory
  private readonly scratchStart: number
  private readonly move: Mover
  private readonly folded: FoldedChecksum
  private readonly lendable: Buffer[] = []
  private readonly runs: PageRuns
  /** Holds on the run that starts at a page; 0 where none starts. */
  private readonly holds: Uint32Array
  /** Length of the run that starts at a page; inside a run, how far back it starts, negative. */
  private readonly lengths: Int32Array
  private waiting: (() => void)[] = []
  private wakeQueued = false

  constructor(bytes: number = ARENA_BYTES_DEFAULT) {
    assert(bytes > 0 && bytes % WASM_PAGE_BYTES === 0, 'the arena is whole 64 KiB pages')
    this.scratchStart = bytes + LENT_BUFFERS * LENT_BYTES
    this.memory = sharedMemory(this.scratchOf(SHARDS_MAX) + FOLD_SCRATCH_BYTES)
    this.move = moverOf(this.memory)
    this.folded = new FoldedChecksum(this.memory, this.scratchOf(SHARDS_MAX))
    this.shared = this.memory.buffer
    this.bytes = Buffer.from(this.shared, 0, bytes)
    for (let buffer = LENT_BUFFERS - 1; buffer >= 0; buffer--) {
      this.lendable.push(Buffer.from(this.shared, bytes + buffer * LENT_BYTES, LENT_BYTES))
    }
    this.pagesTotal = bytes / BLOCK_BYTES
    this.runs = new PageRuns(this.pagesTotal)
    this.holds = new Uint32Array(this.pagesTotal)
    this.lengths = new Int32Array(this.pagesTotal)
  }

  get pagesFree(): number {
    return this.runs.pagesFree
  }

  /** Where in the memory what the worker of a shard takes checksums with is; last, the arena's. */
  scratchOf(shard: number): number {
    assert(shard >= 0 && shard <= SHARDS_MAX, 'each shard has a scratch')
    return this.scratchStart + shard * SCRATCH_BYTES
  }

  acquire(pages: number): number {
    assert(pages > 0, 'a run holds a page')
    const page = this.runs.take(pages)
    if (page < 0) return -1
    this.holds[page] = 1
    this.lengths[page] = pages
    for (let inside = 1; inside < pages; inside++) this.lengths[page + inside] = -inside
    return page * BLOCK_BYTES
  }

  retain(offset: number): void {
    const page = this.startOf(offset / BLOCK_BYTES)
    assert(this.holds[page]! > 0, 'only a held run is held once more')
    this.holds[page]!++
  }

  release(offset: number): void {
    const page = this.startOf(offset / BLOCK_BYTES)
    const holds = this.holds[page]!
    assert(holds > 0, 'only a held run is given back')
    this.holds[page] = holds - 1
    if (holds > 1) return
    this.runs.give(page, this.lengths[page]!)
    if (this.waiting.length > 0 && !this.wakeQueued) {
      // After the caller's batch of releases, and never from inside one.
      this.wakeQueued = true
      queueMicrotask(this.wakeAll)
    }
  }

  lend(bytes: number): Buffer {
    const buffer = bytes <= LENT_BYTES ? this.lendable.pop() : undefined
    return buffer === undefined ? Buffer.allocUnsafeSlow(bytes) : buffer.subarray(0, bytes)
  }

  giveBack(buffer: Buffer): void {
    if (buffer.buffer !== this.shared) return
    this.lendable.push(Buffer.from(this.shared, buffer.byteOffset, LENT_BYTES))
  }

  copy(to: Buffer, at: number, from: Buffer, start: number, length: number): void {
    if (to.buffer !== this.shared || from.buffer !== this.shared) {
      from.copy(to, at, start, start + length)
      return
    }
    assert(at + length <= to.length && start + length <= from.length, 'copies stay inside')
    this.move(to.byteOffset + at, from.byteOffset + start, length)
  }

  checksum(bytes: Buffer, before?: number): number {
    return this.folded.ofBytes(bytes, before)
  }

  onFree(wake: () => void): void {
    this.waiting.push(wake)
  }

  private startOf(page: number): number {
    const length = this.lengths[page]!
    const start = length >= 0 ? page : page + length
    assert(start + this.lengths[start]! > page, 'a page of a run is named')
    return start
  }

  private readonly wakeAll = (): void => {
    this.wakeQueued = false
    const woken = this.waiting
    this.waiting = []
    for (const wake of woken) wake()
  }
}

/** Buffers to lend; who comes later gets one that is copied from more slowly. */
const LENT_BUFFERS = 64
/** What a connection receives into. */
const LENT_BYTES = 128 * 1024
/** FoldedChecksum's, and BlockChecksums' behind it. */
const SCRATCH_BYTES = FOLD_SCRATCH_BYTES + SUMS_SCRATCH_BYTES

assert(LENT_BYTES % WASM_PAGE_BYTES === 0, 'the memory is whole pages of WebAssembly')
assert(SCRATCH_BYTES % WASM_PAGE_BYTES === 0, 'the scratches are whole pages, too')
assert(WASM_PAGE_BYTES % BLOCK_BYTES === 0, 'an arena holds whole pages')
