/**
 * Which chunks the layers of each branch have, in order: a bit for each, in pages that are there
 * while any of their chunks is. What is thin is passed over with it, a page at a time. A bit may
 * outlast its chunk: whoever finds nothing behind it takes it away.
 */

/** Chunks of a page: 4 GiB of a volume. */
export const SET_PAGE_CHUNKS = 1024
export const SET_PAGE_WORDS: number = SET_PAGE_CHUNKS / 32
/** Word of a page behind the bits: chunks there, those of several layers more often. */
const AT_COUNT = SET_PAGE_WORDS
/** About what a page costs as an object in a map, beside its words. */
const PAGE_OVERHEAD_BYTES = 200

/** By number of page: its first chunk / SET_PAGE_CHUNKS. */
export type ChunkSet = Map<number, Uint32Array>

export class ChunkSets {
  /** Memory, about. */
  bytes = 0
  private readonly sets = new Map<number, ChunkSet>()

  /** null: the branch has no chunks. */
  find(branch: number): ChunkSet | null {
    return this.sets.get(branch) ?? null
  }

  /** A layer of the branch has the chunk now. */
  add(branch: number, chunk: number): void {
    let set = this.sets.get(branch)
    if (set === undefined) {
      set = new Map()
      this.sets.set(branch, set)
    }
    const number = Math.floor(chunk / SET_PAGE_CHUNKS)
    let page = set.get(number)
    if (page === undefined) {
      page = new Uint32Array(SET_PAGE_WORDS + 1)
      set.set(number, page)
      this.bytes += page.byteLength + PAGE_OVERHEAD_BYTES
    }
    page[(chunk >>> 5) & (SET_PAGE_WORDS - 1)]! |= 1 << (chunk & 31)
    page[AT_COUNT]!++
  }

  /** One that had it has it no more. */
  remove(branch: number, chunk: number): void {
    const set = this.sets.get(branch)
    const number = Math.floor(chunk / SET_PAGE_CHUNKS)
    const page = set?.get(number)
    if (set === undefined || page === undefined || --page[AT_COUNT]! > 0) return
    set.delete(number)
    this.bytes -= page.byteLength + PAGE_OVERHEAD_BYTES
    if (set.size === 0) this.sets.delete(branch)
  }

  /** No layer of the branch has it. */
  forget(branch: number, chunk: number): void {
    const page = this.sets.get(branch)?.get(Math.floor(chunk / SET_PAGE_CHUNKS))
    if (page !== undefined) page[(chunk >>> 5) & (SET_PAGE_WORDS - 1)]! &= ~(1 << (chunk & 31))
  }
}
