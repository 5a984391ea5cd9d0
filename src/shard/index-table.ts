/**
 * Hash table of the extent index: hash of (layer, chunk) (layer-places.ts) -> address of the
 * chunk's object. The key stands in the object. Open addressing with linear probing in one typed
 * array of [hash, address] pairs; the top bits of the hash say where the home slot is, but for a
 * few slots, so a walk by hash value survives everything that happens to the table meanwhile.
 *
 * It grows (and shrinks) without a pause: the old slots stay beside the new ones and every change
 * moves a few of them.
 */
import { assert } from '../core/assert.ts'

const SLOTS_MIN = 64
/** Addresses start higher: a slot that is free, and one whose entry went to the new table. */
const FREE = 0
const MOVED = 1
/** Old slots moved by each change while the table grows. */
const SLOTS_PER_STEP = 32

/** Chunks of one index in layers of one branch have hashes within a block of so many. */
export const HASHES_OF_CHUNK = 1024
/** Home slots of these are spread over so many: probes stay short, and walks look at few more. */
const SPREAD = 128

export class Slots {
  readonly pairs: Uint32Array
  readonly mask: number
  readonly shift: number

  constructor(slots: number) {
    this.pairs = new Uint32Array(slots * 2)
    this.mask = slots - 1
    this.shift = 32 - Math.log2(slots)
  }

  homeOf(hash: number): number {
    return ((hash >>> this.shift) + (hash & (SPREAD - 1))) & this.mask
  }

  put(hash: number, address: number): void {
    let slot = this.homeOf(hash)
    while (this.pairs[slot * 2 + 1] !== FREE) slot = (slot + 1) & this.mask
    this.pairs[slot * 2] = hash
    this.pairs[slot * 2 + 1] = address
  }

  /** Slot that holds `address`, -1 when none does. */
  slotOf(hash: number, address: number): number {
    let slot = this.homeOf(hash)
    for (;;) {
      const found = this.pairs[slot * 2 + 1]
      if (found === address) return slot
      if (found === FREE) return -1
      slot = (slot + 1) & this.mask
    }
  }

  /** Empties the slot and moves those behind it up, so that no probe ends too early. */
  remove(slot: number): void {
    const { pairs, mask } = this
    let hole = slot
    let next = slot
    for (;;) {
      next = (next + 1) & mask
      if (pairs[next * 2 + 1] === FREE) break
      const home = this.homeOf(pairs[next * 2]!)
      // It may move up to the hole only when the hole is not before its home.
      if (((next - home) & mask) < ((next - hole) & mask)) continue
      pairs[hole * 2] = pairs[next * 2]!
      pairs[hole * 2 + 1] = pairs[next * 2 + 1]!
      hole = next
    }
    pairs[hole * 2 + 1] = FREE
  }

  /** Adds the addresses of all entries with a hash in [from, to) to `out`. */
  collect(from: number, to: number, out: number[]): void {
    const lastHome = ((to - 1) >>> this.shift) + SPREAD - 1
    for (let at = from >>> this.shift, seen = 0; seen <= this.mask; at++, seen++) {
      const slot = at & this.mask
      const address = this.pairs[slot * 2 + 1]!
      if (address === FREE) {
        if (at >= lastHome) return
      } else if (address !== MOVED) {
        const hash = this.pairs[slot * 2]!
        if (hash >= from && hash < to) out.push(address)
      }
    }
  }
}

export class IndexTable {
  /** Entries. */
  count = 0
  /** Where new entries go. */
  current = new Slots(SLOTS_MIN)
  /** The slots from before growing or shrinking, until all of them moved; else null. */
  previous: Slots | null = null
  private drained = 0

  get bytes(): number {
    return this.current.pairs.byteLength + (this.previous?.pairs.byteLength ?? 0)
  }

  insert(hash: number, address: number): void {
    assert(address > MOVED, 'an address is no mark')
    this.step()
    const slots = this.current.mask + 1
    if ((this.count + 1) * 8 > slots * 5) this.resize(slots * 2)
    this.current.put(hash, address)
    this.count++
  }

  /** The object at `from` is at `to` now. */
  replace(hash: number, from: number, to: number): void {
    let slots = this.current
    let slot = slots.slotOf(hash, from)
    if (slot < 0 && this.previous !== null) {
      slots = this.previous
      slot = slots.slotOf(hash, from)
    }
    assert(slot >= 0, 'every object is in the table')
    slots.pairs[slot * 2 + 1] = to
  }

  remove(hash: number, address: number): void {
    this.step()
    const slot = this.current.slotOf(hash, address)
    if (slot >= 0) this.current.remove(slot)
    else {
      const old = this.previous?.slotOf(hash, address) ?? -1
      assert(old >= 0, 'every object is in the table')
      this.previous!.pairs[old * 2 + 1] = MOVED
    }
    this.count--
    const slots = this.current.mask + 1
    if (this.count * 8 < slots && slots > SLOTS_MIN && this.previous === null) {
      this.resize(slots / 2)
    }
  }

  /** Makes room for so many entries at once, before a load. */
  reserve(count: number): void {
    let slots = this.current.mask + 1
    while (count * 8 > slots * 5) slots *= 2
    if (slots > this.current.mask + 1) this.resize(slots)
  }

  /** Adds the addresses of all entries with a hash in [from, to) to `out`. */
  collect(from: number, to: number, out: number[]): void {
    this.current.collect(from, to, out)
    this.previous?.collect(from, to, out)
  }

  /** Width of a range of hashes in which about `entries` entries are. */
  rangeOf(entries: number): number {
    return Math.min(2 ** 32, Math.ceil((2 ** 32 * entries) / Math.max(this.count, entries)))
  }

  private resize(slots: number): void {
    while (this.previous !== null) this.step()
    this.previous = this.current
    this.drained = 0
    this.current = new Slots(slots)
    if (this.count === 0) this.previous = null
  }

  /** Moves a few entries on while the table changes its size. */
  private step(): void {
    const previous = this.previous
    if (previous === null) return
    const end = Math.min(this.drained + SLOTS_PER_STEP, previous.mask + 1)
    for (let slot = this.drained; slot < end; slot++) {
      const address = previous.pairs[slot * 2 + 1]!
      if (address === FREE || address === MOVED) continue
      this.current.put(previous.pairs[slot * 2]!, address)
      previous.pairs[slot * 2 + 1] = MOVED
    }
    this.drained = end
    if (end > previous.mask) this.previous = null
  }
}
