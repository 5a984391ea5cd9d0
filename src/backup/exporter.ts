/** A volume, or a snapshot of one, as a stream. */
import type { Id64 } from '../core/id64.ts'
import { BLOCK_BYTES, FILE_PIECE_BYTES } from '../core/limits.ts'
import { changesOf } from '../volume/changes.ts'
import type { VolumeFile } from '../volume/volume-file.ts'
import {
  encodeEnd,
  encodeHeader,
  encodePart,
  partsOf,
  partsWithZeroes,
  type StreamData,
  type StreamPart,
  type StreamSnapshot,
  VolumeDigest,
  zeroParts
} from './stream-format.ts'

/** Asked for at a time: what is sparse is passed over in steps of this. */
const EXTENTS_BYTES = 1024 * FILE_PIECE_BYTES

export interface Exported {
  readonly snapshot: StreamSnapshot | null
  /** Layer of the base of an increment; null: all is wanted. */
  readonly base: Id64 | null
  /** Of an increment: all of such pieces in which anything changed. */
  readonly alignBytes?: number | undefined
  /** Blocks before this are not sent. */
  readonly startBytes: number
  /** Of all, or of what is sent: then nothing before the start is read. */
  readonly digestOf?: 'all' | 'rest' | undefined
}

/** The stream of `file`, which is closed at its end. */
export async function* exportVolume(
  file: VolumeFile,
  { snapshot, base, alignBytes = BLOCK_BYTES, startBytes, digestOf: of = 'all' }: Exported
): AsyncIterable<Buffer> {
  try {
    const digest = new VolumeDigest()
    yield encodeHeader({ sizeBytes: file.sizeBytes, startBytes, snapshot })
    const from = of === 'all' ? 0 : startBytes
    const parts = base === null ? partsOfAll(file, from) : partsSince(file, base, alignBytes, from)
    for await (const part of parts) {
      digest.addPart(part)
      const rest = restOf(part, startBytes)
      if (rest !== null) yield* encodePart(rest)
    }
    yield encodeEnd(digest.end())
  } finally {
    await file.close()
  }
}

/** What of it is not before `start`. */
function restOf(part: StreamPart, start: number): StreamPart | null {
  const { offset } = part
  if (offset >= start) return part
  const skip = start - offset
  if (part.kind === 'zeroes') {
    return part.length > skip ? { ...part, offset: start, length: part.length - skip } : null
  }
  if (part.blocks.length <= skip) return null
  const crcs = part.crcs.subarray(skip / BLOCK_BYTES)
  return { ...part, offset: start, crcs, blocks: part.blocks.subarray(skip) }
}

/** The digest of a volume, as it reads. `onProgress` is told how many bytes are done. */
export async function digestOf(
  file: VolumeFile,
  onProgress: (doneBytes: number) => void
): Promise<ReturnType<VolumeDigest['end']>> {
  const digest = new VolumeDigest()
  for await (const part of partsOfAll(file)) {
    digest.addPart(part)
    onProgress(part.offset + part.blocks.length)
  }
  return digest.end()
}

async function* partsOfAll(file: VolumeFile, from = 0): AsyncIterable<StreamData> {
  const { sizeBytes } = file
  for (let start = from; start < sizeBytes; start += EXTENTS_BYTES) {
    const extents = await file.extents(start, Math.min(EXTENTS_BYTES, sizeBytes - start))
    for (const { offset, length, kind } of extents) {
      if (kind !== 'data') continue
      for await (const piece of piecesOf(file, offset, length)) {
        yield* partsOf(piece.offset, piece.bytes)
      }
    }
  }
}

async function* partsSince(
  file: VolumeFile,
  base: Id64,
  alignBytes: number,
  from: number
): AsyncIterable<StreamPart> {
  let done = from
  // What changed before it may reach behind it, when all of its piece is wanted.
  const first = Math.floor(from / alignBytes) * alignBytes
  for await (const { offset, length } of changesOf(file, base, first)) {
    const start = Math.max(done, Math.floor(offset / alignBytes) * alignBytes)
    const end = Math.ceil((offset + length) / alignBytes) * alignBytes
    if (end <= start) continue
    done = end
    yield* partsWithin(file, start, Math.min(end, file.sizeBytes))
  }
}

/** All of a range, what reads as zeroes too. */
async function* partsWithin(
  file: VolumeFile,
  start: number,
  end: number
): AsyncIterable<StreamPart> {
  for (let at = start; at < end; at += EXTENTS_BYTES) {
    const extents = await file.extents(at, Math.min(EXTENTS_BYTES, end - at))
    for (const { offset, length, kind } of extents) {
      if (kind !== 'data') {
        yield* zeroParts(offset, Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES)
        continue
      }
      for await (const piece of piecesOf(file, offset, length)) {
        yield* partsWithZeroes(piece.offset, piece.bytes)
      }
    }
  }
}

/** As it reads now, of what an increment told: the same digest if it was stored. */
export async function digestOfParts(
  file: VolumeFile,
  extents: Iterable<{ readonly offset: number; readonly length: number }>,
  onProgress: (doneBytes: number) => void
): Promise<ReturnType<VolumeDigest['end']>> {
  const digest = new VolumeDigest()
  for (const { offset, length } of extents) {
    const inside = Math.min(length, file.sizeBytes - offset)
    for await (const part of partsWithin(file, offset, offset + inside)) digest.addPart(part)
    onProgress(offset + inside)
  }
  return digest.end()
}

/** Whole blocks: the last one is filled with zeroes. */
async function* piecesOf(
  file: VolumeFile,
  offset: number,
  length: number
): AsyncIterable<{ offset: number; bytes: Buffer }> {
  const end = offset + length
  for (let at = offset; at < end; at += FILE_PIECE_BYTES) {
    const bytes = await file.readAt(at, Math.min(FILE_PIECE_BYTES, end - at))
    const rest = bytes.length % BLOCK_BYTES
    yield {
      offset: at,
      bytes: rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(BLOCK_BYTES - rest)])
    }
  }
}
