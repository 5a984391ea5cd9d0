/** A volume, or a snapshot of one, as a stream. */
import { BLOCK_BYTES, FILE_PIECE_BYTES } from '../core/limits.ts'
import type { VolumeFile } from '../volume/volume-file.ts'
import { encodeData, encodeEnd, encodeHeader, partsOf, VolumeDigest } from './stream-format.ts'

/** Asked for at a time: what is sparse is passed over in steps of this. */
const EXTENTS_BYTES = 1024 * FILE_PIECE_BYTES

/**
 * The stream of `file`, which is closed at its end. Blocks before `startBytes` are read for the
 * digest and not sent.
 */
export async function* exportVolume(file: VolumeFile, startBytes: number): AsyncIterable<Buffer> {
  try {
    const { sizeBytes } = file
    const digest = new VolumeDigest()
    yield encodeHeader({ sizeBytes, startBytes })
    for await (const { offset, bytes } of dataOf(file, sizeBytes)) {
      for (const { offset: at, crcs, blocks } of partsOf(offset, bytes)) {
        digest.add(at, crcs)
        const end = at + blocks.length
        if (end <= startBytes) continue
        const skip = Math.max(0, startBytes - at) / BLOCK_BYTES
        yield encodeData({ offset: at + skip * BLOCK_BYTES, crcs: crcs.subarray(skip) })
        yield blocks.subarray(skip * BLOCK_BYTES)
      }
    }
    yield encodeEnd(digest.end())
  } finally {
    await file.close()
  }
}

/** The digest of a volume, as it reads. `onProgress` is told how many bytes are done. */
export async function digestOf(
  file: VolumeFile,
  onProgress: (doneBytes: number) => void
): Promise<ReturnType<VolumeDigest['end']>> {
  const digest = new VolumeDigest()
  for await (const { offset, bytes } of dataOf(file, file.sizeBytes)) {
    for (const part of partsOf(offset, bytes)) digest.add(part.offset, part.crcs)
    onProgress(offset + bytes.length)
  }
  return digest.end()
}

/** Its pieces that hold data, in order, as whole blocks: the last one is filled with zeroes. */
async function* dataOf(
  file: VolumeFile,
  sizeBytes: number
): AsyncIterable<{ offset: number; bytes: Buffer }> {
  for (let start = 0; start < sizeBytes; start += EXTENTS_BYTES) {
    const extents = await file.extents(start, Math.min(EXTENTS_BYTES, sizeBytes - start))
    for (const { offset, length, kind } of extents) {
      if (kind !== 'data') continue
      const end = offset + length
      for (let at = offset; at < end; at += FILE_PIECE_BYTES) {
        const bytes = await file.readAt(at, Math.min(FILE_PIECE_BYTES, end - at))
        yield { offset: at, bytes: wholeBlocks(bytes) }
      }
    }
  }
}

/** With zeroes behind the last bytes, if they are no whole block. */
function wholeBlocks(bytes: Buffer): Buffer {
  const rest = bytes.length % BLOCK_BYTES
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(BLOCK_BYTES - rest)])
}
