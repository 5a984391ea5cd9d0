/** Volumes and snapshots of this peer as streams. */
import { Readable } from 'node:stream'
import { exportVolume } from '../backup/exporter.ts'
import { originOf } from '../backup/origins.ts'
import type { StreamSnapshot } from '../backup/stream-format.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { baseOf } from '../volume/changes.ts'
import type { Volumes } from '../volume/volumes.ts'

export interface ExportWanted {
  readonly snapshot?: string | undefined
  /** Only what changed since this one. */
  readonly from?: string | undefined
  /** Then all of pieces of so many bytes in which anything changed. */
  readonly align?: number | undefined
  /** Byte to begin at. */
  readonly start: number
  readonly digest?: 'all' | 'rest' | undefined
}

/** @throws StoreError NotFound, InvalidArgument, OutOfRange, Busy, Locked */
export async function exportOf(
  volumes: Volumes,
  name: string,
  { snapshot, from, align, start, digest }: ExportWanted
): Promise<Readable> {
  if (from !== undefined && snapshot === undefined) {
    const text = `an increment is of a snapshot: take one of ${name}, and export that`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  const { snapshots } = volumes
  const older = from === undefined ? null : await snapshots.show(name, from)
  const which = snapshot === undefined ? name : `${name}@${snapshot}`
  const file = await volumes.openFile(which, { readOnly: true, own: true })
  try {
    if (start > file.sizeBytes) {
      const text = `${which} has ${file.sizeBytes} bytes: nothing is at ${start}`
      throw new StoreError(ErrorCode.OutOfRange, text)
    }
    let of: StreamSnapshot | null = null
    if (snapshot !== undefined) {
      const newer = await snapshots.show(name, snapshot)
      const base = older === null ? null : originOf(older)
      of = { id: originOf(newer), name: newer.name, base }
    }
    const base = older === null ? null : await baseOf(snapshots, file, older)
    const what = { snapshot: of, base, alignBytes: align, startBytes: start, digestOf: digest }
    const stream = exportVolume(file, what)
    return Readable.from(stream, { objectMode: false })
  } catch (thrown) {
    await file.close()
    throw thrown
  }
}
