// A copy of a cluster's metadata in one file, big-endian: a header, the entries in the order of
// their keys, and an end that tells how many there are. Keys are written without the cluster's
// prefix, so that a copy can be restored below another one.
//
// Header, 64 bytes:
//
//   offset  size  field
//        0     8  magic           'TORUSMDB'
//        8     4  version         of this format, 1
//       12     4  checksum        CRC-32C of bytes 16..64
//       16    16  clusterId
//       32     8  revision        of the store when it was read
//       40     8  createdMs       milliseconds since 1970
//       48    16  reserved        zero
//
// Entry, 16 bytes, then key and value; the end is an entry with an empty key:
//
//        0     4  checksum        CRC-32C of the rest, key and value included
//        4     4  keyBytes        0: this is the end
//        8     4  valueBytes      at the end: how many entries there are
//       12     4  reserved        zero
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { METADATA_KEY_BYTES_MAX, METADATA_REQUEST_BYTES_MAX } from '../core/limits.ts'

const MAGIC = Buffer.from('TORUSMDB')
const VERSION = 1
const HEADER_BYTES = 64
const AT_VERSION = 8
const AT_HEADER_CHECKSUM = 12
const AT_CLUSTER_ID = 16
const AT_REVISION = 32
const AT_CREATED = 40
const AT_HEADER_RESERVED = 48
assert(AT_HEADER_RESERVED + 16 === HEADER_BYTES, 'backup header has no gap at its end')
const ENTRY_BYTES = 16
const AT_KEY_BYTES = 4
const AT_VALUE_BYTES = 8
const AT_ENTRY_RESERVED = 12

export interface MetadataBackup {
  /** 32 hex digits. */
  readonly clusterId: string
  readonly revision: number
  readonly createdMs: number
  /** Sorted by the bytes of their keys, which are relative to the cluster's prefix. */
  readonly entries: readonly { readonly key: string; readonly value: Buffer }[]
}

/** The file, part by part. */
export function* encodeBackup(backup: MetadataBackup): Generator<Buffer> {
  const header = Buffer.alloc(HEADER_BYTES)
  MAGIC.copy(header)
  header.writeUInt32BE(VERSION, AT_VERSION)
  header.write(backup.clusterId, AT_CLUSTER_ID, 'hex')
  header.writeBigUInt64BE(BigInt(backup.revision), AT_REVISION)
  header.writeBigUInt64BE(BigInt(Math.floor(backup.createdMs)), AT_CREATED)
  header.writeUInt32BE(crc32c(header.subarray(AT_CLUSTER_ID)), AT_HEADER_CHECKSUM)
  yield header
  for (const { key, value } of backup.entries) yield encodeEntry(Buffer.from(key), value)
  yield encodeEntry(Buffer.alloc(0), Buffer.alloc(0), backup.entries.length)
}

function encodeEntry(key: Buffer, value: Buffer, count = value.length): Buffer {
  const head = Buffer.alloc(ENTRY_BYTES)
  head.writeUInt32BE(key.length, AT_KEY_BYTES)
  head.writeUInt32BE(count, AT_VALUE_BYTES)
  const bytes = Buffer.concat([head, key, value])
  bytes.writeUInt32BE(crc32c(bytes.subarray(AT_KEY_BYTES)), 0)
  return bytes
}

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeBackup(bytes: Buffer): MetadataBackup {
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw corrupt('it is no backup of metadata')
  }
  const version = bytes.readUInt32BE(AT_VERSION)
  if (version !== VERSION) {
    const text = `the backup has format version ${version}; this program knows ${VERSION}`
    throw new StoreError(ErrorCode.UnknownVersion, text)
  }
  const header = bytes.subarray(AT_CLUSTER_ID, HEADER_BYTES)
  if (crc32c(header) !== bytes.readUInt32BE(AT_HEADER_CHECKSUM)) throw corrupt('its header')
  return {
    clusterId: bytes.toString('hex', AT_CLUSTER_ID, AT_REVISION),
    revision: Number(bytes.readBigUInt64BE(AT_REVISION)),
    createdMs: Number(bytes.readBigUInt64BE(AT_CREATED)),
    entries: decodeEntries(bytes)
  }
}

function decodeEntries(bytes: Buffer): { key: string; value: Buffer }[] {
  const entries: { key: string; value: Buffer }[] = []
  let before: Uint8Array = Buffer.alloc(0)
  for (let at = HEADER_BYTES; ; ) {
    if (at + ENTRY_BYTES > bytes.length) throw corrupt(`it ends after ${entries.length} entries`)
    const keyBytes = bytes.readUInt32BE(at + AT_KEY_BYTES)
    const count = bytes.readUInt32BE(at + AT_VALUE_BYTES)
    const valueBytes = keyBytes === 0 ? 0 : count
    const end = at + ENTRY_BYTES + keyBytes + valueBytes
    const isPossible =
      keyBytes <= METADATA_KEY_BYTES_MAX && valueBytes <= METADATA_REQUEST_BYTES_MAX
    const isWhole = isPossible && end <= bytes.length
    if (!isWhole || crc32c(bytes.subarray(at + AT_KEY_BYTES, end)) !== bytes.readUInt32BE(at)) {
      throw corrupt(`at byte ${at}`)
    }
    if (bytes.readUInt32BE(at + AT_ENTRY_RESERVED) !== 0) throw corrupt(`at byte ${at}`)
    if (keyBytes === 0) {
      if (count !== entries.length || end !== bytes.length) throw corrupt('entries are missing')
      return entries
    }
    const key = bytes.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + keyBytes)
    if (Buffer.compare(before, key) >= 0) throw corrupt(`keys are out of order at byte ${at}`)
    entries.push({
      key: key.toString('utf8'),
      value: Buffer.from(bytes.subarray(end - count, end))
    })
    before = key
    at = end
  }
}

const corrupt = (what: string): StoreError =>
  new StoreError(ErrorCode.Corrupt, `the backup is damaged: ${what}`)
