/** Where an export goes: a raw image, sparse where the volume is, or a pipe. */
import { once } from 'node:events'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import type { Writable } from 'node:stream'
import {
  partsOf,
  type StreamData,
  type StreamEnd,
  type StreamHeader,
  type StreamPart,
  VolumeDigest
} from '../backup/stream-format.ts'
import { assert } from '../core/assert.ts'
import { systemReason } from '../core/system-reason.ts'
import { CommandError } from './errors.ts'

export interface Sink {
  /** Bytes from which on the volume is wanted: what is before is there from an earlier run. */
  readonly startBytes: number
  /** Is that known to be of what is exported? Else the digest of all of it has to tell. */
  readonly isTrusted: boolean
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

/** Of what was sealed in the cluster and is not in its file: its owner alone may read that. */
export const modeOf = (isEncrypted: boolean): number => (isEncrypted ? 0o600 : 0o666)

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
  #isEmpty = true
  readonly #mode: number

  constructor(path: string, mode: number) {
    this.#path = path
    this.#mode = mode
  }

  get isTrusted(): boolean {
    return this.startBytes === 0
  }

  async open(): Promise<void> {
    const file = await open(partName(this.#path), 'a+', this.#mode).catch(failed(this.#path))
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
    this.#isEmpty = this.startBytes === 0
  }

  async begin({ sizeBytes }: StreamHeader): Promise<void> {
    this.#sizeBytes = sizeBytes
  }

  async part(part: StreamPart): Promise<void> {
    const { offset, blocks } = dataOf(part)
    const length = Math.min(blocks.length, this.#sizeBytes - offset)
    this.#isEmpty = false
    // A disk may take less than all before it says that it is full.
    for (let done = 0; done < length; ) {
      const { bytesWritten } = await this.#file!.write(
        blocks,
        done,
        length - done,
        offset + done
      ).catch(failed(this.#path))
      done += bytesWritten
    }
  }

  async end(): Promise<void> {
    const file = this.#file!
    await file.truncate(this.#sizeBytes).catch(failed(this.#path))
    await file.sync().catch(failed(this.#path))
    await file.close()
    await rename(partName(this.#path), this.#path).catch(failed(this.#path))
  }

  async abort(): Promise<void> {
    await this.#file?.close().catch(() => {})
    if (this.#isEmpty) await rm(partName(this.#path), { force: true })
  }
}

/** A raw image into a pipe: what is sparse goes as zeroes. */
export class RawPipeSink implements Sink {
  readonly digest: VolumeDigest = new VolumeDigest()
  readonly startBytes = 0
  readonly isTrusted = true
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

export async function written(out: Writable, bytes: Buffer): Promise<void> {
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
export const failed =
  (path: string) =>
  (thrown: NodeJS.ErrnoException): never => {
    const { code } = thrown
    if (code !== 'ENOSPC' && code !== 'EDQUOT') {
      throw new CommandError('DiskFailure', `${path} cannot be written: ${systemReason(thrown)}`)
    }
    const left = `${partName(path)} is kept: make room and run the command again`
    throw new CommandError('OutOfSpace', `the disk of ${path} is full; ${left}`)
  }
