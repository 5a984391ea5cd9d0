/**
 * The embedded store's tables. Numbers are big-endian; a revision is 8 bytes, below 2^53.
 *
 *   key (byte string)                 value
 *   'm'                               state of the store, see STATE below
 *   'k' key                           record of a present key, see RECORD below
 *   'h' revision(8) index(4)          one change of that revision: EVENT below
 *   'l' leaseId                       TTL in milliseconds (8)
 *   'a' leaseId '\0' key              empty: the key ends with the lease
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Entry, WatchEvent } from './store.ts'
import { byteStringOf, textOfByteString } from './tables.ts'

export const STATE_KEY = 'm'
export const keyOf = (key: string): string => `k${byteStringOf(key)}`
export const leaseKeyOf = (lease: string): string => `l${lease}`
export const attachmentPrefixOf = (lease: string): string => `a${lease}\0`
export const attachmentKeyOf = (lease: string, key: string): string =>
  attachmentPrefixOf(lease) + byteStringOf(key)
/** `index` counts the changes within one revision. */
export const historyKeyOf = (revision: number, index: number): string => {
  const bytes = Buffer.alloc(13)
  bytes[0] = 0x68
  putNumber(bytes, 1, revision)
  bytes.writeUInt32BE(index, 9)
  return bytes.toString('latin1')
}
export const revisionOfHistoryKey = (key: string): number =>
  getNumber(Buffer.from(key, 'latin1'), 1)

// STATE, 32 bytes
//
//   offset  size  field
//        0     4  formatVersion    1
//        4     4  checksum         CRC-32C of bytes 8..32
//        8     8  revision         of the last change; 1 in an empty store, as in etcd
//       16     8  compactRevision  history up to and with this revision is forgotten
//       24     8  historyBytes     of keys and values below 'h'
export interface State {
  revision: number
  compactRevision: number
  historyBytes: number
}
const FORMAT_VERSION = 1
const STATE_BYTES = 32

export function encodeState(state: State): Buffer {
  const bytes = Buffer.alloc(STATE_BYTES)
  bytes.writeUInt32BE(FORMAT_VERSION, 0)
  putNumber(bytes, 8, state.revision)
  putNumber(bytes, 16, state.compactRevision)
  putNumber(bytes, 24, state.historyBytes)
  bytes.writeUInt32BE(crc32c(bytes.subarray(8)), 4)
  return bytes
}

export function decodeState(bytes: Buffer): State {
  if (bytes.length < 4) throw new StoreError(ErrorCode.Corrupt, 'metadata: state is cut short')
  const version = bytes.readUInt32BE(0)
  if (version !== FORMAT_VERSION) {
    const text = `metadata: format version ${version}, this program knows ${FORMAT_VERSION}`
    throw new StoreError(ErrorCode.UnknownVersion, text)
  }
  if (bytes.length !== STATE_BYTES) {
    throw new StoreError(ErrorCode.Corrupt, `metadata: state has ${bytes.length} bytes, not 32`)
  }
  if (bytes.readUInt32BE(4) !== crc32c(bytes.subarray(8))) {
    throw new StoreError(ErrorCode.Corrupt, 'metadata: state fails its checksum')
  }
  return {
    revision: getNumber(bytes, 8),
    compactRevision: getNumber(bytes, 16),
    historyBytes: getNumber(bytes, 24)
  }
}

// RECORD, 32 bytes, then lease id, then value
//
//   offset  size  field
//        0     4  checksum        CRC-32C of the key in UTF-8, then of all that follows here
//        4     2  leaseBytes      length of the lease id, 0 for none
//        6     2  reserved        0
//        8     8  createRevision
//       16     8  modRevision
//       24     8  version
const RECORD_BYTES = 32

export function encodeRecord(entry: Entry): Buffer {
  const lease = Buffer.from(entry.lease, 'latin1')
  const bytes = Buffer.alloc(RECORD_BYTES + lease.length + entry.value.length)
  bytes.writeUInt16BE(lease.length, 4)
  putNumber(bytes, 8, entry.createRevision)
  putNumber(bytes, 16, entry.modRevision)
  putNumber(bytes, 24, entry.version)
  lease.copy(bytes, RECORD_BYTES)
  entry.value.copy(bytes, RECORD_BYTES + lease.length)
  bytes.writeUInt32BE(checksumOf(entry.key, bytes), 0)
  return bytes
}

export function decodeRecord(key: string, bytes: Buffer): Entry {
  const leaseBytes = bytes.length >= RECORD_BYTES ? bytes.readUInt16BE(4) : 0
  if (bytes.length < RECORD_BYTES + leaseBytes) {
    throw new StoreError(ErrorCode.Corrupt, `metadata: record of ${key} is cut short`)
  }
  if (bytes.readUInt32BE(0) !== checksumOf(key, bytes)) {
    throw new StoreError(ErrorCode.Corrupt, `metadata: record of ${key} fails its checksum`)
  }
  const valueAt = RECORD_BYTES + leaseBytes
  return {
    key,
    value: Buffer.from(bytes.subarray(valueAt)),
    createRevision: getNumber(bytes, 8),
    modRevision: getNumber(bytes, 16),
    version: getNumber(bytes, 24),
    lease: bytes.toString('latin1', RECORD_BYTES, valueAt)
  }
}

const checksumOf = (key: string, record: Buffer): number =>
  crc32c(record.subarray(4), crc32c(Buffer.from(key, 'utf8')))

/** Key of a record from its table key. */
export const textOfKey = (tableKey: string): string => textOfByteString(tableKey.slice(1))

// EVENT, 4 bytes, then key, then for a put its RECORD
//
//   offset  size  field
//        0     1  kind       1 put, 2 delete
//        1     1  reserved   0
//        2     2  keyBytes
const EVENT_BYTES = 4
const EVENT_PUT = 1
const EVENT_DELETE = 2

export function encodeEvent(event: WatchEvent): Buffer {
  const key = Buffer.from(event.kind === 'put' ? event.entry.key : event.key, 'utf8')
  const record = event.kind === 'put' ? encodeRecord(event.entry) : Buffer.alloc(0)
  const head = Buffer.alloc(EVENT_BYTES)
  head[0] = event.kind === 'put' ? EVENT_PUT : EVENT_DELETE
  head.writeUInt16BE(key.length, 2)
  return Buffer.concat([head, key, record])
}

export function decodeEvent(revision: number, bytes: Buffer): WatchEvent {
  const keyEnd = bytes.length >= EVENT_BYTES ? EVENT_BYTES + bytes.readUInt16BE(2) : 0
  const kind = bytes[0]
  if (keyEnd === 0 || keyEnd > bytes.length || (kind !== EVENT_PUT && kind !== EVENT_DELETE)) {
    throw new StoreError(ErrorCode.Corrupt, `metadata: event of revision ${revision} is malformed`)
  }
  const key = bytes.toString('utf8', EVENT_BYTES, keyEnd)
  if (kind === EVENT_DELETE) return { kind: 'delete', key, modRevision: revision }
  return { kind: 'put', entry: decodeRecord(key, bytes.subarray(keyEnd)) }
}

const TWO_32 = 2 ** 32

export function putNumber(bytes: Buffer, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, 'a stored number is a whole one below 2^53')
  bytes.writeUInt32BE(Math.floor(value / TWO_32), at)
  bytes.writeUInt32BE(value % TWO_32, at + 4)
}

export const getNumber = (bytes: Buffer, at: number): number =>
  bytes.readUInt32BE(at) * TWO_32 + bytes.readUInt32BE(at + 4)
