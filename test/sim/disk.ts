/** The disk of a simulated peer, and the shards of one boot that run on it. */
import type { BootCounter } from '../../src/cluster/boot-counter.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import type { FenceEntry } from '../../src/format/fences.ts'
import type { BaseTeacher } from '../../src/replication/base-teacher.ts'
import { BlockOp, type ShardedStore } from '../../src/replication/block-store.ts'
import type { FenceStore } from '../../src/replication/fences.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { OpKind, ShardOp } from '../../src/shard/op.ts'
import { Shard } from '../../src/shard/shard.ts'
import type { ShardHost } from '../../src/shard/shard-config.ts'
import { shardStatNames } from '../../src/shard/stats.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { ModelDisk, ModelShard } from '../helpers/model-shard.ts'
import { testConfig } from '../helpers/shard-rig.ts'
import type { Boot } from './peer.ts'
import { type PageOfFile, payloadPages } from './flips.ts'
import type { Process, World } from './world.ts'

const SEGMENT_BYTES = 128 * 1024
/** After that a shard that could not be opened is tried again. */
const REOPEN_MS = 500
const FREE_BYTES = 2 ** 30
const CAPACITY_BYTES = 8 * 1024 * 1024

/** What a shard does for its store. */
interface AnyShard {
  execute(ops: readonly ShardOp[], count: number): void
  background(budgetMs: number): boolean
  close(): void
}

/** What is on a disk that was copied, or goes back to how it was. */
interface DiskState {
  readonly files: FaultyFiles
  readonly model: ModelDisk
  readonly fences: readonly FenceEntry[]
  readonly bootCounter: number
}

export class SimDisk implements BootCounter {
  readonly #world: World
  readonly #peerId: string
  readonly #isReal: boolean
  readonly #scrubPeriodMs: number
  #files: FaultyFiles
  #model = new ModelDisk()
  #isFormatted = false
  fences: readonly FenceEntry[] = []
  /** Of the superblock. */
  bootCounter = 0
  /** Something failed since the last start. */
  isBroken = false
  isFailing = false
  freeBytes = FREE_BYTES
  /** All that is asked of it takes so many times as long. */
  slowness = 1

  constructor(world: World, peerId: string, isReal: boolean, scrubPeriodMs: number = 0) {
    this.#world = world
    this.#peerId = peerId
    this.#scrubPeriodMs = scrubPeriodMs
    this.#isReal = isReal
    this.#files = new FaultyFiles(world.random)
  }

  crash(power: boolean): void {
    if (!this.#isReal) {
      if (power) this.#model.losePower(() => this.#world.chance(2))
    } else if (power) this.#files.crash(this.#world.chance(3) ? 'none' : 'some')
    else this.#files.kill()
  }

  countStart(): void {
    this.bootCounter++
  }

  raiseBootCounter(to: number): void {
    this.bootCounter = to
  }

  state(): DiskState {
    const { fences, bootCounter } = this
    return { files: this.#files.copy(), model: this.#model.copy(), fences, bootCounter }
  }

  /** As it was once; also what it was not told about since is gone. */
  revert({ files, model, fences, bootCounter }: DiskState): void {
    this.#files = files
    this.#model = model
    this.fences = fences
    this.bootCounter = bootCounter
  }

  fillUp(isFull: boolean): void {
    this.freeBytes = isFull ? 0 : FREE_BYTES
    this.#model.freeBytes = this.freeBytes
    this.#files.capacityBytes = isFull ? 0 : Number.POSITIVE_INFINITY
  }

  /** Calls fail; a shard that saw a failed sync takes nothing any more. */
  fail(what: 'write' | 'sync' | 'nothing'): void {
    this.isFailing = what !== 'nothing'
    if (this.isFailing) this.isBroken = true
    this.#model.failsWrites = what === 'write'
    this.#model.failsFlushes = what === 'sync'
    this.#files.fault = (call) => (call === what ? 'EIO' : '')
  }

  /** Some bits of what was written are others now. False where nothing was. */
  flipBits(mayLosePower: boolean): boolean {
    const { random } = this.#world
    if (!this.#isReal) {
      const held = [...this.#model.blocks].filter(([, { bytes }]) => bytes !== null)
      for (let i = 0; i < Math.min(3, held.length); i++) {
        this.#model.bad.add(held[random.below(held.length)]![0])
      }
      return held.length > 0
    }
    // Of payloads: what a header lost is for the engine's own tests.
    const pages = payloadPages(this.#files, mayLosePower).filter((page) => !this.#isSealed(page))
    for (let i = 0; i < 3 && pages.length > 0; i++) {
      const { name, page } = pages[random.below(pages.length)]!
      this.#files.flipBit(name, page * BLOCK_BYTES * 8 + random.below(BLOCK_BYTES * 8))
    }
    return pages.length > 0
  }

  /** A payload repeats its value in all words of a sector; what is sealed is left alone. */
  #isSealed({ name, page }: PageOfFile): boolean {
    const bytes = this.#files.bytesOf(name).subarray(page * BLOCK_BYTES, page * BLOCK_BYTES + 512)
    return bytes.readUInt32LE(0) !== bytes.readUInt32LE(508)
  }

  open(boot: Boot): AnyShard {
    if (!this.#isReal) return new ModelShard(this.#model, boot.arena.bytes)
    const config = testConfig({
      shard: 0,
      shards: 64,
      peerId: this.#peerId,
      segmentBytes: SEGMENT_BYTES,
      capacityBytes: CAPACITY_BYTES,
      scrubPeriodMs: this.#scrubPeriodMs,
      holdHoles: true
    })
    const host = this.#hostOf(boot)
    if (!this.#isFormatted) Shard.format(config, host)
    this.#isFormatted = true
    return Shard.open(config, host)
  }

  #hostOf(boot: Boot): ShardHost {
    return {
      files: this.#files,
      tracker: new LocalSyncTracker(this.#files, { lazy: true }),
      memory: boot.arena.bytes,
      stats: new Float64Array(shardStatNames.length),
      clock: boot.process,
      random: this.#world.random,
      log: (level, message, fields) => {
        if (level === 'error') {
          this.#world.log(`${boot.place}: ${message} ${JSON.stringify(fields)}`)
        }
      }
    }
  }
}

/** The file of a peer's fences: written a little later, or not any more. */
export class SimFences implements FenceStore {
  readonly #disk: SimDisk
  readonly #process: Process

  constructor(disk: SimDisk, process: Process) {
    this.#disk = disk
    this.#process = process
  }

  load(): Promise<readonly FenceEntry[]> {
    return Promise.resolve(this.#disk.fences)
  }

  save(entries: readonly FenceEntry[]): Promise<void> {
    return new Promise((resolve) => {
      const delayMs = this.#process.world.between(0.1, 1) * this.#disk.slowness
      this.#process.start(delayMs, () => {
        this.#disk.fences = entries
        resolve()
      })
    })
  }
}

/** The shard of one boot: what was rung for is carried out a little later. */
export class SimShards implements ShardedStore {
  readonly shardCount = 1
  teacher: BaseTeacher | null = null
  readmit: (op: BlockOp) => number = () => ErrorCode.Ok
  readonly #open: () => AnyShard | null
  /** Null while it cannot be opened: then it answers that it failed. */
  #shard: AnyShard | null
  readonly #disk: SimDisk
  readonly #process: Process
  #queue: BlockOp[] = []
  #scheduled = false
  #executing = 0

  constructor(open: () => AnyShard | null, disk: SimDisk, process: Process) {
    this.#open = open
    this.#disk = disk
    this.#process = process
    this.#shard = open()
    if (this.#shard === null) this.#openLater()
  }

  #openLater(): void {
    this.#disk.isBroken = true
    this.#process.start(REOPEN_MS, () => {
      this.#shard = this.#open()
      if (this.#shard === null) this.#openLater()
    })
  }

  get freeBytes(): number {
    return this.#disk.freeBytes
  }

  get inFlight(): number {
    return this.#queue.length + this.#executing
  }

  acquireOp(): BlockOp {
    return new BlockOp()
  }
  releaseOp(): void {}
  /** Into the arena; not while something is to be changed. */
  readNow(op: BlockOp, _into: Buffer, start: number): number {
    const isChange = ({ kind }: BlockOp): boolean => kind !== OpKind.Read
    if (this.#shard === null || op.keySlot !== 0 || this.#queue.some(isChange)) return -1
    op.payload = start
    this.#shard.execute([op], 1)
    return op.error === ErrorCode.Ok ? 0 : -1
  }

  submit(op: BlockOp): void {
    this.teacher?.watch(op)
    this.#queue.push(op)
  }
  submitTo(_shard: number, op: BlockOp): void {
    this.#queue.push(op)
  }

  ring(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    const delayMs = this.#process.world.between(0.02, 0.3) * this.#disk.slowness
    this.#process.start(delayMs, () => {
      this.#scheduled = false
      const ops = this.#queue
      this.#queue = []
      if (ops.length > 0) this.#execute(ops)
      this.#executing = ops.length
      for (const op of ops) {
        this.#executing--
        op.onDone(op)
      }
    })
  }

  flush(done: (error: number) => void): void {
    this.broadcast(Object.assign(new ShardOp(), { kind: OpKind.Flush }), done)
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    const copy = Object.assign(new BlockOp(), op)
    copy.onDone = ({ error }) => done(error)
    this.submitTo(0, copy)
    this.ring()
  }

  /** Everything is on disk. @throws StoreError */
  close(): void {
    this.#shard?.close()
  }

  #execute(ops: readonly BlockOp[]): void {
    if (this.#shard === null) {
      for (const op of ops) op.error = ErrorCode.ShardFailed
      return
    }
    this.#shard.execute(ops, ops.length)
    this.#shard.background(0)
  }
}
