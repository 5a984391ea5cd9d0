import type { Clock } from '../core/clock.ts'
import { CLOCK_JUMP_MS_MAX, MEMBER_TRUST_MS } from '../core/limits.ts'
import type { Boots } from './boots.ts'
import type { GroupIo } from './group-io.ts'

/** Of MEMBER_TRUST_MS: clocks run differently. */
const CONFIRMED_PART = 0.9

/**
 * R26: whether a gateway may serve by its lease alone, and whether members confirmed that it may
 * where it may not. Looked at once per batch of requests: what it tells is of the last look.
 */
export class GatewayTrust {
  /** On the monotonic clock. */
  nowMs: number
  /** May ops be sent by the lease alone? */
  isTrusted = true
  readonly #clock: Clock
  readonly #boots: Boots
  readonly #trustedForMs: (() => number) | null
  /** Wall less monotonic time at the last look. */
  #offsetMs: number
  #isFresh = false

  constructor(clock: Clock, boots: Boots, trustedForMs: (() => number) | null) {
    this.#clock = clock
    this.#boots = boots
    this.#trustedForMs = trustedForMs
    this.nowMs = clock.monotonicMs()
    this.#offsetMs = clock.wallMs() - this.nowMs
  }

  /** Looks, unless that was done for this batch: false. */
  lookOnce(): boolean {
    if (this.#isFresh) return false
    this.look()
    this.#isFresh = true
    return true
  }

  /** No later look is spared by this one: nobody tells when its turn is over. */
  look(): void {
    if (this.#trustedForMs === null) return
    this.nowMs = this.#clock.monotonicMs()
    this.#lookForJump()
    this.isTrusted = this.#trustedForMs() > 0
  }

  /** The batch is over. */
  readonly expire = (): void => {
    this.#isFresh = false
  }

  /** Is the lease about to run out, so that members have to confirm? */
  get isRunningOut(): boolean {
    return (this.#trustedForMs?.() ?? MEMBER_TRUST_MS) < MEMBER_TRUST_MS
  }

  /** Whether the group may be used now: past the lease all members in sync must have confirmed. */
  holdsFor(group: GroupIo): boolean {
    return this.isTrusted || this.#isConfirmed(group)
  }

  /** Looks: may all of them, as far as they are known here, be used now? */
  holdsNowFor(groups: Iterable<GroupIo | null>): boolean {
    this.look()
    if (this.isTrusted) return true
    for (const group of groups) if (group !== null && !this.#isConfirmed(group)) return false
    return true
  }

  #isConfirmed(group: GroupIo): boolean {
    for (let i = 0; i < group.inSyncCount; i++) {
      if (this.nowMs - group.targets[i]!.confirmedMs > MEMBER_TRUST_MS * CONFIRMED_PART) {
        return false
      }
    }
    return true
  }

  /** What members confirmed before the machine slept, or its clock was set, was long ago. */
  #lookForJump(): void {
    const offsetMs = this.#clock.wallMs() - this.nowMs
    const isJump = Math.abs(offsetMs - this.#offsetMs) > CLOCK_JUMP_MS_MAX
    this.#offsetMs = offsetMs
    if (isJump) for (const boot of this.#boots.all()) boot.forgetConfirmed()
  }
}
