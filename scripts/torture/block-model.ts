/**
 * What every block of a volume may hold. A write has a stamp, which fills its blocks, so that a
 * block tells which write it holds and whether it holds all of it. Writes to one block never
 * overlap in time, so they have an order; after a crash a block may hold the last durable one or
 * any later one, and what is read then is durable from then on.
 */
export const BLOCK_BYTES = 4096
/** A torn write shows at this grain: what a disk writes at once. */
const SECTOR_BYTES = 512
const SECTOR_WORDS = SECTOR_BYTES / 4
/** The stamp of a block that was trimmed, zeroed, or never written. */
export const ZERO_STAMP = 0

interface Issued {
  readonly stamp: number
  acknowledged: boolean
}

export class BlockModel {
  readonly blockCount: number
  readonly #durable: Uint32Array
  /** Writes after the durable one, oldest first. */
  readonly #later = new Map<number, Issued[]>()
  readonly #busy: Uint8Array
  #nextStamp = 1

  constructor(blockCount: number) {
    this.blockCount = blockCount
    this.#durable = new Uint32Array(blockCount)
    this.#busy = new Uint8Array(blockCount)
  }

  /** True when none of the blocks has a request in flight that changes it; they have one then. */
  tryClaim(first: number, count: number): boolean {
    const blocks = this.#busy.subarray(first, first + count)
    if (blocks.includes(1)) return false
    blocks.fill(1)
    return true
  }

  release(first: number, count: number): void {
    this.#busy.fill(0, first, first + count)
  }

  /** A change of claimed blocks is about to be sent. Returns its stamp. */
  issue(first: number, count: number, zeroes: boolean): number {
    const stamp = zeroes ? ZERO_STAMP : this.#nextStamp++
    for (let block = first; block < first + count; block++) {
      const later = this.#later.get(block)
      if (later === undefined) this.#later.set(block, [{ stamp, acknowledged: false }])
      else later.push({ stamp, acknowledged: false })
    }
    return stamp
  }

  acknowledge(first: number, count: number, durable: boolean, stamp: number): void {
    for (let block = first; block < first + count; block++) {
      const newest = this.#later.get(block)?.at(-1)
      if (newest === undefined) {
        // Carried out before another process took the volume over, and answered after: that one
        // must have found it.
        if (this.#durable[block] === stamp) continue
        const found = this.#durable[block]
        throw new Error(`block ${block}: write ${stamp} is acknowledged, but was ${found} before`)
      }
      newest.acknowledged = true
      if (durable) this.#settle(block, newest)
    }
  }

  /** Call before a flush is sent; call what it returns when the flush was answered. */
  beginFlush(): () => void {
    const covered: [number, Issued][] = []
    for (const [block, later] of this.#later) {
      const newest = later.findLast(({ acknowledged }) => acknowledged)
      if (newest !== undefined) covered.push([block, newest])
    }
    return () => {
      for (const [block, issued] of covered) this.#settle(block, issued)
    }
  }

  #settle(block: number, issued: Issued): void {
    const later = this.#later.get(block)
    const at = later?.indexOf(issued) ?? -1
    if (later === undefined || at < 0) return // A later one is durable already.
    this.#durable[block] = issued.stamp
    if (at === later.length - 1) this.#later.delete(block)
    else later.splice(0, at + 1)
  }

  /** Nothing was lost: the server ended in order, or was asked to flush. */
  settleAcknowledged(): void {
    this.beginFlush()()
  }

  /** '' if the block may read as `stamp` while the server runs, else what it should have been. */
  checkRunning(block: number, stamp: number): string {
    const later = this.#later.get(block) ?? []
    const newest = later.findLastIndex(({ acknowledged }) => acknowledged)
    const allowed = later.slice(Math.max(0, newest)).map((issued) => issued.stamp)
    if (newest < 0) allowed.push(this.#durable[block]!)
    return allowed.includes(stamp) ? '' : `the newest acknowledged write, one of ${allowed}`
  }

  /**
   * As `checkRunning` after another process took the volume over, which lost nothing that was
   * acknowledged; whether requests in flight were carried out is settled and durable by then.
   */
  checkTakenOver(block: number, stamp: number): string {
    const wrong = this.checkRunning(block, stamp)
    return wrong === '' ? this.checkRecovered(block, stamp) : wrong
  }

  /** As above after a crash; what was read is durable now. */
  checkRecovered(block: number, stamp: number): string {
    const allowed = [this.#durable[block]!, ...(this.#later.get(block) ?? []).map((w) => w.stamp)]
    if (!allowed.includes(stamp)) return `flushed or later, one of ${allowed}`
    this.#durable[block] = stamp
    this.#later.delete(block)
    this.#busy[block] = 0
    return ''
  }
}

const mix = (block: number, stamp: number, sector: number): number =>
  (Math.imul(block, 0x9e3779b1) ^ Math.imul(stamp, 0x85ebca6b) ^ Math.imul(sector, 0xc2b2ae35)) | 0

/** Every sector begins with block, stamp and sector, and is filled with a word made of them. */
export function fillBlock(words: Int32Array, at: number, block: number, stamp: number): void {
  for (let sector = 0; sector < BLOCK_BYTES / SECTOR_BYTES; sector++) {
    const start = at + sector * SECTOR_WORDS
    words.fill(mix(block, stamp, sector), start, start + SECTOR_WORDS)
    words[start] = block
    words[start + 1] = stamp
    words[start + 2] = sector
  }
}

/** The stamp that the block holds. @throws when it is torn, misplaced or of nobody */
export function stampOf(words: Int32Array, at: number, block: number): number {
  const blockWords = words.subarray(at, at + BLOCK_BYTES / 4)
  if (blockWords.every((word) => word === 0)) return ZERO_STAMP
  const stamp = blockWords[1]!
  const expected = new Int32Array(BLOCK_BYTES / 4)
  fillBlock(expected, 0, block, stamp)
  const wrong = blockWords.findIndex((word, index) => word !== expected[index])
  if (wrong < 0) return stamp
  const sector = Math.floor(wrong / SECTOR_WORDS)
  const [holds = 0, by = 0] = blockWords.subarray(sector * SECTOR_WORDS)
  throw new Error(
    `block ${block} is torn: write ${stamp}, but from byte ${wrong * 4} on block ${holds} of ${by}`
  )
}
