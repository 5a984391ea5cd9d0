/**
 * The memory all clients share: arena pages, requests, reply buffers, status walks. Each is
 * bounded; who finds one used up waits in line. There are two lines, because of what they wait
 * for: `output` (reply buffers) moves when sockets take bytes, `input` (pages, requests, walks)
 * when the volume answers and when output moves. So neither can wait for itself.
 *
 * Whoever comes while a line is not empty stands behind it, and its head keeps its place until it
 * has made a step; then it goes to the end. That is what makes sharing fair.
 */
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { ARENA_SHARE, type NbdLimits, REPLY_BUFFER_BYTES, TRANSFER_BYTES_MIN } from './limits.ts'
import { ReplyBuffer } from './reply-buffer.ts'
import { type NbdRequest, RequestPool } from './request.ts'
import { BLOCK_BYTES } from '../core/limits.ts'

export interface Waiter {
  /** Tries again what had to wait. Returns false when it could not make a single step. */
  proceed(): boolean
}

/** A line of waiters, first come, first served. */
export class WaitLine {
  private readonly waiters: Waiter[] = []
  /** Whose turn it is now: it alone may take although others wait. */
  private turn: Waiter | null = null
  private again = false

  get length(): number {
    return this.waiters.length
  }

  mayTake(waiter: Waiter): boolean {
    return this.waiters.length === 0 || this.turn === waiter
  }

  join(waiter: Waiter): void {
    if (waiter === this.turn) this.again = true
    else if (!this.waiters.includes(waiter)) this.waiters.push(waiter)
  }

  leave(waiter: Waiter): void {
    const at = this.waiters.indexOf(waiter)
    if (at >= 0) this.waiters.splice(at, 1)
  }

  /** Lets those in line go on until one cannot. */
  serve(): void {
    for (let left = this.waiters.length; left > 0; left--) {
      const head = this.waiters[0]
      if (head === undefined) return
      this.turn = head
      this.again = false
      const stepped = head.proceed()
      this.turn = null
      if (this.again && !stepped) return
      this.leave(head)
      if (this.again) this.waiters.push(head)
    }
  }
}

/** Answers of `acquirePages` that are no offset. */
export const NO_SHARE = -1
export const NO_PAGES = -2
export const NO_REQUEST = -3

export class Budget {
  readonly arena: Arena
  readonly limits: NbdLimits
  readonly requests: RequestPool
  readonly input: WaitLine = new WaitLine()
  readonly output: WaitLine = new WaitLine()
  /** Called when something was given back while somebody waits. */
  private readonly onFreed: () => void
  private readonly freeBuffers: ReplyBuffer[] = []
  private buffersMade = 0
  private walks = 0
  private armed = false
  /** How often a client had to wait for memory. */
  waits = 0

  constructor(arena: Arena, limits: NbdLimits, onFreed: () => void) {
    this.arena = arena
    this.limits = limits
    this.onFreed = onFreed
    this.requests = new RequestPool(limits.requests)
  }

  /** Somebody cannot go on for want of memory. */
  get short(): boolean {
    return this.input.length > 0 || this.output.length > 0
  }

  get replyBuffersInUse(): number {
    return this.buffersMade - this.freeBuffers.length
  }

  get walksInUse(): number {
    return this.walks
  }

  /** `waiter` goes on, by `proceed`, when something was given back. */
  waitForInput(waiter: Waiter): void {
    this.waits++
    this.input.join(waiter)
    if (this.armed) return
    this.armed = true
    this.arena.onFree(this.freed)
  }

  private readonly freed = (): void => {
    this.armed = false
    if (this.input.length > 0) this.onFreed()
  }

  /** Serves both lines. Called at the end of a tick in which something was given back. */
  serve(): void {
    this.output.serve()
    this.input.serve()
    if (this.input.length > 0 && !this.armed) {
      this.armed = true
      this.arena.onFree(this.freed)
    }
  }

  acquireRequest(waiter: Waiter): NbdRequest | null {
    return this.input.mayTake(waiter) ? this.requests.acquire() : null
  }

  releaseRequest(request: NbdRequest): void {
    this.putBackRequest(request)
    if (this.input.length > 0) this.onFreed()
  }

  /** Of a request that was not put to use: nobody gains by it, so nobody is told. */
  putBackRequest(request: NbdRequest): void {
    assert(request.pageCount === 0, 'a request is released without pages')
    this.requests.release(request)
  }

  /**
   * `pages` contiguous pages for a client that holds `held` already, as byte offset into the
   * arena. NO_SHARE: it has its part, and goes on when its own requests finish. NO_PAGES: wait.
   */
  acquirePages(waiter: Waiter, pages: number, held: number): number {
    if (!this.input.mayTake(waiter)) return NO_PAGES
    if (held > 0 && held + pages > (this.arena.pagesFree - pages) * ARENA_SHARE) return NO_SHARE
    const offset = this.arena.acquire(pages)
    return offset < 0 ? NO_PAGES : offset
  }

  acquireWalk(waiter: Waiter): boolean {
    if (this.walks === this.limits.statusWalks || !this.input.mayTake(waiter)) return false
    this.walks++
    return true
  }

  releaseWalk(): void {
    this.walks--
    if (this.input.length > 0) this.onFreed()
  }

  acquireBuffer(waiter: Waiter): ReplyBuffer | null {
    if (!this.output.mayTake(waiter)) return null
    const buffer = this.freeBuffers.pop()
    if (buffer !== undefined) return buffer
    if (this.buffersMade === this.limits.replyBuffers) return null
    this.buffersMade++
    return new ReplyBuffer(REPLY_BUFFER_BYTES)
  }

  waitForOutput(waiter: Waiter): void {
    this.waits++
    this.output.join(waiter)
  }

  releaseBuffer(buffer: ReplyBuffer): void {
    buffer.reset()
    this.freeBuffers.push(buffer)
    if (this.output.length > 0) this.onFreed()
  }
}

assert(TRANSFER_BYTES_MIN % BLOCK_BYTES === 0, 'a cut transfer still ends between blocks')
