/**
 * The plainest MemberService: blocks in a map, and beside it what a power loss leaves. It keeps
 * the rules of fences, and keeps every hole.
 */
import { strict } from 'node:assert'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { type BlockOp, OpFlag, OpKind, StatusExtent } from '../../src/replication/block-store.ts'
import type { MemberAnswer, MemberCall } from '../../src/replication/member.ts'
import type { MemberService } from '../../src/replication/member-service.ts'
import { READ_VERSIONS_CRCS_AT, VERSION_RUN_BYTES, VersionKind } from '../../src/shard/op.ts'
import type { TestArena } from './test-arena.ts'

interface Block {
  readonly kind: number
  readonly writerEpoch: number
  readonly sequence: number
  readonly bytes: Buffer | null
}

/** What a member keeps over restarts. */
export class ModelDisk {
  /** family -> layer/chunk/block -> what stands there. */
  readonly families = new Map<string, Map<string, Block>>()
  readonly durable = new Map<string, Map<string, Block>>()
  readonly familyEpochs = new Map<string, number>()
  readonly groupEpochs = new Map<string, number>()
  /** Changes since the last flush. */
  changes: { readonly family: string; readonly key: string; readonly block: Block }[] = []

  /** `keeps` decides for each unflushed change whether it survives. */
  losePower(keeps: () => boolean): void {
    const kept = this.changes.filter(() => keeps())
    this.changes = []
    this.families.clear()
    for (const [family, blocks] of this.durable) this.families.set(family, new Map(blocks))
    for (const { family, key, block } of kept) put(this.families, family, key, block)
    this.flush()
  }

  flush(): void {
    this.changes = []
    this.durable.clear()
    for (const [family, blocks] of this.families) this.durable.set(family, new Map(blocks))
  }
}

function put(
  families: Map<string, Map<string, Block>>,
  family: string,
  key: string,
  block: Block
): void {
  const blocks = families.get(family) ?? new Map<string, Block>()
  families.set(family, blocks)
  const old = blocks.get(key)
  const isOlder =
    old !== undefined &&
    (block.writerEpoch < old.writerEpoch ||
      (block.writerEpoch === old.writerEpoch && block.sequence < old.sequence))
  if (!isOlder) blocks.set(key, block)
}

const hex = (value: number): string => (value >>> 0).toString(16).padStart(8, '0')

export class ModelMember implements MemberService {
  readonly disk: ModelDisk
  readonly #arena: TestArena
  readonly #start: (delayMs: number, run: () => void) => void
  /** Decides the error of an op before it is carried out; 0 lets it be. */
  failOp: (op: BlockOp) => number = () => 0
  failFlush: () => number = () => 0
  freeBytes = 2 ** 40
  /** Blocks that fail their checksum, as 'family layer/chunk/block'. */
  readonly bad = new Set<string>()
  delayMs: () => number = () => 0.05
  readonly #queue: BlockOp[] = []

  constructor(
    disk: ModelDisk,
    arena: TestArena,
    start: (delayMs: number, run: () => void) => void
  ) {
    this.disk = disk
    this.#arena = arena
    this.#start = start
  }

  submit(op: BlockOp): void {
    this.#queue.push(op)
  }

  ring(): void {
    const ops = this.#queue.splice(0)
    if (ops.length === 0) return
    for (const op of ops) op.error = this.#admit(op)
    this.#start(this.delayMs(), () => {
      for (const op of ops) {
        if (op.error === 0) op.error = this.failOp(op)
        if (op.error === 0) this.#execute(op)
        op.onDone(op)
      }
    })
  }

  flush(done: (error: number) => void): void {
    this.#start(this.delayMs() * 2, () => {
      const error = this.failFlush()
      if (error === 0) this.disk.flush()
      done(error)
    })
  }

  call(request: MemberCall): Promise<MemberAnswer> {
    return new Promise((resolve) => {
      this.#start(this.delayMs(), () => resolve(this.#answer(request)))
    })
  }

  #admit(op: BlockOp): number {
    const family = hex(op.familyHigh) + hex(op.familyLow)
    const group = `${op.pool}/${op.group}`
    const { familyEpochs, groupEpochs } = this.disk
    if (op.groupEpoch < (groupEpochs.get(group) ?? 0)) return ErrorCode.StaleGroup
    if (op.fenceEpoch > 0 && op.fenceEpoch < (familyEpochs.get(family) ?? 0)) {
      return ErrorCode.StaleEpoch
    }
    groupEpochs.set(group, op.groupEpoch)
    if (op.fenceEpoch > 0) familyEpochs.set(family, op.fenceEpoch)
    return 0
  }

  #execute(op: BlockOp): void {
    const family = hex(op.familyHigh) + hex(op.familyLow)
    const layer = hex(op.layerHigh) + hex(op.layerLow)
    const blocks = this.disk.families.get(family)
    const keyOf = (block: number): string => `${layer}/${op.chunk}/${block}`
    const { bytes } = this.#arena
    const runs: { first: number; block: Block }[] = []
    let pairs = 0
    for (let i = 0; i < op.blockCount; i++) {
      const key = keyOf(op.firstBlock + i)
      const found = blocks?.get(key)
      const at = op.payload + i * BLOCK_BYTES
      if (op.kind === OpKind.Read) {
        if (this.bad.has(`${family} ${key}`)) {
          op.error = ErrorCode.ChecksumMismatch
          op.resultA = op.firstBlock + i
          return
        }
        bytes.fill(0, at, at + BLOCK_BYTES)
        found?.bytes?.copy(bytes, at)
      } else if (op.kind === OpKind.ReadVersions) {
        bytes.fill(0, at + BLOCK_BYTES, at + 2 * BLOCK_BYTES)
        found?.bytes?.copy(bytes, at + BLOCK_BYTES)
        if (found !== undefined) runs.push({ first: op.firstBlock + i, block: found })
      } else if (op.kind === OpKind.BlockStatus) {
        const kinds: Record<number, number> = { 1: StatusExtent.Data, 2: StatusExtent.Zero }
        bytes.writeUInt32LE(1, op.payload + pairs * 8)
        const kind = kinds[found?.kind ?? 0] ?? StatusExtent.Hole
        bytes.writeUInt32LE(kind, op.payload + pairs++ * 8 + 4)
      } else this.#change(op, family, key, at)
    }
    op.resultA = op.kind === OpKind.ReadVersions ? runs.length : pairs
    if (op.kind === OpKind.ReadVersions) {
      strict(runs.length * VERSION_RUN_BYTES <= READ_VERSIONS_CRCS_AT)
      packRuns(runs).copy(bytes, op.payload)
    }
  }

  #change(op: BlockOp, family: string, key: string, at: number): void {
    const isWrite = op.kind === OpKind.Write
    const zeroes = op.kind === OpKind.WriteZeroes && (op.flags & OpFlag.NoHole) !== 0
    const block: Block = {
      kind: isWrite ? VersionKind.Data : zeroes ? VersionKind.Zeroes : VersionKind.Hole,
      writerEpoch: op.writerEpoch,
      sequence: op.sequence,
      bytes: isWrite ? Buffer.from(this.#arena.bytes.subarray(at, at + BLOCK_BYTES)) : null
    }
    this.bad.delete(`${family} ${key}`)
    put(this.disk.families, family, key, block)
    this.disk.changes.push({ family, key, block })
  }

  #answer(request: MemberCall): MemberAnswer {
    const { familyEpochs, groupEpochs, families } = this.disk
    const data = Buffer.alloc(0)
    switch (request.call) {
      case 'fenceFamily': {
        const known = familyEpochs.get(request.family) ?? 0
        familyEpochs.set(request.family, Math.max(known, request.writerEpoch))
        return { data }
      }
      case 'fenceGroup': {
        const key = `${request.id.pool}/${request.id.group}`
        groupEpochs.set(key, Math.max(groupEpochs.get(key) ?? 0, request.epoch))
        return { data }
      }
      case 'ping': {
        const { freeBytes } = this
        const fenced = request.families.flatMap(([family, writerEpoch]) =>
          (familyEpochs.get(family) ?? 0) > writerEpoch ? [family] : []
        )
        return { data, fenced, freeBytes }
      }
      case 'report':
        return { data }
      case 'groupSums':
        return { data: this.#groupSums(request.family, request.shape.groups) }
      case 'chunkSums': {
        const { family, shape, group } = request
        const sums = sumsOf(families.get(family), (chunk) => {
          const [high, low] = wordsOf(family)
          return groupOfChunk(high, low, chunk, shape.groups) === group
        })
        return { data: Buffer.concat(sums.map(({ entry }) => entry)), more: false }
      }
      case 'versions': {
        const runs: { first: number; block: Block }[] = []
        for (let block = 0; block < CHUNK_BLOCKS; block++) {
          const key = `${request.layer}/${request.chunk}/${block}`
          const found = families.get(request.family)?.get(key)
          if (found !== undefined) runs.push({ first: block, block: found })
        }
        return { data: packRuns(runs) }
      }
    }
  }

  #groupSums(family: string, groups: number): Buffer {
    const [high, low] = wordsOf(family)
    const byGroup = new Map<number, [number, number]>()
    for (const { chunk, entry } of sumsOf(this.disk.families.get(family), () => true)) {
      const group = groupOfChunk(high, low, chunk, groups)
      const [blocks, hash] = byGroup.get(group) ?? [0, 0]
      byGroup.set(group, [blocks + entry.readUInt32LE(12), hash + entry.readUInt32LE(16)])
    }
    const sorted = [...byGroup].sort(([a], [b]) => a - b)
    return Buffer.concat(
      sorted.map(([group, [blocks, hash]]) => {
        const entry = Buffer.alloc(16)
        entry.writeUInt32LE(group, 0)
        entry.writeUInt32LE(blocks >>> 0, 4)
        entry.writeUInt32LE(hash >>> 0, 8)
        return entry
      })
    )
  }
}

const wordsOf = (id: string): [number, number] => [
  Number.parseInt(id.slice(0, 8), 16),
  Number.parseInt(id.slice(8), 16)
]

function sumsOf(
  blocks: Map<string, Block> | undefined,
  wanted: (chunk: number) => boolean
): { readonly chunk: number; readonly entry: Buffer }[] {
  const sums = new Map<string, { blocks: number; hash: number }>()
  for (const [key, block] of blocks ?? []) {
    const [layer = '', chunk = '', number = ''] = key.split('/')
    if (!wanted(Number(chunk)) || block.kind === VersionKind.Hole) continue
    const sum = sums.get(`${layer}/${chunk}`) ?? { blocks: 0, hash: 0 }
    sums.set(`${layer}/${chunk}`, sum)
    sum.blocks++
    const part = Math.imul(Number(number) + 1, 0x9e3779b1) ^ Math.imul(block.sequence, 0x85ebca6b)
    sum.hash = (sum.hash + Math.imul(part ^ (part >>> 15), block.writerEpoch * 2 + 1)) >>> 0
  }
  return [...sums].sort().map(([key, { blocks: count, hash }]) => {
    const [layer = '', chunk = ''] = key.split('/')
    const [high, low] = wordsOf(layer)
    const entry = Buffer.alloc(24)
    entry.writeUInt32LE(low, 0)
    entry.writeUInt32LE(high, 4)
    entry.writeUInt32LE(Number(chunk), 8)
    entry.writeUInt32LE(count, 12)
    entry.writeUInt32LE(hash, 16)
    return { chunk: Number(chunk), entry }
  })
}

function packRuns(runs: readonly { first: number; block: Block }[]): Buffer {
  const data = Buffer.alloc(runs.length * VERSION_RUN_BYTES)
  for (const [i, { first, block }] of runs.entries()) {
    const at = i * VERSION_RUN_BYTES
    data.writeUInt16LE(first, at)
    data.writeUInt16LE(1, at + 2)
    data.writeUInt32LE(block.kind, at + 4)
    data.writeUInt32LE(block.writerEpoch, at + 8)
    data.writeUInt32LE(block.sequence % 2 ** 32, at + 16)
    data.writeUInt32LE(Math.floor(block.sequence / 2 ** 32), at + 20)
  }
  return data
}
