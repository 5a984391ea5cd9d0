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

/** Read at a time: enough to keep shards at work with single blocks. */
const AHEAD_PIECES = 64
const AHEAD_BYTES = 4 * FILE_PIECE_BYTES
/** Sent at a time, about. */
const BATCH_BYTES = 64 * 1024

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
export async function* exportVolume(file: VolumeFile, what: Exported): AsyncIterable<Buffer> {
  try {
    yield* inBatches(streamOf(file, what))
  } finally {
    await file.close()
  }
}

async function* streamOf(
  file: VolumeFile,
  { snapshot, base, alignBytes = BLOCK_BYTES, startBytes, digestOf: of = 'all' }: Exported
): AsyncIterable<Buffer> {
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
  for await (const { offset, bytes } of readAhead(file, from, file.sizeBytes)) {
    if (bytes !== null) yield* partsOf(offset, bytes)
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
  for await (const { offset, length, bytes } of readAhead(file, start, end)) {
    if (bytes !== null) yield* partsWithZeroes(offset, bytes)
    else yield* zeroParts(offset, Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES)
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

/** What a range reads as, in order. Without bytes: zeroes. */
interface Piece {
  readonly offset: number
  readonly length: number
  /** Whole blocks: the last one is filled with zeroes. */
  readonly bytes: Buffer | null
}

/** Some pieces are read while others are sent. */
async function* readAhead(file: VolumeFile, start: number, end: number): AsyncIterable<Piece> {
  const reads: Promise<Piece>[] = []
  let bytes = 0
  const oldest = async (): Promise<Piece> => {
    const piece = await reads.shift()!
    bytes -= piece.bytes?.length ?? 0
    return piece
  }
  try {
    for await (const { offset, length, kind } of file.walkExtents(start, end - start)) {
      if (kind !== 'data') {
        reads.push(Promise.resolve({ offset, length, bytes: null }))
        continue
      }
      for (let at = offset; at < offset + length; at += FILE_PIECE_BYTES) {
        while (reads.length >= AHEAD_PIECES || bytes >= AHEAD_BYTES) yield await oldest()
        const size = Math.min(FILE_PIECE_BYTES, offset + length - at)
        bytes += Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES
        reads.push(readPiece(file, at, size))
      }
    }
    while (reads.length > 0) yield await oldest()
  } finally {
    await Promise.allSettled(reads)
  }
}

async function readPiece(file: VolumeFile, offset: number, length: number): Promise<Piece> {
  const bytes = await file.readAt(offset, length)
  const rest = length % BLOCK_BYTES
  if (rest === 0) return { offset, length, bytes }
  return { offset, length, bytes: Buffer.concat([bytes, Buffer.alloc(BLOCK_BYTES - rest)]) }
}

/** Joins what is small: each buffer that is sent costs as much as some KiB. */
async function* inBatches(buffers: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
  let small: Buffer[] = []
  let bytes = 0
  for await (const buffer of buffers) {
    small.push(buffer)
    bytes += buffer.length
    if (bytes < BATCH_BYTES) continue
    if (buffer.length < BATCH_BYTES) yield Buffer.concat(small)
    else yield* small
    small = []
    bytes = 0
  }
  yield* small
}
