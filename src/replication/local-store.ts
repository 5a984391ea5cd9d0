import { assert } from '../core/assert.ts'
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { ShardClient } from '../handoff/shard-client.ts'
import { chunkHash } from '../placement/hash.ts'
import { OpFlag, OpKind, type ShardOp } from '../shard/op.ts'
import { RESERVE_SEGMENTS } from '../shard/shard-config.ts'
import { shardStatIndex } from '../shard/stats.ts'
import type { BaseTeacher } from './base-teacher.ts'
import type { ChunkFinder } from './chunk-finder.ts'
import { BlockOp, copyRequest, type ShardedStore } from './block-store.ts'
import { NearFlushes } from './near-flushes.ts'
import { NEAR_BLOCKS_MAX, type NearReads } from './near-reads.ts'

/** Header and footer pages of well packed segments. */
const OVERHEAD_SHARE = 0.05

/** What a ShardPool is to the store. */
interface Shards {
  readonly clients: readonly ShardClient<BlockOp>[]
  ring(isLast?: boolean): void
  /** A read needed none of them. */
  served(): void
}

/** The shards of this peer as one store: each chunk lives in one shard, by its hash. */
export class LocalStore implements ShardedStore {
  private readonly shards: Shards
  private readonly clients: readonly ShardClient<BlockOp>[]
  private readonly near: NearReads | null
  private readonly nearFlushes: NearFlushes | null
  /** Set before the first op; without it no volume has branches. */
  teacher: BaseTeacher | null = null
  finder: ChunkFinder | null = null
  /** Set by who admits ops; where nobody does all are. */
  readmit: (op: BlockOp) => number = () => ErrorCode.Ok
  private readonly freeOps: BlockOp[] = []
  private pooledReads: BlockOp[] = []

  /** With `near` small reads need no worker, and lone flushes no thread pool. */
  constructor(shards: Shards, near: NearReads | null = null) {
    assert(shards.clients.length > 0, 'a store has a shard')
    this.shards = shards
    this.clients = shards.clients
    this.near = near
    this.nearFlushes = near === null ? null : new NearFlushes((done) => this.flush(done))
    if (near === null) return
    for (const client of this.clients) client.onGone = () => near.gone(client.shard)
  }

  get shardCount(): number {
    return this.clients.length
  }

  get inFlight(): number {
    let inFlight = 0
    for (const client of this.clients) inFlight += client.inFlightCount
    return inFlight
  }

  /**
   * Chunks spread evenly, so the fullest shard counts for all. Compaction makes room of what is
   * dead, but for what headers and footers take.
   */
  get freeBytes(): number {
    let least = Number.POSITIVE_INFINITY
    for (const { stats } of this.clients) {
      const capacity = stats[shardStatIndex.capacityBytes]!
      const reserve = (RESERVE_SEGMENTS + 1) * segmentBytesOf(stats)
      const kept = stats[shardStatIndex.liveBytes]! * (1 + OVERHEAD_SHARE)
      least = Math.min(least, capacity - reserve - kept)
    }
    return Math.max(0, Math.floor(least)) * this.clients.length
  }

  submitTo(shard: number, op: BlockOp): void {
    if (op.kind === OpKind.DropChunks) this.near?.maps.clear()
    this.clients[shard]!.submit(op)
  }

  acquireOp(): BlockOp {
    return this.freeOps.pop() ?? new BlockOp()
  }

  releaseOp(op: BlockOp): void {
    op.owner = null
    op.onDone = nobodyWaits
    op.keySlot = 0
    op.tags = 0
    this.freeOps.push(op)
  }

  submit(op: BlockOp): void {
    const { clients, near } = this
    const hash = chunkHash(op.familyHigh, op.familyLow, op.chunk)
    const client = clients[hash % clients.length]!
    if (near !== null) {
      if (op.kind === OpKind.Read) {
        if (isNear(op) && this.readNear(near, op, hash, client)) return
        this.nearFlushes?.pause(performance.now())
      } else if (isChange(op.kind)) {
        near.maps.forget(op, hash, this.teacher)
        this.nearFlushes!.noteChange()
        op.onChanged = op.onDone
        op.onDone = this.changed
      } else if (op.kind === OpKind.Void) near.maps.clear()
    }
    this.teacher?.watch(op)
    client.submit(op)
  }

  ring(isLast = true): void {
    this.shards.ring(isLast)
  }

  readNow(op: BlockOp, into: Buffer, start: number, isRemote = false): number {
    const { near } = this
    if (near === null || !isNear(op)) return -1
    const hash = chunkHash(op.familyHigh, op.familyLow, op.chunk)
    const client = this.clients[hash % this.clients.length]!
    if (client.state !== 'serving') return -1
    const ms = near.readNow(op, hash, client.shard, into, start)
    if (ms < 0) return ms
    this.noteNear(client, op.blockCount)
    if (!isRemote) this.shards.served()
    return ms
  }

  private noteNear(client: ShardClient<BlockOp>, blockCount: number): void {
    client.stats[shardStatIndex.nearReads]! += 1
    client.stats[shardStatIndex.nearReadBytes]! += blockCount * BLOCK_BYTES
  }

  /** Reads without the worker if that is better now; if not, may ask it for the chunk's map. */
  private readNear(
    near: NearReads,
    op: BlockOp,
    hash: number,
    client: ShardClient<BlockOp>
  ): boolean {
    if (client.state !== 'serving') return false
    const map = near.maps.find(op, hash)
    if (map >= 0 && near.start(op, map, client.shard, this.pooled)) return true
    if (map >= 0 && near.knows(op, map, client.shard)) return false
    const payload = near.maps.missed(op, hash)
    if (payload < 0) return false
    const locate = this.acquireOp()
    copyRequest(op, locate)
    locate.kind = OpKind.Locate
    locate.flags = op.keySlot === 0 ? 0 : OpFlag.Sealed
    locate.keySlot = 0
    locate.payload = payload
    locate.onDone = this.located
    client.submit(locate)
    return false
  }

  /**
   * A read in the thread pool is over. All that are in one turn of the event loop are answered
   * together, with one write to each socket.
   */
  private readonly pooled = (op: BlockOp, whole: boolean): void => {
    const hash = chunkHash(op.familyHigh, op.familyLow, op.chunk)
    const client = this.clients[hash % this.clients.length]!
    if (whole) {
      this.noteNear(client, op.blockCount)
      this.shards.served()
      if (this.pooledReads.push(op) === 1) setImmediate(this.answerPooled)
    } else {
      op.error = this.readmit(op)
      if (op.error !== ErrorCode.Ok) {
        op.onDone(op)
        return
      }
      this.teacher?.watch(op)
      client.submit(op)
      this.shards.ring()
    }
  }

  private readonly answerPooled = (): void => {
    const reads = this.pooledReads
    this.pooledReads = []
    for (const op of reads) op.onDone(op)
  }

  private readonly located = (op: BlockOp): void => {
    this.near!.maps.loaded(op.payload, op.error !== ErrorCode.Ok)
    this.releaseOp(op)
  }

  private readonly changed = (op: BlockOp): void => {
    const hash = chunkHash(op.familyHigh, op.familyLow, op.chunk)
    this.near!.maps.changed(op, hash)
    op.onDone = op.onChanged
    op.onDone(op)
    this.nearFlushes!.changeDone(this.clients[hash % this.clients.length]!)
  }

  flush(done: (error: number) => void): void {
    this.nearFlushes?.noteFlush()
    const unsynced = this.clients.filter((client) => !client.isClean)
    if (unsynced.length === 0) {
      queueMicrotask(() => done(ErrorCode.Ok))
      return
    }
    if (unsynced.length === 1 && this.nearFlushes?.take(unsynced[0]!, done) === true) {
      this.ring()
      return
    }
    const join = unsynced.length === 1 ? done : joinOf(unsynced.length, done)
    for (const client of unsynced) client.flush(join)
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    if (op.kind === OpKind.DeleteLayer || op.kind === OpKind.SetBase) this.near?.maps.clear()
    const join = joinOf(this.clients.length, done)
    const onDone = (answered: BlockOp): void => {
      const { error } = answered
      this.releaseOp(answered)
      join(error)
    }
    for (const client of this.clients) {
      const copy = this.acquireOp()
      copyRequest(op, copy)
      copy.onDone = onDone
      client.submit(copy)
    }
    this.ring()
  }
}

/** Not where sealed blocks are wanted as they are. */
const isNear = (op: BlockOp): boolean =>
  op.blockCount <= NEAR_BLOCKS_MAX && (op.flags & OpFlag.Sealed) === 0

const isChange = (kind: number): boolean => kind >= OpKind.Write && kind <= OpKind.WriteZeroes

function segmentBytesOf(stats: Float64Array): number {
  const segments = stats[shardStatIndex.segments]!
  return segments === 0 ? 0 : stats[shardStatIndex.usedBytes]! / segments
}

/** Calls `done` with the first error, or Ok, when it was called `parts` times. */
function joinOf(parts: number, done: (error: number) => void): (error: number) => void {
  let pending = parts
  let first: number = ErrorCode.Ok
  return (error) => {
    if (first === ErrorCode.Ok) first = error
    if (--pending === 0) done(first)
  }
}

const nobodyWaits = (): void => {}
