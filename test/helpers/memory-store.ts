/**
 * A BlockStore in memory that keeps its callers honest. It answers late, or from inside `ring`;
 * chunks in an order drawn from a seed, each chunk's ops in the order of their submission; nothing
 * that was not rung for. It checks every field of every op and that versions only grow; it fails
 * ops on request; and it knows what a power cut would leave.
 */
import { strict } from 'node:assert'
import type { Arena } from '../../src/core/arena.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, PIECE_BLOCKS_MAX, SEQUENCE_MAX } from '../../src/core/limits.ts'
import {
  BlockOp,
  type BlockStore,
  OpFlag,
  OpKind,
  StatusExtent
} from '../../src/replication/block-store.ts'
import type { ShardOp } from '../../src/shard/op.ts'
import { SeededRandom } from './manual-clock.ts'

interface StoredBlock {
  readonly writerEpoch: number
  readonly sequence: number
  /** Bytes of the block, or one of StatusExtent.Hole and Zero. */
  readonly content: Buffer | number
}

type Blocks = Map<string, StoredBlock>

/** What changes blocks, as it was carried out. */
interface Change {
  readonly keys: readonly string[]
  readonly blocks: readonly StoredBlock[]
  /** Keys that start with it are dropped. */
  readonly dropped: string
}

export class MemoryStore implements BlockStore {
  /** Decides the error of an op before it is carried out; 0 lets it be. */
  failOp: (op: BlockOp) => number = () => 0
  failFlush: () => number = () => 0
  /** Holds everything back until `release`. */
  paused = false
  submitted = 0
  flushes = 0
  broadcasts = 0
  opsInUse = 0
  readonly #arena: Arena
  readonly #random: SeededRandom
  readonly #free: BlockOp[] = []
  readonly #inUse = new Set<BlockOp>()
  readonly #blocks: Blocks = new Map()
  readonly #log: Change[] = []
  #durable = 0
  readonly #versions = new Map<string, readonly [number, number]>()
  /** Submitted and not rung for. */
  #unrung: BlockOp[] = []
  /** By chunk, in order. */
  readonly #queues = new Map<string, BlockOp[]>()
  readonly #later: (() => void)[] = []
  #scheduled = false
  #submitting = false
  #turning = false

  constructor(arena: Arena, seed = 1) {
    this.#arena = arena
    this.#random = new SeededRandom(seed)
  }

  acquireOp(): BlockOp {
    const op = this.#free.pop() ?? new BlockOp()
    // Stale fields must not be relied on.
    op.kind = op.flags = op.familyHigh = op.familyLow = op.layerHigh = op.layerLow = -1
    op.chunk = op.firstBlock = op.blockCount = op.writerEpoch = op.sequence = op.payload = -1
    op.error = op.resultA = op.resultB = -1
    op.onDone = () => strict(false, 'onDone is set')
    this.opsInUse++
    this.#inUse.add(op)
    return op
  }

  releaseOp(op: BlockOp): void {
    strict(this.#inUse.delete(op), 'an op is released once')
    this.opsInUse--
    op.owner = null
    this.#free.push(op)
  }

  readNow(): number {
    return -1
  }

  submit(op: BlockOp): void {
    strict(this.#inUse.has(op), 'an acquired op is submitted')
    strict(!this.#submitting)
    this.#submitting = true
    this.submitted++
    this.#check(op)
    this.#unrung.push(op)
    this.#submitting = false
  }

  ring(): void {
    const ops = this.#unrung
    this.#unrung = []
    for (const op of ops) {
      const key = chunkKey(op)
      const queue = this.#queues.get(key) ?? []
      queue.push(op)
      this.#queues.set(key, queue)
    }
    if (ops.length === 0) return
    if (this.paused || this.#turning || this.#random.below(4) > 0) this.#schedule()
    else this.#turn()
  }

  flush(done: (error: number) => void): void {
    this.flushes++
    const covers = this.#log.length
    const error = this.failFlush()
    this.#later.push(() => {
      if (error === 0) this.#durable = Math.max(this.#durable, covers)
      done(error)
    })
    this.#schedule()
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    this.broadcasts++
    strict.equal(op.kind, OpKind.DeleteLayer)
    const copy = Object.assign(new BlockOp(), op)
    this.#later.push(() => {
      const error = this.failOp(copy)
      if (error === 0) this.#apply({ keys: [], blocks: [], dropped: layerKey(copy) })
      done(error)
    })
    this.#schedule()
  }

  /** Lets go what `paused` held back. */
  release(): void {
    this.paused = false
    this.#schedule()
  }

  /** Blocks that hold something of a layer, given as 'family-layer' in hex. */
  blockCount(layer: string): number {
    return [...this.#blocks.keys()].filter((key) => key.startsWith(layer)).length
  }

  /** Families that hold blocks. */
  get size(): number {
    return this.#blocks.size
  }

  /** What a power cut leaves: a store with the same blocks as far as they were flushed. */
  afterPowerCut(arena: Arena, seed: number): MemoryStore {
    const store = new MemoryStore(arena, seed)
    for (const change of this.#log.slice(0, this.#durable)) store.#apply(change)
    store.#durable = store.#log.length
    return store
  }

  #schedule(): void {
    if (this.#scheduled || this.paused) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (!this.paused) this.#turn()
    })
  }

  /** Carries out some of what waits. */
  #turn(): void {
    this.#turning = true
    this.#answerSome()
    this.#turning = false
    if (this.#queues.size > 0 || this.#later.length > 0) this.#schedule()
  }

  #answerSome(): void {
    const done: BlockOp[] = []
    for (const [key, queue] of this.#queues) {
      if (this.#random.below(4) === 0) continue
      const count = 1 + this.#random.below(queue.length)
      for (const op of queue.splice(0, count)) {
        this.#execute(op)
        done.push(op)
      }
      if (queue.length === 0) this.#queues.delete(key)
    }
    // Answers of different chunks come in any order.
    for (let left = done.length; left > 0; left--) {
      const index = this.#random.below(left)
      const op = done[index]!
      done[index] = done[left - 1]!
      op.onDone(op)
    }
    for (const run of this.#later.splice(0)) {
      if (this.#random.below(3) === 0) this.#later.push(run)
      else run()
    }
  }

  #check(op: BlockOp): void {
    const moves = op.kind === OpKind.Read || op.kind === OpKind.Write
    const changes =
      op.kind === OpKind.Write || op.kind === OpKind.Trim || op.kind === OpKind.WriteZeroes
    strict(moves || changes || op.kind === OpKind.BlockStatus, `kind ${op.kind}`)
    for (const word of [op.familyHigh, op.familyLow, op.layerHigh, op.layerLow, op.chunk]) {
      strict(Number.isInteger(word) && word >= 0 && word < 2 ** 32)
    }
    strict(op.firstBlock >= 0 && op.blockCount >= 1)
    strict(op.firstBlock + op.blockCount <= CHUNK_BLOCKS, 'an op stays in its chunk')
    if (moves) strict(op.blockCount <= PIECE_BLOCKS_MAX)
    if (moves || op.kind === OpKind.BlockStatus) {
      const bytes = moves ? op.blockCount * BLOCK_BYTES : op.blockCount * 8
      strict(op.payload >= 0 && op.payload % BLOCK_BYTES === 0, 'payload is page aligned')
      strict(op.payload + bytes <= this.#arena.bytes.length)
    }
    strict.equal(op.error, 0)
    strict(op.flags === 0 || (op.flags === OpFlag.NoHole && op.kind === OpKind.WriteZeroes))
    if (changes) this.#checkVersion(op)
  }

  #checkVersion(op: BlockOp): void {
    const family = `${op.familyHigh}-${op.familyLow}`
    const [epoch, sequence] = this.#versions.get(family) ?? [0, 0]
    strict(op.sequence > 0 && op.sequence <= SEQUENCE_MAX)
    const grows = op.writerEpoch > epoch || (op.writerEpoch === epoch && op.sequence > sequence)
    strict(grows, `version ${op.writerEpoch}.${op.sequence} follows ${epoch}.${sequence}`)
    this.#versions.set(family, [op.writerEpoch, op.sequence])
  }

  #execute(op: BlockOp): void {
    op.error = this.failOp(op)
    op.resultA = 0
    if (op.error !== 0) {
      // A failed read may have written anything.
      if (op.kind === OpKind.Read) this.#page(op, 0).fill(0xee)
    } else if (op.kind === OpKind.Read) {
      for (let index = 0; index < op.blockCount; index++) {
        const content = this.#blocks.get(blockKey(op, index))?.content ?? StatusExtent.Hole
        if (typeof content === 'number') this.#page(op, index).fill(0)
        else content.copy(this.#page(op, index))
      }
    } else if (op.kind === OpKind.BlockStatus) this.#status(op)
    else this.#change(op)
  }

  /** Lowest writerEpoch of any block of data. */
  get oldestEpoch(): number {
    const data = [...this.#blocks.values()].filter(({ content }) => typeof content !== 'number')
    return Math.min(...data.map(({ writerEpoch }) => writerEpoch))
  }

  #change(op: BlockOp): void {
    const keys: string[] = []
    const blocks: StoredBlock[] = []
    const { writerEpoch, sequence } = op
    for (let index = 0; index < op.blockCount; index++) {
      let content: Buffer | number = StatusExtent.Hole
      if (op.kind === OpKind.Write) content = Buffer.from(this.#page(op, index))
      else if (op.flags === OpFlag.NoHole) content = StatusExtent.Zero
      keys.push(blockKey(op, index))
      blocks.push({ writerEpoch, sequence, content })
    }
    this.#apply({ keys, blocks, dropped: '' })
  }

  #apply(change: Change): void {
    this.#log.push(change)
    for (const [index, key] of change.keys.entries()) {
      const block = change.blocks[index]!
      const old = this.#blocks.get(key)
      const newer =
        old === undefined ||
        block.writerEpoch > old.writerEpoch ||
        (block.writerEpoch === old.writerEpoch && block.sequence > old.sequence)
      if (newer) this.#blocks.set(key, block)
    }
    if (change.dropped === '') return
    for (const key of [...this.#blocks.keys()]) {
      if (key.startsWith(change.dropped)) this.#blocks.delete(key)
    }
  }

  #status(op: BlockOp): void {
    const { bytes } = this.#arena
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset + op.payload, op.blockCount * 2)
    for (let index = 0; index < op.blockCount; index++) {
      const content = this.#blocks.get(blockKey(op, index))?.content ?? StatusExtent.Hole
      const kind = typeof content === 'number' ? content : StatusExtent.Data
      const last = op.resultA * 2 - 2
      if (op.resultA > 0 && words[last + 1] === kind) words[last]!++
      else {
        words[op.resultA * 2] = 1
        words[op.resultA * 2 + 1] = kind
        op.resultA++
      }
    }
  }

  #page(op: BlockOp, index: number): Buffer {
    const at = op.payload + index * BLOCK_BYTES
    return this.#arena.bytes.subarray(at, at + BLOCK_BYTES)
  }
}

const hex = (high: number, low: number): string =>
  high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')
const layerKey = (op: ShardOp): string =>
  `${hex(op.familyHigh, op.familyLow)}-${hex(op.layerHigh, op.layerLow)}/`
const chunkKey = (op: ShardOp): string => `${layerKey(op)}${op.chunk}`
const blockKey = (op: ShardOp, index: number): string =>
  `${layerKey(op)}${op.chunk * CHUNK_BLOCKS + op.firstBlock + index}`
