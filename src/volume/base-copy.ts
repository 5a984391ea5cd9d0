import { parseId64 } from '../cluster/ids.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { BASED_START } from '../core/layer-ids.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { type BlockOp, OpFlag, OpKind, StatusExtent } from '../replication/block-store.ts'
import type { ManagedVolume } from './managed-volume.ts'

/** Copied at a time. */
const PIECE_BLOCKS = 64
/** Of a status answer about a whole chunk. */
const STATUS_PAGES = 2

interface Run {
  readonly first: number
  readonly count: number
}

interface Extent extends Run {
  readonly kind: number
}

/**
 * Copies what a clone reads from its base into the lowest of its own layers. Nobody writes there
 * any more, so nothing is in the way of clients: what they write is above it.
 */
export class BaseCopy {
  readonly #managed: ManagedVolume
  /** The lowest layer of the volume, and the lowest one that somebody reads. */
  readonly #root: string
  readonly #read: string

  constructor(managed: ManagedVolume, layers: { readonly root: string; readonly read: string }) {
    this.#managed = managed
    this.#root = layers.root
    this.#read = layers.read
  }

  /** Calls `rest` between pieces. Returns how many blocks were copied. @throws StoreError */
  async copyChunk(chunk: number, rest: () => Promise<void>): Promise<number> {
    let blocks = 0
    for (const { first, count } of await this.#missing(chunk)) {
      for (let at = first; at < first + count; at += PIECE_BLOCKS) {
        const most = Math.min(PIECE_BLOCKS, first + count - at)
        await this.#copy(chunk, at, most)
        blocks += most
        await rest()
      }
    }
    return blocks
  }

  /** Blocks of the chunk that are data, and read from the base. */
  async #missing(chunk: number): Promise<Run[]> {
    const own = await this.#status(chunk, (op) => {
      op.flags = OpFlag.Since
      op.writerEpoch = parseId64(this.#root).high
      op.sequence = BASED_START - 1 // below all layers of the branch
    })
    if (own.every(({ kind }) => kind !== StatusExtent.Unchanged)) return []
    const shown = await this.#status(chunk)
    const runs: Run[] = []
    for (const below of own) {
      if (below.kind !== StatusExtent.Unchanged) continue
      for (const data of shown) {
        const first = Math.max(below.first, data.first)
        const end = Math.min(below.first + below.count, data.first + data.count)
        if (data.kind === StatusExtent.Data && first < end) runs.push({ first, count: end - first })
      }
    }
    return runs
  }

  /** Of the whole chunk, as `StatusExtent`. */
  async #status(chunk: number, fill: (op: BlockOp) => void = () => {}): Promise<Extent[]> {
    const { arena } = this.#managed
    const extents: Extent[] = []
    const pages = await this.#pages(STATUS_PAGES)
    try {
      for (let first = 0; first < CHUNK_BLOCKS; ) {
        const op = this.#op(OpKind.BlockStatus, this.#read, chunk, first, CHUNK_BLOCKS - first)
        fill(op)
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

  async #copy(chunk: number, first: number, count: number): Promise<void> {
    const pages = await this.#pages(count)
    try {
      const read = this.#op(OpKind.Read, this.#read, chunk, first, count)
      read.payload = pages
      await this.#answer(read)
      const write = this.#op(OpKind.Write, this.#root, chunk, first, count)
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
    const text = `volume ${volume.name}: a copy from its base failed: ${errorCodeName(error)}`
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
