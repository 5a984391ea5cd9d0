/** A shard with memory, stats and files around it, and one-line writes and reads of blocks. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Clock, type Random, systemClock } from '../../src/core/clock.ts'
import { errorCodeName } from '../../src/core/errors.ts'
import { BlockChecksums, SUMS_SCRATCH_BYTES } from '../../src/core/block-checksums.ts'
import { FOLD_SCRATCH_BYTES, FoldedChecksum } from '../../src/core/folded-checksum.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { sharedMemory } from '../../src/core/wasm.ts'
import { KEY_BYTES } from '../../src/seal/key-mailbox.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import { DiskFiles } from '../../src/shard/disk-files.ts'
import type { Files, SyncTracker } from '../../src/shard/files.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { OpKind, ShardOp } from '../../src/shard/op.ts'
import { Shard } from '../../src/shard/shard.ts'
import {
  resolveShardConfig,
  type ShardConfig,
  type ShardHost,
  type ShardOptions
} from '../../src/shard/shard-config.ts'
import { type ShardStatName, shardStatIndex, shardStatNames } from '../../src/shard/stats.ts'

/** Mulberry32: small, seeded, good enough to choose test steps. */
export function seededRandom(seed: number): Random & { below(limit: number): number } {
  let state = seed >>> 0
  const u32 = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return (t ^ (t >>> 14)) >>> 0
  }
  return { u32, below: (limit) => Math.floor((u32() / 2 ** 32) * limit) }
}

export const testConfig = (options: Partial<ShardOptions> = {}): ShardConfig =>
  resolveShardConfig({
    shard: 0,
    shards: 1,
    clusterId: '0123456789abcdef0123456789abcdef',
    peerId: 'fedcba9876543210fedcba9876543210',
    segmentBytes: 256 * 1024,
    capacityBytes: 64 * 1024 * 1024,
    scrubPeriodMs: 0,
    ...options
  })

export function temporaryDirectory(): { path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'torus-test-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

export interface LogLine {
  readonly level: string
  readonly message: string
  readonly fields: Record<string, unknown>
}

/** A chunk's worth of payloads whose checksums WebAssembly takes. */
export interface SummedMemory {
  readonly memory: Buffer
  readonly folded: FoldedChecksum
  readonly sums: BlockChecksums
}

export function summedMemory(): SummedMemory {
  const bytes = CHUNK_BLOCKS * BLOCK_BYTES
  const shared = sharedMemory(bytes + FOLD_SCRATCH_BYTES + SUMS_SCRATCH_BYTES)
  return {
    memory: Buffer.from(shared.buffer, 0, bytes),
    folded: new FoldedChecksum(shared, bytes),
    sums: new BlockChecksums(shared, bytes + FOLD_SCRATCH_BYTES)
  }
}

export class ShardRig {
  readonly memory: Buffer
  readonly stats = new Float64Array(shardStatNames.length)
  readonly log: LogLine[] = []
  readonly config: ShardConfig
  files: Files
  tracker: SyncTracker
  shard: Shard
  sequence = 0
  readonly layerLow: number = 7
  /** Blocks are sealed with it; 0: they are plain. */
  readonly keySlot: number
  readonly keys = new KeyRing(0)
  private readonly summed: SummedMemory | null
  private readonly random: Random
  private readonly clock: Clock

  constructor(options: {
    files: Files
    config?: Partial<ShardOptions>
    random?: Random
    format?: boolean
    tracker?: SyncTracker
    memoryBytes?: number
    sealed?: boolean
    clock?: Clock
    /** Payloads are there; else the native package takes checksums. */
    summed?: SummedMemory
  }) {
    const sealed = options.sealed ?? false
    this.keySlot = sealed ? this.keys.hold(Buffer.alloc(KEY_BYTES, 0x5a)) : 0
    this.memory =
      options.summed?.memory ?? Buffer.alloc(options.memoryBytes ?? CHUNK_BLOCKS * BLOCK_BYTES)
    this.summed = options.summed ?? null
    this.config = testConfig(options.config)
    this.files = options.files
    this.random = options.random ?? seededRandom(1)
    this.clock = options.clock ?? systemClock
    this.tracker = options.tracker ?? new LocalSyncTracker(this.files)
    if (options.format ?? true) Shard.format(this.config, this.host)
    this.shard = Shard.open(this.config, this.host)
  }

  get host(): ShardHost {
    return {
      files: this.files,
      tracker: this.tracker,
      memory: this.memory,
      stats: this.stats,
      clock: this.clock,
      random: this.random,
      keys: this.keys,
      ...this.summed,
      log: (level, message, fields) => this.log.push({ level, message, fields })
    }
  }

  stat(name: ShardStatName): number {
    return this.stats[shardStatIndex[name]]!
  }

  /** Closes, then opens again from the files. */
  restart(): void {
    this.shard.close()
    this.reopen()
  }

  /** Opens again as after kill -9: what was not closed stays as it is. */
  reopen(files: Files = this.files): void {
    this.files = files
    this.tracker = new LocalSyncTracker(files)
    this.shard = Shard.open(this.config, this.host)
  }

  op(kind: number, chunk: number, firstBlock: number, blockCount: number): ShardOp {
    const op = new ShardOp()
    op.kind = kind
    op.familyLow = 1
    op.layerLow = this.layerLow
    op.chunk = chunk
    op.firstBlock = firstBlock
    op.blockCount = blockCount
    op.writerEpoch = 1
    op.sequence = ++this.sequence
    op.keySlot = this.keySlot
    return op
  }

  /** Runs one op; returns its error code. */
  run(op: ShardOp): number {
    this.shard.execute([op], 1)
    return op.error
  }

  /** Writes blocks that each hold `fillBlock(value)`. */
  write(chunk: number, firstBlock: number, blockCount: number, value: number): number {
    const op = this.op(OpKind.Write, chunk, firstBlock, blockCount)
    for (let i = 0; i < blockCount; i++) fillBlock(this.memory, i * BLOCK_BYTES, value)
    return this.run(op)
  }

  trim(chunk: number, firstBlock: number, blockCount: number): number {
    return this.run(this.op(OpKind.Trim, chunk, firstBlock, blockCount))
  }

  flush(): number {
    return this.run(this.op(OpKind.Flush, 0, 0, 0))
  }

  /** Values of the blocks, as `blockValue` has them. @throws Error when the read fails */
  read(chunk: number, firstBlock: number, blockCount: number): number[] {
    const op = this.op(OpKind.Read, chunk, firstBlock, blockCount)
    this.memory.fill(0xee, 0, blockCount * BLOCK_BYTES)
    this.run(op)
    if (op.error !== 0) throw new Error(errorCodeName(op.error))
    return Array.from({ length: blockCount }, (_, i) => blockValue(this.memory, i * BLOCK_BYTES))
  }
}

/** A block that tells its value in every 512-byte sector, so that a torn one shows. */
export function fillBlock(memory: Buffer, offset: number, value: number): void {
  const words = new Uint32Array(memory.buffer, memory.byteOffset + offset, BLOCK_BYTES / 4)
  words.fill(value)
}

/** The value of a block; -1 when it is torn. */
export function blockValue(memory: Buffer, offset: number): number {
  const value = memory.readUInt32LE(offset)
  // A sector is written whole or not at all: two words of each tell.
  for (let at = offset; at < offset + BLOCK_BYTES; at += 512) {
    if (memory.readUInt32LE(at) !== value || memory.readUInt32LE(at + 508) !== value) return -1
  }
  return value
}

export const diskRig = (path: string, config: Partial<ShardOptions> = {}): ShardRig =>
  new ShardRig({ files: new DiskFiles(path), config })
