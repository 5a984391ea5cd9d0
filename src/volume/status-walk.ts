import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, STATUS_CHUNKS_MAX, STATUS_EXTENTS_MAX } from '../core/limits.ts'
import { type BlockOp, type BlockStore, OpFlag, OpKind } from '../replication/block-store.ts'
import { complete, type OpenVolume } from './open-volume.ts'
import { RequestFlag, type VolumeRequest } from './request.ts'

/** Requests that are answered at once. */
const WALKS = 4
/** Chunks that one of them asks about at once: few at first, more while they turn out alike. */
const SLOTS_FIRST = 4
const SLOTS = 32
/** A chunk of single blocks makes as many pairs of u32. */
const SLOT_BYTES = CHUNK_BLOCKS * 8
const SLOT_PAGES = SLOT_BYTES / BLOCK_BYTES

/**
 * One block status request on its way through the chunks of its range, some at a time. It ends
 * early once the answer is long enough, so that a fragmented volume costs a bounded answer; holes
 * and runs grow over many chunks, so that a large thin one costs few answers.
 */
class StatusWalk {
  readonly #owner: StatusWalks
  readonly #base: number
  readonly #counts: Int32Array = new Int32Array(SLOTS)
  readonly #errors: Int32Array = new Int32Array(SLOTS)
  readonly #asked: Int32Array = new Int32Array(SLOTS)
  #request: VolumeRequest | null = null
  /** First block that nobody asked about yet, and the first that the request does not touch. */
  #nextBlock = 0
  #endBlock = 0
  /** First block of this round. */
  #roundBlock = 0
  #slots = 0
  #slotsMax = 0
  #pending = 0
  #chunks = 0

  constructor(owner: StatusWalks, base: number) {
    this.#owner = owner
    this.#base = base
  }

  start(request: VolumeRequest): void {
    this.#request = request
    request.extents.length = 0
    this.#nextBlock = Math.floor(request.offset / BLOCK_BYTES)
    this.#endBlock = Math.ceil((request.offset + request.length) / BLOCK_BYTES)
    this.#chunks = 0
    this.#slotsMax = (request.flags & RequestFlag.FirstExtent) !== 0 ? 1 : SLOTS_FIRST
    this.#ask()
  }

  #ask(): void {
    const { device, since } = this.#request!
    const { identity } = (device as OpenVolume).volume.ops
    const { store } = this.#owner
    this.#roundBlock = this.#nextBlock
    this.#slots = 0
    while (this.#slots < this.#slotsMax && this.#nextBlock < this.#endBlock) {
      const chunk = Math.floor(this.#nextBlock / CHUNK_BLOCKS)
      const inChunk = this.#nextBlock - chunk * CHUNK_BLOCKS
      const op = store.acquireOp()
      op.kind = OpKind.BlockStatus
      op.flags = since === null ? 0 : OpFlag.Since
      op.familyHigh = identity.familyHigh
      op.familyLow = identity.familyLow
      op.layerHigh = identity.layerHigh
      op.layerLow = identity.layerLow
      op.chunk = chunk
      op.firstBlock = inChunk
      op.blockCount = Math.min(this.#endBlock - this.#nextBlock, CHUNK_BLOCKS - inChunk)
      op.writerEpoch = since?.high ?? 0
      op.sequence = since?.low ?? 0
      op.payload = this.#base + this.#slots * SLOT_BYTES
      op.error = 0
      op.resultA = 0
      op.resultB = 0
      op.owner = this
      op.onDone = onStatusOp
      this.#asked[this.#slots] = op.blockCount
      this.#nextBlock += op.blockCount
      this.#slots++
      this.#pending++
      store.submit(op)
    }
    this.#chunks += this.#slots
  }

  opEnded(op: BlockOp): void {
    const slot = (op.payload - this.#base) / SLOT_BYTES
    this.#counts[slot] = op.resultA
    this.#errors[slot] = op.error
    this.#owner.store.releaseOp(op)
    if (--this.#pending > 0) return
    const request = this.#request!
    const whole = this.#takeRound(request)
    const first = (request.flags & RequestFlag.FirstExtent) !== 0
    const most = first ? 1 : STATUS_EXTENTS_MAX
    const goesOn = whole && this.#nextBlock < this.#endBlock && this.#chunks < STATUS_CHUNKS_MAX
    if (goesOn && request.extents.length / 2 <= most) {
      this.#slotsMax = Math.min(this.#slotsMax * 2, SLOTS)
      this.#ask()
      this.#owner.ringSoon()
      return
    }
    this.#request = null
    this.#owner.ended(this)
    complete(request)
  }

  /** Adds the answers of this round to the request's; false if one of them ends the answer. */
  #takeRound(request: VolumeRequest): boolean {
    let block = this.#roundBlock
    for (let slot = 0; slot < this.#slots; slot++) {
      if (this.#errors[slot] !== 0) {
        if (request.extents.length === 0) request.error = this.#errors[slot]!
        return false
      }
      const end = block + this.#asked[slot]!
      block = this.#takeSlot(request, slot, block)
      assert(block <= end, 'block status stays in its range')
      if (block < end) {
        if (request.extents.length > 0) return false
        assert(false, 'block status covers its first block')
      }
    }
    return true
  }

  #takeSlot(request: VolumeRequest, slot: number, firstBlock: number): number {
    const { words } = this.#owner
    const { extents, offset } = request
    const endByte = offset + request.length
    let at = (this.#base + slot * SLOT_BYTES) / 4
    let block = firstBlock
    for (let pair = 0; pair < this.#counts[slot]!; pair++, at += 2) {
      const count = words[at]!
      const kind = words[at + 1]!
      const from = Math.max(block * BLOCK_BYTES, offset)
      block += count
      const bytes = Math.min(block * BLOCK_BYTES, endByte) - from
      const last = extents.length - 2
      if (last >= 0 && extents[last + 1] === kind) extents[last]! += bytes
      else extents.push(bytes, kind)
    }
    return block
  }
}

function onStatusOp(op: BlockOp): void {
  ;(op.owner as StatusWalk).opEnded(op)
}

/** Answers block status requests, a few at a time; the others wait in order. */
export class StatusWalks {
  readonly store: BlockStore
  /** The arena as u32 in native order. */
  readonly words: Uint32Array
  readonly ringSoon: () => void
  readonly #free: StatusWalk[] = []
  readonly #waiting: VolumeRequest[] = []

  constructor(store: BlockStore, arena: Arena, ringSoon: () => void) {
    this.store = store
    this.ringSoon = ringSoon
    const { buffer, byteOffset, byteLength } = arena.bytes
    this.words = new Uint32Array(buffer, byteOffset, byteLength / 4)
    for (let walk = 0; walk < WALKS; walk++) {
      const base = arena.acquire(SLOTS * SLOT_PAGES)
      assert(base >= 0, 'the arena has room for block status')
      this.#free.push(new StatusWalk(this, base))
    }
  }

  start(request: VolumeRequest): void {
    const walk = this.#free.pop()
    if (walk === undefined) this.#waiting.push(request)
    else walk.start(request)
  }

  ended(walk: StatusWalk): void {
    const request = this.#waiting.shift()
    if (request === undefined) {
      this.#free.push(walk)
    } else {
      walk.start(request)
      this.ringSoon()
    }
  }
}
