/** What imports and increments have in common: pieces that come one after the other. */
import type { ErrorCode as Code } from '../core/errors.ts'
import { ErrorCode, errorCodeName, StoreError, storeErrorOf } from '../core/errors.ts'
import type { VolumeFile } from '../volume/volume-file.ts'

/** Nothing came for so long: the volume is let go until more comes. */
export const IDLE_MS = 60_000
/** So often what came is made durable, and noted: a peer that is killed goes on from there. */
const MARK_MS = 5_000
const MARK_BYTES = 256 * 1024 * 1024

export interface TransferState {
  readonly id: string
  readonly name: string
  readonly sizeBytes: number
  readonly state: 'receiving' | 'verifying' | 'done' | 'failed'
  /** All before it was received. */
  readonly doneBytes: number
  /** All before it was read back. */
  readonly verifiedBytes: number
  /** Why it failed. */
  readonly error: { readonly code: string; readonly message: string } | null
  /** What kind of volume; null where it makes none. */
  readonly makes: {
    readonly pool: string
    readonly encryption: 'xchacha20-poly1305' | null
    readonly access: {
      readonly addresses: string[]
      readonly tlsNames: string[]
      readonly readOnly: boolean
      readonly listSnapshots: boolean
    }
  } | null
}

/** One of them while this process lives. */
export class Transfer {
  state: TransferState['state'] = 'receiving'
  doneBytes = 0
  verifiedBytes = 0
  error: TransferState['error'] = null
  #file: VolumeFile | null = null
  #markedMs = performance.now()
  #markedBytes = 0
  #timer: NodeJS.Timeout | undefined
  /** The piece that is being written, or the verification. */
  #busy = false

  readonly #markMs: number

  constructor(doneBytes = 0, markMs = MARK_MS) {
    this.#markMs = markMs
    this.doneBytes = doneBytes
    this.#markedBytes = doneBytes
  }

  /** Is it time to note how far it is? */
  get isMarkDue(): boolean {
    const bytes = this.doneBytes - this.#markedBytes
    return bytes > 0 && (bytes >= MARK_BYTES || performance.now() - this.#markedMs >= this.#markMs)
  }

  marked(): void {
    this.#markedBytes = this.doneBytes
    this.#markedMs = performance.now()
  }

  /** One thing at a time. @throws StoreError Busy */
  async alone(work: () => Promise<void>): Promise<void> {
    if (this.#busy) {
      throw new StoreError(ErrorCode.Busy, 'the import is busy with what came before')
    }
    this.#busy = true
    clearTimeout(this.#timer)
    try {
      await work()
    } finally {
      this.#busy = false
      this.#timer = setTimeout(() => {
        this.alone(() => this.close()).catch((thrown) => this.failed(thrown))
      }, IDLE_MS).unref()
      if (this.#file === null) clearTimeout(this.#timer)
    }
  }

  /** Receives a piece that goes on from `startBytes`. @throws StoreError InvalidArgument */
  receive(
    piece: { sizeBytes: number; startBytes: number; untilBytes: number },
    sizeBytes: number
  ): void {
    this.state = 'receiving'
    this.error = null
    const { startBytes, untilBytes } = piece
    const isNext = startBytes <= this.doneBytes && untilBytes <= sizeBytes
    if (isNext && piece.sizeBytes === sizeBytes) return
    const what = `a piece from ${startBytes} to ${untilBytes} of ${piece.sizeBytes} bytes`
    const text = `${what} does not go on at ${this.doneBytes} of ${sizeBytes}`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }

  /** Has all come? @throws StoreError InvalidArgument */
  requireWhole(sizeBytes: number): void {
    if (this.doneBytes >= sizeBytes) return
    const text = `${this.doneBytes} of ${sizeBytes} bytes are here: more has to come`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }

  failed(thrown: unknown): void {
    const { code, message } = storeErrorOf(thrown)
    this.state = 'failed'
    this.error = { code: errorCodeName(code as Code), message }
  }

  async file(open: () => Promise<VolumeFile>): Promise<VolumeFile> {
    this.#file ??= await open()
    return this.#file
  }

  /** Makes durable what came. Where that fails, it comes again from what was noted as durable. */
  async flush(file: VolumeFile): Promise<void> {
    try {
      await file.flush()
    } catch (thrown) {
      this.setBack()
      throw thrown
    }
  }

  protected setBack(): void {
    this.doneBytes = this.#markedBytes
  }

  /** `isKept`: what came is made durable. */
  async close(isKept = true): Promise<void> {
    const file = this.#file
    this.#file = null
    if (file === null) return
    try {
      if (isKept) await this.flush(file)
    } finally {
      await file.close()
    }
  }
}

export async function* only(bytes: Buffer): AsyncIterable<Buffer> {
  yield bytes
}

export const transferState = (
  { id, name, sizeBytes }: { id: string; name: string; sizeBytes: number },
  { state, doneBytes, verifiedBytes, error }: Transfer
): TransferState => ({
  ...{ id, name, sizeBytes, state, doneBytes, verifiedBytes, error },
  makes: null
})
