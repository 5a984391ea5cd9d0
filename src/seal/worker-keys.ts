import { KEY_SLOTS_MAX } from '../core/limits.ts'
import { KEY_BYTES, KeyMailbox, MailState } from './key-mailbox.ts'
import { secretBuffer, wipe } from './secret.ts'

/** Who seals and opens blocks finds keys here by their slot. */
export interface SealKeys {
  /** Null: not held, or not any more. */
  keyOf(slot: number): Buffer | null
}

/** A worker's own copies of the keys that the main thread handed to it. */
export class WorkerKeys implements SealKeys {
  private readonly mailbox: KeyMailbox
  private readonly keys: (Buffer | null)[] = new Array(KEY_SLOTS_MAX + 1).fill(null)
  private seen = 0

  constructor(shared: SharedArrayBuffer) {
    this.mailbox = new KeyMailbox(shared)
    this.look()
  }

  keyOf(slot: number): Buffer | null {
    return this.keys[slot] ?? null
  }

  /** To be called before each batch: keys come before the first request that needs them. */
  refresh(): void {
    if (this.mailbox.changes !== this.seen) this.look()
  }

  /** Every copy is zeroed; the main thread may hand the keys to another worker. */
  close(): void {
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) this.forget(slot)
  }

  private look(): void {
    const { mailbox } = this
    this.seen = mailbox.changes
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) {
      const state = mailbox.stateOf(slot)
      if (state === MailState.Handed) this.take(slot)
      if (mailbox.stateOf(slot) !== MailState.Dropped) continue
      this.forget(slot)
      mailbox.answer(slot, MailState.Dropped, MailState.Empty)
    }
  }

  private take(slot: number): void {
    const key = this.keys[slot] ?? secretBuffer(KEY_BYTES)
    const handed = this.mailbox.keyOf(slot)
    handed.copy(key)
    wipe(handed)
    this.keys[slot] = key
    this.mailbox.answer(slot, MailState.Handed, MailState.Taken)
  }

  private forget(slot: number): void {
    const key = this.keys[slot]
    if (!key) return
    wipe(key)
    this.keys[slot] = null
  }
}
