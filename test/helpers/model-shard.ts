/**
 * The plainest shard: blocks in a map, and beside it what a power loss leaves. It answers every op
 * that replication asks of a shard, keeps every hole, and fails when told to.
 */
import { strict } from 'node:assert'
import { crc32c } from '../../src/core/checksum.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import {
  DROP_BYTES,
  GROUP_BITS_PAGES,
  LAYER_BYTES,
  OpFlag,
  OpKind,
  READ_VERSIONS_CRCS_AT,
  type ShardOp,
  StatusExtent,
  VERSION_RUN_BYTES,
  VOID_BYTES,
  VersionKind
} from '../../src/shard/op.ts'

interface Block {
  readonly kind: number
  readonly writerEpoch: number
  readonly sequence: number
  readonly bytes: Buffer | null
}

/** Versions above the floor, up to the other one, that never were. */
interface Void {
  readonly from: Version
  readonly to: Version
}
type Version = readonly [writerEpoch: number, sequence: number]

type Blocks = Map<string, Block>

/** What stays over restarts. Keys are `family/layer/chunk/block`. */
export class ModelDisk {
  blocks: Blocks = new Map()
  /** Changes since the last flush. */
  #changes: { readonly key: string; readonly block: Block }[] = []
  #durable: Blocks = new Map()
  voids = new Map<string, Void[]>()
  /** Blocks whose bytes rotted. */
  readonly bad = new Set<string>()
  /** Bytes that still fit; every block counts. */
  freeBytes = 2 ** 30
  failsWrites = false
  failsFlushes = false

  /** `keeps` decides for each unflushed change whether it survives. */
  losePower(keeps: () => boolean): void {
    const kept = this.#changes.filter(() => keeps())
    this.#changes = []
    this.blocks = new Map(this.#durable)
    for (const { key, block } of kept) this.put(key, block)
    this.flush()
  }

  flush(): void {
    for (const { key, block } of this.#changes.splice(0)) putNewer(this.#durable, key, block)
  }

  put(key: string, block: Block): void {
    if (!putNewer(this.blocks, key, block)) return
    this.bad.delete(key)
    this.#changes.push({ key, block })
  }

  /** Gone at once and for ever. */
  drop(key: string): void {
    this.blocks.delete(key)
    this.#durable.delete(key)
    this.#changes = this.#changes.filter((change) => change.key !== key)
  }

  /** The disk as it is now, for one that is put back later. */
  copy(): ModelDisk {
    const copy = new ModelDisk()
    copy.blocks = new Map(this.blocks)
    copy.#durable = new Map(this.blocks)
    copy.voids = new Map([...this.voids].map(([key, voids]) => [key, [...voids]]))
    for (const key of this.bad) copy.bad.add(key)
    return copy
  }
}

function putNewer(blocks: Blocks, key: string, block: Block): boolean {
  const old = blocks.get(key)
  if (old !== undefined && isAbove(versionOf(old), versionOf(block))) return false
  blocks.set(key, block)
  return true
}

const versionOf = ({ writerEpoch, sequence }: Block): Version => [writerEpoch, sequence]
const isAbove = (one: Version, other: Version): boolean =>
  one[0] > other[0] || (one[0] === other[0] && one[1] > other[1])

const hex = (high: number, low: number): string =>
  (high >>> 0).toString(16).padStart(8, '0') + (low >>> 0).toString(16).padStart(8, '0')
const familyOf = (op: ShardOp): string => hex(op.familyHigh, op.familyLow)
const chunkKeyOf = (op: ShardOp): string =>
  `${familyOf(op)}/${hex(op.layerHigh, op.layerLow)}/${op.chunk}`

export class ModelShard {
  readonly disk: ModelDisk
  readonly #memory: Buffer
  /** A write or a flush failed: nothing is taken any more until the next start. */
  #failed = false

  constructor(disk: ModelDisk, memory: Buffer) {
    this.disk = disk
    this.#memory = memory
  }

  execute(ops: readonly ShardOp[], count: number): void {
    for (let at = 0; at < count; at++) {
      const op = ops[at]!
      op.error = ErrorCode.Ok
      op.resultA = 0
      op.resultB = 0
      op.error = this.#execute(op)
    }
  }

  background(): boolean {
    return false
  }

  close(): void {
    this.disk.flush()
  }

  #execute(op: ShardOp): number {
    switch (op.kind) {
      case OpKind.Read:
        return this.#read(op)
      case OpKind.Write:
      case OpKind.Trim:
      case OpKind.WriteZeroes:
        return this.#change(op)
      case OpKind.Flush:
        return this.#flush()
      case OpKind.BlockStatus:
        return this.#status(op)
      case OpKind.GroupSums:
        return this.#groupSums(op)
      case OpKind.ChunkSums:
        return this.#chunkSums(op)
      case OpKind.Versions:
        return this.#runs(op)
      case OpKind.ReadVersions:
        return this.#readVersions(op)
      case OpKind.Void:
        return this.#void(op)
      case OpKind.DeleteLayer:
        for (const key of this.#keysOf(`${familyOf(op)}/${hex(op.layerHigh, op.layerLow)}/`))
          this.disk.drop(key)
        return ErrorCode.Ok
      case OpKind.ListLayers:
        return this.#listLayers(op)
      case OpKind.ListChunks:
        return this.#listChunks(op)
      case OpKind.DropChunks:
        return this.#dropChunks(op)
      case OpKind.Barrier:
      case OpKind.HoldHoles:
        return ErrorCode.Ok
      default:
        return ErrorCode.InvalidArgument
    }
  }

  #keysOf(prefix: string): string[] {
    return [...this.disk.blocks.keys()].filter((key) => key.startsWith(prefix))
  }

  #flush(): number {
    if (this.#failed) return ErrorCode.ShardFailed
    if (this.disk.failsFlushes) {
      this.#failed = true
      return ErrorCode.DiskFailure
    }
    this.disk.flush()
    return ErrorCode.Ok
  }

  #read(op: ShardOp): number {
    const chunk = chunkKeyOf(op)
    for (let i = 0; i < op.blockCount; i++) {
      const key = `${chunk}/${op.firstBlock + i}`
      if (this.disk.bad.has(key)) {
        op.resultA = op.firstBlock + i
        return ErrorCode.ChecksumMismatch
      }
      this.#fill(op.payload + i * BLOCK_BYTES, this.disk.blocks.get(key))
    }
    return ErrorCode.Ok
  }

  #fill(at: number, block: Block | undefined): void {
    this.#memory.fill(0, at, at + BLOCK_BYTES)
    block?.bytes?.copy(this.#memory, at)
  }

  #change(op: ShardOp): number {
    if (this.#failed) return ErrorCode.ShardFailed
    const isWrite = op.kind === OpKind.Write
    const bytes = isWrite ? op.blockCount * BLOCK_BYTES : 0
    if (bytes > this.disk.freeBytes) return ErrorCode.OutOfSpace
    if (this.disk.failsWrites) return ErrorCode.DiskFailure
    const zeroes = op.kind === OpKind.WriteZeroes && (op.flags & OpFlag.NoHole) !== 0
    const chunk = chunkKeyOf(op)
    const { writerEpoch, sequence } = op
    for (let i = 0; i < op.blockCount; i++) {
      if (this.#isVoid(`${chunk}/${op.firstBlock + i}`, [writerEpoch, sequence])) {
        return ErrorCode.StaleEpoch
      }
    }
    for (let i = 0; i < op.blockCount; i++) {
      const at = op.payload + i * BLOCK_BYTES
      this.disk.put(`${chunk}/${op.firstBlock + i}`, {
        kind: isWrite ? VersionKind.Data : zeroes ? VersionKind.Zeroes : VersionKind.Hole,
        writerEpoch,
        sequence,
        bytes: isWrite ? Buffer.from(this.#memory.subarray(at, at + BLOCK_BYTES)) : null
      })
    }
    return ErrorCode.Ok
  }

  #isVoid(key: string, version: Version): boolean {
    const voids = this.disk.voids.get(key) ?? []
    return voids.some(({ from, to }) => isAbove(version, from) && !isAbove(version, to))
  }

  #void(op: ShardOp): number {
    const chunk = chunkKeyOf(op)
    for (let i = 0; i < op.blockCount; i++) {
      const at = op.payload + i * VOID_BYTES
      const first = this.#memory.readUInt16LE(at)
      const end = first + this.#memory.readUInt16LE(at + 2)
      const sequence = Number(this.#memory.readBigUInt64LE(at + 16))
      const floor = Number(this.#memory.readBigUInt64LE(at + 24))
      const to: Version = [this.#memory.readUInt32LE(at + 8), sequence]
      const from: Version = [this.#memory.readUInt32LE(at + 12), floor]
      for (let block = first; block < end; block++) {
        const key = `${chunk}/${block}`
        this.disk.voids.set(key, [...(this.disk.voids.get(key) ?? []), { from, to }])
        const held = this.disk.blocks.get(key)
        if (held !== undefined && this.#isVoid(key, versionOf(held))) this.disk.drop(key)
      }
    }
    return ErrorCode.Ok
  }

  #status(op: ShardOp): number {
    const chunk = chunkKeyOf(op)
    for (let i = 0; i < op.blockCount; i++) {
      const kind = this.disk.blocks.get(`${chunk}/${op.firstBlock + i}`)?.kind
      const isData = kind === VersionKind.Data
      const status = kind === VersionKind.Zeroes ? StatusExtent.Zero : StatusExtent.Hole
      this.#memory.writeUInt32LE(1, op.payload + i * 8)
      this.#memory.writeUInt32LE(isData ? StatusExtent.Data : status, op.payload + i * 8 + 4)
    }
    op.resultA = op.blockCount
    return ErrorCode.Ok
  }

  #runs(op: ShardOp): number {
    const chunk = chunkKeyOf(op)
    for (let i = 0; i < op.blockCount; i++) {
      const block = this.disk.blocks.get(`${chunk}/${op.firstBlock + i}`)
      if (block === undefined) continue
      const at = op.payload + op.resultA++ * VERSION_RUN_BYTES
      this.#memory.fill(0, at, at + VERSION_RUN_BYTES)
      this.#memory.writeUInt16LE(op.firstBlock + i, at)
      this.#memory.writeUInt16LE(1, at + 2)
      this.#memory.writeUInt32LE(block.kind, at + 4)
      this.#memory.writeUInt32LE(block.writerEpoch, at + 8)
      this.#memory.writeBigUInt64LE(BigInt(block.sequence), at + 16)
    }
    return ErrorCode.Ok
  }

  #readVersions(op: ShardOp): number {
    const chunk = chunkKeyOf(op)
    for (let i = 0; i < op.blockCount; i++) {
      const key = `${chunk}/${op.firstBlock + i}`
      if (this.disk.bad.has(key)) {
        op.resultA = op.firstBlock + i
        return ErrorCode.ChecksumMismatch
      }
      const at = op.payload + (1 + i) * BLOCK_BYTES
      this.#fill(at, this.disk.blocks.get(key))
      const crc = crc32c(this.#memory.subarray(at, at + BLOCK_BYTES))
      this.#memory.writeUInt32LE(crc, op.payload + READ_VERSIONS_CRCS_AT + 4 * i)
    }
    return this.#runs(op)
  }

  #groupSums(op: ShardOp): number {
    const byGroup = new Map<number, Sum>()
    for (const { key, group, sum } of this.#sums(op)) {
      strict(key !== '')
      const all = byGroup.get(group) ?? { blocks: 0, hash: 0 }
      byGroup.set(group, { blocks: all.blocks + sum.blocks, hash: (all.hash + sum.hash) >>> 0 })
    }
    for (const [group, { blocks, hash }] of byGroup) {
      const at = op.payload + op.resultA++ * 16
      for (const [i, word] of [group, blocks, hash, 0].entries()) {
        this.#memory.writeUInt32LE(word, at + 4 * i)
      }
    }
    return ErrorCode.Ok
  }

  #chunkSums(op: ShardOp): number {
    for (const { key, group, sum } of this.#sums(op)) {
      if (group !== op.layerLow) continue
      const [, layer = '', chunk = ''] = key.split('/')
      const low = Number.parseInt(layer.slice(8), 16)
      const high = Number.parseInt(layer.slice(0, 8), 16)
      const at = op.payload + op.resultA++ * 24
      strict(op.resultA * 24 <= op.blockCount * BLOCK_BYTES, 'all sums fit in one answer')
      for (const [i, word] of [low, high, Number(chunk), sum.blocks, sum.hash, 0].entries()) {
        this.#memory.writeUInt32LE(word, at + 4 * i)
      }
    }
    return ErrorCode.Ok
  }

  #listLayers(op: ShardOp): number {
    const layers = new Set([...this.disk.blocks.keys()].map((key) => key.slice(0, LAYER_END)))
    for (const layer of layers) {
      const at = op.payload + op.resultA++ * LAYER_BYTES
      this.#putId(at, layer.slice(0, FAMILY_END))
      this.#putId(at + 8, layer.slice(FAMILY_END + 1))
    }
    return ErrorCode.Ok
  }

  #listChunks(op: ShardOp): number {
    const start = op.payload + GROUP_BITS_PAGES * BLOCK_BYTES
    for (const { family, chunk, group } of chunksOf(this.disk.blocks.keys(), op.chunk)) {
      const bits = this.#memory.readUInt32LE(op.payload + (group >>> 5) * 4)
      if (((bits >>> (group & 31)) & 1) === 0) continue
      const at = start + op.resultA++ * DROP_BYTES
      strict(op.resultA * DROP_BYTES <= op.blockCount * BLOCK_BYTES, 'chunks fit in one answer')
      this.#putId(at, family)
      this.#memory.writeUInt32LE(chunk, at + 8)
    }
    return ErrorCode.Ok
  }

  /** Gone at once, and durably so. */
  #dropChunks(op: ShardOp): number {
    if (this.#failed) return ErrorCode.ShardFailed
    for (let i = 0; i < op.sequence; i++) {
      const at = op.payload + i * DROP_BYTES
      const family = hex(this.#memory.readUInt32LE(at + 4), this.#memory.readUInt32LE(at))
      const chunk = this.#memory.readUInt32LE(at + 8)
      for (const key of this.#keysOf(`${family}/`)) {
        if (Number(key.split('/')[2]) !== chunk) continue
        this.disk.drop(key)
        this.disk.voids.delete(key)
        op.resultA++
      }
    }
    return ErrorCode.Ok
  }

  #putId(at: number, id: string): void {
    this.#memory.writeUInt32LE(Number.parseInt(id.slice(8), 16), at)
    this.#memory.writeUInt32LE(Number.parseInt(id.slice(0, 8), 16), at + 4)
  }

  /** Of every chunk of the family; `op.chunk` is the number of groups. */
  #sums(op: ShardOp): { readonly key: string; readonly group: number; readonly sum: Sum }[] {
    const withHoles = (op.flags & OpFlag.WithHoles) !== 0
    const sums = new Map<string, Sum>()
    for (const [key, block] of this.disk.blocks) {
      if (!key.startsWith(`${familyOf(op)}/`)) continue
      const isHole = block.kind === VersionKind.Hole
      if (isHole && !withHoles) continue
      const end = key.lastIndexOf('/')
      const old = sums.get(key.slice(0, end)) ?? { blocks: 0, hash: 0 }
      const hash = (old.hash + hashOf(Number(key.slice(end + 1)), block)) >>> 0
      sums.set(key.slice(0, end), { blocks: old.blocks + (isHole ? 0 : 1), hash })
    }
    return [...sums].map(([key, sum]) => {
      const chunk = Number(key.slice(key.lastIndexOf('/') + 1))
      return { key, group: groupOfChunk(op.familyHigh, op.familyLow, chunk, op.chunk), sum }
    })
  }
}

/** Length of `family`, and of `family/layer`, in keys. */
const FAMILY_END = 16
const LAYER_END = 33

/** Each chunk once for each layer that has it. */
function chunksOf(
  keys: Iterable<string>,
  groups: number
): { readonly family: string; readonly chunk: number; readonly group: number }[] {
  const chunks = new Set([...keys].map((key) => key.slice(0, key.lastIndexOf('/'))))
  return [...chunks].map((key) => {
    const family = key.slice(0, FAMILY_END)
    const chunk = Number(key.slice(LAYER_END + 1))
    const high = Number.parseInt(family.slice(0, 8), 16)
    const low = Number.parseInt(family.slice(8), 16)
    return { family, chunk, group: groupOfChunk(high, low, chunk, groups) }
  })
}

interface Sum {
  readonly blocks: number
  readonly hash: number
}

function hashOf(number: number, { kind, writerEpoch, sequence }: Block): number {
  const part = Math.imul(number + 1, 0x9e3779b1) ^ Math.imul(sequence * 4 + kind, 0x85ebca6b)
  return Math.imul(part ^ (part >>> 15), writerEpoch * 2 + 1) >>> 0
}
