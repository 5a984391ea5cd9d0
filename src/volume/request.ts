/**
 * One request of a protocol to a volume: any offset, any length. Protocols keep a fixed set of
 * these per connection and reuse them; the volume cuts them into ops and counts these down.
 */
import type { Id64 } from '../core/id64.ts'
import type { BlockDevice } from './block-device.ts'

export { StatusExtent } from '../replication/block-store.ts'

export const RequestKind = {
  Read: 1,
  Write: 2,
  Flush: 3,
  Trim: 4,
  WriteZeroes: 5,
  /** Fills `extents`. */
  BlockStatus: 6,
  /** A hint to have the range at hand; always succeeds. */
  Cache: 7
} as const
export type RequestKind = (typeof RequestKind)[keyof typeof RequestKind]

export const RequestFlag = {
  /** Durable before it completes. */
  Fua: 1,
  /** WriteZeroes leaves the range allocated. */
  NoHole: 2,
  /** BlockStatus: the first extent is all that is wanted, which makes it cheaper. */
  FirstExtent: 4,
  /**
   * Write of whole blocks: what the range holds is read into the pages and written again, under a
   * new version; nothing comes between the two. Zeroes are written as zeroes that hold space.
   */
  Again: 8
} as const

export class VolumeRequest {
  kind: number = 0
  flags: number = 0
  /** Bytes, any alignment. */
  offset: number = 0
  /** Bytes, > 0 but for Flush. A Read or Write holds at most REQUEST_BYTES_MAX (limits). */
  length: number = 0
  /**
   * Byte offset in the arena of a page-aligned run of blockCountOf(offset, length) pages that the
   * caller holds until `onDone`. The request's first byte stands at
   * `pages + offset % BLOCK_BYTES`, so that whole blocks are whole pages. Only for Read and Write;
   * the volume may change the bytes of the run outside the request.
   */
  pages: number = -1
  /**
   * Answer of BlockStatus: pairs of (bytes, StatusExtent kind), covering the range from `offset`.
   * The volume may stop before the end of the range, but never before the first extent. Two
   * adjacent extents may be of one kind. The array is reused.
   */
  extents: number[] = []
  /**
   * BlockStatus: only what is from layers of its branch above this one is told, the rest is
   * Unchanged. Other kinds do not look at it.
   */
  since: Id64 | null = null
  /** Answer: ErrorCode, 0 for Ok. */
  error: number = 0
  /** Called once, never from inside `submit` (though from inside `ring`, perhaps). */
  onDone: (request: VolumeRequest) => void = () => {}
  /** Free for the protocol. */
  owner: unknown = null
  // Below: the volume's own.
  /** The open that it was submitted to. */
  device: BlockDevice | null = null
  /** Ops still out. */
  pending: number = 0
  startedMs: number = 0
}
