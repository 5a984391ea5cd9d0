/** The file `fences` of a peer: the highest epochs that it promised to hold. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { TableFormat, type TableOwner } from './table-file.ts'

/** Of a family its writerEpoch; of a group (pool, group) its epoch. */
export interface FenceEntry {
  readonly kind: FenceKind
  readonly high: number
  readonly low: number
  readonly epoch: number
}
export const FenceKind = { Family: 1, Group: 2 } as const
export type FenceKind = (typeof FenceKind)[keyof typeof FenceKind]

export interface FencesFile extends Omit<TableOwner, 'shard'> {
  readonly entries: readonly FenceEntry[]
}

// An entry, 16 bytes, big-endian:
//
//   offset  size  field
//        0     4  kind           1 family, 2 group
//        4     4  high           of the family's id; the pool
//        8     4  low            of the family's id; the group
//       12     4  epoch
const format = new TableFormat<FenceEntry>('TFEN', 16, putEntry, getEntry)

export const encodeFences = ({ entries, ...owner }: FencesFile): Buffer =>
  format.encode({ ...owner, shard: 0 }, entries)

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeFences(bytes: Buffer, name: string): FencesFile {
  const { shard, ...file } = format.decode(bytes, name)
  if (shard === 0) return file
  throw new StoreError(ErrorCode.Corrupt, `${name} is of shard ${shard}, not of the whole peer`)
}

function putEntry(view: DataView, at: number, { kind, high, low, epoch }: FenceEntry): void {
  view.setUint32(at, kind)
  view.setUint32(at + 4, high)
  view.setUint32(at + 8, low)
  view.setUint32(at + 12, epoch)
}

function getEntry(view: DataView, at: number): FenceEntry | null {
  const kind = view.getUint32(at)
  if (kind !== FenceKind.Family && kind !== FenceKind.Group) return null
  const [high, low] = [view.getUint32(at + 4), view.getUint32(at + 8)]
  return { kind, high, low, epoch: view.getUint32(at + 12) }
}
