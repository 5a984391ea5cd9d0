/**
 * Members of groups, as gateways and resyncs reach them: `LocalMember` is this process's own
 * shards, `PeerLink` a connection to one boot of a peer, and the simulator has its own. Rules
 * are in PROTOCOL.md.
 */
import { type GroupBar, parentBars } from '../cluster/group-shape.ts'
import type { KnownGroup } from '../cluster/groups.ts'
import type { BlockOp } from './block-store.ts'
import type { PeerReport } from './peer-report.ts'
import type { VoidEntry } from './shard-questions.ts'
import type { SpaceQuestion } from './space-question.ts'

/** Names a group: the pool's number and the group's. Both fit 16 bits. */
export interface GroupId {
  readonly pool: number
  readonly group: number
}

/** Range in which a chunk's group and its shards are found: groups of the pool, a power of two. */
export interface PoolShape {
  readonly pool: number
  readonly groups: number
}

/** Requests beside the data path. Families and layers are 16 hex digits. */
export type MemberCall =
  /** R3: nothing older than `writerEpoch` is admitted for the family from the answer on. */
  | { readonly call: 'fenceFamily'; readonly family: string; readonly writerEpoch: number }
  /** R3, for a group, and R42: for `parents`, which it came from. */
  | {
      readonly call: 'fenceGroup'
      readonly id: GroupId
      readonly epoch: number
      readonly parents?: readonly GroupBar[] | undefined
    }
  /**
   * Sums of what the member holds of a family, per group. `data`: 16 bytes for each group that has
   * an entry: group u32, blocks u32 (mod 2^32; data and zeroes), hash u64; ordered by group. Holes
   * count into the hash with `withHoles` only: members drop them when each sees fit.
   */
  | {
      readonly call: 'groupSums'
      readonly shape: PoolShape
      readonly family: string
      readonly withHoles: boolean
      /** Checksums of data count into the hash too. Members of before do not know it. */
      readonly withChecksums?: true | undefined
    }
  /**
   * Sums per chunk of a family in one group. `data`: 24 bytes each, ordered by (layer, chunk):
   * layer u64, chunk u32, blocks u32, hash u64. At most `limit` entries after `after`.
   */
  | {
      readonly call: 'chunkSums'
      readonly shape: PoolShape
      readonly group: number
      readonly family: string
      readonly withHoles: boolean
      /** Checksums of data count into the hash too. Members of before do not know it. */
      readonly withChecksums?: true | undefined
      readonly after: { readonly layer: string; readonly chunk: number } | null
      readonly limit: number
    }
  /**
   * What stands in a chunk of a layer: runs ordered by block, 24 bytes each: firstBlock u16,
   * blockCount u16, kind u32 (1 data, 2 zeroes, 3 hole), writerEpoch u32, zero u32, sequence u64.
   */
  | {
      readonly call: 'versions'
      readonly family: string
      readonly layer: string
      readonly chunk: number
    }
  /**
   * R17: of blocks of a chunk, versions that nobody can read or lacks, and that were never settled,
   * never were. Durable when answered. Members of before do not know it.
   */
  | {
      readonly call: 'void'
      readonly pool: number
      readonly group: number
      readonly groupEpoch: number
      readonly writerEpoch: number
      readonly family: string
      readonly layer: string
      readonly chunk: number
      readonly voids: readonly VoidEntry[]
    }
  /** Is the gateway still the newest writer there? R26; and how the member is. */
  | { readonly call: 'ping'; readonly families: readonly (readonly [string, number])[] }
  /**
   * What views of a volume take in groups of which this member has a copy. `data` as SpaceSums has
   * it; `more`: it goes on, ask again with the same `count`. Members of before do not know it.
   */
  | {
      readonly call: 'space'
      /** Random: names the count. */
      readonly count: string
      readonly question: SpaceQuestion
    }
  /**
   * In which chunks of a stretch a layer shows anything, of groups of which this member is in sync:
   * a read, admitted as one (R3). `data` as chunk-finder.ts has it. Members of before do
   * not know it.
   */
  | {
      readonly call: 'chunks'
      readonly shape: PoolShape
      /** With the epochs of their records. */
      readonly wanted: readonly (readonly [group: number, epoch: number])[]
      readonly writerEpoch: number
      readonly family: string
      readonly layer: string
      readonly since: string | null
      readonly first: number
      /** Behind the last. */
      readonly end: number
    }
  /** For people who look at the cluster through another peer. */
  | { readonly call: 'report' }

/** Nothing that was sent under an older record is admitted from the answer on. */
export function fenceOf(id: GroupId, { record }: KnownGroup): MemberCall {
  const parents = parentBars(id.group, record)
  const more = parents.length === 0 ? {} : { parents }
  return { call: 'fenceGroup', id, epoch: record.epoch, ...more }
}

export interface MemberAnswer {
  /** Of `ping`: families whose fence is above the named epoch. */
  readonly fenced?: readonly string[]
  /** Of `ping`: room for data, in bytes. */
  readonly freeBytes?: number
  readonly report?: PeerReport
  /** Of `chunkSums`: there are more after the last one. */
  readonly more?: boolean
  /** Packed, little-endian; empty where the call has none. */
  readonly data: Buffer
}

/**
 * One boot of one peer as a member. Ops and calls are carried out in the order in which they were
 * given. Once the member is lost, everything unanswered is done with PeerLost and nothing
 * more is taken: whoever has it asks for the peer's next `Member`.
 */
export interface Member {
  readonly peerId: string
  readonly bootId: string
  readonly isLocal: boolean
  /** Ops without an answer. */
  readonly inFlight: number
  /**
   * Queues the op, whose group fields are set. The caller holds the payload pages until `onDone`;
   * a remote member holds them itself until its socket is done with them, also after `onDone`.
   * Reads are filled into `op.payload`; what arrives late is dropped, so the pages of a lost op
   * are the caller's again. No `onDone` is called from inside.
   */
  submit(op: BlockOp): void
  /**
   * The answer to a read that was submitted goes to `payload` when it comes, pages that the caller
   * holds until then; false: it is arriving. A member that cannot do so has no such method.
   */
  putAside?(op: BlockOp, payload: number): boolean
  /** As BlockStore.readNow, of a read with its group fields set; a remote member has none. */
  readNow?(op: BlockOp, into: Buffer, start: number): number
  /** Sends what was submitted. `isLast` false: others take longer, nobody waits for this one. */
  ring(isLast?: boolean): void
  /** Everything answered before it is on the member's disk. Error is an ErrorCode. */
  flush(done: (error: number) => void): void
  /** @throws StoreError PeerLost, and what the member answers; Unavailable past its deadline */
  call(request: MemberCall): Promise<MemberAnswer>
  /** Calls back once when the member is lost; at once (in a microtask) when it is already. */
  onLost(listener: (why: string) => void): void
}

/** Finds members. */
export interface Members {
  /**
   * The member of the peer's present boot, connected and authenticated, or null now: a
   * connection is tried in the background, and `onChange` tells when there is news.
   */
  find(peerId: string): Member | null
  onChange(listener: (peerId: string) => void): void
}
