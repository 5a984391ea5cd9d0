/**
 * A stand-in for a shard: blocks in shared memory that outlives its worker as a disk would, and a
 * real file for flushes to sync. It can be told to fail in the ways a worker may.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { AssertionError } from '../../src/core/assert.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { OpenFiles } from '../../src/handoff/open-files.ts'
import { type ShardTask, type ShardTaskEnd, shardTaskEnd } from '../../src/handoff/shard-task.ts'
import { SyncBoard } from '../../src/handoff/sync-board.ts'
import { WorkerLoop } from '../../src/handoff/worker-loop.ts'
import { OpKind, ShardOp } from '../../src/shard/op.ts'

export const memoryShardUrl = new URL(import.meta.url)

export interface MemoryShardConfig {
  /** Chunks of blocks, all of one family. */
  readonly disk: SharedArrayBuffer
  /** Where the file is whose appends a flush makes durable; '' for none. */
  readonly directory: string
  /** Word 0: opens that still have to fail. Word 1: opens so far. Word 2: batches so far. */
  readonly faults: SharedArrayBuffer
}

/** Kinds that no shard knows. */
export const FaultKind = { Throw: 90, Exit: 91, SlowThenRead: 92, BackgroundThrow: 93 } as const

class MemoryShard {
  private readonly disk: Buffer
  private readonly memory: Buffer
  private readonly faults: Int32Array
  private readonly file: number
  private readonly openFiles: OpenFiles
  private readonly board: SyncBoard
  private lsn = 0
  private dieInBackground = false

  constructor(task: ShardTask) {
    const config = task.config as MemoryShardConfig
    this.disk = Buffer.from(config.disk)
    this.memory = Buffer.from(task.arena.buffer)
    this.faults = new Int32Array(config.faults)
    this.board = new SyncBoard(task.memory.syncBoard, task.bell)
    Atomics.add(this.faults, 1, 1)
    if (Atomics.load(this.faults, 0) > 0) {
      Atomics.sub(this.faults, 0, 1)
      throw new StoreError(ErrorCode.Corrupt, 'shard 0: told not to open')
    }
    this.file = -1
    this.openFiles = new OpenFiles(task.memory.openFiles)
    if (config.directory !== '') {
      this.file = openSync(join(config.directory, `memory-shard-${task.shard}`), 'a')
      this.openFiles.opened(this.file)
    }
  }

  execute(ops: readonly ShardOp[], count: number): void {
    Atomics.add(this.faults, 2, 1)
    for (let at = 0; at < count; at++) this.executeOne(ops[at]!)
  }

  background(): boolean {
    if (this.dieInBackground) throw new AssertionError('background work never dies')
    return false
  }

  nextWakeMs(): number {
    return this.dieInBackground ? 0 : Number.POSITIVE_INFINITY
  }

  close(): void {
    if (this.file < 0) return
    this.openFiles.closing(this.file)
    closeSync(this.file)
  }

  private executeOne(op: ShardOp): void {
    const from = (op.chunk * CHUNK_BLOCKS + op.firstBlock) * BLOCK_BYTES
    const bytes = op.blockCount * BLOCK_BYTES
    if (op.kind === FaultKind.Throw) throw new AssertionError('this op is never executed')
    if (op.kind === FaultKind.Exit) process.exit(3)
    if (op.kind === FaultKind.BackgroundThrow) this.dieInBackground = true
    if (op.kind === FaultKind.SlowThenRead) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, op.sequence)
    }
    if (op.kind === OpKind.Write && this.board.failure() !== '') {
      op.error = ErrorCode.ShardFailed
    } else if (op.kind === OpKind.Write) {
      this.memory.copy(this.disk, from, op.payload, op.payload + bytes)
      if (this.file >= 0) {
        writeSync(this.file, this.memory, op.payload, bytes)
        this.board.appended(this.file, ++this.lsn)
      }
    } else if (op.kind === OpKind.Read || op.kind === FaultKind.SlowThenRead) {
      this.disk.copy(this.memory, op.payload, from, from + bytes)
    }
    op.resultA = op.blockCount
    op.resultB = op.sequence
  }
}

export default function memoryShard(task: ShardTask): ShardTaskEnd {
  return shardTaskEnd(() => {
    const loop = new WorkerLoop(task.memory, task.bell, () => new ShardOp(), task.knobs)
    const shard = new MemoryShard(task)
    loop.run(shard)
    shard.close()
  })
}
