import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { KEY_SLOTS_MAX } from '../core/limits.ts'
import { KEY_BYTES, KeyMailbox, type KeyPlace, MailState } from './key-mailbox.ts'
import { KeyTable, type SealKeys } from './key-table.ts'
import { wipe } from './secret.ts'

/**
 * The data keys that are unlocked in this process, on the main thread. Those that requests of one
 * volume need are a group: a small number that they carry (`ShardOp.keySlot`). Each key has a slot,
 * by which workers get a copy of it once, through their KeyMailbox; the first one of a group gives
 * it its number.
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

  keyOf(group: number, family: number, writerEpoch: number): Buffer | null {
    return this.table.keyOf(group, family, writerEpoch)
  }

  /**
   * Copies a key of KEY_BYTES, which stays the caller's to wipe, and hands it to the workers: any
   * request submitted after this finds it there. Returns its group: a new one where none is named.
   * @throws StoreError LimitReached
   */
  hold(key: Buffer, { group = 0, family = 0, fromEpoch = 0 }: Partial<KeyPlace> = {}): number {
    assert(key.length === KEY_BYTES, 'a data key has its length')
    const slot = this.freeSlot()
    const place = { group: group === 0 ? slot : group, family, fromEpoch }
    this.table.set(slot, key, place)
    for (const mailbox of this.mailboxes) this.hand(mailbox, slot)
    this.tell(this.settle)
    return place.group
  }

  /** Zeroes a group's keys here and in every worker. No request that needs one is in flight. */
  drop(group: number): void {
    for (const slot of [...this.table.slotsOf(group)]) this.dropSlot(slot)
  }

  /** The same with one key of it. */
  dropKey(group: number, family: number, fromEpoch: number): void {
    for (const slot of [...this.table.slotsOf(group)]) {
      const place = this.table.placeOf(slot)
      if (place.family === family && place.fromEpoch === fromEpoch) this.dropSlot(slot)
    }
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
      if (this.table.bytesOf(slot) !== null) this.dropSlot(slot)
    }
  }

  private dropSlot(slot: number): void {
    this.table.forget(slot)
    for (const mailbox of this.mailboxes) mailbox.change(slot, MailState.Dropped)
    this.tell(this.settle)
  }

  /**
   * The one used longest ago, so that a number means one key for as long as may be; none that is
   * that of a group.
   */
  private freeSlot(): number {
    for (let tried = 0; tried < KEY_SLOTS_MAX; tried++) {
      this.last = (this.last % KEY_SLOTS_MAX) + 1
      if (this.isFree(this.last)) return this.last
    }
    throw new StoreError(
      ErrorCode.LimitReached,
      `${KEY_SLOTS_MAX} keys of encrypted volumes are unlocked here, the limit: lock one first`
    )
  }

  private isFree(slot: number): boolean {
    if (this.table.bytesOf(slot) !== null || this.table.slotsOf(slot).length > 0) return false
    return this.mailboxes.every((mailbox) => mailbox.stateOf(slot) === MailState.Empty)
  }

  private hand(mailbox: KeyMailbox, slot: number): void {
    const { table } = this
    table.bytesOf(slot)!.copy(mailbox.keyOf(slot))
    mailbox.describe(slot, table.placeOf(slot))
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
