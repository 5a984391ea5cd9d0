/**
 * Keys as they leave the metadata: the record, and a checksum of it. A slot cannot be looked at
 * without its secret, so nothing else would tell that a copy of the file was damaged before its
 * slots take the place of good ones.
 */
import { createHash } from 'node:crypto'
import type { ExportedKeys } from '../admin/key-schemas.ts'
import { checkRecord, type VolumeKeysRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'

export const exportedOf = (record: VolumeKeysRecord): ExportedKeys => ({
  ...record,
  checksum: checksumOf(record)
})

/**
 * What was exported by a version that wrote no checksum is taken as it is.
 * @throws StoreError InvalidArgument, Corrupt, UnknownVersion
 */
export function importedOf({ checksum, ...keys }: ExportedKeys): VolumeKeysRecord {
  const record = checkRecord('volumeKeys', 'imported keys', keys)
  if (checksum === undefined || checksum === checksumOf(keys)) return record
  const text = 'imported keys: their checksum does not fit: the file was damaged or changed'
  throw new StoreError(ErrorCode.InvalidArgument, `${text}. Nothing was replaced`)
}

const checksumOf = (record: object): string =>
  `sha256:${createHash('sha256')
    .update(JSON.stringify(sorted(record)))
    .digest('hex')}`

/** Programs that format JSON keep no order of keys. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).filter(([, each]) => each !== undefined)
  entries.sort(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(entries.map(([key, each]) => [key, sorted(each)]))
}
