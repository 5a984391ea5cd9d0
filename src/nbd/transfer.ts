/** How reads and writes are cut, and where their bytes stand in the arena. */
import { BLOCK_BYTES } from '../core/limits.ts'
import { NO_PAGES } from './budget.ts'
import { TRANSFER_BYTES_MAX, TRANSFER_BYTES_MIN } from './limits.ts'
import type { NbdRequest } from './request.ts'
import type { Transmission } from './transmission.ts'

/** Pages of the arena that hold the blocks of [offset, end). */
const pageCountOf = (offset: number, end: number): number =>
  Math.ceil(end / BLOCK_BYTES) - Math.floor(offset / BLOCK_BYTES)

/** Where the byte at `request.offset` stands in the arena. */
export const firstByteOf = (request: NbdRequest): number =>
  request.pages + (request.offset % BLOCK_BYTES)

/** End of the piece that starts at `offset`: cuts are at multiples of `limit`. */
export const pieceEnd = (offset: number, end: number, limit: number): number =>
  Math.min(end, (Math.floor(offset / limit) + 1) * limit)

/**
 * Takes pages for as much of [offset, end) as a piece may hold, less when the arena is short, and
 * sets `request` to that range. Returns the answer of the budget: below 0 there are none.
 */
export function acquirePiece(
  transmission: Transmission,
  request: NbdRequest,
  offset: number,
  end: number
): number {
  for (let limit = TRANSFER_BYTES_MAX; ; limit /= 2) {
    const stop = pieceEnd(offset, end, limit)
    const answer = acquireFor(transmission, request, offset, stop)
    if (answer !== NO_PAGES || limit === TRANSFER_BYTES_MIN) return answer
  }
}

/** The same for exactly [offset, end). */
export function acquireFor(
  transmission: Transmission,
  request: NbdRequest,
  offset: number,
  end: number
): number {
  const pages = pageCountOf(offset, end)
  const answer = transmission.acquirePages(pages)
  if (answer < 0) return answer
  request.pages = answer
  request.pageCount = pages
  request.offset = offset
  request.length = end - offset
  return answer
}
