import { checkVolumeSize } from '../cluster/names.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { APPEND_RESERVE_BYTES, VOLUME_BYTES_MAX } from '../core/limits.ts'
import { clearBehindEnd } from './behind-end.ts'
import type { ManagedVolume } from './managed-volume.ts'

/**
 * Where an open volume ends: appends and resizes move it, the record follows, and what lies behind
 * never shows again. Methods that say *alone* are called under the volume's lock.
 *
 *   record.sizeBytes <= volume.sizeBytes (what clients see) <= record.touchedBytes
 */
export class VolumeEnd {
  readonly #managed: ManagedVolume
  readonly #unitBytes: number

  /** Sizes are multiples of `unitBytes`. */
  constructor(managed: ManagedVolume, unitBytes: number) {
    this.#managed = managed
    this.#unitBytes = unitBytes
  }

  resize(sizeBytes: number, shrink: boolean): Promise<void> {
    return this.#managed.exclusively(() => this.resizeAlone(sizeBytes, shrink))
  }

  /**
   * A shrink takes effect at once for clients; it resolves when what was behind the new end is
   * gone durably. Where that fails, the same call again goes on with it.
   * @throws StoreError InvalidArgument
   */
  async resizeAlone(sizeBytes: number, shrink: boolean): Promise<void> {
    const { volume, record } = this.#managed
    this.#managed.checkThere()
    checkVolumeSize(sizeBytes, this.#unitBytes)
    const current = volume.sizeBytes
    const isLeft = sizeBytes === current && record.touchedBytes > current
    const smaller = sizeBytes < current
    if (smaller && record.readOnly) {
      const text = `volume ${volume.name} is read-only: a shrink would lose its end`
      throw new StoreError(ErrorCode.ReadOnly, text)
    }
    if (smaller && !shrink) {
      const loss = `shrinking it to ${sizeBytes} loses its end`
      const text = `volume ${volume.name} has ${current} bytes: ${loss}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    if (smaller || record.touchedBytes > current) {
      await this.#managed.ensureWriter()
      if (sizeBytes > current) await this.trimLeftovers()
    }
    await this.#managed.update(({ touchedBytes }) => ({
      sizeBytes,
      touchedBytes: Math.max(touchedBytes, sizeBytes)
    }))
    volume.sizeBytes = sizeBytes
    // Changes that were let in under the old size have their versions, or hold their ranges: the
    // trim comes behind them all.
    if (smaller || isLeft) await this.trimLeftovers()
  }

  /** Runs `write` for `length` bytes at the end, and moves the end when they are written. */
  append(length: number, write: (offset: number) => Promise<void>): Promise<number> {
    const managed = this.#managed
    const { volume } = managed
    return managed.exclusively(async () => {
      managed.checkThere()
      const offset = volume.sizeBytes
      const end = offset + length
      if (length % this.#unitBytes !== 0) {
        const text = `volume ${volume.name} grows by multiples of ${this.#unitBytes} bytes`
        throw new StoreError(ErrorCode.InvalidArgument, text)
      }
      if (end > VOLUME_BYTES_MAX) {
        const text = `volume ${volume.name} ends at the limit of ${VOLUME_BYTES_MAX} bytes`
        throw new StoreError(ErrorCode.LimitReached, text)
      }
      if (length === 0) return offset
      if (end > managed.record.touchedBytes) {
        const touchedBytes = Math.min(end + APPEND_RESERVE_BYTES, VOLUME_BYTES_MAX)
        await managed.update(() => ({ touchedBytes }))
      }
      await write(offset)
      volume.sizeBytes = end
      return offset
    })
  }

  /** The bytes before `sizeBytes` are durable: so may the size be. */
  record(sizeBytes: number): Promise<void> {
    const managed = this.#managed
    if (managed.record.sizeBytes >= sizeBytes) return Promise.resolve()
    return managed.exclusively(async () => {
      const now = Math.min(sizeBytes, managed.volume.sizeBytes)
      if (managed.isGone || managed.record.sizeBytes >= now) return
      await managed.update(() => ({ sizeBytes: now }))
    })
  }

  /** Makes appends durable that no flush followed. */
  recordAtClose(): Promise<void> {
    return this.#managed.exclusively(() => this.recordAtCloseAlone())
  }

  /** The same, alone. */
  async recordAtCloseAlone(): Promise<void> {
    const managed = this.#managed
    const { sizeBytes } = managed.volume
    if (managed.isGone || managed.record.sizeBytes >= sizeBytes) return
    await managed.flush('at close', true)
    await managed.update(() => ({ sizeBytes }))
  }

  /** Alone. What lies behind goes durably, so that it never shows when the volume grows again. */
  async trimLeftovers(): Promise<void> {
    const managed = this.#managed
    const { sizeBytes } = managed.volume
    const { touchedBytes } = managed.record
    if (touchedBytes <= sizeBytes) return
    await clearBehindEnd(managed.volume, touchedBytes, (device, request) =>
      managed.run(device, request, true)
    )
    await managed.update(() => ({ touchedBytes: sizeBytes }))
  }
}
