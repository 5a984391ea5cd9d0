/** Finding runs of zeroes in read data, so that they need not be sent. */
import { HOLE_CELL_BYTES } from './limits.ts'

const zeroCell = Buffer.alloc(HOLE_CELL_BYTES)

/** Whether all of `bytes[from, to)` is zero. Most data says no with its first byte. */
export function isZero(bytes: Buffer, from: number, to: number): boolean {
  if (bytes[from] !== 0 || bytes[to - 1] !== 0) return false
  for (let at = from; at < to; at += HOLE_CELL_BYTES) {
    const stop = Math.min(to, at + HOLE_CELL_BYTES)
    if (bytes.compare(zeroCell, 0, stop - at, at, stop) !== 0) return false
  }
  return true
}

/** End of the cell of the export that holds `offset`, at most `end`. */
export const cellEnd = (offset: number, end: number): number =>
  Math.min(end, (Math.floor(offset / HOLE_CELL_BYTES) + 1) * HOLE_CELL_BYTES)

/**
 * End of the run of cells from export offset `offset` on that are all zero, or all not. Export
 * offset o stands at `bytes[base + o]`.
 */
export function runEnd(
  bytes: Buffer,
  base: number,
  offset: number,
  end: number,
  zero: boolean
): number {
  let stop = offset
  while (stop < end) {
    const next = cellEnd(stop, end)
    if (isZero(bytes, base + stop, base + next) !== zero) return stop
    stop = next
  }
  return stop
}
