import { assert } from '../core/assert.ts'

/**
 * Which pages are free, as maximal runs. Free runs hang in lists by size class, with a bit per
 * class that is not empty, and carry their length at both ends: taking and giving back a run cost
 * the same however many there are, and neighbours always merge.
 *
 * Small runs are cut from the low end of a free run and large ones from its high end, so that
 * single pages that come and go leave long runs whole.
 */
export class PageRuns {
  readonly pages: number
  private free: number
  /** Length of the free run that starts at a page, 0 elsewhere. */
  private readonly lengthAt: Int32Array
  /** First page of the free run that ends at a page, -1 elsewhere. */
  private readonly startAt: Int32Array
  /** Neighbours in the list of a size class, by first page; -1 ends it. */
  private readonly nextRun: Int32Array
  private readonly previousRun: Int32Array
  private readonly classHead = new Int32Array(CLASSES).fill(NONE)
  private readonly classBits = new Int32Array(CLASSES / 32)

  constructor(pages: number) {
    assert(pages > 0 && pages < 2 ** RUN_PAGES_LOG2_MAX, 'the number of pages has a size class')
    this.pages = pages
    this.free = pages
    this.lengthAt = new Int32Array(pages)
    this.startAt = new Int32Array(pages).fill(NONE)
    this.nextRun = new Int32Array(pages).fill(NONE)
    this.previousRun = new Int32Array(pages).fill(NONE)
    this.insert(0, pages)
  }

  get pagesFree(): number {
    return this.free
  }

  /** First page of a run of `length` pages that is now taken, -1 when no free run is that long. */
  take(length: number): number {
    const start = this.find(length)
    if (start === NONE) return NONE
    const found = this.lengthAt[start]!
    this.remove(start, found)
    this.free -= length
    if (found === length) return start
    if (length <= SMALL_RUN_PAGES) {
      this.insert(start + length, found - length)
      return start
    }
    this.insert(start, found - length)
    return start + found - length
  }

  /** Gives back exactly a run that `take` returned. */
  give(start: number, length: number): void {
    this.free += length
    let first = start
    let merged = length
    const after = start + length
    if (after < this.pages && this.lengthAt[after]! > 0) {
      const afterLength = this.lengthAt[after]!
      this.remove(after, afterLength)
      merged += afterLength
    }
    if (start > 0 && this.startAt[start - 1]! !== NONE) {
      first = this.startAt[start - 1]!
      this.remove(first, start - first)
      merged += start - first
    }
    this.insert(first, merged)
  }

  private find(length: number): number {
    const own = classOf(length)
    // Only the run's own class mixes lengths that suffice with such that do not.
    for (let run = this.classHead[own]!; run !== NONE; run = this.nextRun[run]!) {
      if (this.lengthAt[run]! >= length) return run
    }
    const larger = own + 1
    let word = larger >>> 5
    if (word >= this.classBits.length) return NONE
    let bits = this.classBits[word]! & (-1 << (larger & 31))
    while (bits === 0) {
      if (++word === this.classBits.length) return NONE
      bits = this.classBits[word]!
    }
    return this.classHead[word * 32 + (31 - Math.clz32(bits & -bits))]!
  }

  private insert(start: number, length: number): void {
    this.lengthAt[start] = length
    this.startAt[start + length - 1] = start
    const own = classOf(length)
    const head = this.classHead[own]!
    this.nextRun[start] = head
    this.previousRun[start] = NONE
    if (head !== NONE) this.previousRun[head] = start
    this.classHead[own] = start
    this.classBits[own >>> 5]! |= 1 << (own & 31)
  }

  private remove(start: number, length: number): void {
    this.lengthAt[start] = 0
    this.startAt[start + length - 1] = NONE
    const next = this.nextRun[start]!
    const previous = this.previousRun[start]!
    if (next !== NONE) this.previousRun[next] = previous
    if (previous !== NONE) {
      this.nextRun[previous] = next
      return
    }
    const own = classOf(length)
    this.classHead[own] = next
    if (next === NONE) this.classBits[own >>> 5]! &= ~(1 << (own & 31))
  }
}

const NONE = -1
/** Runs up to this are cut from the low end: what 4 KiB to 256 KiB requests need. */
const SMALL_RUN_PAGES = 64
/** Lengths below this have a class each; above, four classes share each doubling. */
const EXACT_CLASSES = 32
const RUN_PAGES_LOG2_MAX = 28
const CLASSES = 128

function classOf(length: number): number {
  if (length < EXACT_CLASSES) return length
  const log2 = 31 - Math.clz32(length)
  return EXACT_CLASSES + (log2 - 5) * 4 + ((length >>> (log2 - 2)) & 3)
}

assert(classOf(2 ** RUN_PAGES_LOG2_MAX - 1) < CLASSES, 'every length has a class')
assert(CLASSES % 32 === 0, 'classes fill their words of bits')
