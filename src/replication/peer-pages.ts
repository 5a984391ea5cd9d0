/**
 * Arena pages for what gateways send and read. The arena is shared with this process's own
 * clients, whose requests hold pages while they wait for other members, which wait for theirs:
 * so that two full peers cannot wait for each other for ever, some pages are set aside for links.
 *
 * Who finds none stands in line; who comes later waits behind, however little it wants.
 */
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES, PIECE_BLOCKS_MAX } from '../core/limits.ts'
import { PageRuns } from '../handoff/page-runs.ts'

/** Of the arena, and at most so many pages: 8 MiB. */
const RESERVED_PART = 1 / 8
const RESERVED_PAGES_MAX = 2048
/** The largest op, with its page of versions, or pages of what opens its blocks. */
const RESERVED_PAGES_MIN = PIECE_BLOCKS_MAX + 2

export interface PageWaiter {
  /** Tries again what had to wait. Returns false when it could not make a single step. */
  proceed(): boolean
}

export class PeerPages {
  readonly arena: Arena
  /** How often somebody had to wait. */
  waits = 0
  private readonly reserve: number
  private readonly reserveEnd: number
  private readonly runs: PageRuns
  private readonly lengths: Int32Array
  private line: PageWaiter[] = []
  /** Whose turn it is now: it alone may take although others wait. */
  private turn: PageWaiter | null = null
  private again = false
  private armed = false
  private static readonly settled: Promise<void> = Promise.resolve()

  constructor(arena: Arena) {
    const part = Math.floor(arena.pagesTotal * RESERVED_PART)
    const pages = Math.max(RESERVED_PAGES_MIN, Math.min(part, RESERVED_PAGES_MAX))
    const reserve = arena.acquire(pages)
    assert(reserve >= 0, 'links get their pages before anybody else takes some')
    this.arena = arena
    this.reserve = reserve
    this.reserveEnd = reserve + pages * BLOCK_BYTES
    this.runs = new PageRuns(pages)
    this.lengths = new Int32Array(pages)
  }

  /** Gives the reserve back. Nothing is held. */
  close(): void {
    this.line = []
    this.arena.release(this.reserve)
  }

  get waiting(): boolean {
    return this.line.length > 0
  }

  /** `pages` contiguous pages as offset into the arena, or -1: `waiter` stands in line. */
  acquire(waiter: PageWaiter, pages: number): number {
    if (this.line.length > 0 && this.turn !== waiter) return this.wait(waiter)
    const offset = this.arena.acquire(pages)
    if (offset >= 0) return offset
    const page = this.runs.take(pages)
    if (page < 0) return this.wait(waiter)
    this.lengths[page] = pages
    return this.reserve + page * BLOCK_BYTES
  }

  release(offset: number): void {
    if (offset < this.reserve || offset >= this.reserveEnd) {
      this.arena.release(offset)
      return
    }
    const page = (offset - this.reserve) / BLOCK_BYTES
    this.runs.give(page, this.lengths[page]!)
    if (this.line.length > 0) void PeerPages.settled.then(this.serve)
  }

  leave(waiter: PageWaiter): void {
    const at = this.line.indexOf(waiter)
    if (at >= 0) this.line.splice(at, 1)
  }

  private wait(waiter: PageWaiter): -1 {
    this.waits++
    if (waiter === this.turn) this.again = true
    else if (!this.line.includes(waiter)) this.line.push(waiter)
    if (!this.armed) {
      this.armed = true
      this.arena.onFree(this.freed)
    }
    return -1
  }

  private readonly freed = (): void => {
    this.armed = false
    this.serve()
    if (this.line.length === 0 || this.armed) return
    this.armed = true
    this.arena.onFree(this.freed)
  }

  /** Lets those in line go on, until one cannot. */
  private readonly serve = (): void => {
    for (let left = this.line.length; left > 0; left--) {
      const head = this.line[0]
      if (head === undefined) return
      this.turn = head
      this.again = false
      const stepped = head.proceed()
      this.turn = null
      if (this.again && !stepped) return
      this.leave(head)
      if (this.again) this.line.push(head)
    }
  }
}
