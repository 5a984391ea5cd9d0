/**
 * What a peer does with the requests of gateways and of other members: the server side of a link
 * hands them here, and `LocalMember` those of this process. One rule for both.
 */
import type { BlockOp } from './block-store.ts'
import type { MemberAnswer, MemberCall } from './member.ts'

/** Who asks: one boot of one peer. */
export interface Caller {
  readonly peerId: string
  readonly bootId: string
}

/** The main thread's side of one peer's storage, with the rules of fences (PROTOCOL.md R3, R4). */
export interface MemberService {
  /**
   * Carries out an op of a gateway or a resync: Read, Write, Trim, WriteZeroes, BlockStatus, or
   * ReadVersions, with `pool`, `group` and `groupEpoch` set; anything else is InvalidArgument.
   * The payload stays held by the caller until `onDone`, which is never called from inside. Refused
   * are StaleEpoch (another writer) and StaleGroup (the sender's record is old). Ops given one
   * after the other are carried out in that order.
   */
  submit(op: BlockOp): void
  /**
   * As BlockStore.readNow, by the same rules as `submit`; nothing is said of what is refused.
   * `isRemote`: for another process.
   */
  readNow?(op: BlockOp, into: Buffer, start: number, isRemote?: boolean): number
  /** Tells the shards about all that was submitted since. See Member. */
  ring(isLast?: boolean): void
  /** Everything answered before it is on disk. Error is an ErrorCode. */
  flush(done: (error: number) => void): void
  /** @throws StoreError InvalidArgument, LimitReached, ShardFailed, DiskFailure, StaleEpoch */
  call(request: MemberCall, from: Caller): Promise<MemberAnswer>
}
