/** What differs between a snapshot and what stands on it, as the layers tell: no data is read. */
import { formatId64, parseId64 } from '../cluster/ids.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { standsOn } from '../core/layer-ids.ts'
import type { LayerHalves } from './request.ts'
import type { SnapshotInfo } from './snapshots.ts'
import type { VolumeFile } from './volume-file.ts'

/** Bytes that were written, or given up, since: they may be what they were before. */
export interface ChangedExtent {
  readonly offset: number
  readonly length: number
  /** Without data it reads as zeroes. */
  readonly kind: 'data' | 'zeroes'
}

/** Asked for at a time. */
const STEP_BYTES = 2 ** 40

/** Layer of `older`. @throws StoreError InvalidArgument when `file` does not stand on it */
export function baseOf(file: VolumeFile, older: SnapshotInfo): LayerHalves {
  const base = parseId64(older.layer)
  if (standsOn(file.layer, base)) return base
  const name = `${older.volume}@${older.name}`
  const newer = formatId64(file.layer.high, file.layer.low)
  const why = `${file.name} (layer ${newer}) does not stand on ${name} (layer ${older.layer})`
  const advice = 'name the older one first; a restore or a flatten came between them, else'
  throw new StoreError(ErrorCode.InvalidArgument, `${why}: ${advice}`)
}

/** What changed in the range, in order. */
export async function* changesOf(
  file: VolumeFile,
  base: LayerHalves,
  start = 0,
  end = file.sizeBytes
): AsyncIterable<ChangedExtent> {
  let last = null as ChangedExtent | null
  for (let at = start; at < end; at += STEP_BYTES) {
    for (const each of await file.extents(at, Math.min(STEP_BYTES, end - at), base)) {
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
  }
  if (last !== null) yield last
}
