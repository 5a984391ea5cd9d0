/** Bytes of a running peer's volumes, beside a model. */
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import type { RunningPeer } from '../../src/index.ts'
import type { VolumeFile } from '../../src/volume/volume-file.ts'
import type { SeededRandom } from './manual-clock.ts'

/** Of data, in all layers of all volumes. */
export async function usedBytes({ adminAddresses }: RunningPeer): Promise<number> {
  const url = `${adminAddresses.find((address) => address.startsWith('http'))}/v1/volumes`
  const { volumes } = (await (await fetch(url)).json()) as { volumes: { usedBytes: number }[] }
  return volumes.reduce((sum, volume) => sum + volume.usedBytes, 0)
}

export async function readAll(peer: RunningPeer, name: string): Promise<Buffer> {
  const file = await peer.volumes.openFile(name)
  try {
    return await file.readAt(0, file.sizeBytes)
  } finally {
    await file.close()
  }
}

export async function changeAtRandom(
  file: VolumeFile,
  model: Buffer,
  random: SeededRandom
): Promise<void> {
  const length = 1 + random.below(random.below(4) === 0 ? 300_000 : 9000)
  const offset = random.below(model.length - length)
  const end = offset + length
  const what = random.below(4)
  if (what === 0) {
    await file.zero(offset, length)
    model.fill(0, offset, end)
  } else if (what === 1) {
    await file.trim(offset, length)
    // Of blocks at the edges a trim leaves the bytes.
    const first = Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES
    model.fill(0, first, Math.max(first, Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES))
  } else {
    const value = 1 + random.below(255)
    await file.writeAt(offset, Buffer.alloc(length, value))
    model.fill(value, offset, end)
  }
}
