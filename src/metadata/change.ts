import type { State } from './layout.ts'
import * as layout from './layout.ts'
import type { Entry, LeaseId, WatchEvent } from './store.ts'
import type { WriteTables } from './tables.ts'

/** Events removed in one go, so that forgetting never holds a write up for long. */
const FORGET_EVENTS_MAX = 512

/** One revision in the making: what is put and deleted through it happens at once. */
export class Change {
  readonly #write: WriteTables
  readonly #state: State
  readonly #limits: { readonly revisions: number; readonly bytes: number }
  #events = 0

  constructor(
    write: WriteTables,
    state: State,
    limits: { readonly revisions: number; readonly bytes: number }
  ) {
    this.#write = write
    this.#state = state
    this.#limits = limits
  }

  put(key: string, value: Uint8Array, lease: LeaseId): void {
    const revision = this.#state.revision + 1
    const old = this.#get(key)
    const entry: Entry = {
      key,
      value: Buffer.from(value),
      createRevision: old?.createRevision ?? revision,
      modRevision: revision,
      version: (old?.version ?? 0) + 1,
      lease
    }
    if (old !== null && old.lease !== lease) this.#detach(old)
    if (lease !== '' && old?.lease !== lease) {
      this.#write.put(layout.attachmentKeyOf(lease, key), Buffer.alloc(0))
    }
    this.#write.put(layout.keyOf(key), layout.encodeRecord(entry))
    this.#record({ kind: 'put', entry })
  }

  delete(key: string): void {
    const old = this.#get(key)
    if (old === null) return
    this.#detach(old)
    this.#write.remove(layout.keyOf(key))
    this.#record({ kind: 'delete', key, modRevision: this.#state.revision + 1 })
  }

  /** Closes the revision and returns the store's, which is a new one if anything changed. */
  end(): number {
    if (this.#events === 0) return this.#state.revision
    this.#state.revision++
    this.#forgetBeyondLimits()
    this.#write.put(layout.STATE_KEY, layout.encodeState(this.#state))
    return this.#state.revision
  }

  /** Forgets a slice of the history up to and with `revision`; true if there is more of it. */
  forgetUpTo(revision: number): boolean {
    const more = this.#forget(revision)
    this.#write.put(layout.STATE_KEY, layout.encodeState(this.#state))
    return more
  }

  #forgetBeyondLimits(): void {
    const state = this.#state
    const oldestKept = state.revision - this.#limits.revisions
    if (state.compactRevision < oldestKept) this.#forget(oldestKept)
    if (state.historyBytes > this.#limits.bytes) this.#forget(state.revision - 1, true)
  }

  /** With `toBytes` it stops as soon as the history fits its limit in bytes. */
  #forget(revision: number, toBytes = false): boolean {
    const state = this.#state
    const end = layout.historyKeyOf(revision + 1, 0)
    const found = this.#write.range('h', end, FORGET_EVENTS_MAX)
    // A revision of which the slice took a part counts as forgotten; its rest goes with the next.
    for (const [key, value] of found) {
      const next = layout.revisionOfHistoryKey(key)
      if (toBytes && state.historyBytes <= this.#limits.bytes && next > state.compactRevision) break
      this.#write.remove(key)
      state.historyBytes -= key.length + value.length
      state.compactRevision = Math.max(state.compactRevision, next)
    }
    const more = found.length === FORGET_EVENTS_MAX
    if (!more && !toBytes) state.compactRevision = Math.max(state.compactRevision, revision)
    return more
  }

  #record(event: WatchEvent): void {
    const key = layout.historyKeyOf(this.#state.revision + 1, this.#events++)
    const value = layout.encodeEvent(event)
    this.#write.put(key, value)
    this.#state.historyBytes += key.length + value.length
  }

  #detach(entry: Entry): void {
    if (entry.lease !== '') this.#write.remove(layout.attachmentKeyOf(entry.lease, entry.key))
  }

  #get(key: string): Entry | null {
    const bytes = this.#write.get(layout.keyOf(key))
    return bytes === null ? null : layout.decodeRecord(key, bytes)
  }
}
