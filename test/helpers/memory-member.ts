/**
 * A MemberService in memory, with knobs to hold, fail and observe what arrives. Ops are carried
 * out after `ring`, never from inside; those of one chunk in their order.
 */
import { strict } from 'node:assert'
import type { Arena } from '../../src/core/arena.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, CHUNK_BYTES } from '../../src/core/limits.ts'
import { SEAL_TAG_BYTES } from '../../src/format/batch.ts'
import type { BlockOp } from '../../src/replication/block-store.ts'
import { OpFlag, OpKind, StatusExtent } from '../../src/replication/block-store.ts'
import type { MemberAnswer, MemberCall } from '../../src/replication/member.ts'
import { SEAL_ENTRY_BYTES } from '../../src/shard/op.ts'
import type { Caller, MemberService } from '../../src/replication/member-service.ts'

export class MemoryMember implements MemberService {
  /** Decides the error of an op before it is carried out; 0 lets it be. */
  failOp: (op: BlockOp) => number = () => 0
  failFlush: () => number = () => 0
  answerCall: (call: MemberCall, from: Caller) => Promise<MemberAnswer> = async () => ({
    data: Buffer.alloc(0)
  })
  /** Ops are kept back until `release`. */
  holding = false
  /** Every op is noted as text. */
  recording = false
  readonly seen: string[] = []
  submitted = 0
  applied = 0
  flushes = 0
  rings = 0
  private readonly arena: Arena
  private readonly chunks = new Map<number, Buffer>()
  private readonly tags = new Map<number, Buffer>()
  private queue: BlockOp[] = []
  private running = false
  private static readonly settled = Promise.resolve()

  constructor(arena: Arena) {
    this.arena = arena
  }

  submit(op: BlockOp): void {
    this.submitted++
    this.queue.push(op)
  }

  ring(): void {
    this.rings++
    if (this.running || this.holding) return
    this.running = true
    void MemoryMember.settled.then(this.run)
  }

  flush(done: (error: number) => void): void {
    this.flushes++
    const error = this.failFlush()
    setImmediate(() => done(error))
  }

  call(request: MemberCall, from: Caller): Promise<MemberAnswer> {
    return this.answerCall(request, from)
  }

  release(): void {
    this.holding = false
    this.ring()
  }

  get held(): number {
    return this.queue.length
  }

  /** 4 MiB of the chunk, whatever family and layer. */
  chunk(index: number): Buffer {
    let bytes = this.chunks.get(index)
    if (bytes === undefined) {
      bytes = Buffer.alloc(CHUNK_BYTES)
      this.chunks.set(index, bytes)
    }
    return bytes
  }

  private readonly run = (): void => {
    this.running = false
    if (this.holding) return
    const { queue } = this
    this.queue = []
    for (const op of queue) {
      op.error = this.failOp(op)
      if (op.error === 0) this.carryOut(op)
      op.onDone(op)
    }
  }

  private tagsOf(chunk: number): Buffer {
    const known = this.tags.get(chunk) ?? Buffer.alloc(CHUNK_BLOCKS * SEAL_TAG_BYTES)
    this.tags.set(chunk, known)
    return known
  }

  private writeTags(op: BlockOp): void {
    const end = op.tags + op.blockCount * SEAL_TAG_BYTES
    this.arena.bytes.copy(this.tagsOf(op.chunk), op.firstBlock * SEAL_TAG_BYTES, op.tags, end)
  }

  /** Tags as they came, and nothing behind them. */
  private readTags(op: BlockOp): void {
    const { bytes } = this.arena
    bytes.fill(0, op.tags, op.tags + op.blockCount * SEAL_ENTRY_BYTES)
    for (let i = 0; i < op.blockCount; i++) {
      const from = (op.firstBlock + i) * SEAL_TAG_BYTES
      const to = op.tags + i * SEAL_ENTRY_BYTES
      this.tagsOf(op.chunk).copy(bytes, to, from, from + SEAL_TAG_BYTES)
    }
  }

  private carryOut(op: BlockOp): void {
    this.applied++
    if (this.recording) {
      this.seen.push(
        [
          op.kind,
          op.flags,
          op.chunk,
          op.firstBlock,
          op.blockCount,
          op.writerEpoch,
          op.sequence,
          op.fenceEpoch,
          op.pool,
          op.group,
          op.groupEpoch
        ].join(' ')
      )
    }
    const { bytes } = this.arena
    const chunk = this.chunk(op.chunk)
    const start = op.firstBlock * BLOCK_BYTES
    const length = op.blockCount * BLOCK_BYTES
    const end = start + length
    switch (op.kind) {
      case OpKind.Read:
        chunk.copy(bytes, op.payload, start, end)
        if ((op.flags & OpFlag.Sealed) !== 0) this.readTags(op)
        return
      case OpKind.Write:
        if ((op.flags & OpFlag.Sealed) !== 0) this.writeTags(op)
        bytes.copy(chunk, start, op.payload, op.payload + length)
        return
      case OpKind.Trim:
      case OpKind.WriteZeroes:
        chunk.fill(0, start, end)
        return
      case OpKind.BlockStatus:
        bytes.writeUInt32LE(op.blockCount, op.payload)
        bytes.writeUInt32LE(StatusExtent.Data, op.payload + 4)
        op.resultA = 1
        return
      case OpKind.ReadVersions:
        bytes.fill(0x11, op.payload, op.payload + BLOCK_BYTES)
        chunk.copy(bytes, op.payload + BLOCK_BYTES, start, end)
        op.resultA = 1
        return
      default:
        strict(false, `kind ${op.kind}`)
    }
  }
}
