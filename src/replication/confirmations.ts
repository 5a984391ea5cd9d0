/**
 * When this member last told a gateway that it is the newest writer of a family (R26): a takeover
 * has to wait for what such a gateway may still read from its own disk (R16), and for no more.
 */
import type { Clock } from '../core/clock.ts'
import { MEMBER_TRUST_MS } from '../core/limits.ts'

/** Families, above which those are looked for that nobody asked about for long. */
const KEPT_MAX = 4096

export class Confirmations {
  readonly #clock: Clock
  readonly #startMs: number
  readonly #lastMs = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
    this.#startMs = clock.monotonicMs()
  }

  note(family: string): void {
    const nowMs = this.#clock.monotonicMs()
    this.#lastMs.set(family, nowMs)
    if (this.#lastMs.size <= KEPT_MAX) return
    for (const [each, atMs] of this.#lastMs) {
      if (nowMs - atMs >= MEMBER_TRUST_MS) this.#lastMs.delete(each)
    }
  }

  /** For how long nobody was told so, by this process; MEMBER_TRUST_MS at most. */
  quietMs(family: string): number {
    const lastMs = this.#lastMs.get(family) ?? this.#startMs
    return Math.min(MEMBER_TRUST_MS, Math.floor(this.#clock.monotonicMs() - lastMs))
  }
}

// Data of the answer to a fence of a family, big-endian; peers of earlier versions answer nothing.
//
//   offset  size  field
//        0     4  quietMs
const QUIET_BYTES = 4

export function encodeQuiet(quietMs: number): Buffer {
  const bytes = Buffer.alloc(QUIET_BYTES)
  bytes.writeUInt32BE(quietMs)
  return bytes
}

export const decodeQuiet = (data: Buffer): number =>
  data.length >= QUIET_BYTES ? Math.min(MEMBER_TRUST_MS, data.readUInt32BE(0)) : 0
