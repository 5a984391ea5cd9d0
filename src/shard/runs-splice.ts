import { CHUNK_BLOCKS } from '../core/limits.ts'
import type { ChunkImage } from './chunk-image.ts'
import {
  AT_BLOCKS,
  AT_SHAPE,
  countOf,
  FORM_RUNS,
  HEADER_WORDS,
  PALETTE_WORDS,
  paletteOf,
  RUN_WORDS,
  runBehind,
  shapeOf
} from './chunk-layout.ts'
import { LOCATION_END } from './run-list.ts'

/** Replaces some runs of a chunk in the form of runs by others, in place. Made once, used again. */
export class RunsSplice {
  /** Runs [fromRun, toRun) go; they cover blocks from `firstBlock` to `endBlock`. */
  fromRun = 0
  toRun = 0
  firstBlock = 0
  endBlock = 0
  /** The chunk after the splice. */
  runs = 0
  crcs = 0
  entries = 0
  private crcFrom = 0
  private crcTo = 0

  /** Finds the runs that the range [first, end) touches, widened to their ends. */
  aim(words: Uint32Array, at: number, first: number, end: number): void {
    const shape = words[at + AT_SHAPE]!
    const runs = countOf(shape)
    const runsAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    const from = runBehind(words, runsAt, runs, first)
    this.fromRun = from
    this.firstBlock = first
    this.endBlock = end
    let to = from
    if (from < runs) {
      const fromFirst = words[runsAt + from * RUN_WORDS]! & 0xffff
      if (fromFirst < first) this.firstBlock = fromFirst
      to = end === CHUNK_BLOCKS ? runs : runBehind(words, runsAt, runs, end - 1)
      if (to < runs) {
        const span = words[runsAt + to * RUN_WORDS]!
        if ((span & 0xffff) < end) {
          this.endBlock = (span & 0xffff) + (span >>> 16)
          to++
        }
      }
    }
    this.toRun = to
    this.crcFrom = crcIndex(words, at, runsAt, runs, from)
    this.crcTo = crcIndex(words, at, runsAt, runs, to)
  }

  /** Counts what the chunk is to be with the runs of `middle`, on which `tally` was called. */
  measure(words: Uint32Array, at: number, middle: ChunkImage): void {
    const shape = words[at + AT_SHAPE]!
    const runsAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    const blocks = words[at + AT_BLOCKS]!
    let gone = 0
    for (let run = this.fromRun; run < this.toRun; run++) {
      gone += words[runsAt + run * RUN_WORDS]! >>> 16
    }
    this.runs = countOf(shape) - (this.toRun - this.fromRun) + middle.length
    this.crcs = (blocks & 0xffff) - (this.crcTo - this.crcFrom) + middle.dataBlocks
    this.entries = (blocks >>> 16) - gone + middle.entries
  }

  /** Does it, in an object that has room for the result. */
  run(words: Uint32Array, at: number, middle: ChunkImage): void {
    const shape = words[at + AT_SHAPE]!
    const oldRuns = countOf(shape)
    const oldCrcs = words[at + AT_BLOCKS]! & 0xffff
    const runsAt = at + HEADER_WORDS + paletteOf(shape) * PALETTE_WORDS
    const oldAt = runsAt + oldRuns * RUN_WORDS
    const newAt = runsAt + this.runs * RUN_WORDS
    const { crcFrom, crcTo } = this
    const crcGrowth = middle.dataBlocks - (crcTo - crcFrom)
    // Checksums before the splice move by as much as the runs grow, those behind it by both. What
    // moves up starts from the end, so that nothing is overwritten before it moved.
    if (newAt >= oldAt) {
      move(words, newAt + crcTo + crcGrowth, oldAt + crcTo, oldCrcs - crcTo)
      move(words, newAt, oldAt, crcFrom)
      this.moveRuns(words, runsAt, oldRuns, crcGrowth)
    } else {
      this.moveRuns(words, runsAt, oldRuns, crcGrowth)
      move(words, newAt, oldAt, crcFrom)
      move(words, newAt + crcTo + crcGrowth, oldAt + crcTo, oldCrcs - crcTo)
    }
    this.fill(words, runsAt, newAt, middle)
    words[at + AT_SHAPE] = shapeOf(FORM_RUNS, this.runs, paletteOf(shape))
    words[at + AT_BLOCKS] = this.crcs | (this.entries << 16)
  }

  /** The runs behind the splice go to their new places and learn where their checksums are. */
  private moveRuns(words: Uint32Array, runsAt: number, oldRuns: number, crcGrowth: number): void {
    const tail = oldRuns - this.toRun
    const tailAt = runsAt + (this.runs - tail) * RUN_WORDS
    move(words, tailAt, runsAt + this.toRun * RUN_WORDS, tail * RUN_WORDS)
    if (crcGrowth === 0) return
    for (let run = 0; run < tail; run++) {
      const lastAt = tailAt + run * RUN_WORDS + 3
      words[lastAt] = words[lastAt]! + crcGrowth * 0x10000
    }
  }

  private fill(words: Uint32Array, runsAt: number, crcsAt: number, middle: ChunkImage): void {
    let runAt = runsAt + this.fromRun * RUN_WORDS
    let crcAt = this.crcFrom
    for (let run = 0; run < middle.length; run++, runAt += RUN_WORDS) {
      const first = middle.firsts[run]!
      const count = middle.counts[run]!
      const location = middle.locations[run]!
      words[runAt] = first | (count << 16)
      words[runAt + 1] = location
      words[runAt + 2] = middle.lows[run]!
      words[runAt + 3] = middle.palettes[run]! | (crcAt << 16)
      if (location >= LOCATION_END) continue
      for (let i = 0; i < count; i++) words[crcsAt + crcAt + i] = middle.crcs[first + i]!
      crcAt += count
    }
  }
}

/** Index of the first checksum of a run, or of the end. */
function crcIndex(words: Uint32Array, at: number, runsAt: number, runs: number, run: number) {
  return run < runs ? words[runsAt + run * RUN_WORDS + 3]! >>> 16 : words[at + AT_BLOCKS]! & 0xffff
}

function move(words: Uint32Array, to: number, from: number, count: number): void {
  if (count > 0 && to !== from) words.copyWithin(to, from, from + count)
}
