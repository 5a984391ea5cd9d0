/** What differs between a snapshot and what stands on it, as the layers tell: no data is read. */
import { parseId64 } from '../cluster/ids.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Id64 } from '../core/id64.ts'
import type { SnapshotInfo, Snapshots } from './snapshots.ts'
import type { VolumeFile } from './volume-file.ts'

/** Bytes that were written, or given up, since: they may be what they were before. */
export interface ChangedExtent {
  readonly offset: number
  readonly length: number
  /** Without data it reads as zeroes. */
  readonly kind: 'data' | 'zeroes'
}

/**
 * Layer of `older`.
 * @throws StoreError InvalidArgument when `file` does not stand on it, Unavailable
 */
export async function baseOf(
  snapshots: Snapshots,
  file: VolumeFile,
  older: SnapshotInfo
): Promise<Id64> {
  const base = parseId64(older.layer)
  if (await snapshots.isOn(file.family, file.layer, base)) return base
  const name = `${older.volume}@${older.name}`
  const why = `${file.name} does not stand on ${name}`
  const advice = 'name the older one first; what a restore put aside is no base of what follows'
  throw new StoreError(ErrorCode.InvalidArgument, `${why}: ${advice}`)
}

/** What changed in the range, in order. */
export async function* changesOf(
  file: VolumeFile,
  base: Id64,
  start = 0,
  end = file.sizeBytes
): AsyncIterable<ChangedExtent> {
  let last = null as ChangedExtent | null
  if (start >= end) return
  for await (const each of file.walkExtents(start, end - start, base)) {
    if (each.kind === 'unchanged') continue
    const { offset, length } = each
    const kind = each.kind === 'data' ? 'data' : 'zeroes'
    if (last?.kind === kind && last.offset + last.length === offset) {
      last = { ...last, length: last.length + length }
      continue
    }
    if (last !== null) yield last
    last = { offset, length, kind }
  }
  if (last !== null) yield last
}
