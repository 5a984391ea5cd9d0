/**
 * The file `merges` of a shard: layers that nobody reads any more but through the highest of them,
 * because snapshots were deleted (src/shard/LAYERS.md).
 */
import { layerNumber } from '../core/layer-ids.ts'
import { TableFormat, type TableOwner } from './table-file.ts'

/** Layers of one branch, from `lowest` up to and with `highest`: lower halves of their ids. */
export interface MergeRun {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly lowest: number
  readonly highest: number
}

export interface MergesFile extends TableOwner {
  readonly runs: readonly MergeRun[]
}

// An entry, 24 bytes, big-endian:
//
//   offset  size  field
//        0     8  family
//        8     4  branch         upper half of the layers' ids
//       12     4  lowest
//       16     4  highest
//       20     4  reserved
const format = new TableFormat<MergeRun>('TMRG', 24, putRun, getRun)

export const encodeMerges = (file: MergesFile): Buffer => format.encode(file, file.runs)

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeMerges(bytes: Buffer, name: string): MergesFile {
  const { entries, ...owner } = format.decode(bytes, name)
  return { ...owner, runs: entries }
}

function putRun(view: DataView, at: number, run: MergeRun): void {
  view.setUint32(at, run.familyHigh)
  view.setUint32(at + 4, run.familyLow)
  view.setUint32(at + 8, run.layerHigh)
  view.setUint32(at + 12, run.lowest)
  view.setUint32(at + 16, run.highest)
}

function getRun(view: DataView, at: number): MergeRun | null {
  const run = {
    familyHigh: view.getUint32(at),
    familyLow: view.getUint32(at + 4),
    layerHigh: view.getUint32(at + 8),
    lowest: view.getUint32(at + 12),
    highest: view.getUint32(at + 16)
  }
  const isRun = layerNumber(run.lowest) < layerNumber(run.highest)
  return isRun && view.getUint32(at + 20) === 0 ? run : null
}
