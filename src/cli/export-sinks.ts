/** Where an export goes: a file that is sparse where the volume is, a stream, or a pipe. */
import { once } from 'node:events'
import { type FileHandle, open, rename } from 'node:fs/promises'
import type { Writable } from 'node:stream'
import {
  encodeEnd,
  encodeHeader,
  encodePart,
  partsOf,
  type StreamData,
  type StreamEnd,
  type StreamHeader,
  type StreamPart,
  VolumeDigest
} from '../backup/stream-format.ts'
import { assert } from '../core/assert.ts'
import { CommandError } from './errors.ts'

export interface Sink {
  /** Bytes from which on the volume is wanted: what is before is there from an earlier run. */
  readonly startBytes: number
  /** Of what is there already. */
  readonly digest: VolumeDigest
  begin(header: StreamHeader): Promise<void>
  part(part: StreamPart): Promise<void>
  end(end: StreamEnd): Promise<void>
  /** It failed. */
  abort(): Promise<void>
}

const PIECE_BYTES = 1024 * 1024
const ZEROES = Buffer.alloc(PIECE_BYTES)

/** What a file that is not whole yet is called. */
export const partName = (path: string): string => `${path}.part`

function dataOf(part: StreamPart): StreamData {
  assert(part.kind === 'data', 'a raw image is of all, not of an increment')
  return part
}

/** A raw image. One that an earlier run left is gone on with, and read for the digest. */
export class RawFileSink implements Sink {
  readonly digest: VolumeDigest = new VolumeDigest()
  startBytes = 0
  readonly #path: string
  #file: FileHandle | null = null
  #sizeBytes = 0

  constructor(path: string) {
    this.#path = path
  }

  async open(): Promise<void> {
    const file = await open(partName(this.#path), 'a+').catch(failed(this.#path))
    await file.close()
    this.#file = await open(partName(this.#path), 'r+').catch(failed(this.#path))
    const { size } = await this.#file.stat()
    // The last write may not be whole.
    this.startBytes = Math.max(0, Math.floor(size / PIECE_BYTES) - 1) * PIECE_BYTES
    const piece = Buffer.alloc(PIECE_BYTES)
    for (let at = 0; at < this.startBytes; at += PIECE_BYTES) {
      await this.#file.read(piece, 0, PIECE_BYTES, at)
      for (const { offset, crcs } of partsOf(at, piece)) this.digest.add(offset, crcs)
    }
    await this.#file.truncate(this.startBytes)
  }

  async begin({ sizeBytes }: StreamHeader): Promise<void> {
    this.#sizeBytes = sizeBytes
  }

  async part(part: StreamPart): Promise<void> {
    const { offset, blocks } = dataOf(part)
    const bytes = blocks.subarray(0, Math.min(blocks.length, this.#sizeBytes - offset))
    await this.#file!.write(bytes, 0, bytes.length, offset).catch(failed(this.#path))
  }

  async end(): Promise<void> {
    const file = this.#file!
    await file.truncate(this.#sizeBytes).catch(failed(this.#path))
    await file.sync().catch(failed(this.#path))
    await file.close()
    await rename(partName(this.#path), this.#path).catch(failed(this.#path))
  }

  async abort(): Promise<void> {
    await this.#file?.close()
  }
}

/** A raw image into a pipe: what is sparse goes as zeroes. */
export class RawPipeSink implements Sink {
  readonly digest: VolumeDigest = new VolumeDigest()
  readonly startBytes = 0
  readonly #out: Writable
  #at = 0
  #sizeBytes = 0

  constructor(out: Writable) {
    this.#out = out
  }

  async begin({ sizeBytes }: StreamHeader): Promise<void> {
    this.#sizeBytes = sizeBytes
  }

  async part(part: StreamPart): Promise<void> {
    const { offset, blocks } = dataOf(part)
    await this.#fillTo(offset)
    const bytes = blocks.subarray(0, Math.min(blocks.length, this.#sizeBytes - offset))
    await written(this.#out, bytes)
    this.#at += bytes.length
  }

  end(): Promise<void> {
    return this.#fillTo(this.#sizeBytes)
  }

  async abort(): Promise<void> {}

  async #fillTo(end: number): Promise<void> {
    while (this.#at < end) {
      const count = Math.min(PIECE_BYTES, end - this.#at)
      await written(this.#out, ZEROES.subarray(0, count))
      this.#at += count
    }
  }
}

/** The format of torus, into a file that is renamed when it is whole, or into a pipe. */
export class StreamSink implements Sink {
  readonly digest: VolumeDigest = new VolumeDigest()
  readonly startBytes = 0
  readonly #write: (bytes: Buffer) => Promise<void>
  readonly #finish: () => Promise<void>

  constructor(write: (bytes: Buffer) => Promise<void>, finish: () => Promise<void>) {
    this.#write = write
    this.#finish = finish
  }

  static pipe(out: Writable): StreamSink {
    return new StreamSink(
      (bytes) => written(out, bytes),
      async () => {}
    )
  }

  static async file(path: string): Promise<StreamSink> {
    const file = await open(partName(path), 'w').catch(failed(path))
    const write = async (bytes: Buffer): Promise<void> => {
      await file.write(bytes).catch(failed(path))
    }
    const finish = async (): Promise<void> => {
      await file.sync().catch(failed(path))
      await file.close()
      await rename(partName(path), path).catch(failed(path))
    }
    return new StreamSink(write, finish)
  }

  begin(header: StreamHeader): Promise<void> {
    return this.#write(encodeHeader({ ...header, startBytes: 0 }))
  }

  async part(part: StreamPart): Promise<void> {
    for (const bytes of encodePart(part)) await this.#write(bytes)
  }

  async end(end: StreamEnd): Promise<void> {
    await this.#write(encodeEnd(end))
    await this.#finish()
  }

  async abort(): Promise<void> {}
}

async function written(out: Writable, bytes: Buffer): Promise<void> {
  if (out.listenerCount('error') === 0) out.on('error', () => {})
  try {
    if (out.errored !== null) throw out.errored
    if (!out.write(bytes)) await once(out, 'drain')
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new CommandError('Closed', `standard output took no more (${code})`, { cause })
  }
}

/** What the disk says about `path`, in words. */
const failed =
  (path: string) =>
  (thrown: NodeJS.ErrnoException): never => {
    const { code = thrown.message } = thrown
    if (code !== 'ENOSPC' && code !== 'EDQUOT') {
      throw new CommandError('DiskFailure', `${path} cannot be written: ${code}`)
    }
    const left = `${partName(path)} is kept: make room and run the command again`
    throw new CommandError('OutOfSpace', `the disk of ${path} is full; ${left}`)
  }
