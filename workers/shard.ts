/** The thread of one shard: puts the engine behind the queues. Started by ShardPool. */
import { parentPort } from 'node:worker_threads'
import { assert } from '../src/core/assert.ts'
import { BlockChecksums } from '../src/core/block-checksums.ts'
import { FOLD_SCRATCH_BYTES, FoldedChecksum } from '../src/core/folded-checksum.ts'
import { systemClock, systemRandom } from '../src/core/clock.ts'
import { OpenFiles } from '../src/handoff/open-files.ts'
import { type ShardTask, type ShardTaskEnd, shardTaskEnd } from '../src/handoff/shard-task.ts'
import { SyncBoard } from '../src/handoff/sync-board.ts'
import { WorkerLoop } from '../src/handoff/worker-loop.ts'
import { DiskFiles, type DiskFilesOptions } from '../src/shard/disk-files.ts'
import type { FileHandle } from '../src/shard/files.ts'
import { WorkerKeys } from '../src/seal/worker-keys.ts'
import { ShardOp } from '../src/shard/op.ts'
import { SegmentPlaces } from '../src/shard/segment-places.ts'
import { Shard } from '../src/shard/shard.ts'
import type { ShardConfig, ShardHost } from '../src/shard/shard-config.ts'
import { shardStatIndex, shardStatNames } from '../src/shard/stats.ts'

/** `config` of this worker's task. */
export interface ShardWorkerConfig {
  readonly directory: string
  readonly shard: ShardConfig
  /** Where the main thread reads blocks by itself: SegmentPlaces and frames of chunk-map.ts. */
  readonly places?: SharedArrayBuffer
  readonly maps?: SharedArrayBuffer
  readonly sealMaps?: SharedArrayBuffer
  /** Memory of the KeyMailbox by which data keys come. */
  readonly keys?: SharedArrayBuffer
}

/** Syncs that the engine runs itself meet those of the main thread on the board. */
class BoardFiles extends DiskFiles {
  private readonly board: SyncBoard
  constructor(directory: string, board: SyncBoard, options: DiskFilesOptions) {
    super(directory, options)
    this.board = board
  }

  override sync(handle: FileHandle): void {
    this.board.syncHandle(handle)
  }
}

function hostOf(
  task: ShardTask,
  { directory, places, maps, sealMaps }: ShardWorkerConfig,
  keys: WorkerKeys | null
): ShardHost {
  const board = new SyncBoard(task.memory.syncBoard, task.bell)
  const stats = new Float64Array(task.memory.stats)
  assert(shardStatNames.length <= stats.length, 'the channel has room for all statistics')
  return {
    files: new BoardFiles(directory, board, { descriptors: new OpenFiles(task.memory.openFiles) }),
    tracker: board,
    memory: Buffer.from(task.arena.buffer),
    folded: new FoldedChecksum(task.arena, task.scratch),
    sums: new BlockChecksums(task.arena, task.scratch + FOLD_SCRATCH_BYTES),
    stats,
    clock: systemClock,
    random: systemRandom,
    ...(places === undefined ? {} : { places: new SegmentPlaces(places) }),
    ...(maps === undefined ? {} : { maps: new Uint32Array(maps) }),
    ...(sealMaps === undefined ? {} : { sealMaps: new Uint32Array(sealMaps) }),
    ...(keys === null ? {} : { keys }),
    log: (level, message, fields) => {
      parentPort?.postMessage({ log: level, shard: task.shard, message, fields })
    }
  }
}

export default function serveShard(task: ShardTask): ShardTaskEnd {
  return shardTaskEnd(() => {
    const loop = new WorkerLoop(task.memory, task.bell, () => new ShardOp(), task.knobs)
    const config = task.config as ShardWorkerConfig
    const keys = config.keys === undefined ? null : new WorkerKeys(config.keys)
    const host = hostOf(task, config, keys)
    try {
      serve(loop, Shard.open(config.shard, host), host, keys)
    } finally {
      keys?.close()
    }
  })
}

function serve(
  loop: WorkerLoop<ShardOp>,
  shard: Shard,
  host: ShardHost,
  keys: WorkerKeys | null
): void {
  loop.run({
    execute: (ops, count) => {
      keys?.refresh()
      shard.execute(ops, count)
    },
    background: (budgetMs) => {
      keys?.refresh()
      host.stats[shardStatIndex.busyMs] = loop.busyMs
      return shard.background(budgetMs)
    },
    nextWakeMs: () => shard.nextWakeMs()
  })
  shard.close()
}
