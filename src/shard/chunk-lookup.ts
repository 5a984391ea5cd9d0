/** What a range of one chunk holds, as runs with checksums: the read path of the index. */
import { BITMAP_WORDS, ENTRY_WORDS, RUN_WORDS, rankOf, runBehind } from './chunk-layout.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { LOCATION_ABSENT, LOCATION_END, type RunList } from './run-list.ts'

export function lookupPacked(
  words: Uint32Array,
  at: number,
  bitmapAt: number,
  first: number,
  end: number,
  out: RunList
): void {
  const entriesAt = bitmapAt + BITMAP_WORDS
  let entryAt = entriesAt + rankOf(words, at, bitmapAt, first) * ENTRY_WORDS
  for (let block = first; block < end; block++) {
    if (((words[bitmapAt + (block >>> 5)]! >>> (block & 31)) & 1) === 0) {
      out.extend(block, 1, LOCATION_ABSENT)
      continue
    }
    out.crcs[block - first] = words[entryAt + 2]!
    out.extend(block, 1, words[entryAt]!)
    entryAt += ENTRY_WORDS
  }
}

export function lookupRuns(
  words: Uint32Array,
  runsAt: number,
  runs: number,
  first: number,
  end: number,
  out: RunList
): void {
  const crcsAt = runsAt + runs * RUN_WORDS
  let block = first
  for (let run = runBehind(words, runsAt, runs, first); run < runs; run++) {
    const runAt = runsAt + run * RUN_WORDS
    const span = words[runAt]!
    const runFirst = span & 0xffff
    if (runFirst >= end) break
    if (block < runFirst) {
      out.extend(block, runFirst - block, LOCATION_ABSENT)
      block = runFirst
    }
    const count = Math.min(end, runFirst + (span >>> 16)) - block
    let location = words[runAt + 1]!
    if (location < LOCATION_END) {
      const skip = block - runFirst
      location += skip
      const crcAt = crcsAt + (words[runAt + 3]! >>> 16) + skip
      for (let i = 0; i < count; i++) out.crcs[block - first + i] = words[crcAt + i]!
    }
    out.extend(block, count, location)
    block += count
  }
  if (block < end) out.extend(block, end - block, LOCATION_ABSENT)
}

/** Gathers what several layers have of a range: who comes first counts. */
export class BlockFill {
  /** By block of the range; ABSENT where nobody has an entry. */
  readonly locations = new Uint32Array(CHUNK_BLOCKS)
  /** Blocks of which nobody had an entry yet. */
  missing = 0
  private first = 0
  private end = 0
  private crcs: Uint32Array = new Uint32Array(0)

  /** Checksums go to `crcs`, by block of the range. */
  begin(first: number, end: number, crcs: Uint32Array): void {
    this.first = first
    this.end = end
    this.crcs = crcs
    this.missing = end - first
    this.locations.fill(LOCATION_ABSENT, 0, end - first)
  }

  fromPacked(words: Uint32Array, at: number, bitmapAt: number): void {
    const { first, end, locations, crcs } = this
    let entryAt = -1
    for (let word = first >>> 5; word <= (end - 1) >>> 5; word++) {
      let bits = words[bitmapAt + word]!
      if (word === first >>> 5) bits &= -1 << (first & 31)
      if (word === end >>> 5) bits &= (1 << (end & 31)) - 1
      if (bits === 0) continue
      if (entryAt < 0) {
        const rank = rankOf(words, at, bitmapAt, first)
        entryAt = bitmapAt + BITMAP_WORDS + rank * ENTRY_WORDS
      }
      while (bits !== 0) {
        const i = word * 32 + 31 - Math.clz32(bits & -bits) - first
        bits &= bits - 1
        if (locations[i] === LOCATION_ABSENT) {
          locations[i] = words[entryAt]!
          crcs[i] = words[entryAt + 2]!
          this.missing--
        }
        entryAt += ENTRY_WORDS
      }
    }
  }

  fromRuns(words: Uint32Array, runsAt: number, runs: number): void {
    const { first, end, locations, crcs } = this
    const crcsAt = runsAt + runs * RUN_WORDS
    for (let run = runBehind(words, runsAt, runs, first); run < runs; run++) {
      const runAt = runsAt + run * RUN_WORDS
      const span = words[runAt]!
      const runFirst = span & 0xffff
      if (runFirst >= end) return
      const to = Math.min(end, runFirst + (span >>> 16))
      const location = words[runAt + 1]!
      const isData = location < LOCATION_END
      const crcAt = crcsAt + (words[runAt + 3]! >>> 16)
      for (let block = Math.max(first, runFirst); block < to; block++) {
        const i = block - first
        if (locations[i] !== LOCATION_ABSENT) continue
        locations[i] = isData ? location + block - runFirst : location
        if (isData) crcs[i] = words[crcAt + block - runFirst]!
        this.missing--
      }
    }
  }
}
