/**
 * The file `drops` of a shard: chunks whose copy here was given back (PROTOCOL.md, R29). A record
 * of one that is older than the drop counts for nothing wherever it is found.
 */
import { GROUPS_MAX } from '../core/limits.ts'
import { getU64, isSafeU64, setU64 } from './fields.ts'
import { TableFormat, type TableOwner } from './table-file.ts'

/** Chunks from `from` up to and with `to` of a family, those of one group, in all its layers. */
export interface DropRun {
  readonly familyHigh: number
  readonly familyLow: number
  /** Groups among which the family's chunks are spread, and the one that was dropped. */
  readonly groups: number
  readonly group: number
  readonly from: number
  readonly to: number
  /** Every record that is dropped has a lower one, every other one has this or a higher one. */
  readonly lsn: number
}

export interface DropsFile extends TableOwner {
  readonly runs: readonly DropRun[]
}

// An entry, 40 bytes, big-endian:
//
//   offset  size  field
//        0     8  family
//        8     4  groups
//       12     4  group
//       16     4  from           chunk
//       20     4  to             chunk
//       24     8  lsn
//       32     8  reserved
const format = new TableFormat<DropRun>('TDRP', 40, putRun, getRun)

export const encodeDrops = (file: DropsFile): Buffer => format.encode(file, file.runs)

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeDrops(bytes: Buffer, name: string): DropsFile {
  const { entries, ...owner } = format.decode(bytes, name)
  return { ...owner, runs: entries }
}

function putRun(view: DataView, at: number, run: DropRun): void {
  view.setUint32(at, run.familyHigh)
  view.setUint32(at + 4, run.familyLow)
  view.setUint32(at + 8, run.groups)
  view.setUint32(at + 12, run.group)
  view.setUint32(at + 16, run.from)
  view.setUint32(at + 20, run.to)
  setU64(view, at + 24, run.lsn)
}

function getRun(view: DataView, at: number): DropRun | null {
  const run = {
    familyHigh: view.getUint32(at),
    familyLow: view.getUint32(at + 4),
    groups: view.getUint32(at + 8),
    group: view.getUint32(at + 12),
    from: view.getUint32(at + 16),
    to: view.getUint32(at + 20),
    lsn: getU64(view, at + 24)
  }
  const isGroup = run.groups >= 1 && run.groups <= GROUPS_MAX && run.group < run.groups
  return isGroup && run.from <= run.to && isSafeU64(view, at + 24) ? run : null
}
