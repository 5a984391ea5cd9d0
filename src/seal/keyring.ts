import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { KEY_SLOTS_MAX } from '../core/limits.ts'
import { KEY_BYTES, KeyMailbox, MailState } from './key-mailbox.ts'
import { secretBuffer, wipe } from './secret.ts'
import type { SealKeys } from './worker-keys.ts'

/**
 * The data keys that are unlocked in this process, on the main thread. Each has a slot: a small
 * number that requests carry (`ShardOp.keySlot`). Workers get a copy of each key once, through
 * their KeyMailbox.
 */
export class KeyRing implements SealKeys {
  /** Of each shard's worker. */
  readonly mailboxes: readonly KeyMailbox[]
  /**
   * Makes the workers look into their mailboxes and calls `done` when all have. Without it they
   * look with the next request, or within a second.
   */
  tell: (done: () => void) => void = (done) => done()
  private readonly keys: (Buffer | null)[] = new Array(KEY_SLOTS_MAX + 1).fill(null)
  private last = 0

  constructor(shards: number) {
    this.mailboxes = Array.from({ length: shards }, () => new KeyMailbox())
  }

  keyOf(slot: number): Buffer | null {
    return this.keys[slot] ?? null
  }

  /**
   * Copies a key of KEY_BYTES, which stays the caller's to wipe, and hands it to the workers: any
   * request submitted after this finds it there. Returns its slot.
   * @throws StoreError LimitReached
   */
  hold(key: Buffer): number {
    assert(key.length === KEY_BYTES, 'a data key has its length')
    const slot = this.freeSlot()
    const own = secretBuffer(KEY_BYTES)
    key.copy(own)
    this.keys[slot] = own
    for (const mailbox of this.mailboxes) hand(mailbox, slot, own)
    this.tell(this.settle)
    return slot
  }

  /** Zeroes the key here and in every worker. No request with this slot is in flight any more. */
  drop(slot: number): void {
    const key = this.keyOf(slot)
    assert(key !== null, 'a key that is held is dropped')
    wipe(key)
    this.keys[slot] = null
    for (const mailbox of this.mailboxes) {
      const state = mailbox.stateOf(slot)
      assert(state !== MailState.Empty, 'a key that is held was handed')
      mailbox.change(slot, MailState.Dropped)
    }
    this.tell(this.settle)
  }

  /** A shard's worker is about to begin: the one before, if any, is gone for certain. */
  handAgain(shard: number): void {
    const mailbox = this.mailboxes[shard]!
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) {
      const key = this.keyOf(slot)
      if (key !== null) hand(mailbox, slot, key)
      else if (mailbox.stateOf(slot) !== MailState.Empty) {
        wipe(mailbox.keyOf(slot))
        mailbox.change(slot, MailState.Empty)
      }
    }
  }

  /** Drops all. */
  close(): void {
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) if (this.keyOf(slot) !== null) this.drop(slot)
  }

  /** The one used longest ago, so that a slot's number means one volume for as long as may be. */
  private freeSlot(): number {
    for (let tried = 0; tried < KEY_SLOTS_MAX; tried++) {
      this.last = (this.last % KEY_SLOTS_MAX) + 1
      if (this.keys[this.last] === null && this.isForgotten(this.last)) return this.last
    }
    throw new StoreError(
      ErrorCode.LimitReached,
      `${KEY_SLOTS_MAX} encrypted volumes are unlocked here, the limit: lock another one first`
    )
  }

  private isForgotten(slot: number): boolean {
    return this.mailboxes.every((mailbox) => mailbox.stateOf(slot) === MailState.Empty)
  }

  /** The workers zeroed what they took; so does this side. */
  private readonly settle = (): void => {
    for (const mailbox of this.mailboxes) {
      for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) {
        const state = mailbox.stateOf(slot)
        if (state === MailState.Taken || state === MailState.Dropped) wipe(mailbox.keyOf(slot))
      }
    }
  }
}

function hand(mailbox: KeyMailbox, slot: number, key: Buffer): void {
  key.copy(mailbox.keyOf(slot))
  mailbox.change(slot, MailState.Handed)
}
