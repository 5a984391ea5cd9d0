/** What a range of one chunk holds, as runs with checksums: the read path of the index. */
import { BITMAP_WORDS, ENTRY_WORDS, RUN_WORDS, rankOf, runBehind } from './chunk-layout.ts'
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
