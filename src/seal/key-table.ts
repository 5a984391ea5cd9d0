import { KEY_SLOTS_MAX } from '../core/limits.ts'
import { KEY_BYTES } from './key-mailbox.ts'
import { secretBuffer, wipe } from './secret.ts'

/** Who seals and opens blocks finds keys here by their slot. */
export interface SealKeys {
  /** For blocks of versions with `writerEpoch`. Null: not held, or not any more. */
  keyOf(slot: number, writerEpoch: number): Buffer | null
}

/** One thread's copies of keys, by slot. */
export class KeyTable implements SealKeys {
  private readonly keys: (Buffer | null)[] = new Array(KEY_SLOTS_MAX + 1).fill(null)
  /** The key is for blocks from this writerEpoch on; those before it have the older slot's. */
  private readonly fromEpochs = new Float64Array(KEY_SLOTS_MAX + 1)
  private readonly olders = new Uint32Array(KEY_SLOTS_MAX + 1)

  keyOf(slot: number, writerEpoch: number): Buffer | null {
    let at = slot
    // An older key of the family has a lower epoch, so this ends.
    while (at !== 0 && writerEpoch < this.fromEpochs[at]!) at = this.olders[at]!
    return this.keys[at] ?? null
  }

  bytesOf(slot: number): Buffer | null {
    return this.keys[slot] ?? null
  }

  fromEpochOf(slot: number): number {
    return this.fromEpochs[slot]!
  }

  olderOf(slot: number): number {
    return this.olders[slot]!
  }

  /** Copies `key`. */
  set(slot: number, key: Buffer, fromEpoch: number, older: number): void {
    const own = this.keys[slot] ?? secretBuffer(KEY_BYTES)
    key.copy(own)
    this.keys[slot] = own
    this.fromEpochs[slot] = fromEpoch
    this.olders[slot] = older
  }

  forget(slot: number): void {
    const key = this.keys[slot]
    if (!key) return
    wipe(key)
    this.keys[slot] = null
    this.fromEpochs[slot] = 0
    this.olders[slot] = 0
    // The slot may be of another family's key next.
    for (let at = 1; at <= KEY_SLOTS_MAX; at++) if (this.olders[at] === slot) this.olders[at] = 0
  }
}
