/**
 * When a volume's next request may begin, as protocols ask before they take it from a client:
 * what waits then holds neither memory nor a place in a queue.
 *
 * - Limits that an operator set, as token buckets. A request begins while there is a token, and
 *   may cost more than there are: what it owes is waited for before the next one.
 * - Turns: while several volumes are busy each has a bounded number of requests under way, so
 *   that one with a deep queue does not make another wait behind all of it.
 */
import type { VolumeRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  FEW_REQUESTS,
  IOPS_MAX,
  SHARED_MS,
  SHARED_WINDOW,
  SHARED_WINDOW_BESIDE_FEW,
  THROUGHPUT_BYTES_MIN
} from '../core/limits.ts'
import type { DeviceAdmission } from './block-device.ts'

export type Limits = NonNullable<VolumeRecord['limits']>
export type LimitsChange = { readonly [K in keyof Limits]?: Limits[K] | undefined }

export const NO_LIMITS: Limits = { iops: null, iopsBurst: null, bandwidth: null }

/** What is not named stays. @throws StoreError InvalidArgument */
export function limitsOf(before: Limits, change: LimitsChange): Limits {
  const { iops = before.iops, iopsBurst = before.iopsBurst, bandwidth = before.bandwidth } = change
  check('iops', iops, 1, IOPS_MAX)
  check('iops-burst', iopsBurst, 1, IOPS_MAX)
  check('bandwidth', bandwidth, THROUGHPUT_BYTES_MIN, Number.MAX_SAFE_INTEGER)
  if (iops !== null || iopsBurst === null) return { iops, iopsBurst, bandwidth }
  if (change.iops !== undefined && change.iopsBurst === undefined) {
    return { iops, iopsBurst: null, bandwidth }
  }
  throw new StoreError(ErrorCode.InvalidArgument, 'iops-burst means nothing without iops')
}

function check(name: string, value: number | null, min: number, max: number): void {
  if (value === null || (Number.isSafeInteger(value) && value >= min && value <= max)) return
  const advice = 'off takes a limit away, and "read-only" stops changes'
  const text = `${name} ${value} is not a whole number from ${min} to ${max}: ${advice}`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

/** A volume that was idle may do at once what it may do in this time. */
const BURST_MS = 100

class TokenBucket {
  readonly #perMs: number
  readonly #most: number
  #tokens: number
  #filledMs: number

  constructor(perSecond: number, most: number, nowMs: number) {
    this.#perMs = perSecond / 1000
    this.#most = most
    this.#tokens = most
    this.#filledMs = nowMs
  }

  /** Milliseconds until there is a token; 0: there is one. */
  waitMs(nowMs: number): number {
    const filled = this.#tokens + (nowMs - this.#filledMs) * this.#perMs
    this.#tokens = Math.min(filled, this.#most)
    this.#filledMs = nowMs
    return this.#tokens > 0 ? 0 : -this.#tokens / this.#perMs + 1 / this.#perMs
  }

  take(count: number): void {
    this.#tokens -= count
  }
}

/** What the volumes of a process know of each other. */
export class Turns {
  /** The last of them that began a request, and when. */
  last: object | null = null
  lastMs = -Infinity
  /** Several are busy until then. */
  sharedUntilMs = -Infinity
  /** The last of them that has few requests at once, and until when that counts. */
  few: object | null = null
  fewUntilMs = -Infinity
}

/** What a volume and its snapshots may do together. */
class Budget {
  isLimited = false
  requests: TokenBucket | null = null
  bytes: TokenBucket | null = null
}

export class Admission implements DeviceAdmission {
  readonly #turns: Turns
  readonly #volume: { readonly inFlight: number }
  #budget = new Budget()
  /** The most requests that were under way at once: in this while, and in the one before. */
  #most = SHARED_WINDOW
  #mostBefore = SHARED_WINDOW
  #sinceMs = -Infinity

  constructor(turns: Turns, volume: { readonly inFlight: number }) {
    this.#turns = turns
    this.#volume = volume
  }

  get isLimited(): boolean {
    return this.#budget.isLimited
  }

  /** Its limits are those of the other, now and later: both spend the same tokens. */
  shareLimits(other: Admission): void {
    this.#budget = other.#budget
  }

  /** From now on; what is under way stays. */
  limit({ iops, iopsBurst, bandwidth }: Limits, nowMs: number): void {
    const burst = (rate: number): number => Math.max(1, (rate * BURST_MS) / 1000)
    const most = iops === null ? 0 : (iopsBurst ?? burst(iops))
    const budget = this.#budget
    budget.requests = iops === null ? null : new TokenBucket(iops, most, nowMs)
    budget.bytes = bandwidth === null ? null : new TokenBucket(bandwidth, burst(bandwidth), nowMs)
    budget.isLimited = iops !== null || bandwidth !== null
  }

  waitMs(nowMs: number): number {
    const { requests, bytes } = this.#budget
    return Math.max(requests?.waitMs(nowMs) ?? 0, bytes?.waitMs(nowMs) ?? 0)
  }

  spend(bytes: number): void {
    this.#budget.requests?.take(1)
    this.#budget.bytes?.take(bytes)
  }

  isShared(nowMs: number): boolean {
    const turns = this.#turns
    if (turns.last !== this) {
      if (nowMs - turns.lastMs < SHARED_MS) turns.sharedUntilMs = nowMs + SHARED_MS
      turns.last = this
    }
    turns.lastMs = nowMs
    if (nowMs >= turns.sharedUntilMs) return false
    this.#noteDepth(nowMs)
    return true
  }

  /** Of a volume that shares. */
  get isFull(): boolean {
    const { few, fewUntilMs, lastMs } = this.#turns
    const isBesideFew = few !== null && few !== this && lastMs < fewUntilMs
    return this.#volume.inFlight >= (isBesideFew ? SHARED_WINDOW_BESIDE_FEW : SHARED_WINDOW)
  }

  #noteDepth(nowMs: number): void {
    if (nowMs - this.#sinceMs >= SHARED_MS) {
      this.#mostBefore = this.#most
      this.#most = 0
      this.#sinceMs = nowMs
    }
    this.#most = Math.max(this.#most, this.#volume.inFlight + 1)
    if (Math.max(this.#most, this.#mostBefore) > FEW_REQUESTS) return
    this.#turns.few = this
    this.#turns.fewUntilMs = nowMs + SHARED_MS
  }
}
