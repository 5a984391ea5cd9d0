import { ErrorCode, StoreError } from '../core/errors.ts'

const SLOTS_MIN = 64
const SLOT_WORDS = 3

/**
 * Highest epoch by a key of two u32 that are not both zero, in one typed array: it is asked for
 * every request. Epochs only grow, from 1.
 */
export class EpochTable {
  readonly #entriesMax: number
  readonly #what: string
  /** Key high, key low, epoch; epoch 0 is a free slot. */
  #slots = new Uint32Array(SLOTS_MIN * SLOT_WORDS)
  #mask = SLOTS_MIN - 1
  #length = 0
  /** The slot found last, as a word: requests come in runs of one key. */
  #recent = 0

  constructor(what: string, entriesMax: number) {
    this.#what = what
    this.#entriesMax = entriesMax
  }

  get length(): number {
    return this.#length
  }

  /** 0 when the key is unknown. */
  get(high: number, low: number): number {
    const slots = this.#slots
    const recent = this.#recent
    if (slots[recent + 1] === low && slots[recent] === high) return slots[recent + 2]!
    const at = this.#find(high, low)
    this.#recent = at
    return slots[at + 2]!
  }

  /** @throws StoreError LimitReached when the key is new and there is no room for it */
  raise(high: number, low: number, epoch: number): void {
    if (epoch === 0) return
    let at = this.#find(high, low)
    if (this.#slots[at + 2] === 0) {
      if (this.#length >= this.#entriesMax) {
        const text = `fences of ${this.#length} ${this.#what}, the limit`
        throw new StoreError(ErrorCode.LimitReached, text)
      }
      if (this.#length * 2 > this.#mask) {
        this.#grow()
        at = this.#find(high, low)
      }
      this.#slots[at] = high
      this.#slots[at + 1] = low
      this.#length++
    }
    if (this.#slots[at + 2]! < epoch) this.#slots[at + 2] = epoch
  }

  /** Forgets a key that will not be asked for again. */
  remove(high: number, low: number): void {
    if (this.#slots[this.#find(high, low) + 2] === 0) return
    const kept = [...this.entries()].filter((one) => one[0] !== high || one[1] !== low)
    this.#slots.fill(0)
    this.#length = 0
    this.#recent = 0
    for (const [keptHigh, keptLow, epoch] of kept) this.raise(keptHigh, keptLow, epoch)
  }

  *entries(): IterableIterator<[high: number, low: number, epoch: number]> {
    for (let at = 0; at < this.#slots.length; at += SLOT_WORDS) {
      const epoch = this.#slots[at + 2]!
      if (epoch !== 0) yield [this.#slots[at]!, this.#slots[at + 1]!, epoch]
    }
  }

  /** First word of the key's slot, or of the free one where it would be. */
  #find(high: number, low: number): number {
    const slots = this.#slots
    let hash = Math.imul(low ^ Math.imul(high, 0x85ebca6b), 0x9e3779b1)
    hash ^= hash >>> 15
    for (let slot = hash & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const at = slot * SLOT_WORDS
      if (slots[at + 2] === 0 || (slots[at + 1] === low && slots[at] === high)) return at
    }
  }

  #grow(): void {
    const old = [...this.entries()]
    const slots = (this.#mask + 1) * 2
    this.#slots = new Uint32Array(slots * SLOT_WORDS)
    this.#mask = slots - 1
    this.#recent = 0
    for (const [high, low, epoch] of old) {
      const at = this.#find(high, low)
      this.#slots[at] = high
      this.#slots[at + 1] = low
      this.#slots[at + 2] = epoch
    }
  }
}
