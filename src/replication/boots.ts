import type { Clock } from '../core/clock.ts'
import type { Member, Members } from './member.ts'

/** One boot of one peer, as this gateway deals with it over any number of links. */
export class Boot {
  readonly peerId: string
  readonly bootId: string
  /** The link to it; null while there is none. */
  member: Member | null = null
  isLocal = false
  /** Since when there is no link, monotonic. */
  downSinceMs: number
  /** Flush round in which the last write was acknowledged by it; 0 for none. See FlushRounds. */
  dirtyRound = 0
  /** Every write of this round and those before is on its disk. */
  cleanRound = 0
  /** The newest round that it was asked to flush; 0 after a failure. */
  flushAsked = 0
  /** Flushes that it has not answered. */
  flushing = 0
  /** Room for data as far as known: told by pings, less what was written since. */
  freeBytes = Number.POSITIVE_INFINITY
  /** When the last ping was sent that was answered, monotonic; 0 for never. */
  confirmedMs = 0
  /** It left a read unanswered for long; until it answers something. */
  isSlow = false
  pinging = false
  /** Counts clock jumps: a ping that was sent before one confirms nothing. */
  jumps = 0
  waitsForRing = false

  constructor(peerId: string, bootId: string, nowMs: number) {
    this.peerId = peerId
    this.bootId = bootId
    this.downSinceMs = nowMs
  }

  forgetConfirmed(): void {
    this.confirmedMs = Number.NEGATIVE_INFINITY
    this.jumps++
  }
}

export interface BootsListener {
  /** There is a link to `boot` again, or for the first time. */
  onUp(boot: Boot): void
  onDown(boot: Boot): void
}

/** The boots of members that this gateway knows, and the links to them. */
export class Boots {
  readonly #members: Members
  readonly #clock: Clock
  readonly #listener: BootsListener
  readonly #all = new Map<string, Boot>()
  /** What follows a boot that ended cleanly, by the key of that. */
  readonly #successors = new Map<string, Boot>()
  readonly #present = new Map<string, Member>()
  #unrung: Boot[] = []

  constructor(members: Members, clock: Clock, listener: BootsListener) {
    this.#members = members
    this.#clock = clock
    this.#listener = listener
    members.onChange((peerId) => {
      if (this.#present.has(peerId) || this.#knows(peerId)) this.find(peerId)
    })
  }

  /** The boot that an entry of a group record stands for. */
  of(peerId: string, bootId: string): Boot {
    const key = `${peerId}/${bootId}`
    const successor = this.#successors.get(key)
    if (successor !== undefined) return successor
    let boot = this.#all.get(key)
    if (boot === undefined) {
      boot = new Boot(peerId, bootId, this.#clock.monotonicMs())
      this.#all.set(key, boot)
      this.find(peerId)
    }
    return boot
  }

  all(): Iterable<Boot> {
    return this.#all.values()
  }

  /** `bootId` ended cleanly: entries with it stand for `next` from now on. */
  succeed(peerId: string, bootId: string, next: Boot): void {
    this.#successors.set(`${peerId}/${bootId}`, next)
  }

  /** The present boot of a peer, if there is a link to it. */
  find(peerId: string): Boot | null {
    const member = this.#members.find(peerId)
    if (member === null) return null
    const key = `${member.peerId}/${member.bootId}`
    let boot = this.#all.get(key)
    if (boot === undefined) {
      boot = new Boot(member.peerId, member.bootId, this.#clock.monotonicMs())
      this.#all.set(key, boot)
    }
    if (boot.member !== member) this.#attach(boot, member)
    return boot
  }

  /** The boot's member has something to send. */
  wantsRing(boot: Boot): void {
    if (boot.waitsForRing) return
    boot.waitsForRing = true
    this.#unrung.push(boot)
  }

  ring(): void {
    if (this.#unrung.length === 0) return
    const unrung = this.#unrung
    this.#unrung = []
    // Those far away first, who take longest: the own shards may be waited for.
    let isLast = true
    for (const boot of unrung) {
      boot.waitsForRing = false
      if (boot.isLocal) continue
      boot.member?.ring()
      isLast = false
    }
    for (const boot of unrung) if (boot.isLocal) boot.member?.ring(isLast)
  }

  #knows(peerId: string): boolean {
    for (const boot of this.#all.values()) if (boot.peerId === peerId) return true
    return false
  }

  #attach(boot: Boot, member: Member): void {
    boot.member = member
    boot.isSlow = false
    boot.isLocal = member.isLocal
    this.#present.set(member.peerId, member)
    member.onLost(() => {
      if (boot.member !== member) return
      boot.member = null
      boot.downSinceMs = this.#clock.monotonicMs()
      this.#listener.onDown(boot)
      // Asks for the next link, whoever it is to.
      this.find(boot.peerId)
    })
    // Not from inside: whoever looks a member up is in the middle of something.
    queueMicrotask(() => {
      if (boot.member === member) this.#listener.onUp(boot)
    })
  }
}
