/**
 * The request path of one volume: a request of any offset and length becomes ops of whole blocks
 * within one chunk, and the last op to end completes the request.
 *
 *   submit ── aligned, nothing held ──────────────► cut into ops ──► store
 *      │                                              ▲
 *      ├─ overlaps a held range: waits (RangeHolds) ──┤
 *      └─ sub-block edges: held, read, merged ────────┘
 *
 * No promise, closure or object is made per request here: ops come from the store's pool, edits
 * from ours.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode } from '../core/errors.ts'
import {
  BLOCK_BYTES,
  CHUNK_BLOCKS,
  OPS_PER_REQUEST_MAX,
  PIECE_BLOCKS_MAX,
  SEQUENCE_MAX
} from '../core/limits.ts'
import { type BlockOp, OpFlag, OpKind } from '../replication/block-store.ts'
import type { Edit } from './edit.ts'
import { complete, type OpenVolume } from './open-volume.ts'
import { RangeHolds } from './range-holds.ts'
import { RequestFlag, RequestKind, type VolumeRequest } from './request.ts'
import type { VolumeIo } from './volume-io.ts'
import { VolumeStats } from './volume-stats.ts'

/** Changes stop so far below the end of the sequence: room for what one request is cut into. */
const SEQUENCE_RESERVE = 2 ** 20
/** A trim of more blocks than this is given out bit by bit. */
const LONG_BLOCKS = OPS_PER_REQUEST_MAX * CHUNK_BLOCKS

export interface VolumeIdentity {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
}

export class BlockVolume {
  name: string
  sizeBytes: number
  readonly identity: VolumeIdentity
  readonly stats: VolumeStats = new VolumeStats()
  /** Called when the sequence numbers of this writerEpoch run low. */
  onSequenceLow: () => void = () => {}
  readonly #io: VolumeIo
  readonly #holds = new RangeHolds()
  /** 0 when this process may not write. */
  #writerEpoch = 0
  #highestEpoch = 0
  #sequence = 0
  #sequenceLow = false
  /** Requests in flight of the current generation, and of the one before. */
  readonly #inFlight = [0, 0]
  #generation = 0
  #drained: (() => void) | null = null
  // Edits that may start, while one is being started.
  #readyFirst: Edit | null = null
  #readyLast: Edit | null = null
  #starting = false

  constructor(
    io: VolumeIo,
    options: {
      readonly name: string
      readonly sizeBytes: number
      readonly identity: VolumeIdentity
    }
  ) {
    this.#io = io
    this.name = options.name
    this.sizeBytes = options.sizeBytes
    this.identity = options.identity
  }

  get io(): VolumeIo {
    return this.#io
  }

  get inFlight(): number {
    return this.#inFlight[0]! + this.#inFlight[1]!
  }

  get writable(): boolean {
    return this.#writerEpoch > 0
  }

  /** Versions are (writerEpoch, 1), (writerEpoch, 2), … from now on. */
  startEpoch(writerEpoch: number): void {
    assert(writerEpoch > this.#highestEpoch, 'a writerEpoch only grows')
    this.#highestEpoch = writerEpoch
    this.#writerEpoch = writerEpoch
    this.#sequence = 0
    this.#sequenceLow = false
  }

  /**
   * Takes `request`, which ends with `refused` if that is an error already. `beyondEnd` lets it
   * reach past the end, to trim what a shrink left there.
   */
  submit(request: VolumeRequest, refused: number, beyondEnd: boolean): void {
    request.startedMs = this.#io.clock.monotonicMs()
    request.error = refused
    request.generation = this.#generation
    this.#inFlight[this.#generation]!++
    const { kind } = request
    if (refused !== 0 || kind === RequestKind.Cache) this.#io.defer(request)
    else if (kind === RequestKind.Flush) this.#io.flushes.add(request)
    else if (!beyondEnd && request.offset + request.length > this.sizeBytes) {
      this.#refuse(request, ErrorCode.OutOfRange)
    } else if (kind === RequestKind.Read) this.#read(request)
    else if (kind === RequestKind.BlockStatus) this.#io.walks.start(request)
    else if (this.#writerEpoch === 0) this.#refuse(request, ErrorCode.ReadOnly)
    else if (this.#sequence > SEQUENCE_MAX - SEQUENCE_RESERVE) {
      this.#refuse(request, ErrorCode.LimitReached)
    } else this.#change(request)
  }

  /** Changes nothing any more: another writer has the volume, or nobody. */
  fence(): void {
    this.#writerEpoch = 0
  }

  /** Accounts for a request that is over. */
  count(request: VolumeRequest): void {
    const ms = this.#io.clock.monotonicMs() - request.startedMs
    this.stats.record(request.kind, request.length, request.error !== 0, ms)
    const left = --this.#inFlight[request.generation]!
    if (this.#drained !== null && left === 0 && request.generation !== this.#generation) {
      this.#drained()
    }
  }

  /** Resolves when every request that is in flight now is over. One caller at a time. */
  async drain(): Promise<void> {
    const old = this.#generation
    assert(this.#inFlight[1 - old] === 0 && this.#drained === null, 'one drain at a time')
    this.#generation = 1 - old
    if (this.#inFlight[old] === 0) return
    await new Promise<void>((resolve) => {
      this.#drained = resolve
    })
    this.#drained = null
  }

  #read(request: VolumeRequest): void {
    const first = Math.floor(request.offset / BLOCK_BYTES)
    const end = Math.ceil((request.offset + request.length) / BLOCK_BYTES)
    assert(request.pages >= 0, 'a read has pages to read into')
    request.pending = 1
    this.#cut(request, OpKind.Read, first, end, request.pages)
    this.#endCut(request)
  }

  #change(request: VolumeRequest): void {
    const { kind, offset } = request
    const endByte = offset + request.length
    let first = Math.floor(offset / BLOCK_BYTES)
    let end = Math.ceil(endByte / BLOCK_BYTES)
    let headBytes = offset - first * BLOCK_BYTES
    let tailBytes = end * BLOCK_BYTES - endByte
    if (kind === RequestKind.Trim) {
      // What is not a whole block stays as it is: a trim is leave to forget, not an order.
      if (headBytes > 0) first++
      if (tailBytes > 0) end--
      headBytes = 0
      tailBytes = 0
    }
    request.pending = 1
    const long = kind !== RequestKind.Write && end - first > LONG_BLOCKS
    const free = this.#holds.empty || this.#holds.latestOverlap(first, end) === null
    if (first >= end) this.#io.defer(request)
    else if (headBytes + tailBytes === 0 && !long && free) {
      this.#cutChange(request, first, end)
      this.#endCut(request)
    } else this.#enter(request, first, end, headBytes, tailBytes)
  }

  #enter(
    request: VolumeRequest,
    first: number,
    end: number,
    headBytes: number,
    tailBytes: number
  ): void {
    const edit = this.#io.acquireEdit()
    edit.request = request
    edit.volume = this
    edit.firstBlock = first
    edit.endBlock = end
    edit.headBytes = headBytes
    edit.tailBytes = tailBytes
    edit.held = true
    const blocker = this.#holds.latestOverlap(first, end)
    this.#holds.enter(edit, blocker)
    if (blocker === null) this.#startEdit(edit)
  }

  /** Gives back the count that kept the request alive while it was cut. */
  #endCut(request: VolumeRequest): void {
    request.pending--
    assert(request.pending > 0, 'no op ends inside submit')
  }

  #refuse(request: VolumeRequest, error: number): void {
    request.error = error
    this.#io.defer(request)
  }

  /** Submits the blocks [first, end) of an aligned change. */
  #cutChange(request: VolumeRequest, first: number, end: number): void {
    const { kind } = request
    if (kind === RequestKind.Write) {
      this.#cut(request, OpKind.Write, first, end, request.pages)
    } else if (kind === RequestKind.Trim) {
      this.#cut(request, OpKind.Trim, first, end, -1)
    } else {
      this.#cut(request, OpKind.WriteZeroes, first, end, -1)
    }
  }

  /** Ops of `request` for the blocks [first, end); `payload` is the page of the first one. */
  #cut(request: VolumeRequest, kind: number, first: number, end: number, payload: number): void {
    const moves = kind === OpKind.Read || kind === OpKind.Write
    const most = moves ? PIECE_BLOCKS_MAX : CHUNK_BLOCKS
    let block = first
    while (block < end) {
      const chunk = Math.floor(block / CHUNK_BLOCKS)
      const inChunk = block - chunk * CHUNK_BLOCKS
      const count = Math.min(end - block, CHUNK_BLOCKS - inChunk, most)
      const op = this.#op(kind, chunk, inChunk, count)
      if (kind === OpKind.WriteZeroes && (request.flags & RequestFlag.NoHole) !== 0) {
        op.flags = OpFlag.NoHole
      }
      if (moves) op.payload = payload + (block - first) * BLOCK_BYTES
      op.owner = request
      op.onDone = onRequestOp
      request.pending++
      this.#io.store.submit(op)
      block += count
    }
  }

  /** An op on this volume; one that changes something gets the next version. */
  #op(kind: number, chunk: number, firstBlock: number, blockCount: number): BlockOp {
    const op = this.#io.store.acquireOp()
    const { identity } = this
    op.kind = kind
    op.flags = 0
    op.familyHigh = identity.familyHigh
    op.familyLow = identity.familyLow
    op.layerHigh = identity.layerHigh
    op.layerLow = identity.layerLow
    op.chunk = chunk
    op.firstBlock = firstBlock
    op.blockCount = blockCount
    op.payload = 0
    op.error = 0
    op.resultA = 0
    op.resultB = 0
    if (kind === OpKind.Read) {
      op.writerEpoch = 0
      op.sequence = 0
    } else {
      op.writerEpoch = this.#writerEpoch
      op.sequence = this.#nextSequence()
    }
    return op
  }

  #nextSequence(): number {
    const sequence = ++this.#sequence
    if (sequence > SEQUENCE_MAX / 2 && !this.#sequenceLow) {
      this.#sequenceLow = true
      this.onSequenceLow()
    }
    return sequence
  }

  // ---- changes that hold a range. Each has one count of `request.pending` until it ends.

  #startEdit(edit: Edit): void {
    edit.pending = 0
    edit.nextBlock = edit.firstBlock
    edit.lastBlock = edit.endBlock
    if (!edit.readsFirst) this.#giveOut(edit)
    else if (this.#io.scratch.take(edit)) this.#readEdges(edit)
  }

  /** The edit has its scratch pages. */
  #readEdges(edit: Edit): void {
    if (edit.headPage >= 0) this.#editOp(edit, OpKind.Read, edit.firstBlock, 1, edit.headPage)
    if (edit.tailPage >= 0) this.#editOp(edit, OpKind.Read, edit.endBlock - 1, 1, edit.tailPage)
  }

  #editOp(edit: Edit, kind: number, block: number, count: number, payload: number): void {
    const chunk = Math.floor(block / CHUNK_BLOCKS)
    const op = this.#op(kind, chunk, block - chunk * CHUNK_BLOCKS, count)
    if (kind === OpKind.WriteZeroes && (edit.request!.flags & RequestFlag.NoHole) !== 0) {
      op.flags = OpFlag.NoHole
    }
    op.payload = payload
    op.owner = edit
    op.onDone = kind === OpKind.Read ? onEdgeRead : onEditOp
    edit.pending++
    this.#io.store.submit(op)
  }

  /** The old edges are in the scratch pages, or an error is in the request. */
  edgesRead(edit: Edit): void {
    const request = edit.request!
    if (request.error !== 0) {
      edit.nextBlock = edit.lastBlock
      this.advance(edit)
    } else if (request.kind === RequestKind.Write) {
      this.#mergeWrite(edit, request)
      this.#giveOut(edit)
    } else {
      this.#writeZeroEdges(edit)
      this.#giveOut(edit)
    }
    this.#io.ringSoon()
  }

  /** Completes the first and last page of the request's payload with the old bytes around it. */
  #mergeWrite(edit: Edit, request: VolumeRequest): void {
    const { bytes } = this.#io.arena
    const lastPage = request.pages + (edit.endBlock - edit.firstBlock - 1) * BLOCK_BYTES
    if (edit.headBytes > 0) {
      bytes.copyWithin(request.pages, edit.headPage, edit.headPage + edit.headBytes)
    }
    if (edit.tailBytes > 0) {
      const page = edit.oneBlock ? edit.headPage : edit.tailPage
      const keep = BLOCK_BYTES - edit.tailBytes
      bytes.copyWithin(lastPage + keep, page + keep, page + BLOCK_BYTES)
    }
  }

  /** Writes the edge blocks from the scratch pages, with zeroes where they are asked for. */
  #writeZeroEdges(edit: Edit): void {
    const { bytes } = this.#io.arena
    if (edit.headPage >= 0) {
      const endByte = edit.oneBlock ? BLOCK_BYTES - edit.tailBytes : BLOCK_BYTES
      bytes.fill(0, edit.headPage + edit.headBytes, edit.headPage + endByte)
      this.#editOp(edit, OpKind.Write, edit.nextBlock++, 1, edit.headPage)
    }
    if (edit.tailPage >= 0) {
      bytes.fill(0, edit.tailPage, edit.tailPage + BLOCK_BYTES - edit.tailBytes)
      this.#editOp(edit, OpKind.Write, --edit.lastBlock, 1, edit.tailPage)
    }
  }

  #giveOut(edit: Edit): void {
    if (edit.request!.kind === RequestKind.Write) {
      this.#cutChange(edit.request!, edit.firstBlock, edit.endBlock)
      edit.nextBlock = edit.lastBlock
    }
    this.advance(edit)
  }

  /**
   * Gives out more of a trim or of zeroes. The range is held until the last of it has its
   * version; the edit ends when its last op has.
   */
  advance(edit: Edit): void {
    const request = edit.request!
    const kind = request.kind === RequestKind.Trim ? OpKind.Trim : OpKind.WriteZeroes
    while (edit.nextBlock < edit.lastBlock && edit.pending < OPS_PER_REQUEST_MAX) {
      if (this.#sequence > SEQUENCE_MAX - SEQUENCE_RESERVE) request.error ||= ErrorCode.LimitReached
      if (request.error !== 0) {
        edit.nextBlock = edit.lastBlock
        break
      }
      const inChunk = edit.nextBlock % CHUNK_BLOCKS
      const count = Math.min(edit.lastBlock - edit.nextBlock, CHUNK_BLOCKS - inChunk)
      this.#editOp(edit, kind, edit.nextBlock, count, 0)
      edit.nextBlock += count
    }
    if (edit.held && edit.nextBlock === edit.lastBlock) {
      edit.held = false
      this.#startAll(this.#holds.leave(edit))
    }
    if (edit.pending === 0 && !edit.held) this.#endEdit(edit, request)
  }

  #endEdit(edit: Edit, request: VolumeRequest): void {
    if (edit.readsFirst) {
      const { scratch } = this.#io
      scratch.release(edit)
      for (let next = scratch.next(); next !== null; next = scratch.next()) {
        next.volume!.#readEdges(next)
      }
    }
    this.#io.releaseEdit(edit)
    requestOpEnded(request)
  }

  /** Starts edits that wait for nothing any more. A loop, for a chain of them may be long. */
  #startAll(first: Edit | null): void {
    if (first === null) return
    if (this.#readyLast === null) this.#readyFirst = first
    else this.#readyLast.nextWaiter = first
    this.#readyLast = first
    while (this.#readyLast.nextWaiter !== null) this.#readyLast = this.#readyLast.nextWaiter
    if (this.#starting) return
    this.#starting = true
    while (this.#readyFirst !== null) {
      const edit: Edit = this.#readyFirst
      this.#readyFirst = edit.nextWaiter
      if (this.#readyFirst === null) this.#readyLast = null
      edit.nextWaiter = null
      this.#startEdit(edit)
    }
    this.#starting = false
  }
}

/** One count of `pending` is given back; the last one ends the request. */
function requestOpEnded(request: VolumeRequest): void {
  if (--request.pending > 0) return
  const durable = (request.flags & RequestFlag.Fua) !== 0 && request.kind !== RequestKind.Read
  if (durable && request.error === 0) {
    ;(request.device as OpenVolume).volume.io.flushes.add(request)
  } else {
    complete(request)
  }
}

function onRequestOp(op: BlockOp): void {
  const request = op.owner as VolumeRequest
  if (op.error !== 0 && request.error === 0) request.error = op.error
  ;(request.device as OpenVolume).volume.io.store.releaseOp(op)
  requestOpEnded(request)
}

function editOpEnded(op: BlockOp): Edit {
  const edit = op.owner as Edit
  const request = edit.request!
  if (op.error !== 0 && request.error === 0) request.error = op.error
  edit.volume!.io.store.releaseOp(op)
  edit.pending--
  return edit
}

function onEdgeRead(op: BlockOp): void {
  const edit = editOpEnded(op)
  if (edit.pending === 0) edit.volume!.edgesRead(edit)
}

function onEditOp(op: BlockOp): void {
  const edit = editOpEnded(op)
  const more = edit.nextBlock < edit.lastBlock
  const { volume } = edit
  volume!.advance(edit)
  if (more) volume!.io.ringSoon()
}
