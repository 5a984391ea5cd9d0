/** Exports in the format of torus: into a pipe, or into a file that is gone on with. */
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import type { Writable } from 'node:stream'
import {
  encodeEnd,
  encodeHeader,
  encodePart,
  type StreamEnd,
  type StreamHeader,
  type StreamPart,
  StreamReader,
  VolumeDigest
} from '../backup/stream-format.ts'
import { StoreError } from '../core/errors.ts'
import { CommandError } from './errors.ts'
import { failed, partName, type Sink, written } from './export-sinks.ts'
import { fileStream, lengthOf } from './import-sources.ts'

export class StreamPipeSink implements Sink {
  readonly digest: VolumeDigest = new VolumeDigest()
  readonly startBytes = 0
  readonly isTrusted = true
  readonly #out: Writable

  constructor(out: Writable) {
    this.#out = out
  }

  begin(header: StreamHeader): Promise<void> {
    return written(this.#out, encodeHeader({ ...header, startBytes: 0 }))
  }

  async part(part: StreamPart): Promise<void> {
    for (const bytes of encodePart(part)) await written(this.#out, bytes)
  }

  end(end: StreamEnd): Promise<void> {
    return written(this.#out, encodeEnd(end))
  }

  async abort(): Promise<void> {}
}

/** What an earlier run left is read and checked, and what of it is whole stays. */
export class StreamFileSink implements Sink {
  readonly digest: VolumeDigest = new VolumeDigest()
  startBytes = 0
  readonly #path: string
  #file: FileHandle | null = null
  /** Of what is there. */
  #header: StreamHeader | null = null
  #at = 0
  readonly #mode: number

  constructor(path: string, mode: number) {
    this.#path = path
    this.#mode = mode
  }

  /** What a snapshot holds does not change: its name tells enough, see `begin`. */
  get isTrusted(): boolean {
    return this.#header === null || this.#header.snapshot !== null
  }

  async open(): Promise<void> {
    const path = partName(this.#path)
    this.#file = await open(path, 'a+', this.#mode).catch(failed(this.#path))
    await this.#file.close()
    await this.#readOn(path)
    this.#file = await open(path, 'r+').catch(failed(this.#path))
    await this.#file.truncate(this.#at)
  }

  async #readOn(path: string): Promise<void> {
    const reader = new StreamReader(await fileStream(path))
    try {
      this.#header = await reader.header()
      this.#at = encodeHeader(this.#header).length
      for (let part = await reader.next(); part.kind !== 'end'; part = await reader.next()) {
        this.digest.addPart(part)
        this.startBytes = part.offset + lengthOf(part)
        for (const { length } of encodePart(part)) this.#at += length
      }
    } catch (thrown) {
      // It ends somewhere.
      if (!(thrown instanceof StoreError)) throw thrown
    } finally {
      await reader.close()
    }
  }

  async begin(header: StreamHeader): Promise<void> {
    const there = this.#header
    if (there === null) return this.#write(encodeHeader({ ...header, startBytes: 0 }))
    const isSame =
      there.sizeBytes === header.sizeBytes &&
      there.snapshot?.id === header.snapshot?.id &&
      there.snapshot?.base === header.snapshot?.base
    if (isSame) return
    const text = `${partName(this.#path)} is what is left of an export of something else`
    throw new CommandError('Conflict', `${text}: remove it`)
  }

  async part(part: StreamPart): Promise<void> {
    for (const bytes of encodePart(part)) await this.#write(bytes)
  }

  async end(end: StreamEnd): Promise<void> {
    await this.#write(encodeEnd(end))
    const file = this.#file!
    await file.sync().catch(failed(this.#path))
    await file.close()
    await rename(partName(this.#path), this.#path).catch(failed(this.#path))
  }

  async abort(): Promise<void> {
    await this.#file?.close().catch(() => {})
    if (this.#at === 0) await rm(partName(this.#path), { force: true })
  }

  async #write(bytes: Buffer): Promise<void> {
    // A disk may take less than all before it says that it is full.
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#file!.write(
        bytes,
        done,
        bytes.length - done,
        this.#at + done
      ).catch(failed(this.#path))
      done += bytesWritten
    }
    this.#at += bytes.length
  }
}
