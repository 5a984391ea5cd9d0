import { assert } from '../core/assert.ts'
import type { BlockOp } from './block-store.ts'
import type { MemberAnswer } from './member.ts'

/** A call that waits for its answer. */
export class LinkCall {
  readonly json: Buffer
  readonly resolve: (answer: MemberAnswer) => void
  readonly reject: (error: Error) => void
  constructor(
    json: Buffer,
    resolve: (answer: MemberAnswer) => void,
    reject: (error: Error) => void
  ) {
    this.json = json
    this.resolve = resolve
    this.reject = reject
  }
}

/** A flush that waits for its answer. */
export class LinkFlush {
  readonly done: (error: number) => void
  constructor(done: (error: number) => void) {
    this.done = done
  }
}

export type LinkRequest = BlockOp | LinkCall | LinkFlush

/** One request on its way: a place in the table of its link, used again and again. */
export class LinkSlot {
  /** Place in the table, and how often it was used: an answer names both. */
  readonly index: number
  uses: number = 0
  /** One of the three while the request has no answer. */
  op: BlockOp | null = null
  call: LinkCall | null = null
  flush: LinkFlush | null = null
  /** When it was sent, in ticks of its link; and as the how many'th. */
  sentTick: number = 0
  sentAs: number = 0
  windowBytes: number = 0
  /** A payload is in the socket; the slot is free when that and the answer are done. */
  sending: boolean = false
  pages: number = -1
  readonly onSent: () => void

  constructor(index: number, onSent: (slot: LinkSlot) => void) {
    this.index = index
    this.onSent = () => onSent(this)
  }

  get requestId(): number {
    return this.index + this.uses * SLOTS_MAX
  }

  get isWaiting(): boolean {
    return this.op !== null || this.call !== null || this.flush !== null
  }
}

const SLOTS_MAX = 2 ** 16
const USES_MAX = 2 ** 16

/** The requests of a link that were sent. */
export class LinkSlots {
  /** Without an answer, and the sum of what they count in the window. */
  waiting = 0
  windowBytes = 0
  private readonly limit: number
  private readonly onSent: (slot: LinkSlot) => void
  private readonly slots: LinkSlot[] = []
  private readonly free: LinkSlot[] = []
  private sent = 0

  /** `onSent` is called when a payload is out of the socket. */
  constructor(limit: number, onSent: (slot: LinkSlot) => void) {
    assert(limit > 0 && limit <= SLOTS_MAX, 'request ids have room for the window')
    this.limit = limit
    this.onSent = onSent
  }

  get full(): boolean {
    return this.free.length === 0 && this.slots.length === this.limit
  }

  take(windowBytes: number, tick: number): LinkSlot {
    let slot = this.free.pop()
    if (slot === undefined) {
      slot = new LinkSlot(this.slots.length, this.onSent)
      this.slots.push(slot)
    }
    slot.sentTick = tick
    slot.sentAs = this.sent++
    slot.windowBytes = windowBytes
    this.waiting++
    this.windowBytes += windowBytes
    return slot
  }

  /** The slot whose request an answer names, or null. */
  find(requestId: number): LinkSlot | null {
    const slot = this.slots[requestId % SLOTS_MAX]
    return slot?.isWaiting && slot.requestId === requestId ? slot : null
  }

  /** The request was answered; the slot can be used again once its payload left. */
  answered(slot: LinkSlot): void {
    slot.op = null
    slot.call = null
    slot.flush = null
    this.waiting--
    this.windowBytes -= slot.windowBytes
    slot.uses = (slot.uses + 1) % USES_MAX
    if (!slot.sending) this.free.push(slot)
  }

  /** The payload of a slot left. */
  left(slot: LinkSlot): void {
    slot.sending = false
    if (!slot.isWaiting) this.free.push(slot)
  }

  /** Tick of the request that waits longest; `now` when none does. */
  oldestTick(now: number): number {
    let oldest = now
    for (const slot of this.slots) {
      if (slot.isWaiting && slot.sentTick < oldest) oldest = slot.sentTick
    }
    return oldest
  }

  /** What waits, as it was sent. */
  inOrder(): LinkSlot[] {
    const waiting = this.slots.filter((slot) => slot.isWaiting)
    return waiting.sort((first, second) => first.sentAs - second.sentAs)
  }
}
