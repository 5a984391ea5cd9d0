/**
 * Nobody runs as a peer that runs already. The lock guards one data directory; a copy of it,
 * started elsewhere while the original runs on, would be taken for the next boot of the same peer,
 * and its old blocks for the truth where nobody else has them (PROTOCOL.md, R13, R14).
 */
import type { Keys } from '../cluster/keys.ts'
import { type AliveRecord, decodeRecord } from '../cluster/records.ts'
import type { Clock } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { SESSION_TTL_MS } from '../core/limits.ts'
import { isGone, type ProcessId } from '../core/own-process.ts'
import type { MetadataStore } from '../metadata/store.ts'

/** Of a process that died the record goes with its lease; this is on the safe side of that. */
const GONE_MS = 1.5 * SESSION_TTL_MS
const LOOK_MS = 500

export interface PredecessorParts {
  readonly store: MetadataStore
  readonly keys: Keys
  readonly self: { readonly peerId: string; readonly bootId: string }
  readonly own: ProcessId | null
  readonly clock: Clock
  /** @throws StoreError Closed when the start was called off */
  readonly pause: (ms: number) => Promise<void>
  readonly onWaiting: (since: string) => void
}

/**
 * Resolves when no other process is this peer any more: at once after an orderly end, or when it
 * is seen that it died, else when its lease is over. Changes nothing.
 * @throws StoreError Busy when it runs on
 */
export async function requireNoPredecessor(parts: PredecessorParts): Promise<void> {
  const { store, keys, self, clock } = parts
  const key = keys.alive(self.peerId)
  const startMs = clock.monotonicMs()
  for (let looks = 0; ; looks++) {
    const entry = await store.get(key)
    if (entry === null) return
    const alive = decodeRecord('alive', key, entry.value)
    const isOver = alive.process !== undefined && isGone(alive.process, parts.own)
    if (alive.bootId === self.bootId || isOver) return
    if (clock.monotonicMs() - startMs >= GONE_MS) throw runs(self.peerId, alive)
    if (looks === 0) parts.onWaiting(alive.startedAt)
    await parts.pause(LOOK_MS)
  }
}

function runs(peerId: string, { startedAt, ...alive }: AliveRecord): StoreError {
  const [address] = [alive.peerAddress, ...alive.adminAddresses, ...alive.nbdAddresses]
  const where = address === null || address === undefined ? '' : ` at ${address}`
  const text = `peer ${peerId} runs already${where}, since ${startedAt}`
  const why = 'this data directory is a copy of the one that it uses. Nothing was changed'
  return new StoreError(ErrorCode.Busy, `${text}: ${why}`)
}
