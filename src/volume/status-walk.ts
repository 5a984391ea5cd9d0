import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, STATUS_CHUNKS_MAX, STATUS_EXTENTS_MAX } from '../core/limits.ts'
import {
  type BlockOp,
  type BlockStore,
  OpFlag,
  OpKind,
  StatusExtent
} from '../replication/block-store.ts'
import type { ChunkFinder, ChunksFound } from '../replication/chunk-finder.ts'
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
/** Fewer are asked one by one as fast. */
const FIND_CHUNKS_MIN = 16
const NOTHING_FOUND: ChunksFound = { chunks: new Uint32Array(0), until: 0 }

/**
 * One block status request on its way through the chunks of its range, some at a time. It ends
 * early once the answer is long enough, so that a fragmented volume costs a bounded answer. Of a
 * large range it is found out first which chunks have anything: the others are not asked.
 */
class StatusWalk {
  readonly #owner: StatusWalks
  readonly #base: number
  readonly #counts: Int32Array = new Int32Array(SLOTS)
  readonly #errors: Int32Array = new Int32Array(SLOTS)
  readonly #asked: Int32Array = new Int32Array(SLOTS)
  /** First block of each: in between is nothing. */
  readonly #firsts: Float64Array = new Float64Array(SLOTS)
  #request: VolumeRequest | null = null
  /** First block that nobody asked about yet, and the first that the request does not touch. */
  #nextBlock = 0
  #endBlock = 0
  /** First block that is not in the answer. */
  #doneBlock = 0
  #slots = 0
  #slotsMax = 0
  #pending = 0
  #chunks = 0
  /** What was found of the chunks before `until`, and the first of it that is not asked yet. */
  #found: ChunksFound = NOTHING_FOUND
  #foundAt = 0
  #mayFind = true

  constructor(owner: StatusWalks, base: number) {
    this.#owner = owner
    this.#base = base
  }

  start(request: VolumeRequest): void {
    this.#request = request
    request.extents.length = 0
    this.#nextBlock = Math.floor(request.offset / BLOCK_BYTES)
    this.#doneBlock = this.#nextBlock
    this.#endBlock = Math.ceil((request.offset + request.length) / BLOCK_BYTES)
    this.#chunks = 0
    this.#found = NOTHING_FOUND
    this.#mayFind = true
    const isFirst = (request.flags & RequestFlag.FirstExtent) !== 0
    this.#slotsMax = isFirst ? 1 : SLOTS_FIRST
    if (isFirst) this.#ask()
    else this.#goOn(true)
  }

  #ask(): void {
    const { store } = this.#owner
    this.#slots = 0
    while (this.#slots < this.#slotsMax && this.#skip()) {
      const op = this.#opOfNext(store.acquireOp())
      this.#firsts[this.#slots] = this.#nextBlock
      this.#asked[this.#slots] = op.blockCount
      this.#nextBlock += op.blockCount
      this.#slots++
      this.#pending++
      store.submit(op)
    }
    this.#chunks += this.#slots
    this.#slotsMax = Math.min(this.#slotsMax * 2, SLOTS)
  }

  /** Passes over what has nothing. False: the range ends, or what was found does. */
  #skip(): boolean {
    const { chunks, until } = this.#found
    const chunk = Math.floor(this.#nextBlock / CHUNK_BLOCKS)
    if (until > chunk) {
      while (this.#foundAt < chunks.length && chunks[this.#foundAt]! < chunk) this.#foundAt++
      const next = Math.min(chunks[this.#foundAt] ?? until, until)
      if (next > chunk) this.#nextBlock = Math.min(next * CHUNK_BLOCKS, this.#endBlock)
      return next < until && this.#nextBlock < this.#endBlock
    }
    return until === 0 && this.#nextBlock < this.#endBlock
  }

  #opOfNext(op: BlockOp): BlockOp {
    const { device, since } = this.#request!
    const { identity } = (device as OpenVolume).volume.ops
    const chunk = Math.floor(this.#nextBlock / CHUNK_BLOCKS)
    const inChunk = this.#nextBlock - chunk * CHUNK_BLOCKS
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
    return op
  }

  opEnded(op: BlockOp): void {
    const slot = (op.payload - this.#base) / SLOT_BYTES
    this.#counts[slot] = op.resultA
    this.#errors[slot] = op.error
    this.#owner.store.releaseOp(op)
    if (--this.#pending > 0) return
    this.#goOn(this.#takeRound(this.#request!))
  }

  #goOn(whole: boolean): void {
    const request = this.#request!
    const first = (request.flags & RequestFlag.FirstExtent) !== 0
    const most = first ? 1 : STATUS_EXTENTS_MAX
    const isShort = request.extents.length / 2 <= most && this.#chunks < STATUS_CHUNKS_MAX
    if (!whole || this.#nextBlock >= this.#endBlock || !isShort) {
      this.#request = null
      this.#owner.ended(this)
      complete(request)
      return
    }
    const next = Math.floor(this.#nextBlock / CHUNK_BLOCKS)
    const isKnown = this.#found.until > next
    const chunks = Math.ceil(this.#endBlock / CHUNK_BLOCKS) - next
    const { finder = null } = this.#owner.store
    if (!isKnown && this.#mayFind && chunks >= FIND_CHUNKS_MIN && finder !== null) {
      void this.#find(finder, next, next + chunks)
      return
    }
    if (!isKnown) this.#found = NOTHING_FOUND
    this.#ask()
    if (this.#slots === 0) this.#goOn(this.#takeRound(request))
    else this.#owner.ringSoon()
  }

  /** Finds out which chunks have anything. Without an answer each is asked, as it would be. */
  async #find(finder: ChunkFinder, first: number, end: number): Promise<void> {
    const { device, since } = this.#request!
    const { identity } = (device as OpenVolume).volume.ops
    const found = await finder.find({ ...identity, since, first, end })
    this.#mayFind = found !== null && found.until > first
    this.#found = this.#mayFind ? found! : NOTHING_FOUND
    this.#foundAt = 0
    this.#goOn(true)
  }

  /** Adds the answers of this round to the request's; false if one of them ends the answer. */
  #takeRound(request: VolumeRequest): boolean {
    for (let slot = 0; slot < this.#slots; slot++) {
      const first = this.#firsts[slot]!
      this.#addAbsent(request, first)
      if (this.#errors[slot] !== 0) {
        if (request.extents.length === 0) request.error = this.#errors[slot]!
        return false
      }
      const end = first + this.#asked[slot]!
      this.#takeSlot(request, slot)
      assert(this.#doneBlock <= end, 'block status stays in its range')
      if (this.#doneBlock < end) {
        if (request.extents.length > 0) return false
        assert(false, 'block status covers its first block')
      }
    }
    this.#addAbsent(request, this.#nextBlock)
    return true
  }

  #addAbsent(request: VolumeRequest, end: number): void {
    const kind = request.since === null ? StatusExtent.Hole : StatusExtent.Unchanged
    if (end > this.#doneBlock) this.#add(request, end - this.#doneBlock, kind)
  }

  #takeSlot(request: VolumeRequest, slot: number): void {
    const { words } = this.#owner
    let at = (this.#base + slot * SLOT_BYTES) / 4
    for (let pair = 0; pair < this.#counts[slot]!; pair++, at += 2) {
      this.#add(request, words[at]!, words[at + 1]!)
    }
  }

  #add({ extents, offset, length }: VolumeRequest, blocks: number, kind: number): void {
    const from = Math.max(this.#doneBlock * BLOCK_BYTES, offset)
    this.#doneBlock += blocks
    const bytes = Math.min(this.#doneBlock * BLOCK_BYTES, offset + length) - from
    const last = extents.length - 2
    if (last >= 0 && extents[last + 1] === kind) extents[last]! += bytes
    else extents.push(bytes, kind)
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
