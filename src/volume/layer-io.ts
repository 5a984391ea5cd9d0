import { parseId64 } from '../cluster/ids.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { type BlockOp, OpFlag, OpKind } from '../replication/block-store.ts'
import type { ManagedVolume } from './managed-volume.ts'

/** Copied at a time. */
const PIECE_BLOCKS = 64
/** Of a status answer about a whole chunk. */
const STATUS_PAGES = 2

/** Blocks of a chunk. */
export interface Run {
  readonly first: number
  readonly count: number
}

/** `kind`: StatusExtent. */
export interface LayerExtent extends Run {
  readonly kind: number
}

/**
 * Reads and writes single layers of a volume, past its clients: for layers that nobody writes to
 * any more. What is written is of this process as the volume's writer, with versions of its own.
 */
export class LayerIo {
  readonly #managed: ManagedVolume
  /** For messages. */
  readonly #what: string

  constructor(managed: ManagedVolume, what: string) {
    this.#managed = managed
    this.#what = what
  }

  /**
   * Of the whole chunk, as a read of `layer` shows it; with `since`, a layer id below it, what is
   * there or below is Unchanged. @throws StoreError
   */
  async status(layer: string, chunk: number, since: string | null): Promise<LayerExtent[]> {
    const { arena } = this.#managed
    const extents: LayerExtent[] = []
    const pages = await this.#pages(STATUS_PAGES)
    try {
      for (let first = 0; first < CHUNK_BLOCKS; ) {
        const op = this.#op(OpKind.BlockStatus, layer, chunk, first, CHUNK_BLOCKS - first)
        if (since !== null) {
          const { high, low } = parseId64(since)
          op.flags = OpFlag.Since
          op.writerEpoch = high
          op.sequence = low
        }
        op.payload = pages
        const pairs = await this.#answer(op)
        const at = arena.bytes.byteOffset + pages
        const words = new Uint32Array(arena.bytes.buffer, at, 2 * pairs)
        for (let word = 0; word < words.length; word += 2) {
          const count = words[word]!
          extents.push({ first, count, kind: words[word + 1]! })
          first += count
        }
      }
    } finally {
      arena.release(pages)
    }
    return extents
  }

  /**
   * Writes to the layer `to` what a read of `from` shows of the run. Calls `rest` between pieces.
   * @throws StoreError
   */
  async copy(
    layers: { readonly from: string; readonly to: string },
    chunk: number,
    { first, count }: Run,
    rest: () => Promise<void>
  ): Promise<void> {
    for (let at = first; at < first + count; at += PIECE_BLOCKS) {
      const piece = { first: at, count: Math.min(PIECE_BLOCKS, first + count - at) }
      await this.#managed.copyAlone(() => this.#copyPiece(layers, chunk, piece))
      await rest()
    }
  }

  async #copyPiece(
    layers: { readonly from: string; readonly to: string },
    chunk: number,
    { first, count }: Run
  ): Promise<void> {
    const pages = await this.#pages(count)
    try {
      const read = this.#op(OpKind.Read, layers.from, chunk, first, count)
      read.payload = pages
      await this.#answer(read)
      const write = this.#op(OpKind.Write, layers.to, chunk, first, count)
      write.payload = pages
      await this.#answer(write)
    } finally {
      this.#managed.arena.release(pages)
    }
  }

  /** @throws StoreError Closed when this process may not write the volume (any more) */
  #op(kind: number, layer: string, chunk: number, first: number, count: number): BlockOp {
    const { volume } = this.#managed
    if (!volume.writable) {
      throw new StoreError(ErrorCode.Closed, `volume ${volume.name}: its writer lease was lost`)
    }
    const op = volume.ops.make(kind, chunk, first, count)
    const { high, low } = parseId64(layer)
    op.layerHigh = high
    op.layerLow = low
    return op
  }

  /** Resolves to its first result. @throws StoreError */
  async #answer(op: BlockOp): Promise<number> {
    const { volume } = this.#managed
    const { store } = volume.io
    const done = await new Promise<BlockOp>((resolve) => {
      op.onDone = resolve
      store.submit(op)
      volume.io.ringSoon()
    })
    const { error, resultA } = done
    store.releaseOp(done)
    if (error === 0) return resultA
    const text = `volume ${volume.name}: ${this.#what} failed: ${errorCodeName(error)}`
    throw new StoreError(error as ErrorCode, text)
  }

  async #pages(count: number): Promise<number> {
    const { arena } = this.#managed
    for (;;) {
      const pages = arena.acquire(count)
      if (pages >= 0) return pages
      await new Promise<void>((wake) => arena.onFree(wake))
    }
  }
}

/** Clients come first: while they are busy half of the time is theirs alone. */
export async function restFor({ volume }: ManagedVolume): Promise<void> {
  if (volume.inFlight === 0) return
  await new Promise((resolve) => setTimeout(resolve, BUSY_REST_MS))
}

const BUSY_REST_MS = 5
