/** Asks the shards of this process what replication wants to know, and puts answers together. */
import type { Arena } from '../core/arena.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../core/limits.ts'
import {
  CHUNK_SUM_BYTES,
  DAMAGE_BYTES,
  DROP_BYTES,
  DROP_CHUNKS_MAX,
  GROUP_BITS_PAGES,
  GROUP_SUM_BYTES,
  LAYER_BYTES,
  VERSION_RUN_BYTES,
  VOID_BYTES,
  versionPages
} from '../shard/op.ts'
import { type BlockOp, OpFlag, OpKind, type ShardedStore } from './block-store.ts'

/** Pages for one stretch of sums or layers. */
const STRETCH_PAGES = 4
const DROP_PAGES = (DROP_CHUNKS_MAX * DROP_BYTES) / BLOCK_BYTES

export interface LayerId {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
}

export interface DamagedBlocks extends LayerId {
  readonly chunk: number
  readonly firstBlock: number
  readonly blockCount: number
}

/** In all its layers. */
export interface ChunkId {
  readonly familyHigh: number
  readonly familyLow: number
  readonly chunk: number
}

export interface SumsOf {
  readonly familyHigh: number
  readonly familyLow: number
  readonly groups: number
  readonly withHoles: boolean
  readonly withChecksums?: boolean
}

/** See VOID_BYTES: versions above the floor, up to the other one. */
export interface VoidEntry {
  readonly firstBlock: number
  readonly blockCount: number
  readonly writerEpoch: number
  readonly sequence: number
  readonly floorEpoch: number
  readonly floorSequence: number
}

export class ShardQuestions {
  readonly #store: ShardedStore
  readonly #arena: Arena

  constructor(store: ShardedStore, arena: Arena) {
    this.#store = store
    this.#arena = arena
  }

  get shardCount(): number {
    return this.#store.shardCount
  }

  /** An op to `run`. */
  acquireOp(): BlockOp {
    return clearOp(this.#store.acquireOp())
  }

  /** Done when all ops that were submitted before are. A shard that failed has none left. */
  barrier(): Promise<void> {
    const op = clearOp(this.#store.acquireOp())
    op.kind = OpKind.Barrier
    return new Promise((resolve) => {
      this.#store.broadcast(op, () => {
        this.#store.releaseOp(op)
        resolve()
      })
    })
  }

  /** Entries of GROUP_SUM_BYTES, ordered by group. @throws StoreError */
  async groupSums(sums: SumsOf): Promise<Buffer> {
    const byGroup = new Map<number, Uint32Array>()
    await this.#stretches(
      (op) => this.#askSums(op, OpKind.GroupSums, sums),
      (bytes, at) => {
        const group = bytes.readUInt32LE(at)
        const sum = byGroup.get(group) ?? new Uint32Array([group, 0, 0, 0])
        for (let word = 1; word < sum.length; word++)
          sum[word]! += bytes.readUInt32LE(at + 4 * word)
        byGroup.set(group, sum)
      },
      GROUP_SUM_BYTES
    )
    const ordered = [...byGroup.values()].sort((one, other) => one[0]! - other[0]!)
    return Buffer.concat(ordered.map((sum) => Buffer.from(sum.buffer)))
  }

  /** Entries of CHUNK_SUM_BYTES of all chunks of a group, ordered by (layer, chunk). */
  async chunkSums(sums: SumsOf, group: number): Promise<Buffer> {
    const entries: Buffer[] = []
    const ask = (op: BlockOp): void => {
      this.#askSums(op, OpKind.ChunkSums, sums)
      op.layerLow = group
    }
    await this.#stretches(
      ask,
      (bytes, at) => {
        entries.push(Buffer.from(bytes.subarray(at, at + CHUNK_SUM_BYTES)))
      },
      CHUNK_SUM_BYTES
    )
    return Buffer.concat(entries.sort(compareChunks))
  }

  /** Entries of VERSION_RUN_BYTES of one chunk, ordered by block. @throws StoreError */
  async versions(layer: LayerId, chunk: number): Promise<Buffer> {
    const pages = versionPages(CHUNK_BLOCKS)
    return this.withPages(pages, async (payload) => {
      const op = clearOp(this.#store.acquireOp())
      setLayer(op, layer)
      op.kind = OpKind.Versions
      op.chunk = chunk
      op.blockCount = CHUNK_BLOCKS
      op.payload = payload
      const { resultA } = await this.run(op, -1)
      const end = payload + resultA * VERSION_RUN_BYTES
      return Buffer.from(this.#arena.bytes.subarray(payload, end))
    })
  }

  /**
   * Durable when it resolves. At most as many as a page holds. `admit` is called in the moment in
   * which they enter the queue, and may throw. @throws StoreError
   */
  async addVoids(
    layer: LayerId,
    chunk: number,
    voids: readonly VoidEntry[],
    admit: () => void = () => {}
  ): Promise<void> {
    await this.withPages(1, async (payload) => {
      admit()
      for (const [i, entry] of voids.entries()) {
        writeVoid(this.#arena.bytes, payload + i * VOID_BYTES, entry)
      }
      const op = clearOp(this.#store.acquireOp())
      setLayer(op, layer)
      op.kind = OpKind.Void
      op.chunk = chunk
      op.blockCount = voids.length
      op.payload = payload
      await this.run(op, -1)
    })
  }

  /** Blocks that a scrub found damaged since the last call. @throws StoreError */
  async takeDamage(): Promise<DamagedBlocks[]> {
    const found: DamagedBlocks[] = []
    const { bytes } = this.#arena
    const takeOf = (shard: number): Promise<void> =>
      this.withPages(1, async (payload) => {
        const op = clearOp(this.#store.acquireOp())
        op.kind = OpKind.TakeDamage
        op.blockCount = 1
        op.payload = payload
        const { resultA } = await this.run(op, shard)
        for (let at = payload; at < payload + resultA * DAMAGE_BYTES; at += DAMAGE_BYTES) {
          found.push({
            familyLow: bytes.readUInt32LE(at),
            familyHigh: bytes.readUInt32LE(at + 4),
            layerLow: bytes.readUInt32LE(at + 8),
            layerHigh: bytes.readUInt32LE(at + 12),
            chunk: bytes.readUInt32LE(at + 16),
            firstBlock: bytes.readUInt16LE(at + 20),
            blockCount: bytes.readUInt16LE(at + 22)
          })
        }
      })
    await Promise.all(Array.from({ length: this.#store.shardCount }, (_, shard) => takeOf(shard)))
    return found
  }

  /** All layers that a shard knows. @throws StoreError */
  async layers(): Promise<LayerId[]> {
    const layers = new Map<string, LayerId>()
    const ask = (op: BlockOp): void => {
      op.kind = OpKind.ListLayers
    }
    await this.#stretches(
      ask,
      (bytes, at) => {
        const key = bytes.toString('hex', at, at + LAYER_BYTES)
        layers.set(key, {
          familyLow: bytes.readUInt32LE(at),
          familyHigh: bytes.readUInt32LE(at + 4),
          layerLow: bytes.readUInt32LE(at + 8),
          layerHigh: bytes.readUInt32LE(at + 12)
        })
      },
      LAYER_BYTES
    )
    return [...layers.values()]
  }

  /** Shows all chunks here of the groups, those of several layers more often. @throws StoreError */
  async listChunks(
    groups: number,
    wanted: ReadonlySet<number>,
    take: (chunk: ChunkId, shard: number) => void
  ): Promise<void> {
    const bits = new Uint32Array((GROUP_BITS_PAGES * BLOCK_BYTES) / 4)
    for (const group of wanted) bits[group >>> 5]! |= 1 << (group & 31)
    const { bytes } = this.#arena
    const listOf = (shard: number): Promise<void> =>
      this.withPages(GROUP_BITS_PAGES + STRETCH_PAGES, async (payload) => {
        Buffer.from(bits.buffer).copy(bytes, payload)
        const start = payload + GROUP_BITS_PAGES * BLOCK_BYTES
        for (let from = 0; ; ) {
          const op = clearOp(this.#store.acquireOp())
          op.kind = OpKind.ListChunks
          op.chunk = groups
          op.sequence = from
          op.blockCount = STRETCH_PAGES
          op.payload = payload
          const { resultA, resultB } = await this.run(op, shard)
          for (let at = start; at < start + resultA * DROP_BYTES; at += DROP_BYTES) {
            const familyLow = bytes.readUInt32LE(at)
            const familyHigh = bytes.readUInt32LE(at + 4)
            take({ familyHigh, familyLow, chunk: bytes.readUInt32LE(at + 8) }, shard)
          }
          if (resultB === 0) return
          from = resultB
        }
      })
    await Promise.all(Array.from({ length: this.#store.shardCount }, (_, shard) => listOf(shard)))
  }

  /**
   * Gives back what `choose` answers, in the order of DropChunks and at most DROP_CHUNKS_MAX. It is
   * asked in the moment when the op enters the shard's queue. Resolves with the blocks that went,
   * durably. @throws StoreError
   */
  async dropChunks(shard: number, groups: number, choose: () => readonly ChunkId[]) {
    return this.withPages(DROP_PAGES, async (payload) => {
      const chunks = choose()
      if (chunks.length === 0) return 0
      const { bytes } = this.#arena
      for (const [i, { familyHigh, familyLow, chunk }] of chunks.entries()) {
        const at = payload + i * DROP_BYTES
        bytes.writeUInt32LE(familyLow, at)
        bytes.writeUInt32LE(familyHigh, at + 4)
        bytes.writeUInt32LE(chunk, at + 8)
        bytes.writeUInt32LE(0, at + 12)
      }
      const op = clearOp(this.#store.acquireOp())
      op.kind = OpKind.DropChunks
      op.chunk = groups
      op.sequence = chunks.length
      op.payload = payload
      const { resultA } = await this.run(op, shard)
      return resultA
    })
  }

  /** That was all for a while. @throws StoreError */
  async endDrops(): Promise<void> {
    for (let shard = 0; shard < this.#store.shardCount; shard++) {
      const op = clearOp(this.#store.acquireOp())
      op.kind = OpKind.DropChunks
      await this.run(op, shard)
    }
  }

  #askSums(op: BlockOp, kind: number, sums: SumsOf): void {
    op.kind = kind
    op.familyHigh = sums.familyHigh
    op.familyLow = sums.familyLow
    op.chunk = sums.groups
    op.flags = sums.withHoles ? OpFlag.WithHoles : 0
    if (sums.withChecksums === true) op.flags |= OpFlag.WithChecksums
  }

  /** Asks every shard, stretch after stretch, and shows each entry. */
  async #stretches(
    ask: (op: BlockOp) => void,
    take: (bytes: Buffer, at: number) => void,
    entryBytes: number
  ): Promise<void> {
    const { bytes } = this.#arena
    const askShard = (shard: number): Promise<void> =>
      this.withPages(STRETCH_PAGES, async (payload) => {
        for (let from = 0; ; ) {
          const op = clearOp(this.#store.acquireOp())
          ask(op)
          op.sequence = from
          op.blockCount = STRETCH_PAGES
          op.payload = payload
          const { resultA, resultB } = await this.run(op, shard)
          for (let i = 0; i < resultA; i++) take(bytes, payload + i * entryBytes)
          if (resultB === 0) return
          from = resultB
        }
      })
    await Promise.all(Array.from({ length: this.#store.shardCount }, (_, shard) => askShard(shard)))
  }

  /** Runs an op on a shard, -1 for that of its chunk, and gives it back. */
  run(op: BlockOp, shard: number): Promise<{ resultA: number; resultB: number }> {
    return new Promise((resolve, reject) => {
      op.onDone = ({ error, resultA, resultB }) => {
        this.#store.releaseOp(op)
        if (error === 0) resolve({ resultA, resultB })
        else reject(errorOf(error, 'a shard did not answer'))
      }
      if (shard < 0) this.#store.submit(op)
      else this.#store.submitTo(shard, op)
      this.#store.ring()
    })
  }

  /**
   * Of the arena, while `use` goes on; waits for them.
   * @throws StoreError LimitReached where it shall not wait, and what `use` throws
   */
  async withPages<T>(
    pages: number,
    use: (payload: number, bytes: Buffer) => Promise<T>,
    waits = true
  ): Promise<T> {
    let payload = this.#arena.acquire(pages)
    while (payload < 0) {
      if (!waits) throw new StoreError(ErrorCode.LimitReached, 'no memory for a question now')
      await new Promise<void>((resolve) => this.#arena.onFree(resolve))
      payload = this.#arena.acquire(pages)
    }
    try {
      return await use(payload, this.#arena.bytes)
    } finally {
      this.#arena.release(payload)
    }
  }
}

export const errorOf = (error: number, what: string): StoreError =>
  new StoreError(error as ErrorCode, `${what}: ${errorCodeName(error)}`)

/** An op from a pool has what its last user left. */
export function clearOp(op: BlockOp): BlockOp {
  op.kind = 0
  op.flags = 0
  op.familyHigh = 0
  op.familyLow = 0
  op.layerHigh = 0
  op.layerLow = 0
  op.chunk = 0
  op.firstBlock = 0
  op.blockCount = 0
  op.writerEpoch = 0
  op.sequence = 0
  op.payload = 0
  op.tags = 0
  op.keySlot = 0
  op.error = 0
  op.resultA = 0
  op.resultB = 0
  op.pool = 0
  op.group = 0
  op.groupEpoch = 0
  op.fenceEpoch = 0
  return op
}

export function setLayer(op: BlockOp, layer: LayerId): void {
  op.familyHigh = layer.familyHigh
  op.familyLow = layer.familyLow
  op.layerHigh = layer.layerHigh
  op.layerLow = layer.layerLow
}

function writeVoid(bytes: Buffer, at: number, entry: VoidEntry): void {
  bytes.writeUInt16LE(entry.firstBlock, at)
  bytes.writeUInt16LE(entry.blockCount, at + 2)
  bytes.writeUInt32LE(0, at + 4)
  bytes.writeUInt32LE(entry.writerEpoch, at + 8)
  bytes.writeUInt32LE(entry.floorEpoch, at + 12)
  bytes.writeBigUInt64LE(BigInt(entry.sequence), at + 16)
  bytes.writeBigUInt64LE(BigInt(entry.floorSequence), at + 24)
}

/** By layer, then chunk. Both entries begin with layer u64 and chunk u32, little-endian. */
export function compareChunks(one: Buffer, other: Buffer): number {
  return (
    one.readUInt32LE(4) - other.readUInt32LE(4) ||
    one.readUInt32LE(0) - other.readUInt32LE(0) ||
    one.readUInt32LE(8) - other.readUInt32LE(8)
  )
}
