import { strict } from 'node:assert'
import type { Arena } from '../../src/core/arena.ts'
import { crc32c } from '../../src/core/checksum.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'

/** The plainest arena: first fit over a table of pages. */
export class TestArena implements Arena {
  readonly bytes: Buffer
  readonly pagesTotal: number
  readonly #lengths: Int32Array
  readonly #holds: Int32Array
  readonly #used: Uint8Array
  #wakes: (() => void)[] = []
  /** Pages above it are as they were at first. */
  #touched = 0

  constructor(pages: number) {
    this.pagesTotal = pages
    this.bytes = Buffer.from(new SharedArrayBuffer(pages * BLOCK_BYTES))
    this.#lengths = new Int32Array(pages)
    this.#holds = new Int32Array(pages)
    this.#used = new Uint8Array(pages)
  }

  /** As a new one, which is dear: nobody holds anything of it any more. */
  reset(): void {
    this.#used.fill(0, 0, this.#touched)
    this.#holds.fill(0, 0, this.#touched)
    this.bytes.fill(0, 0, this.#touched * BLOCK_BYTES)
    this.#touched = 0
    this.#wakes = []
  }

  get pagesFree(): number {
    return this.#used.reduce((sum, used) => sum + (used === 0 ? 1 : 0), 0)
  }

  acquire(pages: number): number {
    let run = 0
    for (let page = 0; page < this.pagesTotal; page++) {
      run = this.#used[page] === 0 ? run + 1 : 0
      if (run < pages) continue
      const first = page - pages + 1
      this.#used.fill(1, first, page + 1)
      this.#touched = Math.max(this.#touched, page + 1)
      this.#lengths[first] = pages
      this.#holds[first] = 1
      return first * BLOCK_BYTES
    }
    return -1
  }

  retain(offset: number): void {
    const first = this.#startOf(offset / BLOCK_BYTES)
    strict(this.#holds[first]! > 0, 'a held run is retained')
    this.#holds[first]!++
  }

  release(at: number): void {
    const first = this.#startOf(at / BLOCK_BYTES)
    const offset = first * BLOCK_BYTES
    strict(this.#holds[first]! > 0, 'a held run is released')
    if (--this.#holds[first]! > 0) return
    this.#used.fill(0, first, first + this.#lengths[first]!)
    // What is read after its release must show.
    this.bytes.fill(0xdd, offset, offset + this.#lengths[first]! * BLOCK_BYTES)
    for (const wake of this.#wakes.splice(0)) queueMicrotask(wake)
  }

  #startOf(page: number): number {
    let first = page
    while (first > 0 && this.#holds[first] === 0 && this.#used[first] === 1) first--
    return first
  }

  lend(bytes: number): Buffer {
    return Buffer.alloc(bytes)
  }

  giveBack(): void {}

  copy(to: Buffer, at: number, from: Buffer, start: number, length: number): void {
    from.copy(to, at, start, start + length)
  }

  checksum(bytes: Buffer, before?: number): number {
    return crc32c(bytes, before)
  }

  onFree(wake: () => void): void {
    this.#wakes.push(wake)
  }
}
