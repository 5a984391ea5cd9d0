import { assert } from '../core/assert.ts'
import { ErrorCode } from '../core/errors.ts'
import type { ShardClient } from '../handoff/shard-client.ts'
import { shardOfChunk } from '../placement/hash.ts'
import type { ShardOp } from '../shard/op.ts'
import { BlockOp, type BlockStore } from './block-store.ts'

/** What a ShardPool is to the store. */
interface Shards {
  readonly clients: readonly ShardClient<BlockOp>[]
  ring(): void
}

/** The shards of this peer as one store: each chunk lives in one shard, by its hash. */
export class LocalStore implements BlockStore {
  private readonly shards: Shards
  private readonly clients: readonly ShardClient<BlockOp>[]
  private readonly freeOps: BlockOp[] = []

  constructor(shards: Shards) {
    assert(shards.clients.length > 0, 'a store has a shard')
    this.shards = shards
    this.clients = shards.clients
  }

  acquireOp(): BlockOp {
    return this.freeOps.pop() ?? new BlockOp()
  }

  releaseOp(op: BlockOp): void {
    op.owner = null
    op.onDone = nobodyWaits
    this.freeOps.push(op)
  }

  submit(op: BlockOp): void {
    const { clients } = this
    const shard = shardOfChunk(op.familyHigh, op.familyLow, op.chunk, clients.length)
    clients[shard]!.submit(op)
  }

  ring(): void {
    this.shards.ring()
  }

  flush(done: (error: number) => void): void {
    const unsynced = this.clients.filter((client) => !client.isClean)
    if (unsynced.length === 0) {
      queueMicrotask(() => done(ErrorCode.Ok))
      return
    }
    const join = unsynced.length === 1 ? done : joinOf(unsynced.length, done)
    for (const client of unsynced) client.flush(join)
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
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

/** Calls `done` with the first error, or Ok, when it was called `parts` times. */
function joinOf(parts: number, done: (error: number) => void): (error: number) => void {
  let pending = parts
  let first: number = ErrorCode.Ok
  return (error) => {
    if (first === ErrorCode.Ok) first = error
    if (--pending === 0) done(first)
  }
}

function copyRequest(from: ShardOp, to: BlockOp): void {
  to.kind = from.kind
  to.flags = from.flags
  to.familyHigh = from.familyHigh
  to.familyLow = from.familyLow
  to.layerHigh = from.layerHigh
  to.layerLow = from.layerLow
  to.chunk = from.chunk
  to.firstBlock = from.firstBlock
  to.blockCount = from.blockCount
  to.writerEpoch = from.writerEpoch
  to.sequence = from.sequence
  to.payload = from.payload
}

const nobodyWaits = (): void => {}
