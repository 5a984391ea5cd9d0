import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { KEY_SLOTS_MAX } from '../core/limits.ts'
import { KEY_BYTES, KeyMailbox, MailState } from './key-mailbox.ts'
import { KeyTable, type SealKeys } from './key-table.ts'
import { wipe } from './secret.ts'

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
  private readonly table = new KeyTable()
  private last = 0

  constructor(shards: number) {
    this.mailboxes = Array.from({ length: shards }, () => new KeyMailbox())
  }

  keyOf(slot: number, writerEpoch: number): Buffer | null {
    return this.table.keyOf(slot, writerEpoch)
  }

  /**
   * Copies a key of KEY_BYTES, which stays the caller's to wipe, and hands it to the workers: any
   * request submitted after this finds it there. Returns its slot.
   *
   * A family that gets a new data key is sealed with it from `fromEpoch` on; with `older`, the slot
   * of the key before, requests with the new slot still open what has lower writerEpochs.
   * @throws StoreError LimitReached
   */
  hold(key: Buffer, fromEpoch: number = 0, older: number = 0): number {
    assert(key.length === KEY_BYTES, 'a data key has its length')
    assert(
      older === 0 || this.table.fromEpochOf(older) < fromEpoch,
      'an older key is for lower epochs'
    )
    const slot = this.freeSlot()
    this.table.set(slot, key, fromEpoch, older)
    for (const mailbox of this.mailboxes) this.hand(mailbox, slot)
    this.tell(this.settle)
    return slot
  }

  /** Zeroes the key here and in every worker. No request that needs it is in flight any more. */
  drop(slot: number): void {
    assert(this.table.bytesOf(slot) !== null, 'a key that is held is dropped')
    this.table.forget(slot)
    for (const mailbox of this.mailboxes) mailbox.change(slot, MailState.Dropped)
    this.tell(this.settle)
  }

  /** A shard's worker is about to begin: the one before, if any, is gone for certain. */
  handAgain(shard: number): void {
    const mailbox = this.mailboxes[shard]!
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) {
      if (this.table.bytesOf(slot) !== null) this.hand(mailbox, slot)
      else if (mailbox.stateOf(slot) !== MailState.Empty) {
        wipe(mailbox.keyOf(slot))
        mailbox.change(slot, MailState.Empty)
      }
    }
  }

  /** Drops all. */
  close(): void {
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) {
      if (this.table.bytesOf(slot) !== null) this.drop(slot)
    }
  }

  /** The one used longest ago, so that a slot's number means one key for as long as may be. */
  private freeSlot(): number {
    for (let tried = 0; tried < KEY_SLOTS_MAX; tried++) {
      this.last = (this.last % KEY_SLOTS_MAX) + 1
      if (this.table.bytesOf(this.last) === null && this.isForgotten(this.last)) return this.last
    }
    throw new StoreError(
      ErrorCode.LimitReached,
      `${KEY_SLOTS_MAX} keys of encrypted volumes are unlocked here, the limit: lock one first`
    )
  }

  private isForgotten(slot: number): boolean {
    return this.mailboxes.every((mailbox) => mailbox.stateOf(slot) === MailState.Empty)
  }

  private hand(mailbox: KeyMailbox, slot: number): void {
    const { table } = this
    table.bytesOf(slot)!.copy(mailbox.keyOf(slot))
    mailbox.describe(slot, table.fromEpochOf(slot), table.olderOf(slot))
    mailbox.change(slot, MailState.Handed)
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
