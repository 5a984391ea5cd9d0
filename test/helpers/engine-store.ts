/** The shards of a peer as a store, with the real engine in this thread. */
import { ErrorCode } from '../../src/core/errors.ts'
import { shardOfChunk } from '../../src/placement/hash.ts'
import { BlockOp, type ShardedStore } from '../../src/replication/block-store.ts'
import { OpKind, ShardOp } from '../../src/shard/op.ts'
import type { Shard } from '../../src/shard/shard.ts'

/** Ops queue up until the event loop turns, then each shard carries out all it has. */
export class EngineStore implements ShardedStore {
  readonly #shards: readonly Shard[]
  readonly #queues: BlockOp[][]
  #scheduled = false
  #stopped = false
  /** Asked with each op that is about to be done; ops may be dropped by stopping the store. */
  onExecute: (op: BlockOp) => void = () => {}
  freeBytes = 2 ** 30
  readmit: (op: BlockOp) => number = () => ErrorCode.Ok

  constructor(shards: readonly Shard[]) {
    this.#shards = shards
    this.#queues = shards.map(() => [])
  }

  get shardCount(): number {
    return this.#shards.length
  }

  get inFlight(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.length, 0)
  }

  /** Nothing more is done or answered: the process died. */
  stop(): void {
    this.#stopped = true
  }

  acquireOp(): BlockOp {
    return new BlockOp()
  }

  releaseOp(): void {}

  readNow(): number {
    return -1
  }

  submit(op: BlockOp): void {
    const shard = shardOfChunk(op.familyHigh, op.familyLow, op.chunk, this.#shards.length)
    this.submitTo(shard, op)
  }

  submitTo(shard: number, op: BlockOp): void {
    this.#queues[shard]!.push(op)
  }

  ring(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.drain()
    })
  }

  drain(): void {
    for (const [shard, engine] of this.#shards.entries()) {
      const ops = this.#queues[shard]!.splice(0)
      for (const op of ops) this.onExecute(op)
      if (this.#stopped) return
      if (ops.length > 0) engine.execute(ops, ops.length)
      engine.background(0)
      for (const op of ops) op.onDone(op)
    }
  }

  flush(done: (error: number) => void): void {
    this.#broadcast(OpKind.Flush, done)
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    this.#broadcast(op.kind, done, op)
  }

  #broadcast(kind: number, done: (error: number) => void, from: ShardOp = new ShardOp()): void {
    let pending = this.#shards.length
    let first: number = ErrorCode.Ok
    for (let shard = 0; shard < this.#shards.length; shard++) {
      const op = Object.assign(new BlockOp(), from)
      op.kind = kind
      op.onDone = ({ error }) => {
        if (first === ErrorCode.Ok) first = error
        if (--pending === 0) done(first)
      }
      this.submitTo(shard, op)
    }
    this.ring()
  }
}
