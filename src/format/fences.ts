/**
 * The file `fences` of a peer: the highest epochs that it promised to hold. It is replaced as a
 * whole.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { getId, isZero, magicOf, setId, viewOf } from './fields.ts'

/** Of a family its writerEpoch; of a group (pool, group) its epoch. */
export interface FenceEntry {
  readonly kind: FenceKind
  readonly high: number
  readonly low: number
  readonly epoch: number
}
export const FenceKind = { Family: 1, Group: 2 } as const
export type FenceKind = (typeof FenceKind)[keyof typeof FenceKind]

export interface FencesFile {
  readonly clusterId: string
  readonly peerId: string
  readonly entries: readonly FenceEntry[]
}

// Fences file, big-endian: header of 64 bytes, then entries of 16 bytes each.
//
//   offset  size  field
//        0     4  magic          'TFEN'
//        4     4  checksum       CRC-32C of bytes 8..end
//        8     4  version        of this file, 1
//       12     4  count          entries that follow
//       16    16  clusterId
//       32    16  peerId
//       48    16  reserved
//
//   entry, offset from its start:
//        0     4  kind           1 family, 2 group
//        4     4  high           of the family's id; the pool
//        8     4  low            of the family's id; the group
//       12     4  epoch
const HEADER_BYTES = 64
const ENTRY_BYTES = 16
const MAGIC = magicOf('TFEN')
const VERSION = 1
const AT_CHECKSUM = 4
const AT_VERSION = 8
const AT_COUNT = 12
const AT_CLUSTER = 16
const AT_PEER = 32
const AT_RESERVED = 48
assert(AT_RESERVED + 16 === HEADER_BYTES, 'the header has no gap at its end')

export function encodeFences(file: FencesFile): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + file.entries.length * ENTRY_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, MAGIC)
  view.setUint32(AT_VERSION, VERSION)
  view.setUint32(AT_COUNT, file.entries.length)
  setId(bytes, AT_CLUSTER, file.clusterId)
  setId(bytes, AT_PEER, file.peerId)
  let at = HEADER_BYTES
  for (const { kind, high, low, epoch } of file.entries) {
    view.setUint32(at, kind)
    view.setUint32(at + 4, high)
    view.setUint32(at + 8, low)
    view.setUint32(at + 12, epoch)
    at += ENTRY_BYTES
  }
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
  return bytes
}

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeFences(bytes: Buffer, name: string): FencesFile {
  const view = viewOf(bytes)
  if (bytes.length < HEADER_BYTES || view.getUint32(0) !== MAGIC) throw corrupt(name, 'no magic')
  if (view.getUint32(AT_CHECKSUM) !== crc32c(bytes.subarray(AT_VERSION))) {
    throw corrupt(name, 'the checksum does not match')
  }
  const version = view.getUint32(AT_VERSION)
  if (version !== VERSION) {
    const text = `${name} has version ${version}, this program knows ${VERSION}`
    throw new StoreError(ErrorCode.UnknownVersion, text)
  }
  const count = view.getUint32(AT_COUNT)
  if (bytes.length !== HEADER_BYTES + count * ENTRY_BYTES) throw corrupt(name, 'another size')
  if (!isZero(bytes, AT_RESERVED, HEADER_BYTES)) throw corrupt(name, 'reserved bytes in use')
  const entries: FenceEntry[] = []
  for (let at = HEADER_BYTES; at < bytes.length; at += ENTRY_BYTES) {
    const kind = view.getUint32(at)
    if (kind !== FenceKind.Family && kind !== FenceKind.Group) throw corrupt(name, 'odd entry')
    const high = view.getUint32(at + 4)
    const low = view.getUint32(at + 8)
    entries.push({ kind, high, low, epoch: view.getUint32(at + 12) })
  }
  return { clusterId: getId(bytes, AT_CLUSTER), peerId: getId(bytes, AT_PEER), entries }
}

const corrupt = (name: string, what: string): StoreError =>
  new StoreError(ErrorCode.Corrupt, `${name}: ${what}`)
