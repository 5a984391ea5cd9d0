import { formatId64 } from '../cluster/ids.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import type { Id64 } from '../core/id64.ts'
import { BLOCK_BYTES, FILE_PIECE_BYTES, FILE_PIECES_IN_FLIGHT } from '../core/limits.ts'
import type { ManagedVolume } from './managed-volume.ts'
import type { OpenVolume } from './open-volume.ts'
import { RequestFlag, RequestKind, VolumeRequest } from './request.ts'

/** A run of bytes of one kind, see `VolumeFile.extents`. */
export interface FileExtent {
  readonly offset: number
  readonly length: number
  /** `unchanged`: of what differs from a snapshot alone. */
  readonly kind: 'data' | 'hole' | 'zero' | 'unchanged'
}

export interface WriteOptions {
  /** Resolve only when the bytes are on stable storage. */
  readonly durable?: boolean
}

const extentKinds = ['data', 'hole', 'zero', 'unchanged'] as const

/**
 * An open volume as a file: the primitives that volume types and programs build on. Offsets and
 * lengths are bytes, of any alignment (whole blocks of 4096 are fastest). A promise resolves when
 * the bytes are *acknowledged*: every read sees them, a crash of the machine may lose them until
 * `flush` (or `durable`) has resolved. Calls may overlap; between calls that touch the same bytes
 * at the same time any order is possible, but a block of 4096 bytes is never torn.
 *
 * All failures are StoreError: OutOfRange past the end, ReadOnly, OutOfSpace, ChecksumMismatch for
 * bytes that rotted on disk, DiskFailure and ShardFailed for the disk, Closed after `close` or when
 * the volume was deleted.
 */
export class VolumeFile {
  readonly #managed: ManagedVolume
  readonly #device: OpenVolume

  constructor(managed: ManagedVolume, device: OpenVolume) {
    this.#managed = managed
    this.#device = device
  }

  get name(): string {
    return this.#device.name
  }

  /** Grows with `append` and `resize`, also by others who have it open. */
  get sizeBytes(): number {
    return this.#device.sizeBytes
  }

  get readOnly(): boolean {
    return this.#device.readOnly
  }

  /** The `length` bytes at `offset`, in a buffer of their own. What was never written is zeroes. */
  async readAt(offset: number, length: number): Promise<Buffer> {
    this.#checkRange(offset, length)
    const into = Buffer.allocUnsafe(length)
    await this.#inPieces(offset, length, (at, bytes) =>
      this.#moveRead(at, into.subarray(at - offset, at - offset + bytes))
    )
    return into
  }

  /** Writes `data` at `offset`, within the size. Pieces of 1 MiB may be written in any order. */
  async writeAt(offset: number, data: Uint8Array, options: WriteOptions = {}): Promise<void> {
    this.#checkRange(offset, data.length)
    await this.#inPieces(offset, data.length, (at, bytes) =>
      this.#moveWrite(at, data.subarray(at - offset, at - offset + bytes), options)
    )
  }

  /**
   * Writes `data` at the end and moves the end behind it; resolves to the offset of its first byte.
   * Appends of all who have the volume open in this process come one after the other, none inside
   * another. After a crash the size is that of the last `flush`, or larger.
   */
  async append(data: Uint8Array, options: WriteOptions = {}): Promise<number> {
    this.#checkWritable()
    const offset = await this.#managed.end.append(data.length, (at) =>
      this.#inPieces(at, data.length, (pieceAt, bytes) =>
        this.#moveWrite(pieceAt, data.subarray(pieceAt - at, pieceAt - at + bytes), {}, true)
      )
    )
    if (options.durable === true) await this.flush()
    return offset
  }

  /**
   * Reads the whole blocks of the range and writes them again, with nothing in between: the same
   * bytes under a new version, and under the data key of today. At most FILE_PIECE_BYTES.
   */
  async rewrite(offset: number, length: number): Promise<void> {
    this.#checkRange(offset, length)
    const pages = await this.#pages(offset, length)
    try {
      await this.#request(RequestKind.Write, offset, length, RequestFlag.Again, pages)
    } finally {
      this.#managed.arena.release(pages)
    }
  }

  /** Gives up whole blocks of the range: they read as zeroes. Bytes of blocks at the edges stay. */
  async trim(offset: number, length: number): Promise<void> {
    this.#checkRange(offset, length)
    if (length > 0) await this.#request(RequestKind.Trim, offset, length, 0)
  }

  /** Makes every byte of the range zero, without writing them. */
  async zero(offset: number, length: number): Promise<void> {
    this.#checkRange(offset, length)
    if (length > 0) await this.#request(RequestKind.WriteZeroes, offset, length, 0)
  }

  /** Everything that was acknowledged before this call, and the size, is on stable storage. */
  async flush(): Promise<void> {
    const sizeBytes = this.#managed.volume.sizeBytes
    await this.#request(RequestKind.Flush, 0, 0, 0)
    if (!this.readOnly) await this.#managed.end.record(sizeBytes)
  }

  /**
   * Sets the size. Growing adds a hole; with `shrink` the size may become smaller, and what lay
   * behind the new end is gone for ever.
   * @throws StoreError InvalidArgument when smaller without `shrink`, or not a valid size
   */
  async resize(sizeBytes: number, options: { readonly shrink?: boolean } = {}): Promise<void> {
    this.#checkWritable()
    await this.#managed.end.resize(sizeBytes, options.shrink ?? false)
  }

  get family(): string {
    const { familyHigh, familyLow } = this.#device.volume.ops.identity
    return formatId64(familyHigh, familyLow)
  }

  /** Id of the layer that reads of it see. */
  get layer(): Id64 {
    const { layerHigh: high, layerLow: low } = this.#device.volume.ops.identity
    return { high, low }
  }

  /**
   * Which parts of the range hold data, are zeroes that hold space, or hold nothing; with `since`,
   * a layer on which this one stands, only of what was written, trimmed or zeroed after it. Asked
   * for bit by bit: memory does not grow with the range.
   */
  async *walkExtents(
    offset: number,
    length: number,
    since: Id64 | null = null
  ): AsyncIterable<FileExtent> {
    this.#checkRange(offset, length)
    let last = null as FileExtent | null
    for (let at = offset; at < offset + length; ) {
      const ask = { kind: RequestKind.BlockStatus, offset: at, length: offset + length - at, since }
      const { extents } = await this.#run(Object.assign(new VolumeRequest(), ask))
      for (let pair = 0; pair < extents.length; pair += 2) {
        const kind = extentKinds[extents[pair + 1]!]!
        const bytes = extents[pair]!
        if (last?.kind === kind) last = { ...last, length: last.length + bytes }
        else {
          if (last !== null) yield last
          last = { offset: at, length: bytes, kind }
        }
        at += bytes
      }
    }
    if (last !== null) yield last
  }

  /** All of `walkExtents`. */
  async extents(offset: number, length: number, since: Id64 | null = null): Promise<FileExtent[]> {
    const found: FileExtent[] = []
    for await (const extent of this.walkExtents(offset, length, since)) found.push(extent)
    return found
  }

  /** Ends this open, once its calls are over. Does not flush; a size that grew is recorded. */
  async close(): Promise<void> {
    await this.#device.close()
    if (!this.readOnly) await this.#managed.end.recordAtClose()
  }

  #checkRange(offset: number, length: number): void {
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length)
    if (!whole || offset < 0 || length < 0) {
      const text = `volume ${this.name}: no range of ${length} bytes at ${offset}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    if (offset + length <= this.sizeBytes) return
    const range = `${length} bytes at ${offset} reach past the end at ${this.sizeBytes}`
    throw new StoreError(ErrorCode.OutOfRange, `volume ${this.name}: ${range}`)
  }

  #checkWritable(): void {
    if (!this.readOnly) return
    throw new StoreError(ErrorCode.ReadOnly, `volume ${this.name} is open read-only`)
  }

  /** Cuts a range at multiples of FILE_PIECE_BYTES and runs some pieces at a time. */
  async #inPieces(
    offset: number,
    length: number,
    move: (at: number, bytes: number) => Promise<void>
  ): Promise<void> {
    const end = offset + length
    let next = offset
    const run = async (): Promise<void> => {
      while (next < end) {
        const at = next
        const bytes = Math.min(end - at, FILE_PIECE_BYTES - (at % FILE_PIECE_BYTES))
        next += bytes
        try {
          await move(at, bytes)
        } catch (thrown) {
          next = end
          throw thrown
        }
      }
    }
    const runs = Array.from({ length: FILE_PIECES_IN_FLIGHT }, run)
    // All of them end before the first error is told: the caller's buffer is in use until then.
    const failed = (await Promise.allSettled(runs)).find(({ status }) => status === 'rejected')
    if (failed?.status === 'rejected') throw failed.reason
  }

  async #moveRead(offset: number, into: Uint8Array): Promise<void> {
    const pages = await this.#pages(offset, into.length)
    try {
      await this.#request(RequestKind.Read, offset, into.length, 0, pages)
      const from = pages + (offset % BLOCK_BYTES)
      into.set(this.#managed.arena.bytes.subarray(from, from + into.length))
    } finally {
      this.#managed.arena.release(pages)
    }
  }

  async #moveWrite(
    offset: number,
    data: Uint8Array,
    options: WriteOptions,
    beyondEnd = false
  ): Promise<void> {
    const pages = await this.#pages(offset, data.length)
    try {
      this.#managed.arena.bytes.set(data, pages + (offset % BLOCK_BYTES))
      const flags = options.durable === true ? RequestFlag.Fua : 0
      await this.#request(RequestKind.Write, offset, data.length, flags, pages, beyondEnd)
    } finally {
      this.#managed.arena.release(pages)
    }
  }

  /** Pages of the arena for a piece; waits until there are some. */
  async #pages(offset: number, length: number): Promise<number> {
    const { arena } = this.#managed
    const count = Math.ceil(((offset % BLOCK_BYTES) + length) / BLOCK_BYTES)
    for (;;) {
      const pages = arena.acquire(count)
      if (pages >= 0) return pages
      await new Promise<void>((wake) => arena.onFree(wake))
    }
  }

  async #request(
    kind: number,
    offset: number,
    length: number,
    flags: number,
    pages = -1,
    beyondEnd = false
  ): Promise<VolumeRequest> {
    const request = new VolumeRequest()
    request.kind = kind
    request.flags = flags
    request.offset = offset
    request.length = length
    request.pages = pages
    return this.#run(request, beyondEnd)
  }

  async #run(request: VolumeRequest, beyondEnd = false): Promise<VolumeRequest> {
    await this.#managed.run(this.#device, request, beyondEnd)
    if (request.error === 0) return request
    const { kind, offset, length } = request
    const doing = requestNames[kind] ?? 'request'
    const range = kind === RequestKind.Flush ? '' : ` of ${length} bytes at ${offset}`
    const text = `volume ${this.name}: ${doing}${range} failed: ${errorCodeName(request.error)}`
    throw new StoreError(request.error as ErrorCode, text)
  }
}

const requestNames: Record<number, string> = Object.fromEntries(
  Object.entries(RequestKind).map(([name, kind]) => [kind, name])
)
