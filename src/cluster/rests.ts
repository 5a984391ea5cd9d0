import type { KnownGroup } from './groups.ts'

/** The first pause, and the longest. */
const REST_MS = 1000
const REST_MS_MAX = 60_000

interface Rest {
  pauseMs: number
  untilMs: number
}

/**
 * Peers that were taken out of a group which is to have them: a gateway cannot reach them, or they
 * have no room. They get nothing new for a while, and for longer each time that they were not in
 * sync in between: every listing makes writes of the group wait for them.
 */
export class Rests {
  readonly #rests = new Map<string, Rest>()

  /** A group's record changed. */
  note(old: KnownGroup | null, now: KnownGroup, nowMs: number): void {
    if (old === null) return
    const { members, inSync, syncing } = now.record
    const names = (entries: readonly { readonly peer: string }[], wanted: string): boolean =>
      entries.some(({ peer }) => peer === wanted)
    for (const { peer } of old.record.syncing) {
      if (names(inSync, peer)) this.#rests.delete(peer)
      else if (!names(syncing, peer)) this.#begin(peer, nowMs)
    }
    for (const { peer } of old.record.inSync) {
      const isOut = !names(inSync, peer) && !names(syncing, peer)
      if (isOut && members.includes(peer)) this.#begin(peer, nowMs)
    }
  }

  isResting(peer: string, nowMs: number): boolean {
    return nowMs < (this.#rests.get(peer)?.untilMs ?? 0)
  }

  #begin(peer: string, nowMs: number): void {
    const rest = this.#rests.get(peer) ?? { pauseMs: 0, untilMs: Number.NEGATIVE_INFINITY }
    // Many groups at once are one failure.
    if (nowMs < rest.untilMs) return
    const isNew = nowMs - rest.untilMs > 2 * rest.pauseMs
    const pauseMs = isNew ? REST_MS : Math.min(REST_MS_MAX, rest.pauseMs * 2)
    this.#rests.set(peer, { pauseMs, untilMs: nowMs + pauseMs })
  }
}
