/** What stands in the memory of another process, as Linux shows it to who may trace it. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'

const STEP_BYTES = 4 * 1024 * 1024

export interface MemoryCount {
  found: number
  /** Of those, how many would be in a core dump. */
  dumped: number
}

/** How often each of the needles stands in what the process has in RAM or swap. */
export function countInMemory(pid: number, needles: readonly Buffer[]): MemoryCount[] {
  const counts = needles.map(() => ({ found: 0, dumped: 0 }))
  const overlap = Math.max(...needles.map(({ length }) => length)) - 1
  const memory = openSync(`/proc/${pid}/mem`, 'r')
  const bytes = Buffer.alloc(STEP_BYTES + overlap)
  try {
    for (const { start, end, isDumped } of touchedRanges(pid)) {
      for (let at = start; at < end; at += STEP_BYTES) {
        const read = readInto(memory, bytes, Math.min(bytes.length, end - at), at)
        for (const [index, needle] of needles.entries()) {
          const limit = Math.min(read, STEP_BYTES + needle.length - 1)
          const found = countIn(bytes.subarray(0, limit), needle)
          counts[index]!.found += found
          if (isDumped) counts[index]!.dumped += found
        }
      }
    }
  } finally {
    closeSync(memory)
  }
  return counts
}

interface Range {
  readonly start: number
  readonly end: number
  isTouched: boolean
  isDumped: boolean
}

/** Readable mappings of which anything is there. */
function touchedRanges(pid: number): Range[] {
  const ranges: Range[] = []
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) (r?)/.exec(line)
    if (head !== null) {
      const [start, end] = [Number(`0x${head[1]}`), Number(`0x${head[2]}`)]
      const isReadable = head[3] === 'r' && Number.isSafeInteger(end)
      ranges.push({ start, end: isReadable ? end : start, isTouched: false, isDumped: true })
    }
    const range = ranges.at(-1)
    if (range === undefined) continue
    if (/^(Rss|Swap):\s+[1-9]/.test(line)) range.isTouched = true
    if (/^VmFlags:.* dd\b/.test(line)) range.isDumped = false
  }
  return ranges.filter(({ isTouched }) => isTouched)
}

/** Mappings may go meanwhile, and the kernel's own cannot be read. */
function readInto(memory: number, bytes: Buffer, length: number, at: number): number {
  try {
    return readSync(memory, bytes, 0, length, at)
  } catch {
    return 0
  }
}

function countIn(bytes: Buffer, needle: Buffer): number {
  let count = 0
  for (let at = bytes.indexOf(needle); at >= 0; at = bytes.indexOf(needle, at + 1)) count++
  return count
}
