/**
 * The memory all clients share: arena pages, requests and reply buffers, all of them bounded.
 * Pages and requests are divided by `Shares`; who can get neither its part nor a loan waits in
 * line. Whoever wants to borrow while others wait stands behind them, and the head of the line
 * keeps its place until it has made a step; then it goes to the end.
 */
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { type NbdLimits, PAGES_EACH_MAX, REQUESTS_EACH_MAX } from './limits.ts'
import { ReplyBuffers } from './reply-buffers.ts'
import { type NbdRequest, RequestPool } from './request.ts'
import { type Share, Shares } from './shares.ts'
import { type Waiter, WaitLine } from './wait-line.ts'

/** Answers of `acquirePages` that are no offset, and where there is no request either. */
export const NO_SHARE = -1
export const NO_PAGES = -2
export const NO_REQUEST = -3

/** A client, as the budget sees it. */
export interface Spender extends Waiter {
  readonly pageShare: Share
  readonly requestShare: Share
}

export class Budget {
  readonly arena: Arena
  readonly limits: NbdLimits
  readonly line: WaitLine = new WaitLine()
  readonly pageShares: Shares
  readonly requestShares: Shares
  readonly replyBuffers: ReplyBuffers
  /** How often a client got less memory than it asked for, or none. */
  waits = 0
  private readonly requests: RequestPool
  /** Called when something was given back while somebody waits. */
  private readonly onFreed: () => void
  private armed = false
  private denied = false

  constructor(arena: Arena, limits: NbdLimits, onFreed: () => void) {
    // A write of several pieces holds one request while it waits for those of its pieces.
    assert(limits.requests > limits.connections, 'clients cannot use up requests by waiting')
    this.arena = arena
    this.limits = limits
    this.onFreed = onFreed
    this.requests = new RequestPool(limits.requests)
    this.pageShares = new Shares(arena.pagesTotal, PAGES_EACH_MAX)
    this.replyBuffers = new ReplyBuffers(limits)
    this.requestShares = new Shares(limits.requests, REQUESTS_EACH_MAX)
  }

  /** Whether anybody got less than it asked for since the last call, for want of memory. */
  wasShort(): boolean {
    const was = this.denied || this.line.length > 0
    this.denied = false
    return was
  }

  get requestsInUse(): number {
    return this.requests.inUse
  }

  /** `spender` goes on, by `proceed`, when something was given back. */
  wait(spender: Spender): void {
    this.deny()
    this.line.join(spender)
    this.arm()
  }

  private deny(): void {
    this.waits++
    this.denied = true
  }

  /** Lets those in line go on. Called at the end of a tick in which something was given back. */
  serve(): void {
    this.line.serve()
    if (this.line.length > 0) this.arm()
  }

  private arm(): void {
    if (this.armed) return
    this.armed = true
    this.arena.onFree(this.freed)
  }

  private readonly freed = (): void => {
    this.armed = false
    if (this.line.length > 0) this.onFreed()
  }

  acquireRequest(spender: Spender): NbdRequest | null {
    const { requestShares, requests } = this
    const share = spender.requestShare
    if (!requestShares.isOwn(share, 1)) {
      if (!this.line.mayTake(spender)) return null
      if (!requestShares.mayTake(share, 1, requests.available)) return null
    }
    const request = requests.acquire()
    if (request !== null) requestShares.take(share, 1)
    return request
  }

  releaseRequest(spender: Spender, request: NbdRequest): void {
    this.putBackRequest(spender, request)
    if (this.line.length > 0) this.onFreed()
  }

  /** Of a request that was not put to use: nobody gains by it, so nobody is told. */
  putBackRequest(spender: Spender, request: NbdRequest): void {
    assert(request.pageCount === 0, 'a request is released without pages')
    this.requestShares.give(spender.requestShare, 1)
    this.requests.release(request)
  }

  /**
   * `pages` contiguous pages as byte offset into the arena. NO_SHARE: the client holds what it
   * may, and goes on when its own requests finish. NO_PAGES: fewer may do, else wait.
   */
  acquirePages(spender: Spender, pages: number): number {
    const { arena, pageShares } = this
    const share = spender.pageShare
    if (!pageShares.isOwn(share, pages)) {
      const mayTake =
        this.line.mayTake(spender) && pageShares.mayTake(share, pages, arena.pagesFree)
      if (!mayTake) {
        // A client that has its part of an arena that is mostly free is not kept short by others.
        if (arena.pagesFree < arena.pagesTotal / 2) this.deny()
        return share.held > 0 ? NO_SHARE : NO_PAGES
      }
    }
    const offset = arena.acquire(pages)
    if (offset < 0) {
      this.deny()
      return NO_PAGES
    }
    pageShares.take(share, pages)
    return offset
  }

  releasePages(spender: Spender, request: NbdRequest): void {
    this.arena.release(request.pages)
    this.pageShares.give(spender.pageShare, request.pageCount)
    request.pageCount = 0
  }
}
