import { KEY_SLOTS_MAX } from '../core/limits.ts'
import { KEY_BYTES, type KeyPlace } from './key-mailbox.ts'
import { secretBuffer, wipe } from './secret.ts'

/** Who seals and opens blocks finds keys here. */
export interface SealKeys {
  /**
   * Of the group that a request names, for blocks of `family` (lower half of the id) of versions
   * with `writerEpoch`. Null: not held, or not any more.
   */
  keyOf(group: number, family: number, writerEpoch: number): Buffer | null
}

const NO_SLOTS: readonly number[] = []

/** One thread's copies of keys, by slot. */
export class KeyTable implements SealKeys {
  private readonly keys: (Buffer | null)[] = new Array(KEY_SLOTS_MAX + 1).fill(null)
  private readonly places: (KeyPlace | null)[] = new Array(KEY_SLOTS_MAX + 1).fill(null)
  /** Slots of a group, those of the highest epochs first: the first that fits is the one. */
  private readonly groups: (readonly number[])[] = new Array(KEY_SLOTS_MAX + 1).fill(NO_SLOTS)

  keyOf(group: number, family: number, writerEpoch: number): Buffer | null {
    const slots = this.groups[group]!
    for (let i = 0; i < slots.length; i++) {
      const place = this.places[slots[i]!]!
      const isOfFamily = place.family === family || place.family === 0
      if (isOfFamily && writerEpoch >= place.fromEpoch) return this.keys[slots[i]!]!
    }
    return null
  }

  bytesOf(slot: number): Buffer | null {
    return this.keys[slot] ?? null
  }

  /** Of a key that is held. */
  placeOf(slot: number): KeyPlace {
    return this.places[slot]!
  }

  slotsOf(group: number): readonly number[] {
    return this.groups[group]!
  }

  /** Copies `key`. */
  set(slot: number, key: Buffer, place: KeyPlace): void {
    this.forget(slot)
    const own = secretBuffer(KEY_BYTES)
    key.copy(own)
    this.keys[slot] = own
    this.places[slot] = place
    const others = this.groups[place.group]!
    this.groups[place.group] = [...others, slot].sort(
      (one, other) => this.places[other]!.fromEpoch - this.places[one]!.fromEpoch
    )
  }

  forget(slot: number): void {
    const key = this.keys[slot]
    if (!key) return
    wipe(key)
    const { group } = this.places[slot]!
    this.groups[group] = this.groups[group]!.filter((other) => other !== slot)
    this.keys[slot] = null
    this.places[slot] = null
  }
}
