/**
 * Changes that cannot go to the store at once: sub-block ones, which read the edge blocks first;
 * long trims, which are given out bit by bit; and any that overlaps one of these. An edit holds
 * its range until the last of it has its version: what is read is what is written back, and
 * nothing gets a version between the two. So does a change that writes again what is there.
 *
 * Each edit has one count of `request.pending` until it ends.
 */
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, OPS_PER_REQUEST_MAX, PIECE_BLOCKS_MAX } from '../core/limits.ts'
import { type BlockOp, OpFlag, OpKind } from '../replication/block-store.ts'
import type { Edit } from './edit.ts'
import { requestOpEnded } from './open-volume.ts'
import { RangeHolds } from './range-holds.ts'
import { RequestFlag, RequestKind, type VolumeRequest } from './request.ts'
import type { VolumeIo } from './volume-io.ts'
import type { VolumeOps } from './volume-ops.ts'

export class Edits {
  readonly io: VolumeIo
  readonly #ops: VolumeOps
  readonly #holds = new RangeHolds()
  // Edits that may start, while one is being started.
  #readyFirst: Edit | null = null
  #readyLast: Edit | null = null
  #starting = false

  constructor(io: VolumeIo, ops: VolumeOps) {
    this.io = io
    this.#ops = ops
  }

  /** May an aligned change of [first, end) go at once? */
  isFree(first: number, end: number): boolean {
    return this.#holds.empty || this.#holds.latestOverlap(first, end) === null
  }

  /** Takes a change of the blocks [first, end), of which so many bytes at the edges stay. */
  enter(
    request: VolumeRequest,
    first: number,
    end: number,
    headBytes: number,
    tailBytes: number
  ): void {
    const edit = this.io.acquireEdit()
    edit.request = request
    edit.edits = this
    edit.firstBlock = first
    edit.endBlock = end
    edit.headBytes = headBytes
    edit.tailBytes = tailBytes
    edit.held = true
    const blocker = this.#holds.latestOverlap(first, end)
    this.#holds.enter(edit, blocker)
    if (blocker === null) this.#start(edit)
  }

  #start(edit: Edit): void {
    edit.pending = 0
    edit.nextBlock = edit.firstBlock
    edit.lastBlock = edit.endBlock
    if (edit.isAgain) this.#readWhole(edit)
    else if (!edit.readsFirst) this.#giveOut(edit)
    else if (this.io.scratch.take(edit)) this.#readEdges(edit)
  }

  /** The edit has its scratch pages. */
  #readEdges(edit: Edit): void {
    if (edit.headPage >= 0) this.#submit(edit, OpKind.Read, edit.firstBlock, 1, edit.headPage)
    if (edit.tailPage >= 0) this.#submit(edit, OpKind.Read, edit.endBlock - 1, 1, edit.tailPage)
  }

  #readWhole(edit: Edit): void {
    const { firstBlock, endBlock } = edit
    this.#submitPieces(edit, OpKind.Read, firstBlock, endBlock, edit.request!.pages)
  }

  /** Submits [first, end) within chunks. */
  #submitPieces(edit: Edit, kind: number, first: number, end: number, payload: number): void {
    for (let block = first; block < end; ) {
      const most = Math.min(PIECE_BLOCKS_MAX, CHUNK_BLOCKS - (block % CHUNK_BLOCKS))
      const count = Math.min(end - block, most)
      this.#submit(edit, kind, block, count, payload + (block - first) * BLOCK_BYTES)
      block += count
    }
  }

  #submit(edit: Edit, kind: number, block: number, count: number, payload: number): void {
    const chunk = Math.floor(block / CHUNK_BLOCKS)
    const op = this.#ops.make(kind, chunk, block - chunk * CHUNK_BLOCKS, count)
    const keeps = RequestFlag.NoHole | RequestFlag.Again
    if (kind === OpKind.WriteZeroes && (edit.request!.flags & keeps) !== 0) {
      op.flags = OpFlag.NoHole
    }
    op.payload = payload
    op.owner = edit
    op.onDone = kind === OpKind.Read ? onEdgeRead : onEditOp
    edit.pending++
    this.io.store.submit(op)
  }

  /** The old edges are in the scratch pages, or an error is in the request. */
  edgesRead(edit: Edit): void {
    const request = edit.request!
    if (request.error !== 0) {
      edit.nextBlock = edit.lastBlock
      this.advance(edit)
    } else if (edit.isAgain) {
      this.#writeAgain(edit, request)
      edit.nextBlock = edit.lastBlock
      this.advance(edit)
    } else if (request.kind === RequestKind.Write) {
      this.#mergeWrite(edit, request)
      this.#giveOut(edit)
    } else {
      this.#writeZeroEdges(edit)
      this.#giveOut(edit)
    }
    this.io.ringSoon()
  }

  /** Completes the first and last page of the request's payload with the old bytes around it. */
  #mergeWrite(edit: Edit, request: VolumeRequest): void {
    const { bytes } = this.io.arena
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

  /** Runs of data and of zeroes, each as what it is. */
  #writeAgain(edit: Edit, { pages }: VolumeRequest): void {
    const { bytes } = this.io.arena
    const { firstBlock, endBlock } = edit
    const isZero = (block: number): boolean => {
      const at = pages + (block - firstBlock) * BLOCK_BYTES
      return (
        bytes[at] === 0 &&
        bytes.compare(bytes, at + 1, at + BLOCK_BYTES, at, at + BLOCK_BYTES - 1) === 0
      )
    }
    for (let block = firstBlock; block < endBlock; ) {
      const zero = isZero(block)
      let end = block + 1
      while (end < endBlock && isZero(end) === zero) end++
      const kind = zero ? OpKind.WriteZeroes : OpKind.Write
      this.#submitPieces(edit, kind, block, end, pages + (block - firstBlock) * BLOCK_BYTES)
      block = end
    }
  }

  /** Writes the edge blocks from the scratch pages, with zeroes where they are asked for. */
  #writeZeroEdges(edit: Edit): void {
    const { bytes } = this.io.arena
    if (edit.headPage >= 0) {
      const endByte = edit.oneBlock ? BLOCK_BYTES - edit.tailBytes : BLOCK_BYTES
      bytes.fill(0, edit.headPage + edit.headBytes, edit.headPage + endByte)
      this.#submit(edit, OpKind.Write, edit.nextBlock++, 1, edit.headPage)
    }
    if (edit.tailPage >= 0) {
      bytes.fill(0, edit.tailPage, edit.tailPage + BLOCK_BYTES - edit.tailBytes)
      this.#submit(edit, OpKind.Write, --edit.lastBlock, 1, edit.tailPage)
    }
  }

  #giveOut(edit: Edit): void {
    const request = edit.request!
    if (request.kind === RequestKind.Write) {
      this.#ops.cut(request, OpKind.Write, edit.firstBlock, edit.endBlock, request.pages)
      edit.nextBlock = edit.lastBlock
    }
    this.advance(edit)
  }

  /** Gives out more of a trim or of zeroes; lets the range go, and ends the edit, in time. */
  advance(edit: Edit): void {
    const request = edit.request!
    const kind = request.kind === RequestKind.Trim ? OpKind.Trim : OpKind.WriteZeroes
    while (edit.nextBlock < edit.lastBlock && edit.pending < OPS_PER_REQUEST_MAX) {
      if (this.#ops.exhausted) request.error ||= ErrorCode.LimitReached
      if (request.error !== 0) {
        edit.nextBlock = edit.lastBlock
        break
      }
      const inChunk = edit.nextBlock % CHUNK_BLOCKS
      const count = Math.min(edit.lastBlock - edit.nextBlock, CHUNK_BLOCKS - inChunk)
      this.#submit(edit, kind, edit.nextBlock, count, 0)
      edit.nextBlock += count
    }
    if (edit.held && edit.nextBlock === edit.lastBlock) {
      edit.held = false
      this.#startAll(this.#holds.leave(edit))
    }
    if (edit.pending === 0 && !edit.held) this.#end(edit, request)
  }

  #end(edit: Edit, request: VolumeRequest): void {
    if (edit.readsFirst) {
      const { scratch } = this.io
      scratch.release(edit)
      for (let next = scratch.next(); next !== null; next = scratch.next()) {
        next.edits!.#readEdges(next)
        this.io.ringSoon()
      }
    }
    this.io.releaseEdit(edit)
    requestOpEnded(request, this.io.flushes)
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
      this.#start(edit)
    }
    this.#starting = false
    this.io.ringSoon()
  }
}

function opEnded(op: BlockOp): Edit {
  const edit = op.owner as Edit
  const request = edit.request!
  if (op.error !== 0 && request.error === 0) request.error = op.error
  edit.edits!.io.store.releaseOp(op)
  edit.pending--
  return edit
}

function onEdgeRead(op: BlockOp): void {
  const edit = opEnded(op)
  if (edit.pending === 0) edit.edits!.edgesRead(edit)
}

function onEditOp(op: BlockOp): void {
  const edit = opEnded(op)
  const edits = edit.edits!
  const more = edit.nextBlock < edit.lastBlock
  edits.advance(edit)
  if (more) edits.io.ringSoon()
}
