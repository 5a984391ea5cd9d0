/**
 * Memory of the extent index: objects of many sizes in slabs of up to 256 KiB, without holes.
 *
 * Sizes are rounded up to classes about 6 % apart. A class is a stack of objects over its slabs;
 * an object that is released is replaced by the last one of its class, so every slab but the last
 * is full at all times: nothing fragments, and memory goes back as soon as data is deleted. Whoever
 * refers to the object that moved is told its old address.
 *
 *   address = slab << 14 | unit in the slab,   unit = 4 words = 16 bytes
 *
 * The last slab of a class grows by an eighth of the class at a time, so that there is little slack
 * in a small index. Whole slabs go from class to class through a small pool: asking the system for
 * fresh memory costs more than all the rest.
 */
import { assert } from '../core/assert.ts'

export const UNIT_WORDS = 4
const SLAB_SHIFT = 14
const SLAB_UNITS = 1 << SLAB_SHIFT
const SLAB_BYTES = SLAB_UNITS * UNIT_WORDS * 4
const SLABS_MAX = 2 ** (32 - SLAB_SHIFT)
/** Largest object. 24 KiB: a chunk whose blocks all have writer epochs of their own. */
export const UNITS_MAX = 1536
/** A class with few objects gets room for this many units at a time. */
const GROWTH_UNITS_MIN = 128
/** One in so many slabs may stay free, for the next class that grows. */
const POOL_SHARE = 16
/** Heap of a slab's two typed arrays and their buffer, about. */
const SLAB_OBJECT_BYTES = 400

export const slabOf = (address: number): number => address >>> SLAB_SHIFT
/** First word of the object in its slab. */
export const wordOf = (address: number): number => (address & (SLAB_UNITS - 1)) * UNIT_WORDS

/** Sizes in units: 16 steps a doubling, then such that a slab holds so many without a rest. */
function sizesOf(): number[] {
  const sizes: number[] = []
  for (let units = 2, step = 1; units < 256; units += step) {
    if (units === step * 32) step *= 2
    sizes.push(units)
  }
  for (let perSlab = 64; perSlab > 10; ) {
    sizes.push(Math.floor(SLAB_UNITS / perSlab))
    perSlab = Math.min(perSlab - 1, Math.floor(perSlab * 0.95))
  }
  return [...sizes, UNITS_MAX]
}

const classUnits = sizesOf()
const classOfUnits = new Uint8Array(UNITS_MAX + 1)
for (let units = UNITS_MAX, size = classUnits.length - 1; units >= 0; units--) {
  while (size > 0 && classUnits[size - 1]! >= units) size--
  classOfUnits[units] = size
}
assert(classUnits.length <= 256, 'a size class fits a byte')
assert(Math.max(...classUnits) === UNITS_MAX, 'the largest class holds the largest object')

class SizeClass {
  readonly units: number
  readonly perSlab: number
  /** Slabs in the order of the stack. All but the last are full; an empty last one may stay. */
  readonly slabs: number[] = []
  /** Objects in all slabs, in the last one, and what the last one has room for. */
  total = 0
  used = 0
  room = 0

  constructor(units: number) {
    this.units = units
    this.perSlab = Math.floor(SLAB_UNITS / units)
  }
}

export class IndexPages {
  /** The words of each slab. Acquire and release may replace an element: take it afresh then. */
  readonly slabs: Uint32Array[] = [new Uint32Array(0)]
  /** The same memory as halves of words, low half first. */
  readonly halves: Uint16Array[] = [new Uint16Array(0)]
  private readonly classOfSlab: number[] = [0]
  private readonly freeSlabs: number[] = []
  /** Whole slabs that no class uses now. */
  private readonly pool: Uint32Array[] = []
  private readonly classes = classUnits.map((units) => new SizeClass(units))
  private slabBytes = 0

  /** Bytes of all slabs, with the objects that stand for them. */
  get bytes(): number {
    return this.slabBytes + this.slabs.length * SLAB_OBJECT_BYTES
  }

  /** Address of a new object of at least `units`, its words undefined. Never 0 or 1. */
  acquire(units: number): number {
    assert(units <= UNITS_MAX, 'an object fits the largest class')
    const size = this.classes[classOfUnits[units]!]!
    if (size.used === size.room) this.extend(size)
    const slab = size.slabs[size.slabs.length - 1]!
    const address = slab * SLAB_UNITS + size.used * size.units
    size.used++
    size.total++
    return address
  }

  /**
   * Gives the object up. Another one moves to its address: returns where that one was, or 0 when
   * none moved.
   */
  release(address: number): number {
    const size = this.classes[this.classOfSlab[slabOf(address)]!]!
    if (size.used === 0) this.dropLastSlab(size)
    size.used--
    size.total--
    const last = size.slabs[size.slabs.length - 1]! * SLAB_UNITS + size.used * size.units
    if (last !== address) this.copy(last, address, size.units * UNIT_WORDS)
    if (size.used * 2 < size.room && size.room * size.units > GROWTH_UNITS_MIN) this.shrink(size)
    return last === address ? 0 : last
  }

  /** Whether an object of `units` belongs where this one is: same class. */
  fits(address: number, units: number): boolean {
    return this.classOfSlab[slabOf(address)] === classOfUnits[units]
  }

  /** Words the object at `address` may fill. */
  wordsAt(address: number): number {
    return classUnits[this.classOfSlab[slabOf(address)]!]! * UNIT_WORDS
  }

  /** Copies words from one object to another. */
  copy(from: number, to: number, words: number): void {
    const source = this.slabs[slabOf(from)]!
    const target = this.slabs[slabOf(to)]!
    const sourceAt = wordOf(from)
    const targetAt = wordOf(to)
    if (words > 64) {
      target.set(source.subarray(sourceAt, sourceAt + words), targetAt)
      return
    }
    for (let i = 0; i < words; i++) target[targetAt + i] = source[sourceAt + i]!
  }

  /** Calls `visit` with the address of every object. It may neither acquire nor release. */
  forEach(visit: (address: number) => void): void {
    for (const size of this.classes) {
      for (let slab = size.slabs.length - 1; slab >= 0; slab--) {
        const objects = slab === size.slabs.length - 1 ? size.used : size.perSlab
        const base = size.slabs[slab]! * SLAB_UNITS
        for (let object = objects - 1; object >= 0; object--) visit(base + object * size.units)
      }
    }
  }

  private growthOf(size: SizeClass): number {
    const least = Math.max(1, Math.floor(GROWTH_UNITS_MIN / size.units))
    return Math.max(least, size.total >>> 3)
  }

  private extend(size: SizeClass): void {
    const growth = this.growthOf(size)
    if (size.slabs.length === 0 || size.room === size.perSlab) {
      const slab = this.freeSlabs.pop() ?? this.slabs.length
      assert(slab < SLABS_MAX, 'the index fits its address space of 64 GiB')
      this.setSlab(slab, this.slabs[0]!)
      this.classOfSlab[slab] = classOfUnits[size.units]!
      size.slabs.push(slab)
      size.used = 0
    }
    this.resize(size, Math.min(size.perSlab, size.used + growth))
  }

  private shrink(size: SizeClass): void {
    const room = Math.min(size.perSlab, size.used + this.growthOf(size))
    if (room < size.room) this.resize(size, room)
  }

  /** Gives the last slab room for so many objects. */
  private resize(size: SizeClass, room: number): void {
    const slab = size.slabs[size.slabs.length - 1]!
    const words = this.slabs[slab]!
    const resized =
      room === size.perSlab ? this.wholeSlab() : this.fresh(room * size.units * UNIT_WORDS)
    if (size.used > 0) resized.set(words.subarray(0, size.used * size.units * UNIT_WORDS))
    this.setSlab(slab, resized)
    this.recycle(words)
    size.room = room
  }

  /** The last slab is empty and the one below it loses its first object. */
  private dropLastSlab(size: SizeClass): void {
    const slab = size.slabs.pop()!
    this.recycle(this.slabs[slab]!)
    this.setSlab(slab, this.slabs[0]!)
    this.freeSlabs.push(slab)
    size.used = size.perSlab
    size.room = size.perSlab
  }

  private setSlab(slab: number, words: Uint32Array): void {
    this.slabs[slab] = words
    this.halves[slab] = new Uint16Array(words.buffer)
  }

  private wholeSlab(): Uint32Array {
    return this.pool.pop() ?? this.fresh(SLAB_BYTES / 4)
  }

  private fresh(words: number): Uint32Array {
    this.slabBytes += words * 4
    return new Uint32Array(words)
  }

  /** Keeps a whole slab for the next class, or gives the memory back. */
  private recycle(words: Uint32Array): void {
    const poolMax = Math.floor(this.slabBytes / SLAB_BYTES / POOL_SHARE)
    if (words.byteLength === SLAB_BYTES && this.pool.length < poolMax) this.pool.push(words)
    else this.slabBytes -= words.byteLength
  }
}
