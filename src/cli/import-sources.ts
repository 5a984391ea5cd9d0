/** What is imported: its size, and its data in order. */
import { type FileHandle, open } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import {
  partsOf,
  type StreamPart,
  StreamReader,
  type StreamSnapshot,
  VolumeDigest
} from '../backup/stream-format.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { formatSize } from '../core/units.ts'
import { CommandError, UsageError } from './errors.ts'
import { systemReason } from '../core/system-reason.ts'

export interface Source {
  readonly sizeBytes: number
  readonly digest: VolumeDigest
  /** What it says that it is of. */
  readonly snapshot: StreamSnapshot | null
  /**
   * All blocks that are not zeroes, of an increment also what became zeroes, in order. Throws at
   * its end if something is wrong with it.
   */
  parts(): AsyncIterable<StreamPart>
  /** Nothing more is wanted of it. */
  close(): Promise<void>
}

export const lengthOf = (part: StreamPart): number =>
  part.kind === 'data' ? part.blocks.length : part.length

const PIECE_BYTES = 1024 * 1024

/** A raw image, cut into pieces. It ends where it ends: the rest of the volume is zeroes. */
class RawSource implements Source {
  readonly digest: VolumeDigest = new VolumeDigest()
  readonly sizeBytes: number
  readonly snapshot = null
  readonly #pieces: AsyncIterable<Buffer>
  /** So much has to come; null: what comes is right. */
  readonly #expected: number | null

  constructor(sizeBytes: number, pieces: AsyncIterable<Buffer>, expected: number | null) {
    this.sizeBytes = sizeBytes
    this.#pieces = pieces
    this.#expected = expected
  }

  async close(): Promise<void> {
    await this.#pieces[Symbol.asyncIterator]().return?.()
  }

  async *parts(): AsyncIterable<StreamPart> {
    let at = 0
    let came = 0
    for await (const piece of this.#pieces) {
      came += piece.length
      if (came > this.sizeBytes) {
        const size = formatSize(this.sizeBytes)
        throw new CommandError('OutOfRange', `what is imported is larger than ${size}`)
      }
      const rest = piece.length % BLOCK_BYTES
      const whole = rest === 0 ? piece : Buffer.concat([piece, Buffer.alloc(BLOCK_BYTES - rest)])
      for (const part of partsOf(at, whole)) {
        this.digest.add(part.offset, part.crcs)
        yield part
      }
      at += whole.length
    }
    if (this.#expected !== null && came < this.#expected) {
      const [had, wanted] = [formatSize(came), formatSize(this.#expected)]
      throw new CommandError('Corrupt', `it ended after ${had} of ${wanted}: was it cut off?`)
    }
  }
}

/** `name`: what people know it by, where that is another file. */
export async function rawFile(
  path: string,
  sizeBytes: number | undefined,
  name: string = path
): Promise<Source> {
  requireBlocks(sizeBytes)
  const file = await opened(path)
  const { size } = await file.stat()
  await file.close()
  const whole = Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES
  if (sizeBytes !== undefined && sizeBytes < size) {
    const sizes = `${formatSize(size)}, more than --size ${formatSize(sizeBytes)}`
    throw new CommandError('OutOfRange', `${name} has ${sizes}`)
  }
  if (whole === 0 && sizeBytes === undefined) throw new UsageError(`${name} is empty`)
  return new RawSource(sizeBytes ?? whole, piecesOf(path), size)
}

export function rawPipe(input: Readable, sizeBytes: number | undefined): Source {
  if (sizeBytes === undefined) throw new UsageError('a raw image from a pipe needs --size')
  requireBlocks(sizeBytes)
  return new RawSource(sizeBytes, evenly(input), sizeBytes)
}

function requireBlocks(sizeBytes: number | undefined): void {
  if (sizeBytes === undefined || (sizeBytes > 0 && sizeBytes % BLOCK_BYTES === 0)) return
  throw new UsageError(`--size ${sizeBytes} must be a positive multiple of ${BLOCK_BYTES} bytes`)
}

/** In the format of torus. @throws StoreError Corrupt when it is not */
export async function torusStream(input: AsyncIterable<Buffer>): Promise<Source> {
  const reader = new StreamReader(input)
  const { sizeBytes, startBytes, snapshot } = await reader.header()
  if (startBytes > 0) throw new CommandError('Corrupt', 'the stream does not begin at byte 0')
  const digest = new VolumeDigest()
  async function* parts(): AsyncIterable<StreamPart> {
    for (let part = await reader.next(); ; part = await reader.next()) {
      if (part.kind === 'end') {
        const { blocks, digest: found } = digest.end()
        if (blocks === part.blocks && found === part.digest) return
        throw new CommandError('Corrupt', `it has ${blocks} of ${part.blocks} blocks, or others`)
      }
      digest.addPart(part)
      yield part
    }
  }
  return { sizeBytes, digest, snapshot, parts, close: () => reader.close() }
}

export async function fileStream(path: string): Promise<AsyncIterable<Buffer>> {
  await (await opened(path)).close()
  return piecesOf(path)
}

/** The first bytes of a file: enough to know its format. */
export async function firstBytes(path: string): Promise<Buffer> {
  const file = await opened(path)
  const bytes = Buffer.alloc(8)
  await file.read(bytes, 0, 8, 0)
  await file.close()
  return bytes
}

async function opened(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r')
  } catch (thrown) {
    throw new CommandError('NotFound', `${path} cannot be read: ${systemReason(thrown)}`)
  }
}

/** Opens it when the first piece is wanted. */
async function* piecesOf(path: string): AsyncIterable<Buffer> {
  const file = await opened(path)
  try {
    for (;;) {
      const piece = Buffer.allocUnsafe(PIECE_BYTES)
      const { bytesRead } = await file.read(piece, 0, PIECE_BYTES)
      if (bytesRead === 0) return
      yield piece.subarray(0, bytesRead)
    }
  } finally {
    await file.close()
  }
}

/** In pieces of whole blocks, but for the last one. */
async function* evenly(input: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
  let rest = Buffer.alloc(0)
  for await (const bytes of input) {
    rest = Buffer.concat([rest, bytes])
    const whole = rest.length - (rest.length % BLOCK_BYTES)
    if (whole === 0) continue
    yield rest.subarray(0, whole)
    rest = rest.subarray(whole)
  }
  if (rest.length > 0) yield rest
}
