/**
 * The file `failed`: a sync failed, and this is the lsn up to which everything was durable then.
 * Linux takes pages whose write-back failed for clean, so that they read well from the cache until
 * they are evicted, and a later sync that succeeds proves nothing. The marker outlives worker and
 * process: the next start moves everything above the lsn to new segments before it trusts it.
 */
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import type { Files } from './files.ts'

const FAILED_NAME = 'failed'
const PATTERN = /^durable (\d{1,15})\n/
const MARKER_BYTES_MAX = 4096

export interface FailureMarker {
  /** Null when the marker was not written to its end, or is damaged. */
  readonly durableLsn: number | null
  readonly why: string
}

/** Durable on return; an older marker stays, because its lsn is the lower one. */
export function writeFailureMarker(
  files: Files,
  marker: { readonly durableLsn: number; readonly why: string }
): void {
  if (files.list().includes(FAILED_NAME)) return
  const text = Buffer.from(`durable ${marker.durableLsn}\n${marker.why}\n`)
  const handle = files.open(FAILED_NAME, 'create')
  try {
    files.write(handle, 0, text, 0, Math.min(text.length, MARKER_BYTES_MAX))
    files.sync(handle)
  } finally {
    files.close(handle)
  }
  files.syncDirectory()
}

/**
 * Null when no sync failed. A marker that makes no sense leaves the marks of batch headers: each
 * tells of syncs that had succeeded when it was written.
 */
export function readFailureMarker(files: Files): FailureMarker | null {
  const bytes = Buffer.alloc(MARKER_BYTES_MAX)
  let text: string
  try {
    const handle = files.open(FAILED_NAME, 'readOnly')
    try {
      text = bytes.toString('utf8', 0, files.read(handle, 0, bytes, 0, bytes.length))
    } finally {
      files.close(handle)
    }
  } catch (thrown) {
    const error = storeErrorOf(thrown)
    if (error.code === ErrorCode.NotFound) return null
    throw error
  }
  const match = PATTERN.exec(text)
  if (match === null) return { durableLsn: null, why: 'unknown' }
  return { durableLsn: Number(match[1]), why: text.slice(match[0].length).trim() }
}

export function removeFailureMarker(files: Files): void {
  files.remove(FAILED_NAME)
  files.syncDirectory()
}
