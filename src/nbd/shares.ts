/**
 * Divides a fixed number of things (arena pages, request objects) among clients. Each client may
 * always hold its part, `each`: what others have not taken of theirs is set aside. What is left
 * may be borrowed, a quarter of it by one client at most. So clients that hold on to what they
 * have can slow others down to their part, and no further.
 */

/** Of all there is, this much is divided into parts; the rest is for borrowing. */
const DIVIDED = 3 / 4
/** Parts kept for clients to come: they must not find everything borrowed. */
const NEWCOMERS = 64
const NEWCOMERS_PART_MAX = 1 / 8
/** A client may borrow until it holds this part of what can be borrowed. */
const BORROWED_PART_MAX = 1 / 4

/** What one client holds. */
export class Share {
  held = 0
}

export class Shares {
  private readonly total: number
  private readonly eachMax: number
  private readonly members = new Set<Share>()
  private each = 0
  /** Sum over all clients of what they have not taken of their part. */
  private setAside = 0
  private newcomers = 0

  constructor(total: number, eachMax: number) {
    this.total = total
    this.eachMax = eachMax
    this.divide()
  }

  join(): Share {
    const share = new Share()
    this.members.add(share)
    this.divide()
    return share
  }

  /** The client holds nothing any more. */
  leave(share: Share): void {
    this.members.delete(share)
    this.divide()
  }

  /** Whether `count` more are within the client's part, so that it need not wait for others. */
  isOwn(share: Share, count: number): boolean {
    return share.held + count <= this.each
  }

  /** Whether the client may take `count` of the `free` ones. */
  mayTake(share: Share, count: number, free: number): boolean {
    if (this.isOwn(share, count)) return true
    const ofOthers = this.setAside - Math.max(0, this.each - share.held)
    const lendable = free - ofOthers - this.newcomers
    return count <= lendable && share.held + count <= (lendable + share.held) * BORROWED_PART_MAX
  }

  take(share: Share, count: number): void {
    const before = Math.max(0, this.each - share.held)
    share.held += count
    this.setAside += Math.max(0, this.each - share.held) - before
  }

  give(share: Share, count: number): void {
    this.take(share, -count)
  }

  private divide(): void {
    const part = Math.floor((this.total * DIVIDED) / (this.members.size + NEWCOMERS))
    this.each = Math.max(1, Math.min(this.eachMax, part))
    const newcomersMax = Math.floor(this.total * NEWCOMERS_PART_MAX)
    this.newcomers = Math.min(NEWCOMERS * this.each, newcomersMax)
    this.setAside = 0
    for (const { held } of this.members) this.setAside += Math.max(0, this.each - held)
  }
}
