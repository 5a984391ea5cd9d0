/**
 * The file `voids` of a shard: versions of blocks that never were. A record of one counts for
 * nothing wherever it is found. The file is replaced as a whole.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { getId, getU64, isSafeU64, isZero, magicOf, setId, setU64, viewOf } from './fields.ts'

/** Versions above the floor, up to and with (writerEpoch, sequence), of blocks of a chunk. */
export interface VoidRun {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
  readonly chunk: number
  readonly firstBlock: number
  readonly blockCount: number
  readonly writerEpoch: number
  readonly sequence: number
  readonly floorEpoch: number
  readonly floorSequence: number
  /** Every record of such a version has a lower one. */
  readonly lsn: number
}

export interface VoidsFile {
  readonly clusterId: string
  readonly peerId: string
  readonly shard: number
  readonly runs: readonly VoidRun[]
}

// Voids file, big-endian: header of 64 bytes, then runs of 64 bytes each.
//
//   offset  size  field
//        0     4  magic          'TVOI'
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
//        8     8  layer
//       16     4  chunk
//       20     2  firstBlock
//       22     2  blockCount
//       24     4  writerEpoch
//       28     4  floorEpoch
//       32     8  sequence
//       40     8  floorSequence
//       48     8  lsn
//       56     8  reserved
const HEADER_BYTES = 64
const RUN_BYTES = 64
const MAGIC = magicOf('TVOI')
const VERSION = 1
const AT_CHECKSUM = 4
const AT_VERSION = 8
const AT_COUNT = 12
const AT_CLUSTER = 16
const AT_PEER = 32
const AT_SHARD = 48
const AT_RESERVED = 52
assert(AT_RESERVED + 12 === HEADER_BYTES, 'the header has no gap at its end')

export function encodeVoids(file: VoidsFile): Buffer {
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
    view.setUint32(at + 8, run.layerHigh)
    view.setUint32(at + 12, run.layerLow)
    view.setUint32(at + 16, run.chunk)
    view.setUint16(at + 20, run.firstBlock)
    view.setUint16(at + 22, run.blockCount)
    view.setUint32(at + 24, run.writerEpoch)
    view.setUint32(at + 28, run.floorEpoch)
    setU64(view, at + 32, run.sequence)
    setU64(view, at + 40, run.floorSequence)
    setU64(view, at + 48, run.lsn)
    at += RUN_BYTES
  }
  view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
  return bytes
}

/** @throws StoreError Corrupt, UnknownVersion */
export function decodeVoids(bytes: Buffer, name: string): VoidsFile {
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
  const runs: VoidRun[] = []
  for (let at = HEADER_BYTES; at < bytes.length; at += RUN_BYTES) runs.push(runAt(view, at, name))
  return {
    clusterId: getId(bytes, AT_CLUSTER),
    peerId: getId(bytes, AT_PEER),
    shard: view.getUint32(AT_SHARD),
    runs
  }
}

function runAt(view: DataView, at: number, name: string): VoidRun {
  const run = {
    familyHigh: view.getUint32(at),
    familyLow: view.getUint32(at + 4),
    layerHigh: view.getUint32(at + 8),
    layerLow: view.getUint32(at + 12),
    chunk: view.getUint32(at + 16),
    firstBlock: view.getUint16(at + 20),
    blockCount: view.getUint16(at + 22),
    writerEpoch: view.getUint32(at + 24),
    floorEpoch: view.getUint32(at + 28),
    sequence: getU64(view, at + 32),
    floorSequence: getU64(view, at + 40),
    lsn: getU64(view, at + 48)
  }
  const isNumber = isSafeU64(view, at + 32) && isSafeU64(view, at + 40) && isSafeU64(view, at + 48)
  const isRange = run.blockCount >= 1 && run.firstBlock + run.blockCount <= CHUNK_BLOCKS
  if (!isNumber || !isRange) throw corrupt(name, 'a run makes no sense')
  return run
}

const corrupt = (name: string, what: string): StoreError =>
  new StoreError(ErrorCode.Corrupt, `${name}: ${what}`)
