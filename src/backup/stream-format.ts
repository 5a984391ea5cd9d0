/**
 * A volume as a stream: what `volume export --format torus` writes. Blocks that are all zeroes are
 * left out. Big-endian; every part has a CRC-32C, every block its own, and the end a digest of
 * all of them, so that no byte of it can be lost or changed unnoticed. An increment has what
 * changed since another stream, its base, and zeroes parts for what reads as zeroes since then.
 *
 *   header | data or zeroes | … | end
 *
 * Header, 64 bytes, then the name:
 *
 *   offset  size  field
 *        0     8  magic 'TORUSVOL'
 *        8     4  version       1: without all from byte 32 on; 2
 *       12     4  block bytes   4096
 *       16     8  size          of the volume, bytes
 *       24     8  start         blocks before this byte are left out: the stream goes on
 *       32     8  id            of the snapshot that it is of, 0: of none
 *       40     8  base          id of the snapshot that it stands on, 0: it is whole
 *       48     4  name bytes    1..255: name of the snapshot, in UTF-8
 *       52     4  checksum      CRC-32C of the name
 *       56     4  zero
 *       60     4  checksum      CRC-32C of bytes 0..60
 *
 * Data, 24 bytes, then 4 bytes of CRC-32C for each block, then the blocks:
 *
 *   offset  size  field
 *        0     4  magic 'DATA'
 *        4     4  block count   1..256
 *        8     8  offset        of the first block, bytes
 *       16     4  checksum      CRC-32C of the blocks' CRCs
 *       20     4  checksum      CRC-32C of bytes 0..20
 *
 * Zeroes, 24 bytes, only in increments:
 *
 *   offset  size  field
 *        0     4  magic 'ZERO'
 *        4     4  block count   1..2^32-1
 *        8     8  offset        of the first block, bytes
 *       16     4  zero
 *       20     4  checksum      CRC-32C of bytes 0..20
 *
 * End, 56 bytes:
 *
 *   offset  size  field
 *        0     4  magic 'END '
 *        4     4  zero
 *        8     8  blocks        of data in the whole stream, those before the start included
 *       16    32  digest        see VolumeDigest
 *       48     4  zero
 *       52     4  checksum      CRC-32C of bytes 0..52
 */
import { createHash } from 'node:crypto'
import { assert } from '../core/assert.ts'
import { crc32c } from '../core/checksum.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES, VOLUME_BYTES_MAX } from '../core/limits.ts'

const HEADER_SIZE = 64
const DATA_SIZE = 24
const END_SIZE = 56
const VERSION_MAX = 2
/** Blocks of one data part. */
const PART_BLOCKS_MAX = 256

const MAGIC = Buffer.from('TORUSVOL')
const DATA = 0x44415441
const ZERO = 0x5a45524f
const END = 0x454e4420
const NAME_BYTES_MAX = 255
const ZERO_BLOCKS_MAX = 2 ** 32 - 1

/** A snapshot as streams know it: its name and where it stands may change from place to place. */
export interface StreamSnapshot {
  /** Of the snapshot that was exported first; 16 hex digits. */
  readonly id: string
  readonly name: string
  /** The id of the one that it needs below it; null: none. */
  readonly base: string | null
}

export interface StreamHeader {
  readonly sizeBytes: number
  readonly startBytes: number
  /** Null: the volume as it was just then. */
  readonly snapshot: StreamSnapshot | null
}

/** Whole blocks, none of which is all zeroes. */
export interface StreamData {
  readonly kind: 'data'
  readonly offset: number
  readonly crcs: Uint32Array
  readonly blocks: Buffer
}

/** Whole blocks that are all zeroes since the base. */
export interface StreamZeroes {
  readonly kind: 'zeroes'
  readonly offset: number
  readonly length: number
}

export type StreamPart = StreamData | StreamZeroes

export interface StreamEnd {
  readonly kind: 'end'
  readonly blocks: number
  readonly digest: string
}

/**
 * SHA-256 of (block number u64, CRC-32C u32) of all blocks that are not all zeroes, in order: the
 * same for the same bytes, however they were written. Of an increment also of (2^63 + block number
 * u64, block count u64) of all runs of zeroes, as long as they are.
 */
export class VolumeDigest {
  blocks = 0
  readonly #hash = createHash('sha256')
  #next = 0
  /** Zeroes that may go on. */
  #zeroFirst = 0
  #zeroCount = 0
  #ended: StreamEnd | null = null

  addPart(part: StreamPart): void {
    if (part.kind === 'data') this.add(part.offset, part.crcs)
    else this.addZeroes(part)
  }

  addZeroes({ offset, length }: Omit<StreamZeroes, 'kind'>): void {
    const first = offset / BLOCK_BYTES
    assert(first >= this.#next, 'blocks come in order')
    if (this.#zeroCount === 0 || first > this.#next) {
      this.#endZeroes()
      this.#zeroFirst = first
    }
    this.#zeroCount += length / BLOCK_BYTES
    this.#next = first + length / BLOCK_BYTES
  }

  #endZeroes(): void {
    if (this.#zeroCount === 0) return
    const entry = Buffer.alloc(16)
    entry.writeBigUInt64BE(2n ** 63n + BigInt(this.#zeroFirst), 0)
    entry.writeBigUInt64BE(BigInt(this.#zeroCount), 8)
    this.#hash.update(entry)
    this.#zeroCount = 0
  }

  add(offset: number, crcs: Uint32Array): void {
    const first = offset / BLOCK_BYTES
    assert(first >= this.#next, 'blocks come in order')
    this.#endZeroes()
    const entries = Buffer.alloc(crcs.length * 12)
    for (const [at, crc] of crcs.entries()) {
      entries.writeBigUInt64BE(BigInt(first + at), at * 12)
      entries.writeUInt32BE(crc, at * 12 + 8)
    }
    this.#hash.update(entries)
    this.#next = first + crcs.length
    this.blocks += crcs.length
  }

  /** Nothing is added afterwards. */
  end(): StreamEnd {
    this.#endZeroes()
    this.#ended ??= { kind: 'end', blocks: this.blocks, digest: this.#hash.digest('hex') }
    return this.#ended
  }
}

export function encodeHeader({ sizeBytes, startBytes, snapshot }: StreamHeader): Buffer {
  const header = Buffer.alloc(HEADER_SIZE)
  const name = Buffer.from(snapshot?.name ?? '')
  assert(name.length <= NAME_BYTES_MAX, 'names of snapshots are short')
  MAGIC.copy(header)
  header.writeUInt32BE(snapshot === null ? 1 : 2, 8)
  header.writeUInt32BE(BLOCK_BYTES, 12)
  header.writeBigUInt64BE(BigInt(sizeBytes), 16)
  header.writeBigUInt64BE(BigInt(startBytes), 24)
  if (snapshot !== null) {
    header.write(snapshot.id, 32, 'hex')
    header.write(snapshot.base ?? NO_ID, 40, 'hex')
    header.writeUInt32BE(name.length, 48)
    header.writeUInt32BE(crc32c(name), 52)
  }
  header.writeUInt32BE(crc32c(header.subarray(0, 60)), 60)
  return Buffer.concat([header, name])
}

/** What goes before the blocks. */
function encodeData({ offset, crcs }: Pick<StreamData, 'offset' | 'crcs'>): Buffer {
  const data = Buffer.alloc(DATA_SIZE + crcs.length * 4)
  for (const [at, crc] of crcs.entries()) data.writeUInt32BE(crc, DATA_SIZE + at * 4)
  data.writeUInt32BE(DATA, 0)
  data.writeUInt32BE(crcs.length, 4)
  data.writeBigUInt64BE(BigInt(offset), 8)
  data.writeUInt32BE(crc32c(data.subarray(DATA_SIZE)), 16)
  data.writeUInt32BE(crc32c(data.subarray(0, 20)), 20)
  return data
}

function encodeZeroes({ offset, length }: Omit<StreamZeroes, 'kind'>): Buffer {
  const zeroes = Buffer.alloc(DATA_SIZE)
  zeroes.writeUInt32BE(ZERO, 0)
  zeroes.writeUInt32BE(length / BLOCK_BYTES, 4)
  zeroes.writeBigUInt64BE(BigInt(offset), 8)
  zeroes.writeUInt32BE(crc32c(zeroes.subarray(0, 20)), 20)
  return zeroes
}

/** A part with its blocks. */
export const encodePart = (part: StreamPart): Buffer[] =>
  part.kind === 'data' ? [encodeData(part), part.blocks] : [encodeZeroes(part)]

export function encodeEnd({ blocks, digest }: Omit<StreamEnd, 'kind'>): Buffer {
  const end = Buffer.alloc(END_SIZE)
  end.writeUInt32BE(END, 0)
  end.writeBigUInt64BE(BigInt(blocks), 8)
  Buffer.from(digest, 'hex').copy(end, 16)
  end.writeUInt32BE(crc32c(end.subarray(0, 52)), 52)
  return end
}

/**
 * The parts of a piece of a volume that are not all zeroes. `bytes` are whole blocks that stand at
 * `offset`; what is returned shares their memory.
 */
export function* partsOf(offset: number, bytes: Buffer): Iterable<StreamData> {
  const count = bytes.length / BLOCK_BYTES
  assert(Number.isInteger(count) && offset % BLOCK_BYTES === 0, 'a piece is whole blocks')
  for (let first = 0; first < count; ) {
    if (isZeroBlock(bytes, first)) {
      first++
      continue
    }
    let end = first + 1
    while (end < count && end - first < PART_BLOCKS_MAX && !isZeroBlock(bytes, end)) end++
    const blocks = bytes.subarray(first * BLOCK_BYTES, end * BLOCK_BYTES)
    yield { kind: 'data', offset: offset + first * BLOCK_BYTES, crcs: crcsOf(blocks), blocks }
    first = end
  }
}

/** As `partsOf`, with what is all zeroes in between. */
export function* partsWithZeroes(offset: number, bytes: Buffer): Iterable<StreamPart> {
  let at = offset
  for (const part of partsOf(offset, bytes)) {
    if (part.offset > at) yield* zeroParts(at, part.offset - at)
    yield part
    at = part.offset + part.blocks.length
  }
  const end = offset + bytes.length
  if (at < end) yield* zeroParts(at, end - at)
}

/** Zeroes, cut to what a part can hold. */
export function* zeroParts(offset: number, length: number): Iterable<StreamZeroes> {
  const most = ZERO_BLOCKS_MAX * BLOCK_BYTES
  for (let at = 0; at < length; at += most) {
    yield { kind: 'zeroes', offset: offset + at, length: Math.min(most, length - at) }
  }
}

const NO_ID = '0'.repeat(16)
const ZEROES = Buffer.alloc(BLOCK_BYTES)

const isZeroBlock = (bytes: Buffer, block: number): boolean =>
  bytes[block * BLOCK_BYTES] === 0 &&
  bytes.compare(ZEROES, 0, BLOCK_BYTES, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES) === 0

function crcsOf(blocks: Buffer): Uint32Array {
  const crcs = new Uint32Array(blocks.length / BLOCK_BYTES)
  for (let at = 0; at < crcs.length; at++) {
    crcs[at] = crc32c(blocks.subarray(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES))
  }
  return crcs
}

/** Gives out the bytes of an input as they are asked for. */
class Input {
  #bytes: Buffer = Buffer.alloc(0)
  readonly #from: AsyncIterator<Buffer>

  constructor(source: AsyncIterable<Buffer>) {
    this.#from = source[Symbol.asyncIterator]()
  }

  /** @throws StoreError Corrupt when the input ends before */
  async take(count: number): Promise<Buffer> {
    if (this.#bytes.length < count) {
      const pieces = [this.#bytes]
      for (let have = this.#bytes.length; have < count; ) {
        const { value, done } = await this.#from.next()
        if (done === true) throw corrupt('it ends too early: it was cut off')
        pieces.push(value)
        have += value.length
      }
      this.#bytes = Buffer.concat(pieces)
    }
    const taken = this.#bytes.subarray(0, count)
    this.#bytes = this.#bytes.subarray(count)
    return taken
  }

  async close(): Promise<void> {
    await this.#from.return?.()
  }

  async isAtEnd(): Promise<boolean> {
    if (this.#bytes.length > 0) return false
    const { done } = await this.#from.next()
    return done === true
  }
}

/** Reads a stream and checks all of it. */
export class StreamReader {
  readonly #input: Input
  #next = 0
  #sizeBytes = 0
  #isIncrement = false

  constructor(source: AsyncIterable<Buffer>) {
    this.#input = new Input(source)
  }

  /** Who stops before the end has to say so: whoever sends waits else. */
  close(): Promise<void> {
    return this.#input.close()
  }

  /** First. @throws StoreError Corrupt, UnknownVersion */
  async header(): Promise<StreamHeader> {
    const header = await this.#input.take(HEADER_SIZE)
    if (!header.subarray(0, 8).equals(MAGIC))
      throw corrupt('it is not a volume in the format of torus')
    if (crc32c(header.subarray(0, 60)) !== header.readUInt32BE(60)) throw damaged(0)
    const version = header.readUInt32BE(8)
    if (version < 1 || version > VERSION_MAX) {
      const text = `the stream has version ${version}, this program knows up to ${VERSION_MAX}`
      throw new StoreError(ErrorCode.UnknownVersion, text)
    }
    const sizeBytes = Number(header.readBigUInt64BE(16))
    const startBytes = Number(header.readBigUInt64BE(24))
    const isSize = sizeBytes <= VOLUME_BYTES_MAX && startBytes <= sizeBytes
    if (!isSize || startBytes % BLOCK_BYTES !== 0) throw damaged(0)
    this.#sizeBytes = sizeBytes
    this.#next = startBytes
    const snapshot = version === 1 ? null : await this.#snapshot(header)
    this.#isIncrement = snapshot !== null && snapshot.base !== null
    return { sizeBytes, startBytes, snapshot }
  }

  async #snapshot(header: Buffer): Promise<StreamSnapshot> {
    const bytes = header.readUInt32BE(48)
    if (bytes < 1 || bytes > NAME_BYTES_MAX) throw damaged(0)
    const name = await this.#input.take(bytes)
    if (crc32c(name) !== header.readUInt32BE(52)) throw damaged(0)
    const [id, base] = [header.toString('hex', 32, 40), header.toString('hex', 40, 48)]
    if (id === NO_ID) throw damaged(0)
    return { id, name: name.toString(), base: base === NO_ID ? null : base }
  }

  /** The next part; after the end nothing may follow. @throws StoreError Corrupt */
  async next(): Promise<StreamPart | StreamEnd> {
    const start = await this.#input.take(DATA_SIZE)
    const kind = start.readUInt32BE(0)
    if (kind === END) return this.#end(start)
    const count = start.readUInt32BE(4)
    const isWhole = crc32c(start.subarray(0, 20)) === start.readUInt32BE(20)
    const isZeroes = kind === ZERO && this.#isIncrement
    if (!(kind === DATA || isZeroes) || !isWhole) throw damaged(this.#next)
    if (count < 1 || (count > PART_BLOCKS_MAX && !isZeroes)) throw damaged(this.#next)
    const offset = Number(start.readBigUInt64BE(8))
    const end = offset + count * BLOCK_BYTES
    const room = Math.ceil(this.#sizeBytes / BLOCK_BYTES) * BLOCK_BYTES
    if (offset % BLOCK_BYTES !== 0 || offset < this.#next || end > room) throw damaged(offset)
    if (isZeroes) {
      this.#next = end
      return { kind: 'zeroes', offset, length: count * BLOCK_BYTES }
    }
    const list = await this.#input.take(count * 4)
    if (crc32c(list) !== start.readUInt32BE(16)) throw damaged(offset)
    const crcs = Uint32Array.from({ length: count }, (_, at) => list.readUInt32BE(at * 4))
    const blocks = await this.#input.take(count * BLOCK_BYTES)
    const found = crcsOf(blocks)
    for (const [at, crc] of crcs.entries()) {
      if (found[at] !== crc) throw damaged(offset + at * BLOCK_BYTES)
    }
    this.#next = end
    return { kind: 'data', offset, crcs, blocks }
  }

  async #end(start: Buffer): Promise<StreamEnd> {
    const end = Buffer.concat([start, await this.#input.take(END_SIZE - DATA_SIZE)])
    if (crc32c(end.subarray(0, 52)) !== end.readUInt32BE(52)) throw damaged(this.#next)
    if (!(await this.#input.isAtEnd())) throw corrupt('something follows behind its end')
    const blocks = Number(end.readBigUInt64BE(8))
    return { kind: 'end', blocks, digest: end.toString('hex', 16, 48) }
  }
}

const corrupt = (what: string): StoreError => new StoreError(ErrorCode.Corrupt, what)
const damaged = (offset: number): StoreError =>
  corrupt(`it is damaged: the checksum at byte ${offset} of the volume does not match`)
