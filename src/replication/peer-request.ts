import { FrameKind } from '../format/peer-frames.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, PIECE_BLOCKS_MAX, SEQUENCE_MAX } from '../core/limits.ts'
import { SEAL_TAG_BYTES } from '../format/batch.ts'
import {
  OpFlag,
  OpKind,
  READ_VERSIONS_BLOCKS_MAX,
  SEAL_ENTRY_BYTES,
  type ShardOp
} from '../shard/op.ts'
import { BlockOp } from './block-store.ts'
import type { PeerSession } from './peer-session.ts'

/**
 * One request of a gateway from its frame to the last byte of its answer. They are used again, and
 * each is the op that the service gets, so that nothing is made per request.
 */
export class PeerRequest extends BlockOp {
  session: PeerSession | null = null
  requestId: number = 0
  /** Offset of the pages held, -1 when none are. */
  pages: number = -1
  /** What it counts in the window of its link. */
  windowBytes: number = 0
  /** A call's answer: `jsonBytes` of JSON, then data. */
  body: Buffer | null = null
  jsonBytes: number = 0
  /** Link of the list of answers that wait for room. */
  next: PeerRequest | null = null
  readonly onFlushed: (error: number) => void
  readonly onSent: () => void

  constructor() {
    super()
    this.onDone = finished
    this.onFlushed = (error) => {
      this.error = error
      finished(this)
    }
    this.onSent = () => this.session?.sent(this)
  }
}

/** One function for all requests. */
function finished(op: BlockOp): void {
  const request = op as PeerRequest
  request.session?.finished(request)
}

/** By kind of frame: which op it is, 0 for what is none. And the other way round. */
export const opKindOfFrame: Uint8Array = new Uint8Array(256)
export const frameKindOfOp: Uint8Array = new Uint8Array(256)
for (const [frame, op] of [
  [FrameKind.Read, OpKind.Read],
  [FrameKind.Write, OpKind.Write],
  [FrameKind.Trim, OpKind.Trim],
  [FrameKind.WriteZeroes, OpKind.WriteZeroes],
  [FrameKind.BlockStatus, OpKind.BlockStatus],
  [FrameKind.ReadVersions, OpKind.ReadVersions]
] as const) {
  opKindOfFrame[frame] = op
  frameKindOfOp[op] = frame
}

/** By kind of op: flags that one may have. */
const flagsOf: Readonly<Record<number, number>> = {
  [OpKind.Trim]: OpFlag.NoHole | OpFlag.KeepHole,
  [OpKind.WriteZeroes]: OpFlag.NoHole | OpFlag.KeepHole,
  [OpKind.Read]: OpFlag.Sealed,
  [OpKind.Write]: OpFlag.Sealed,
  [OpKind.ReadVersions]: OpFlag.Sealed,
  [OpKind.BlockStatus]: OpFlag.Since
}

/** Of a BlockStatus answer: two u32. There are at most as many extents as blocks. */
const STATUS_EXTENT_BYTES = 8

/** Bytes that an op carries or asks for, without tags. */
export function plainBytesOf({ kind, blockCount }: ShardOp): number {
  switch (kind) {
    case OpKind.Read:
    case OpKind.Write:
      return blockCount * BLOCK_BYTES
    case OpKind.BlockStatus:
      return blockCount * STATUS_EXTENT_BYTES
    case OpKind.ReadVersions:
      return (blockCount + 1) * BLOCK_BYTES
    default:
      return 0
  }
}

/** Bytes of tags, or of what opens blocks, that follow those of a sealed op. */
export function tagBytesOf({ kind, flags, blockCount }: ShardOp): number {
  if ((flags & OpFlag.Sealed) === 0) return 0
  return blockCount * (kind === OpKind.Write ? SEAL_TAG_BYTES : SEAL_ENTRY_BYTES)
}

/** Bytes of memory that an op needs for what it carries or asks for, tags behind the rest. */
export const payloadBytesOf = (op: ShardOp): number => plainBytesOf(op) + tagBytesOf(op)

/** Bytes of the answer of an op that went well. */
export const answerBytesOf = (op: BlockOp): number => {
  if (op.kind === OpKind.Write) return 0
  if (op.kind === OpKind.BlockStatus) return op.resultA * STATUS_EXTENT_BYTES
  return payloadBytesOf(op)
}

/** Why an op, as a gateway sent it, cannot be one; null when it can. */
export function opProblem(op: BlockOp, payloadBytes: number): string | null {
  const { kind, firstBlock, blockCount } = op
  const most =
    kind === OpKind.Read || kind === OpKind.Write
      ? PIECE_BLOCKS_MAX
      : kind === OpKind.ReadVersions
        ? READ_VERSIONS_BLOCKS_MAX
        : CHUNK_BLOCKS
  if (blockCount === 0 || blockCount > most) return `${blockCount} blocks, the limit is ${most}`
  if (firstBlock + blockCount > CHUNK_BLOCKS) return 'blocks past the end of a chunk'
  const carried = kind === OpKind.Write ? payloadBytesOf(op) : 0
  if (payloadBytes !== carried) return `a payload of ${payloadBytes} bytes instead of ${carried}`
  if ((op.flags & ~(flagsOf[kind] ?? 0)) !== 0) return `flags ${op.flags}`
  if (op.sequence > SEQUENCE_MAX) return 'a sequence beyond the limit'
  return null
}
