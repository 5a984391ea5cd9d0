/**
 * The file `drops` of a shard: chunks whose copy here was given back (PROTOCOL.md, R29). A record
 * of one that is older than the drop counts for nothing wherever it is found. The file is replaced
 * as a whole.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { GROUPS_MAX } from '../core/limits.ts'
import { getId, getU64, isSafeU64, isZero, magicOf, setId, setU64, viewOf } from './fields.ts'

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

export interface DropsFile {
  readonly clusterId: string
  readonly peerId: string
  readonly shard: number
  readonly runs: readonly DropRun[]
}

// Drops file, big-endian: header of 64 bytes, then runs of 40 bytes each.
//
//   offset  size  field
//        0     4  magic          'TDRP'
//        4     4  checksum       CRC-32C of bytes 8..end
//        8     4  version        of this file, 1
//       12     4  count          runs that follow
//       16    16  clusterId
//       32    16  peerId
//       48     4  shard
//       52    12  reserved
//
//   run, offset from its start:
//        0     8  family
//        8     4  groups
//       12     4  group
//       16     4  from           chunk
//       20     4  to             chunk
//       24     8  lsn
//       32     8  reserved
const HEADER_BYTES = 64
const RUN_BYTES = 40
const MAGIC = magicOf('TDRP')
const VERSION = 1
const AT_CHECKSUM = 4
const AT_VERSION = 8
const AT_COUNT = 12
const AT_CLUSTER = 16
const AT_PEER = 32
const AT_SHARD = 48
const AT_RESERVED = 52
assert(AT_RESERVED + 12 === HEADER_BYTES, 'the header has no gap at its end')

export function encodeDrops(file: DropsFile): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + file.runs.length * RUN_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, MAGIC)
  view.setUint32(AT_VERSION, VERSION)
  view.setUint32(AT_COUNT, file.runs.length)
  setId(bytes, AT_CLUSTER, file.clusterId)
  setId(bytes, AT_PEER, file.peerId)
  view.setUint32(AT_SHARD, file.shard)
  let at = HEADER_BYTES
  for (const run of file.runs) {
    view.setUint32(at, run.familyHigh)
    view.setUint32(at + 4, run.familyLow)
    view.setUint32(at + 8, run.groups)
    view.setUint32(at + 12, run.group)
    view.setUint32(at + 16, run.from)
    view.setUint32(at + 20, run.to)
    setU64(view, at + 24, run.lsn)
    at += RUN_BYTES
  }
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
  return bytes
}

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeDrops(bytes: Buffer, name: string): DropsFile {
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
  if (bytes.length !== HEADER_BYTES + count * RUN_BYTES) throw corrupt(name, 'another size')
  if (!isZero(bytes, AT_RESERVED, HEADER_BYTES)) throw corrupt(name, 'reserved bytes in use')
  const runs: DropRun[] = []
  for (let at = HEADER_BYTES; at < bytes.length; at += RUN_BYTES) runs.push(runAt(view, at, name))
  return {
    clusterId: getId(bytes, AT_CLUSTER),
    peerId: getId(bytes, AT_PEER),
    shard: view.getUint32(AT_SHARD),
    runs
  }
}

function runAt(view: DataView, at: number, name: string): DropRun {
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
  if (!isGroup || run.from > run.to || !isSafeU64(view, at + 24)) {
    throw corrupt(name, 'a run makes no sense')
  }
  return run
}

const corrupt = (name: string, what: string): StoreError =>
  new StoreError(ErrorCode.Corrupt, `${name}: ${what}`)
