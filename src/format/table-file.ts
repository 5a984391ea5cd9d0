/**
 * A small file of one peer, or one of its shards, that is replaced as a whole: a header that says
 * whose it is, then entries of one size, all under one checksum.
 */
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { getId, isZero, magicOf, setId, viewOf } from './fields.ts'

/** Whose file it is. */
export interface TableOwner {
  readonly clusterId: string
  readonly peerId: string
  /** Zero in a file of the whole peer. */
  readonly shard: number
}

export const isSameOwner = (a: TableOwner, b: TableOwner): boolean =>
  a.clusterId === b.clusterId && a.peerId === b.peerId && a.shard === b.shard

export interface TableFile<T> extends TableOwner {
  readonly entries: readonly T[]
}

// Header of 64 bytes, big-endian; then the entries.
//
//   offset  size  field
//        0     4  magic          of the kind of file
//        4     4  checksum       CRC-32C of bytes 8..end
//        8     4  version        of this file, 1
//       12     4  count          entries that follow
//       16    16  clusterId
//       32    16  peerId
//       48     4  shard
//       52    12  reserved
const HEADER_BYTES = 64
const VERSION = 1
const AT_CHECKSUM = 4
const AT_VERSION = 8
const AT_COUNT = 12
const AT_CLUSTER = 16
const AT_PEER = 32
const AT_SHARD = 48
const AT_RESERVED = 52
assert(AT_RESERVED + 12 === HEADER_BYTES, 'the header has no gap at its end')

/** A kind of such files: how an entry stands in its bytes. */
export class TableFormat<T> {
  private readonly magic: number
  private readonly entryBytes: number
  private readonly put: (view: DataView, at: number, entry: T) => void
  private readonly get: (view: DataView, at: number) => T | null

  /** `get` returns null for an entry that makes no sense. */
  constructor(
    letters: string,
    entryBytes: number,
    put: (view: DataView, at: number, entry: T) => void,
    get: (view: DataView, at: number) => T | null
  ) {
    this.magic = magicOf(letters)
    this.entryBytes = entryBytes
    this.put = put
    this.get = get
  }

  encode({ clusterId, peerId, shard }: TableOwner, entries: readonly T[]): Buffer {
    const bytes = Buffer.alloc(HEADER_BYTES + entries.length * this.entryBytes)
    const view = viewOf(bytes)
    view.setUint32(0, this.magic)
    view.setUint32(AT_VERSION, VERSION)
    view.setUint32(AT_COUNT, entries.length)
    setId(bytes, AT_CLUSTER, clusterId)
    setId(bytes, AT_PEER, peerId)
    view.setUint32(AT_SHARD, shard)
    for (const [index, entry] of entries.entries()) {
      this.put(view, HEADER_BYTES + index * this.entryBytes, entry)
    }
    view.setUint32(AT_CHECKSUM, crc32c(bytes.subarray(AT_VERSION)))
    return bytes
  }

  /** `name` is for messages. @throws StoreError Corrupt, UnknownVersion */
  decode(bytes: Buffer, name: string): TableFile<T> {
    const view = viewOf(bytes)
    if (bytes.length < HEADER_BYTES || view.getUint32(0) !== this.magic) {
      throw corrupt(name, 'no magic')
    }
    if (view.getUint32(AT_CHECKSUM) !== crc32c(bytes.subarray(AT_VERSION))) {
      throw corrupt(name, 'the checksum does not match')
    }
    const version = view.getUint32(AT_VERSION)
    if (version !== VERSION) {
      const text = `${name} has version ${version}, this program knows ${VERSION}`
      throw new StoreError(ErrorCode.UnknownVersion, text)
    }
    const count = view.getUint32(AT_COUNT)
    if (bytes.length !== HEADER_BYTES + count * this.entryBytes) {
      throw corrupt(name, 'another size')
    }
    if (!isZero(bytes, AT_RESERVED, HEADER_BYTES)) throw corrupt(name, 'reserved bytes in use')
    const entries: T[] = []
    for (let at = HEADER_BYTES; at < bytes.length; at += this.entryBytes) {
      const entry = this.get(view, at)
      if (entry === null) throw corrupt(name, 'an entry makes no sense')
      entries.push(entry)
    }
    const [clusterId, peerId] = [getId(bytes, AT_CLUSTER), getId(bytes, AT_PEER)]
    return { clusterId, peerId, shard: view.getUint32(AT_SHARD), entries }
  }
}

const corrupt = (name: string, what: string): StoreError =>
  new StoreError(ErrorCode.Corrupt, `${name}: ${what}`)
