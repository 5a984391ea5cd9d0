/**
 * Reads: pages for the data, and the ways the data leaves.
 *
 * A read up to TRANSFER_BYTES_MAX is one volume request. A longer one (a *parent*) is fetched by
 * up to READ_PIECES_MAX pieces, each with pages of its own that it uses again for the next range
 * once the socket took what was in them: the arena it needs does not grow with its length.
 *
 * With structured replies each piece leaves as soon as it is there, in chunks of its own. With
 * simple replies, or with NBD_CMD_FLAG_DF, the data must follow one header in order: such a
 * parent then *owns* the output until its end, and other answers wait.
 */
import { BLOCK_BYTES } from '../core/limits.ts'
import { RequestKind } from '../volume/request.ts'
import { NO_REQUEST } from './budget.ts'
import { COPY_REPLY_BYTES_MAX, READ_PIECES_MAX, TRANSFER_BYTES_MAX } from './limits.ts'
import { NBD_CMD_FLAG_DF, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE } from './protocol.ts'
import {
  CHUNK_ROOM,
  chunkSize,
  dataChunkSize,
  holeChunkSize,
  putChunk,
  putDataChunk,
  putHoleChunk,
  putSimple,
  ReplyMode,
  SIMPLE_REPLY_SIZE
} from './replies.ts'
import type { NbdRequest } from './request.ts'
import { acquireFor, acquirePiece, firstByteOf, pieceEnd } from './transfer.ts'
import type { Transmission } from './transmission.ts'
import { cellEnd, isZero, runEnd } from './zeroes.ts'

/** Room for the headers of all chunks one piece can be cut into, and an error chunk. */
const PIECE_HEADERS_ROOM = 2_048

export class ReadReplies {
  private readonly transmission: Transmission
  /** The parent whose data is being sent behind its one header. */
  private owner: NbdRequest | null = null

  constructor(transmission: Transmission) {
    this.transmission = transmission
  }

  get outputOwned(): boolean {
    return this.owner !== null
  }

  /** Starts a read; false: there are no pages now. */
  begin(request: NbdRequest): boolean {
    const { transmission } = this
    const end = request.commandOffset + request.commandLength
    if (request.commandLength <= TRANSFER_BYTES_MAX) {
      const answer = acquireFor(transmission, request, request.commandOffset, end)
      if (answer >= 0) {
        transmission.submit(request)
        return true
      }
    }
    request.nextOffset = request.commandOffset
    request.sendOffset = request.commandOffset
    request.pieces.length = 0
    const answer = this.addPiece(request)
    if (answer < 0) return transmission.blockForPages(answer)
    while (request.pieces.length < READ_PIECES_MAX && request.nextOffset < end) {
      if (this.addPiece(request) < 0) break
    }
    return true
  }

  /** Returns the answer of the budget: below 0 there is no piece more. */
  private addPiece(parent: NbdRequest): number {
    const { transmission } = this
    const piece = transmission.budget.acquireRequest(transmission)
    if (piece === null) return NO_REQUEST
    const end = parent.commandOffset + parent.commandLength
    const answer = acquirePiece(transmission, piece, parent.nextOffset, end)
    if (answer < 0) {
      transmission.budget.putBackRequest(transmission, piece)
      return answer
    }
    piece.transmission = transmission
    piece.parent = parent
    piece.kind = RequestKind.Read
    piece.command = parent.command
    piece.commandFlags = parent.commandFlags
    piece.cookieHigh = parent.cookieHigh
    piece.cookieLow = parent.cookieLow
    piece.offsetHigh = parent.offsetHigh
    piece.offsetLow = parent.offsetLow
    parent.pieces.push(piece)
    parent.nextOffset = piece.offset + piece.length
    transmission.submit(piece)
    return answer
  }

  /** The volume is done with a read or a piece of one. */
  finished(request: NbdRequest): void {
    request.done = true
    const parent = request.parent
    if (parent === null || !this.ordered(request)) {
      this.transmission.answer(request)
      return
    }
    if (this.transmission.state === 'closed' || parent.nextOffset < 0) this.stop(parent)
    else if (parent === this.owner) this.advance()
    else if (request.offset === parent.commandOffset) this.transmission.answer(parent)
  }

  private ordered(request: NbdRequest): boolean {
    const { mode } = this.transmission
    return mode === ReplyMode.Simple || (request.commandFlags & NBD_CMD_FLAG_DF) !== 0
  }

  /** Puts an answer into the output; false: no room. */
  deliver(request: NbdRequest): boolean {
    if (request.parent !== null) return this.deliverPiece(request, request.parent)
    if (request.pageCount === 0) return this.claimOutput(request)
    return this.deliverWhole(request)
  }

  // Reads of one request

  private deliverWhole(request: NbdRequest): boolean {
    const { transmission } = this
    const { answers } = transmission
    if (request.error !== 0) {
      const { error, commandOffset } = request
      if (!answers.failure(request, error, commandOffset, NBD_REPLY_FLAG_DONE)) return false
      transmission.answers.note(request, true)
      transmission.retire(request)
      return true
    }
    const small = request.length <= COPY_REPLY_BYTES_MAX
    const { sender } = transmission
    if (!sender.room(small ? 2 * CHUNK_ROOM + request.length : PIECE_HEADERS_ROOM)) return false
    if (transmission.mode === ReplyMode.Simple) {
      putSimple(sender.view, sender.reserve(SIMPLE_REPLY_SIZE), request, 0)
      this.appendData(request, request.offset, request.length)
    } else if (this.ordered(request)) {
      this.appendChunk(request, request.offset, request.length, NBD_REPLY_FLAG_DONE)
    } else {
      this.appendRuns(request, true)
    }
    transmission.answers.note(request, false)
    this.appended(request)
    return true
  }

  /** Bytes of the arena, which `request` holds until the socket is done with them. */
  private sendSlice(at: number, length: number, request: NbdRequest): void {
    const { sender, budget } = this.transmission
    request.slicesOut++
    sender.slice(budget.arena.bytes.subarray(at, at + length), request.onSent)
  }

  /** Data, from the arena when it is large. There is room for what is copied. */
  private appendData(request: NbdRequest, offset: number, length: number): void {
    const { sender, budget } = this.transmission
    const at = firstByteOf(request) + (offset - request.offset)
    if (request.length <= COPY_REPLY_BYTES_MAX) sender.copy(budget.arena.bytes, at, at + length)
    else this.sendSlice(at, length, request)
  }

  private appendChunk(request: NbdRequest, offset: number, length: number, flags: number): void {
    const { sender, mode } = this.transmission
    const at = sender.reserve(dataChunkSize(mode))
    putDataChunk(mode, sender.view, at, request, flags, offset, length)
    this.appendData(request, offset, length)
  }

  /** The data of a request as chunks of data and of zeroes. `last`: nothing follows them. */
  private appendRuns(request: NbdRequest, last: boolean): void {
    const { sender, mode, budget } = this.transmission
    const bytes = budget.arena.bytes
    const end = request.offset + request.length
    const base = firstByteOf(request) - request.offset
    for (let offset = request.offset; offset < end; ) {
      const first = cellEnd(offset, end)
      const zero = isZero(bytes, base + offset, base + first)
      const stop = runEnd(bytes, base, first, end, zero)
      const flags = last && stop === end ? NBD_REPLY_FLAG_DONE : 0
      if (zero) {
        const at = sender.reserve(holeChunkSize(mode))
        putHoleChunk(mode, sender.view, at, request, flags, offset, stop - offset)
      } else this.appendChunk(request, offset, stop - offset, flags)
      offset = stop
    }
  }

  /** All of the answer of `request` is in the output. */
  private appended(request: NbdRequest): void {
    request.appended = true
    if (request.slicesOut === 0) this.recycle(request)
  }

  /** The socket took what was in the pages of `request`. */
  recycle(request: NbdRequest): void {
    const { transmission } = this
    const parent = request.parent
    request.appended = false
    if (parent === null) {
      transmission.retire(request)
      return
    }
    const end = parent.commandOffset + parent.commandLength
    if (transmission.state === 'closed' || parent.nextOffset < 0 || parent.nextOffset === end) {
      this.drop(request)
      return
    }
    const firstBlock = Math.floor(parent.nextOffset / BLOCK_BYTES)
    const capacityEnd = (firstBlock + request.pageCount) * BLOCK_BYTES
    const stop = Math.min(capacityEnd, pieceEnd(parent.nextOffset, end, TRANSFER_BYTES_MAX))
    request.offset = parent.nextOffset
    request.length = stop - parent.nextOffset
    request.error = 0
    request.done = false
    parent.nextOffset = stop
    transmission.submit(request)
    transmission.batch.add(transmission)
  }

  private drop(piece: NbdRequest): void {
    const { transmission } = this
    const parent = piece.parent!
    parent.pieces.splice(parent.pieces.indexOf(piece), 1)
    transmission.releasePages(piece)
    transmission.budget.releaseRequest(transmission, piece)
    transmission.batch.add(transmission)
    if (parent.pieces.length === 0 && parent !== this.owner) transmission.retire(parent)
  }

  // Pieces of a parent that leave in any order

  private deliverPiece(piece: NbdRequest, parent: NbdRequest): boolean {
    const { transmission } = this
    if (!transmission.sender.room(PIECE_HEADERS_ROOM + COPY_REPLY_BYTES_MAX)) return false
    // Counts what was answered; the pieces leave in any order.
    const answered = parent.sendOffset + piece.length
    const last = answered === parent.commandOffset + parent.commandLength
    if (piece.error !== 0) {
      parent.error = piece.error
      const flags = last ? NBD_REPLY_FLAG_DONE : 0
      transmission.answers.failure(piece, piece.error, piece.offset, flags)
    } else this.appendRuns(piece, last)
    parent.sendOffset = answered
    if (last) transmission.answers.note(parent, parent.error !== 0)
    this.appended(piece)
    return true
  }

  // Parents whose data follows one header in order

  /** The first piece of a parent is there: its header goes out, and the output is its own. */
  private claimOutput(parent: NbdRequest): boolean {
    const { transmission } = this
    const { sender, mode } = transmission
    const first = parent.pieces.find((piece) => piece.offset === parent.commandOffset)
    if (first !== undefined && first.error !== 0) {
      parent.error = first.error
      const { commandOffset, error } = parent
      if (!transmission.answers.failure(parent, error, commandOffset, NBD_REPLY_FLAG_DONE)) {
        return false
      }
      transmission.answers.note(parent, true)
      this.stop(parent)
      return true
    }
    if (!sender.room(PIECE_HEADERS_ROOM)) return false
    const { commandOffset, commandLength } = parent
    if (mode === ReplyMode.Simple) {
      putSimple(sender.view, sender.reserve(SIMPLE_REPLY_SIZE), parent, 0)
    } else {
      const at = sender.reserve(dataChunkSize(mode))
      putDataChunk(mode, sender.view, at, parent, 0, commandOffset, commandLength)
    }
    this.owner = parent
    this.advance()
    return true
  }

  /** Sends of the owner's data what is there and next. */
  advance(): void {
    for (let owner = this.owner; owner !== null; owner = this.owner) {
      const end = owner.commandOffset + owner.commandLength
      if (owner.sendOffset === end) {
        if (!this.finishOwner(owner)) return
        continue
      }
      const next = owner.sendOffset
      const piece = owner.pieces.find((each) => each.done && each.offset === next)
      if (piece === undefined || !this.sendInOrder(owner, piece)) return
    }
  }

  private sendInOrder(owner: NbdRequest, piece: NbdRequest): boolean {
    const { transmission } = this
    const { sender, budget, mode } = transmission
    if (piece.error !== 0) {
      if (mode === ReplyMode.Simple) {
        // "The server MUST immediately initiate a hard disconnect": its header said success.
        transmission.broken('a read failed behind its reply header')
        return false
      }
      if (owner.error === 0) {
        owner.error = piece.error
        owner.failureOffset = piece.offset
      }
      // "It MUST use padding bytes which SHOULD be zero"; the error follows behind the chunk.
      const at = firstByteOf(piece)
      budget.arena.bytes.fill(0, at, at + piece.length)
    }
    if (!sender.room(PIECE_HEADERS_ROOM)) return false
    owner.sendOffset += piece.length
    piece.done = false
    this.sendSlice(firstByteOf(piece), piece.length, piece)
    this.appended(piece)
    return true
  }

  private finishOwner(owner: NbdRequest): boolean {
    const { transmission } = this
    const { sender, mode, answers } = transmission
    if (mode !== ReplyMode.Simple) {
      if (owner.error !== 0) {
        const { error, failureOffset } = owner
        if (!answers.failure(owner, error, failureOffset, NBD_REPLY_FLAG_DONE)) return false
      } else {
        if (!sender.room(CHUNK_ROOM)) return false
        const at = sender.reserve(chunkSize(mode))
        putChunk(mode, sender.view, at, owner, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0)
      }
    }
    transmission.answers.note(owner, owner.error !== 0)
    this.owner = null
    transmission.batch.add(transmission)
    // Else its last pieces are still in the socket; `recycle` drops them, and the owner with them.
    if (owner.pieces.length === 0) transmission.retire(owner)
    return true
  }

  // Reads that nobody waits for

  /** No more of `parent` is needed: the pieces at hand go now, the others when they are done. */
  private stop(parent: NbdRequest): void {
    parent.nextOffset = -1
    for (const piece of parent.pieces.filter((each) => each.done)) this.drop(piece)
  }

  /** The socket is gone before `request` could be answered. */
  abandon(request: NbdRequest): void {
    if (request.parent !== null) this.drop(request)
    else if (request.pageCount === 0) this.stop(request)
    else this.transmission.retire(request)
  }

  /** The socket is gone. */
  abandonOwner(): void {
    const owner = this.owner
    this.owner = null
    if (owner !== null) this.stop(owner)
  }
}
