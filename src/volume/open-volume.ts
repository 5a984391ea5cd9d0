import { ErrorCode } from '../core/errors.ts'
import { plural } from '../core/units.ts'
import type { BlockDevice, DeviceAdmission } from './block-device.ts'
import type { BlockVolume } from './block-volume.ts'
import type { Flushes } from './flushes.ts'
import { RequestFlag, RequestKind, type VolumeRequest } from './request.ts'

/** The end of every request: `error` and answers are set. */
export function complete(request: VolumeRequest): void {
  ;(request.device as OpenVolume).complete(request)
}

/**
 * One count of `pending` is given back. The last one ends the request: at once, or with the next
 * flush when it has to be durable first.
 */
export function requestOpEnded(request: VolumeRequest, flushes: Flushes): void {
  if (--request.pending > 0) return
  const durable = (request.flags & RequestFlag.Fua) !== 0 && request.kind !== RequestKind.Read
  if (durable && request.error === 0) flushes.add(request)
  else complete(request)
}

/** One open of a volume. */
export class OpenVolume implements BlockDevice {
  readonly readOnly: boolean
  /** The store's own work: it goes on when the volume becomes read-only. */
  readonly isOwn: boolean
  /** It goes on by itself after it lost the volume. */
  readonly isBackground: boolean
  /** Another gateway goes on with it, and gets the volume for the asking. */
  readonly yields: boolean
  /** Of a snapshot: its layer; null of a volume. */
  readonly snapshotLayer: string | null
  readonly volume: BlockVolume
  /** Of a client that would write again; null: of one that would not. */
  session: string | null = null
  /** Has to be done before anything is changed; calls `go` once, with an error or 0. */
  beforeChange: ((go: (error: number) => void) => void) | null = null
  #waiting: VolumeRequest[] = []
  readonly #onClosed: () => void
  readonly #nameOf: () => string
  #inFlight = 0
  #closed = false
  /** The volume became read-only while this was open for writing. */
  #frozen = false
  #drained: (() => void) | null = null
  #closing: Promise<void> | null = null

  constructor(
    volume: BlockVolume,
    options: {
      readonly readOnly: boolean
      readonly isOwn?: boolean
      readonly isBackground?: boolean
      readonly yields?: boolean
      readonly snapshotLayer?: string
      /** It may be renamed while it is open. */
      readonly nameOf?: () => string
      onClosed: () => void
    }
  ) {
    this.volume = volume
    this.readOnly = options.readOnly
    this.isOwn = options.isOwn ?? false
    this.isBackground = options.isBackground ?? false
    this.yields = options.yields ?? false
    this.snapshotLayer = options.snapshotLayer ?? null
    this.#onClosed = options.onClosed
    this.#nameOf = options.nameOf ?? (() => volume.name)
  }

  get name(): string {
    return this.#nameOf()
  }

  get admission(): DeviceAdmission {
    return this.volume.admission
  }

  get sizeBytes(): number {
    return this.volume.sizeBytes
  }

  submit(request: VolumeRequest): void {
    request.device = this
    this.#inFlight++
    const refused = this.#closed ? ErrorCode.Closed : this.#refusal(request)
    if (refused === 0 && this.beforeChange !== null && isChange(request)) this.#wait(request)
    else this.volume.submit(request, refused, false)
  }

  #wait(request: VolumeRequest): void {
    if (this.#waiting.push(request) > 1) return
    const { beforeChange } = this
    beforeChange!((error) => {
      if (error === 0 && this.beforeChange === beforeChange) this.beforeChange = null
      const waiting = this.#waiting
      this.#waiting = []
      for (const each of waiting) {
        this.volume.submit(each, this.#closed ? ErrorCode.Closed : error, false)
      }
    })
  }

  readNow(offset: number, length: number, into: Buffer, start: number): number {
    return this.#closed ? -1 : this.volume.readNow(offset, length, into, start)
  }

  /** As `submit`, for a range that may lie behind the end: the volume's own clearing up. */
  submitBeyondEnd(request: VolumeRequest): void {
    request.device = this
    this.#inFlight++
    this.volume.submit(request, 0, true)
  }

  /** The volume is done with `request`. */
  complete(request: VolumeRequest): void {
    this.#inFlight--
    this.volume.count(request)
    request.onDone(request)
    if (this.#drained !== null && this.#inFlight === 0) this.#drained()
  }

  /** Refuses changes from now on; those in flight go on. */
  freeze(): void {
    this.#frozen = !this.isOwn
  }

  /** Refuses all that comes from now on; requests in flight go on. */
  shut(): void {
    this.#closed = true
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.shut()
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve
      })
      this.#drained = null
    }
    this.#onClosed()
  }

  #refusal(request: VolumeRequest): number {
    return isChange(request) && (this.readOnly || this.#frozen) ? ErrorCode.ReadOnly : 0
  }
}

const isChange = ({ kind }: VolumeRequest): boolean =>
  kind === RequestKind.Write || kind === RequestKind.Trim || kind === RequestKind.WriteZeroes

/** `2 clients and 1 transfer` (an export or import); empty: nobody but what goes on by itself. */
export function usersOf(opens: Iterable<OpenVolume>): string {
  const users = [...opens].filter(({ isBackground }) => !isBackground)
  const clients = users.filter(({ isOwn }) => !isOwn).length
  const others = users.length - clients
  return [
    ...(clients > 0 ? [plural(clients, 'client')] : []),
    ...(others > 0 ? [plural(others, 'transfer')] : [])
  ].join(' and ')
}
