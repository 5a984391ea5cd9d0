/**
 * The arena as main-thread code sees it: shared pages of BLOCK_BYTES that carry payloads between
 * sockets and workers. Runs are contiguous. The implementation is in handoff/.
 */
export interface Arena {
  /** All of the arena, backed by one page-aligned SharedArrayBuffer. */
  readonly bytes: Buffer
  readonly pagesTotal: number
  /** Pages not held by anybody. */
  readonly pagesFree: number
  /**
   * A run of `pages` contiguous pages with one hold on it, as byte offset into `bytes`;
   * -1 when there is none now.
   */
  acquire(pages: number): number
  /** One more hold on the run that has the page at `offset`. */
  retain(offset: number): void
  /** Gives one hold back; the last one frees the run. */
  release(offset: number): void
  /** Memory of this size from and to which `copy` is quick, if there is any left, else any. */
  lend(bytes: number): Buffer
  /** Gives back what `lend` gave. */
  giveBack(buffer: Buffer): void
  /** Copies `from[start, start + length)` to `to[at..]`: any two buffers, at any alignment. */
  copy(to: Buffer, at: number, from: Buffer, start: number, length: number): void
  /** CRC-32C of `bytes`, behind others whose sum is `before`: quick of what is in the arena. */
  checksum(bytes: Buffer, before?: number): number
  /** Calls `wake` once, after pages have been freed since this call. */
  onFree(wake: () => void): void
}
