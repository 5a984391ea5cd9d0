/**
 * The request path of one volume: a request of any offset and length becomes ops of whole blocks
 * within one chunk, and the last op to end completes the request.
 *
 *   submit ── aligned, nothing held ──────────────► cut into ops (VolumeOps) ──► store
 *      │                                              ▲
 *      ├─ overlaps a held range: waits (RangeHolds) ──┤
 *      └─ sub-block edges: held, read, merged (Edits) ┘
 *
 * No promise, closure or object is made per request: ops come from the store's pool, edits and
 * flush batches from ours.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, OPS_PER_REQUEST_MAX } from '../core/limits.ts'
import { type BlockOp, OpKind } from '../replication/block-store.ts'
import { Admission } from './admission.ts'
import { ChangeHold } from './change-hold.ts'
import { Edits } from './edits.ts'
import { type OpenVolume, requestOpEnded } from './open-volume.ts'
import { RequestFlag, RequestKind, type VolumeRequest } from './request.ts'
import type { VolumeIo } from './volume-io.ts'
import { type VolumeIdentity, VolumeOps } from './volume-ops.ts'
import { VolumeStats } from './volume-stats.ts'

/** A trim of more blocks than this is given out bit by bit. */
const LONG_BLOCKS = OPS_PER_REQUEST_MAX * CHUNK_BLOCKS

export class BlockVolume {
  name: string
  sizeBytes: number
  /** Milliseconds that a flush may take; null: it waits. Other requests are the store's. */
  unavailableMs: number | null = null
  readonly io: VolumeIo
  readonly admission: Admission
  readonly ops: VolumeOps
  readonly stats: VolumeStats = new VolumeStats()
  readonly #edits: Edits
  readonly #changes: ChangeHold
  #inFlight = 0

  constructor(
    io: VolumeIo,
    options: {
      readonly name: string
      readonly sizeBytes: number
      readonly identity: VolumeIdentity
    }
  ) {
    this.io = io
    this.admission = new Admission(io.turns, this)
    this.name = options.name
    this.sizeBytes = options.sizeBytes
    this.ops = new VolumeOps(io, options.identity, onRequestOp)
    this.#edits = new Edits(io, this.ops)
    this.#changes = new ChangeHold((request, beyondEnd) => this.#start(request, beyondEnd))
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** May this process write the volume? */
  get writable(): boolean {
    return this.ops.writerEpoch > 0
  }

  /**
   * Takes `request`, which ends with `refused` if that is an error already. `beyondEnd` lets it
   * reach past the end: the volume's own writes and trims there.
   */
  submit(request: VolumeRequest, refused: number, beyondEnd: boolean): void {
    request.startedMs = this.io.clock.monotonicMs()
    request.error = refused
    this.#inFlight++
    if (!isChange(request.kind) || this.#changes.admits(request, beyondEnd)) {
      this.#start(request, beyondEnd)
    }
  }

  /**
   * Resolves when no change is on its way; what comes is held until `resume`.
   * @throws StoreError Unavailable when that takes longer than `waitMs`: nothing is held then
   */
  async quiesce(waitMs: number): Promise<void> {
    if (await this.#changes.hold(waitMs)) return
    const text = `volume ${this.name}: its writes in flight did not end within ${waitMs} ms`
    throw new StoreError(ErrorCode.Unavailable, text)
  }

  /** Begins what was held. */
  resume(): void {
    this.#changes.release()
    this.io.ringSoon()
  }

  #start(request: VolumeRequest, beyondEnd: boolean): void {
    const { kind, error: refused } = request
    if (refused !== 0 || kind === RequestKind.Cache) this.io.defer(request)
    else if (kind === RequestKind.Flush) this.io.flushes.add(request)
    else if (!beyondEnd && request.offset + request.length > this.sizeBytes) {
      this.#refuse(request, ErrorCode.OutOfRange)
    } else if (kind === RequestKind.Read) this.#read(request)
    else if (kind === RequestKind.BlockStatus) this.io.walks.start(request)
    else if (!this.writable) this.#refuse(request, ErrorCode.ReadOnly)
    else if (this.ops.exhausted) this.#refuse(request, ErrorCode.LimitReached)
    else this.#change(request)
  }

  /** See BlockDevice.readNow. */
  readNow(offset: number, length: number, into: Buffer, start: number): number {
    if (offset % BLOCK_BYTES !== 0 || length % BLOCK_BYTES !== 0) return -1
    if (offset + length > this.sizeBytes) return -1
    const ms = this.ops.readNow(offset / BLOCK_BYTES, length / BLOCK_BYTES, into, start)
    if (ms >= 0) this.stats.record(RequestKind.Read, length, false, ms)
    return ms
  }

  /** Accounts for a request that is over. */
  count(request: VolumeRequest): void {
    const ms = this.io.clock.monotonicMs() - request.startedMs
    const bytes = request.kind === RequestKind.Flush ? 0 : request.length
    this.stats.record(request.kind, bytes, request.error !== 0, ms)
    this.#inFlight--
    if (isChange(request.kind)) this.#changes.ended()
  }

  #read(request: VolumeRequest): void {
    const first = Math.floor(request.offset / BLOCK_BYTES)
    const end = Math.ceil((request.offset + request.length) / BLOCK_BYTES)
    assert(request.pages >= 0, 'a read has pages to read into')
    request.pending = 1
    this.ops.cut(request, OpKind.Read, first, end, request.pages)
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
    const again = (request.flags & RequestFlag.Again) !== 0
    const long = kind !== RequestKind.Write && end - first > LONG_BLOCKS
    if (first >= end) this.io.defer(request)
    else if (headBytes + tailBytes === 0 && !long && !again && this.#edits.isFree(first, end)) {
      this.ops.cut(request, opKindOf(kind), first, end, request.pages)
      this.#endCut(request)
    } else this.#edits.enter(request, first, end, headBytes, tailBytes)
  }

  /** Gives back the count that kept the request alive while it was cut. */
  #endCut(request: VolumeRequest): void {
    request.pending--
    assert(request.pending > 0, 'no op ends inside submit')
  }

  #refuse(request: VolumeRequest, error: number): void {
    request.error = error
    this.io.defer(request)
  }
}

const isChange = (kind: number): boolean =>
  kind === RequestKind.Write || kind === RequestKind.Trim || kind === RequestKind.WriteZeroes

function opKindOf(kind: number): number {
  if (kind === RequestKind.Write) return OpKind.Write
  return kind === RequestKind.Trim ? OpKind.Trim : OpKind.WriteZeroes
}

function onRequestOp(op: BlockOp): void {
  const request = op.owner as VolumeRequest
  if (op.error !== 0 && request.error === 0) request.error = op.error
  const { io } = (request.device as OpenVolume).volume
  io.store.releaseOp(op)
  requestOpEnded(request, io.flushes)
}
