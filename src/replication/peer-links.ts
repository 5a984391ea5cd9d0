/**
 * Links to all peers that somebody asked for: connects in the background, tries again with jitter
 * and growing pauses, and has at most one link to a peer.
 */
import type { Arena } from '../core/arena.ts'
import { type Clock, type Random, systemClock, systemRandom, systemTimers } from '../core/clock.ts'
import type { Timers } from '../core/clock.ts'
import type { Member, Members } from './member.ts'
import { type Dialed, dial, type PeerAddress } from './peer-dial.ts'
import type { PeerIdentity } from './peer-handshake.ts'
import { defaultPeerLimits, type PeerLimits } from './peer-limits.ts'
import { PeerLink } from './peer-link.ts'
import { OnceAWhile, type PeerLogger } from './peer-log.ts'
import type { PeerSecurity } from './peer-security.ts'
import { LinkBuffers } from './link-buffers.ts'

export interface PeerLinksOptions {
  readonly identity: PeerIdentity
  /** Where a peer is now; null: nobody knows. Asked before each attempt. */
  readonly addressOf: (peerId: string) => PeerAddress | null
  readonly arena: Arena
  readonly security: PeerSecurity
  readonly limits?: Partial<PeerLimits>
  readonly clock?: Clock
  readonly timers?: Timers
  readonly random?: Random
  readonly log?: PeerLogger
}

/** Attempts that nobody asked for any more, after which a peer is given up until somebody does. */
const UNWANTED_ATTEMPTS_MAX = 20
/** A link that ended sooner counts as one more failed attempt. */
const STEADY_MS = 5_000
const TWO_32 = 2 ** 32

/** One peer. */
interface Entry {
  readonly peerId: string
  link: PeerLink | null
  /** Ends the attempt or the pause that goes on now; null when there is none. */
  cancel: (() => void) | null
  /** In a row without a steady link. */
  attempts: number
  unwanted: number
  connectedMs: number
  /** Why there is no link. */
  trouble: string
  /** The first attempt in vain at this start of the peer; null: none was since it had a link. */
  vain: { readonly sinceMs: number; readonly bootId: string | null } | null
}

/** For how long attempts were in vain, and why the last one was. */
export interface NoLink {
  readonly forMs: number
  readonly why: string
}

export class PeerLinks implements Members {
  private readonly options: PeerLinksOptions
  private readonly limits: PeerLimits
  private readonly clock: Clock
  private readonly timers: Timers
  private readonly random: Random
  private readonly log: PeerLogger
  private readonly onceAWhile: OnceAWhile
  private readonly buffers = new LinkBuffers()
  private readonly entries = new Map<string, Entry>()
  private readonly listeners: ((peerId: string) => void)[] = []
  private closed = false

  constructor(options: PeerLinksOptions) {
    this.options = options
    this.limits = Object.freeze({ ...defaultPeerLimits, ...options.limits })
    this.clock = options.clock ?? systemClock
    this.timers = options.timers ?? systemTimers
    this.random = options.random ?? systemRandom
    this.log = options.log ?? (() => {})
    this.onceAWhile = new OnceAWhile(this.clock, this.log)
  }

  find(peerId: string): Member | null {
    const entry = this.entries.get(peerId)
    if (entry === undefined) {
      this.start(peerId)
      return null
    }
    entry.unwanted = 0
    return entry.link
  }

  onChange(listener: (peerId: string) => void): void {
    this.listeners.push(listener)
  }

  /** Why there is no link to the peer now, for those who are told that it is missing. */
  troubleOf(peerId: string): string {
    return this.entries.get(peerId)?.trouble ?? ''
  }

  /** Null: there is a link, or nobody wants one, or it was not tried yet. */
  noLinkTo(peerId: string): NoLink | null {
    const { vain = null, trouble: why = '' } = this.entries.get(peerId) ?? {}
    if (vain === null || vain.bootId !== this.options.addressOf(peerId)?.bootId) return null
    return { forMs: this.clock.monotonicMs() - vain.sinceMs, why }
  }

  /** There is news of where the peer is: a link to another boot is over, it is tried at once. */
  refresh(peerId: string): void {
    const entry = this.entries.get(peerId)
    if (entry === undefined) return
    const { link } = entry
    const at = this.options.addressOf(peerId)
    if (link !== null) {
      if (at !== null && at.bootId !== null && at.bootId !== link.bootId) {
        link.close('the peer was started again')
      }
      return
    }
    entry.cancel?.()
    entry.attempts = 0
    this.attempt(entry)
  }

  /** Ends all links; what is in flight is done with PeerLost. */
  close(): void {
    this.closed = true
    for (const { link, cancel } of this.entries.values()) {
      cancel?.()
      link?.close('the peer is shutting down')
    }
    this.entries.clear()
  }

  private start(peerId: string): void {
    if (this.closed) return
    const entry: Entry = {
      peerId,
      link: null,
      cancel: null,
      attempts: 0,
      unwanted: 0,
      connectedMs: 0,
      trouble: 'not connected yet',
      vain: null
    }
    this.entries.set(peerId, entry)
    this.attempt(entry)
  }

  private attempt(entry: Entry): void {
    entry.cancel = null
    if (this.closed) return
    if (++entry.unwanted > UNWANTED_ATTEMPTS_MAX) {
      this.entries.delete(entry.peerId)
      return
    }
    const at = this.options.addressOf(entry.peerId)
    if (at === null) {
      this.later(entry, 'its address is not known')
      return
    }
    const { identity, security } = this.options
    const { limits, timers } = this
    const { peerId } = entry
    entry.cancel = dial(
      { own: identity, peerId, at, security, limits, timers },
      {
        connected: (dialed) => this.connected(entry, dialed),
        failed: (reason) => {
          const fields = { peer: peerId, address: `${at.host}:${at.port}`, reason }
          this.onceAWhile.warn(`failed ${peerId}`, 'no connection to a peer', fields)
          if (entry.vain?.bootId !== at.bootId) {
            entry.vain = { sinceMs: this.clock.monotonicMs(), bootId: at.bootId }
          }
          this.later(entry, reason)
        }
      }
    )
  }

  private later(entry: Entry, trouble: string): void {
    entry.trouble = trouble
    const { backoffMsMin, backoffMsMax } = this.limits
    const pauseMs = Math.min(backoffMsMax, backoffMsMin * 2 ** Math.min(entry.attempts++, 20))
    const jitter = 0.5 + this.random.u32() / TWO_32 / 2
    entry.cancel = this.timers.start(pauseMs * jitter, () => this.attempt(entry))
  }

  private connected(entry: Entry, dialed: Dialed): void {
    const { arena } = this.options
    const { buffers, limits, timers } = this
    const link = new PeerLink({ dialed, arena, buffers, limits, timers })
    entry.cancel = null
    entry.link = link
    entry.trouble = ''
    entry.vain = null
    entry.connectedMs = this.clock.monotonicMs()
    const { peerId } = entry
    this.log('debug', 'connected to peer', { peer: peerId, boot: link.bootId })
    link.onLost((why) => this.lost(entry, why))
    // Not from inside the reading of the welcome.
    queueMicrotask(() => this.tell(peerId))
  }

  private lost(entry: Entry, why: string): void {
    entry.link = null
    if (this.closed) return
    if (this.clock.monotonicMs() - entry.connectedMs >= STEADY_MS) entry.attempts = 0
    const { peerId } = entry
    this.onceAWhile.warn(`lost ${peerId}`, 'connection to a peer was lost', { peer: peerId, why })
    this.later(entry, why)
    this.tell(peerId)
  }

  private tell(peerId: string): void {
    for (const listener of this.listeners) listener(peerId)
  }
}
