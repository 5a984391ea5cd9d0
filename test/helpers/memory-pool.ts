/** A pool of stand-in shards for tests, with what they share. */
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { SharedArena } from '../../src/handoff/arena.ts'
import { ShardPool, type ShardPoolOptions } from '../../src/handoff/shard-pool.ts'
import type { WorkerLog } from '../../src/handoff/shard-task.ts'
import { BlockOp } from '../../src/replication/block-store.ts'
import { OpKind } from '../../src/shard/op.ts'
import { type MemoryShardConfig, memoryShardUrl } from './memory-shard.ts'

export interface MemoryPool {
  readonly pool: ShardPool<BlockOp>
  readonly arena: SharedArena
  readonly faults: Int32Array
  readonly logs: WorkerLog[]
  /** Threads of the pool that are alive, to end them. */
  readonly terminateOne: () => Promise<void>
}

export function memoryPool(
  options: Partial<ShardPoolOptions> & { directory?: string; chunks?: number } = {}
): MemoryPool {
  const arena = options.arena ?? new SharedArena(4 * 1024 * 1024)
  const shards = options.shards ?? 1
  const chunkBytes = CHUNK_BLOCKS * BLOCK_BYTES
  const faults = new SharedArrayBuffer(16)
  const disks = Array.from(
    { length: shards },
    () => new SharedArrayBuffer((options.chunks ?? 1) * chunkBytes)
  )
  const logs: WorkerLog[] = []
  const { directory = '' } = options
  const pool = new ShardPool<BlockOp>({
    worker: memoryShardUrl,
    log: (entry) => logs.push(entry),
    ...options,
    shards,
    arena,
    configOf: (shard): MemoryShardConfig => ({ disk: disks[shard]!, directory, faults })
  })
  const terminateOne = async (): Promise<void> => {
    await pool.threads[0]?.terminate()
  }
  return { pool, arena, faults: new Int32Array(faults), logs, terminateOne }
}

/** An op on blocks of chunk 0 of one family. */
export function opOf(
  kind: number,
  fields: Partial<BlockOp> = {},
  onDone: (op: BlockOp) => void = () => {}
): BlockOp {
  const op = new BlockOp()
  op.kind = kind
  op.familyHigh = 0xfedcba98
  op.familyLow = 0x76543210
  op.blockCount = 1
  Object.assign(op, fields)
  op.onDone = onDone
  return op
}

/** Submits an op to shard 0, rings, and resolves with it when it is done. */
export function run(
  pool: ShardPool<BlockOp>,
  kind: number,
  fields: Partial<BlockOp> = {}
): Promise<BlockOp> {
  return new Promise((resolve) => {
    pool.clients[0]!.submit(opOf(kind, fields, resolve))
    pool.ring()
  })
}

export const writeBlock = (pool: ShardPool<BlockOp>, fields: Partial<BlockOp>): Promise<BlockOp> =>
  run(pool, OpKind.Write, fields)

export const flushOf = (pool: ShardPool<BlockOp>): Promise<number> =>
  new Promise((resolve) => pool.clients[0]!.flush(resolve))
