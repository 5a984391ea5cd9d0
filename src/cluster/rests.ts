import type { KnownGroup } from './groups.ts'

/** The first pause, and the longest. */
const REST_MS = 1000
const REST_MS_MAX = 60_000

interface Rest {
  pauseMs: number
  untilMs: number
}

/**
 * Peers that were listed as syncing and taken out again before they were in sync: a gateway cannot
 * reach them, or they have no room. They get nothing new for a while, and for longer each time:
 * every listing makes writes of the group wait for them.
 */
export class Rests {
  readonly #rests = new Map<string, Rest>()

  /** A group's record changed. */
  note(old: KnownGroup | null, now: KnownGroup, nowMs: number): void {
    if (old === null) return
    const { inSync, syncing } = now.record
    for (const { peer } of old.record.syncing) {
      const is = (entry: { readonly peer: string }): boolean => entry.peer === peer
      if (inSync.some(is)) this.#rests.delete(peer)
      else if (!syncing.some(is)) this.#begin(peer, nowMs)
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
