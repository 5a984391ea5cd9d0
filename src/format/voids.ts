/**
 * The file `voids` of a shard: versions of blocks that never were. A record of one counts for
 * nothing wherever it is found.
 */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { getU64, isSafeU64, setU64 } from './fields.ts'
import { TableFormat, type TableOwner } from './table-file.ts'

/** Versions above the floor, up to and with (writerEpoch, sequence), of blocks of a chunk. */
export interface VoidRun {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
  readonly chunk: number
  readonly firstBlock: number
  readonly blockCount: number
  readonly writerEpoch: number
  readonly sequence: number
  readonly floorEpoch: number
  readonly floorSequence: number
  /** Every record of such a version has a lower one. */
  readonly lsn: number
}

export interface VoidsFile extends TableOwner {
  readonly runs: readonly VoidRun[]
}

// An entry, 64 bytes, big-endian:
//
//   offset  size  field
//        0     8  family
//        8     8  layer
//       16     4  chunk
//       20     2  firstBlock
//       22     2  blockCount
//       24     4  writerEpoch
//       28     4  floorEpoch
//       32     8  sequence
//       40     8  floorSequence
//       48     8  lsn
//       56     8  reserved
const format = new TableFormat<VoidRun>('TVOI', 64, putRun, getRun)

export const encodeVoids = (file: VoidsFile): Buffer => format.encode(file, file.runs)

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeVoids(bytes: Buffer, name: string): VoidsFile {
  const { entries, ...owner } = format.decode(bytes, name)
  return { ...owner, runs: entries }
}

function putRun(view: DataView, at: number, run: VoidRun): void {
  view.setUint32(at, run.familyHigh)
  view.setUint32(at + 4, run.familyLow)
  view.setUint32(at + 8, run.layerHigh)
  view.setUint32(at + 12, run.layerLow)
  view.setUint32(at + 16, run.chunk)
  view.setUint16(at + 20, run.firstBlock)
  view.setUint16(at + 22, run.blockCount)
  view.setUint32(at + 24, run.writerEpoch)
  view.setUint32(at + 28, run.floorEpoch)
  setU64(view, at + 32, run.sequence)
  setU64(view, at + 40, run.floorSequence)
  setU64(view, at + 48, run.lsn)
}

function getRun(view: DataView, at: number): VoidRun | null {
  const run = {
    familyHigh: view.getUint32(at),
    familyLow: view.getUint32(at + 4),
    layerHigh: view.getUint32(at + 8),
    layerLow: view.getUint32(at + 12),
    chunk: view.getUint32(at + 16),
    firstBlock: view.getUint16(at + 20),
    blockCount: view.getUint16(at + 22),
    writerEpoch: view.getUint32(at + 24),
    floorEpoch: view.getUint32(at + 28),
    sequence: getU64(view, at + 32),
    floorSequence: getU64(view, at + 40),
    lsn: getU64(view, at + 48)
  }
  const isNumber = isSafeU64(view, at + 32) && isSafeU64(view, at + 40) && isSafeU64(view, at + 48)
  const isRange = run.blockCount >= 1 && run.firstBlock + run.blockCount <= CHUNK_BLOCKS
  return isNumber && isRange ? run : null
}
