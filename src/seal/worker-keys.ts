import { KEY_SLOTS_MAX } from '../core/limits.ts'
import { KeyMailbox, MailState } from './key-mailbox.ts'
import { KeyTable, type SealKeys } from './key-table.ts'
import { wipe } from './secret.ts'

/** A worker's own copies of the keys that the main thread handed to it. */
export class WorkerKeys implements SealKeys {
  private readonly mailbox: KeyMailbox
  private readonly table = new KeyTable()
  private seen = 0

  constructor(shared: SharedArrayBuffer) {
    this.mailbox = new KeyMailbox(shared)
    this.look()
  }

  keyOf(group: number, family: number, writerEpoch: number): Buffer | null {
    return this.table.keyOf(group, family, writerEpoch)
  }

  /** To be called before each batch: keys come before the first request that needs them. */
  refresh(): void {
    if (this.mailbox.changes !== this.seen) this.look()
  }

  /** Every copy is zeroed; the main thread may hand the keys to another worker. */
  close(): void {
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) this.table.forget(slot)
  }

  private look(): void {
    const { mailbox, table } = this
    this.seen = mailbox.changes
    for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) {
      if (mailbox.stateOf(slot) === MailState.Handed) this.take(slot)
      if (mailbox.stateOf(slot) !== MailState.Dropped) continue
      table.forget(slot)
      mailbox.answer(slot, MailState.Dropped, MailState.Empty)
    }
  }

  private take(slot: number): void {
    const { mailbox } = this
    const handed = mailbox.keyOf(slot)
    this.table.set(slot, handed, mailbox.described(slot))
    wipe(handed)
    mailbox.answer(slot, MailState.Handed, MailState.Taken)
  }
}
