import { assert } from '../core/assert.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS, PIECE_BLOCKS_MAX, SEQUENCE_MAX } from '../core/limits.ts'
import { BlockOp, OpFlag, OpKind } from '../replication/block-store.ts'
import { RequestFlag, type VolumeRequest } from './request.ts'
import type { VolumeIo } from './volume-io.ts'

export interface VolumeIdentity {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
}

/** Changes stop so far below the end of the sequence: room for what requests are cut into. */
const SEQUENCE_RESERVE = 2 ** 20

/** Makes the ops of one volume, and gives out its versions: (writerEpoch, 1), (writerEpoch, 2)… */
export class VolumeOps {
  #identity: VolumeIdentity
  /** Called once per writerEpoch when half of its sequence numbers are used. */
  onSequenceLow: () => void = () => {}
  /**
   * Counts how often this process got the right to write: it is the same while it has that, and the
   * volume is not restored.
   */
  tenure = 0
  readonly #io: VolumeIo
  readonly #onRequestOp: (op: BlockOp) => void
  /** 0 when this process may not write. */
  #writerEpoch = 0
  #highestEpoch = 0
  #sequence = 0
  #sequenceLow = false
  readonly #near = new BlockOp()

  /** `onRequestOp` is called for each op that `cut` made, when it is done. */
  constructor(io: VolumeIo, identity: VolumeIdentity, onRequestOp: (op: BlockOp) => void) {
    this.#io = io
    this.#identity = identity
    this.#onRequestOp = onRequestOp
    Object.assign(this.#near, identity, { kind: OpKind.Read })
  }

  get identity(): VolumeIdentity {
    return this.#identity
  }

  /** Ops that are made from now on are for this layer. */
  openLayer({ high, low }: { readonly high: number; readonly low: number }): void {
    this.#identity = { ...this.#identity, layerHigh: high, layerLow: low }
    Object.assign(this.#near, this.#identity)
  }

  get writerEpoch(): number {
    return this.#writerEpoch
  }

  /** Is there no room for another change under this writerEpoch? */
  get exhausted(): boolean {
    return this.#sequence > SEQUENCE_MAX - SEQUENCE_RESERVE
  }

  /** Of two that were taken at once the higher one counts. */
  startEpoch(writerEpoch: number, firstSequence: number = 1): void {
    assert(writerEpoch > 0 && firstSequence > 0, 'versions start at (1, 1)')
    if (writerEpoch <= this.#highestEpoch) return
    if (this.#writerEpoch === 0) this.tenure++
    this.#highestEpoch = writerEpoch
    this.#writerEpoch = writerEpoch
    this.#sequence = firstSequence - 1
    this.#sequenceLow = false
  }

  fence(): void {
    this.#writerEpoch = 0
  }

  /**
   * Submits the blocks [first, end) of `request` as ops within chunks and pieces, which
   * `request.pending` counts. `payload` is the page of the first block, for what moves bytes.
   */
  cut(request: VolumeRequest, kind: number, first: number, end: number, payload: number): void {
    const moves = kind === OpKind.Read || kind === OpKind.Write
    const most = moves ? PIECE_BLOCKS_MAX : CHUNK_BLOCKS
    let block = first
    while (block < end) {
      const chunk = Math.floor(block / CHUNK_BLOCKS)
      const inChunk = block - chunk * CHUNK_BLOCKS
      const count = Math.min(end - block, CHUNK_BLOCKS - inChunk, most)
      const op = this.make(kind, chunk, inChunk, count)
      if (moves) op.payload = payload + (block - first) * BLOCK_BYTES
      else if ((request.flags & RequestFlag.NoHole) !== 0 && kind === OpKind.WriteZeroes) {
        op.flags = OpFlag.NoHole
      }
      op.owner = request
      op.onDone = this.#onRequestOp
      request.pending++
      this.#io.store.submit(op)
      block += count
    }
  }

  /** See BlockStore.readNow: `count` blocks from `first` on, which are in one chunk. */
  readNow(first: number, count: number, into: Buffer, start: number): number {
    const op = this.#near
    op.chunk = Math.floor(first / CHUNK_BLOCKS)
    op.firstBlock = first - op.chunk * CHUNK_BLOCKS
    op.blockCount = count
    return op.firstBlock + count > CHUNK_BLOCKS ? -1 : this.#io.store.readNow(op, into, start)
  }

  /** An op on this volume; one that changes something gets the next version. */
  make(kind: number, chunk: number, firstBlock: number, blockCount: number): BlockOp {
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
    if (kind === OpKind.Read || kind === OpKind.BlockStatus) {
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
}
