/**
 * Payloads of writes on their way into the arena. A small one is taken whole from the receive
 * buffer. A large one is received piece by piece into pages of its own, and each piece is
 * submitted as soon as it is there; the command is answered when all are done.
 */
import { RequestFlag, RequestKind } from '../volume/request.ts'
import { TRANSFER_BYTES_MAX } from './limits.ts'
import type { NbdRequest } from './request.ts'
import { acquireFor, acquirePiece, firstByteOf } from './transfer.ts'
import type { Transmission } from './transmission.ts'

export class PayloadReceiver {
  private readonly transmission: Transmission
  /** The command whose payload is arriving. */
  private command: NbdRequest | null = null
  /** What is received now: a piece of the command, or the command itself when it needs one only. */
  private piece: NbdRequest | null = null
  /** Bytes of the piece that are there. */
  private got = 0

  constructor(transmission: Transmission) {
    this.transmission = transmission
  }

  get active(): boolean {
    return this.command !== null
  }

  /** Pages are held for bytes that the client has yet to send. */
  get receiving(): boolean {
    return this.piece !== null
  }

  /**
   * Copies a payload that stands whole behind its header in the receive buffer. Returns the
   * answer of the budget: below 0 there are no pages for it.
   */
  takeSmall(request: NbdRequest, headerBytes: number): number {
    const { receiver, budget } = this.transmission
    const length = request.length
    const answer = acquireFor(this.transmission, request, request.offset, request.offset + length)
    if (answer < 0) return answer
    const from = receiver.start + headerBytes
    const { arena } = budget
    arena.copy(arena.bytes, firstByteOf(request), receiver.bytes, from, length)
    this.transmission.submit(request)
    return answer
  }

  /** The payload of `request` follows. */
  begin(request: NbdRequest): void {
    request.nextOffset = request.commandOffset
    request.sendOffset = request.commandOffset
    request.pieces.length = 0
    this.command = request
  }

  /** Takes what the receive buffer has. False: it is empty, or there are no pages now. */
  take(): boolean {
    const command = this.command!
    if (this.piece === null && !this.startPiece(command)) return false
    const piece = this.piece!
    const { receiver, budget } = this.transmission
    const count = Math.min(receiver.available, piece.length - this.got)
    if (count > 0) {
      const at = firstByteOf(piece) + this.got
      const { arena } = budget
      arena.copy(arena.bytes, at, receiver.bytes, receiver.start, count)
      receiver.start += count
      this.got += count
    }
    if (this.got < piece.length) return false
    this.submitPiece(command, piece)
    return true
  }

  /** Where the rest of the piece is to be received; null when there is no piece. */
  target(): Buffer | null {
    const piece = this.piece
    if (piece === null) return null
    const at = firstByteOf(piece)
    return this.transmission.budget.arena.bytes.subarray(at + this.got, at + piece.length)
  }

  /** Bytes arrived in the last target. Returns whether that was all of the piece. */
  arrived(count: number): boolean {
    this.got += count
    return this.piece === null || this.got >= this.piece.length
  }

  /** A piece of a command is done. */
  finished(piece: NbdRequest): void {
    const { transmission } = this
    const command = piece.parent!
    if (piece.error !== 0 && command.error === 0) {
      command.error = piece.error
      command.failureOffset = piece.offset
    }
    command.pieces.splice(command.pieces.indexOf(piece), 1)
    transmission.releasePages(piece)
    transmission.budget.releaseRequest(transmission, piece)
    this.finishCommand(command)
  }

  /**
   * What is whole was submitted, the rest is dropped. Only for when the socket is closed: until
   * then it may still read into the pages.
   */
  abort(): void {
    const command = this.command
    if (command === null) return
    const piece = this.piece
    this.command = null
    this.piece = null
    if (piece === command) {
      this.transmission.retire(command)
      return
    }
    if (piece !== null) {
      command.pieces.splice(command.pieces.indexOf(piece), 1)
      this.transmission.releasePages(piece)
      this.transmission.budget.releaseRequest(this.transmission, piece)
    }
    // Never answered: its client did not finish it.
    command.nextOffset = -1
    if (command.pieces.length === 0) this.transmission.retire(command)
  }

  private startPiece(command: NbdRequest): boolean {
    const { transmission } = this
    const end = command.commandOffset + command.commandLength
    this.got = 0
    if (
      command.commandLength <= TRANSFER_BYTES_MAX &&
      command.nextOffset === command.commandOffset
    ) {
      const answer = acquireFor(transmission, command, command.commandOffset, end)
      if (answer >= 0) {
        this.piece = command
        command.nextOffset = end
        return true
      }
    }
    const piece = transmission.budget.acquireRequest(transmission)
    if (piece === null) return transmission.block(true)
    const answer = acquirePiece(transmission, piece, command.nextOffset, end)
    if (answer < 0) {
      transmission.budget.putBackRequest(transmission, piece)
      return transmission.blockForPages(answer)
    }
    piece.transmission = transmission
    piece.parent = command
    piece.kind = RequestKind.Write
    piece.command = command.command
    command.nextOffset = piece.offset + piece.length
    command.pieces.push(piece)
    this.piece = piece
    return true
  }

  private submitPiece(command: NbdRequest, piece: NbdRequest): void {
    this.piece = null
    if (command.nextOffset === command.commandOffset + command.commandLength) this.command = null
    this.transmission.submit(piece)
  }

  /** Once all pieces are in: durable if the client asked for it, and answered. */
  private finishCommand(command: NbdRequest): void {
    if (command === this.command || command.pieces.length > 0) return
    if (command.nextOffset < 0) {
      this.transmission.retire(command)
      return
    }
    if ((command.flags & RequestFlag.Fua) === 0 || command.error !== 0) {
      this.transmission.answer(command)
      return
    }
    // One flush for all pieces instead of one each.
    command.kind = RequestKind.Flush
    command.flags = 0
    command.offset = 0
    command.length = 0
    this.transmission.submit(command)
  }
}
