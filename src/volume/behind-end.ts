import { type ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { BlockVolume } from './block-volume.ts'
import { OpenVolume } from './open-volume.ts'
import { RequestFlag, RequestKind, VolumeRequest } from './request.ts'

type Run = (device: OpenVolume, request: VolumeRequest) => Promise<void>

/** Bytes from the volume's end up to `touchedBytes` read as zeroes from now on, durably. */
export async function clearBehindEnd(
  volume: BlockVolume,
  touchedBytes: number,
  run: Run
): Promise<void> {
  const { sizeBytes } = volume
  const blockEnd = Math.min(Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES, touchedBytes)
  const trimEnd = Math.ceil(touchedBytes / BLOCK_BYTES) * BLOCK_BYTES
  const clear = async (kind: number, start: number, end: number): Promise<void> => {
    if (end <= start) return
    const device = new OpenVolume(volume, { readOnly: false, onClosed: () => {} })
    const request = new VolumeRequest()
    request.kind = kind
    request.flags = RequestFlag.Fua
    request.offset = start
    request.length = end - start
    await run(device, request)
    if (request.error === 0) return
    const reason = errorCodeName(request.error)
    const what = `volume ${volume.name} has ${sizeBytes} bytes now, and what was behind them`
    const text = `${what} is not freed yet (${reason}): resize it to that once more`
    throw new StoreError(request.error as ErrorCode, text)
  }
  await clear(RequestKind.WriteZeroes, sizeBytes, blockEnd)
  await clear(RequestKind.Trim, blockEnd, trimEnd)
}
