/** Reads checkpoints: which one to start recovery from, and its pieces into an empty index. */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import {
  CHECKPOINT_HEADER_BYTES,
  type CheckpointHeader,
  decodeCheckpointHeader,
  decodePieceHeader,
  END_BODY_BYTES,
  isPieceWhole,
  PIECE_BODY_BYTES_MAX,
  PIECE_HEADER_BYTES,
  type Piece,
  PieceKind,
  pieceBytesOf,
  SEGMENT_ENTRY_BYTES
} from '../format/checkpoint.ts'
import { getU64, viewOf } from '../format/fields.ts'
import { checkpointName } from './checkpoint-writer.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { FileHandle, Files } from './files.ts'
import type { Segments } from './segments.ts'
import type { ShardConfig } from './shard-config.ts'

const BUFFER_BYTES = 2 * 1024 * 1024

/** A checkpoint that must not be used: recovery starts over without it. */
export class CheckpointBroken extends StoreError {
  readonly file: string
  constructor(file: string, why: string) {
    super(ErrorCode.Corrupt, `${file}: ${why}`)
    this.file = file
  }
}

export interface FoundCheckpoint {
  readonly name: string
  readonly header: CheckpointHeader
}

/** Checkpoints with a valid header, newest first; `bad` hears of the others. */
export function findCheckpoints(
  files: Files,
  config: ShardConfig,
  bad: (name: string, why: string) => void
): FoundCheckpoint[] {
  const found: FoundCheckpoint[] = []
  const names = files.list()
  for (const name of [checkpointName(0), checkpointName(1)]) {
    if (!names.includes(name)) continue
    const header = readHeader(files, name)
    if (header === null) {
      bad(name, 'its header does not verify')
      continue
    }
    const isOurs =
      header.clusterId === config.clusterId &&
      header.peerId === config.peerId &&
      header.shard === config.shard &&
      header.segmentBytes === config.segmentBytes
    if (isOurs) found.push({ name, header })
    else bad(name, 'it belongs to another shard')
  }
  return found.sort((a, b) => b.header.generation - a.header.generation)
}

function readHeader(files: Files, name: string): CheckpointHeader | null {
  try {
    const handle = files.open(name, 'readOnly')
    try {
      const bytes = Buffer.alloc(CHECKPOINT_HEADER_BYTES)
      const got = files.read(handle, 0, bytes, 0, bytes.length)
      return decodeCheckpointHeader(bytes.subarray(0, got))
    } finally {
      files.close(handle)
    }
  } catch (thrown) {
    storeErrorOf(thrown)
    return null
  }
}

/** Salt of each slot in use when the checkpoint began, as [high, low]. */
export type SlotSalts = Map<number, readonly [number, number]>

export interface LoadedCheckpoint {
  readonly salts: SlotSalts
  readonly durableLsn: number
}

/**
 * Takes all pieces into `index`.
 * @throws CheckpointBroken when a piece does not verify or the end is missing; the index is
 *   useless then
 */
export function loadCheckpoint(
  files: Files,
  found: FoundCheckpoint,
  index: ExtentIndex
): LoadedCheckpoint {
  const handle = files.open(found.name, 'readOnly')
  const salts: SlotSalts = new Map()
  try {
    const pieces = new PieceReader(files, handle, found)
    for (;;) {
      const piece = pieces.next()
      const start = pieces.bodyAt
      if (piece.kind === PieceKind.Index) {
        takeIndexPiece(index, pieces.buffer.subarray(start, start + piece.bodyBytes), found.name)
      } else if (piece.kind === PieceKind.Segments) {
        addSalts(pieces.view, start, piece.bodyBytes, salts)
      } else if (piece.kind === PieceKind.End && piece.bodyBytes === END_BODY_BYTES) {
        return { salts, durableLsn: getU64(pieces.view, start) }
      } else {
        throw new CheckpointBroken(found.name, `piece of kind ${piece.kind}`)
      }
    }
  } catch (thrown) {
    const error = storeErrorOf(thrown)
    if (error instanceof CheckpointBroken) throw error
    throw new CheckpointBroken(found.name, error.message)
  } finally {
    files.close(handle)
  }
}

function takeIndexPiece(index: ExtentIndex, body: Buffer, name: string): void {
  try {
    index.load(body, body.length)
  } catch (thrown) {
    throw new CheckpointBroken(name, storeErrorOf(thrown).message)
  }
}

function addSalts(view: DataView, start: number, bytes: number, salts: SlotSalts): void {
  for (let at = start; at + SEGMENT_ENTRY_BYTES <= start + bytes; at += SEGMENT_ENTRY_BYTES) {
    salts.set(view.getUint32(at), [view.getUint32(at + 8), view.getUint32(at + 12)])
  }
}

class PieceReader {
  readonly buffer = Buffer.from(new ArrayBuffer(BUFFER_BYTES))
  readonly view = viewOf(this.buffer)
  /** Where the body of the present piece stands in `buffer`. */
  bodyAt = 0
  private readonly files: Files
  private readonly handle: FileHandle
  private readonly found: FoundCheckpoint
  private offset = CHECKPOINT_HEADER_BYTES
  private at = 0
  private end = 0
  private number = 0

  constructor(files: Files, handle: FileHandle, found: FoundCheckpoint) {
    this.files = files
    this.handle = handle
    this.found = found
  }

  next(): Piece {
    this.fill(PIECE_HEADER_BYTES)
    const piece = decodePieceHeader(this.view, this.at)
    if (piece === null) throw this.broken('is no piece')
    const bytes = pieceBytesOf(piece.bodyBytes)
    this.fill(bytes)
    const expected =
      piece.number === this.number && piece.generation === this.found.header.generation
    if (!expected || !isPieceWhole(this.buffer, this.view, this.at, piece)) {
      throw this.broken('does not verify')
    }
    this.bodyAt = this.at + PIECE_HEADER_BYTES
    this.at += bytes
    this.number++
    return piece
  }

  /** Makes sure that `bytes` from `at` on are in the buffer. */
  private fill(bytes: number): void {
    if (this.at + bytes <= this.end) return
    this.buffer.copy(this.buffer, 0, this.at, this.end)
    this.end -= this.at
    this.at = 0
    const room = this.buffer.length - this.end
    const got = this.files.read(this.handle, this.offset, this.buffer, this.end, room)
    this.offset += got
    this.end += got
    if (bytes > this.end) throw this.broken('is cut off')
  }

  private broken(what: string): CheckpointBroken {
    return new CheckpointBroken(this.found.name, `piece ${this.number} ${what}`)
  }
}

/**
 * Entries whose segment is not any more the one that the checkpoint means are set to stand in the
 * lost slot. Their blocks have newer records, which the replay brings; what is still lost after it
 * is damage, and reads of it must fail rather than answer with other bytes.
 */
export function setGoneAside(
  index: ExtentIndex,
  segments: Segments,
  salts: SlotSalts
): ReadonlySet<number> {
  const isGone = new Uint8Array(segments.lostSlot + 1).fill(1)
  for (const [slot, [saltHigh, saltLow]] of salts) {
    const now = segments.get(slot)
    if (now !== null && now.saltHigh === saltHigh && now.saltLow === saltLow) isGone[slot] = 0
  }
  const gone = new Set<number>()
  index.relocate((location) => {
    const slot = location >>> segments.pageShift
    if (isGone[slot] === 0) return location
    gone.add(slot)
    return segments.locationOf(segments.lostSlot, segments.pageOf(location))
  })
  return gone
}

assert(pieceBytesOf(PIECE_BODY_BYTES_MAX) <= BUFFER_BYTES, 'a whole piece fits the buffer')
