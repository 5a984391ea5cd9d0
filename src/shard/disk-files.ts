/**
 * Files in a real directory. Handles are file descriptors. Large aligned writes from page-aligned
 * memory that make a file longer go through a second descriptor with O_DIRECT: that takes the
 * least time of this thread and the processor. What overwrites, or comes in small pieces, goes
 * through the page cache: 3 to 4 times faster where that has most of it, nobody waits for the disk
 * meanwhile, and the next read of it is at hand.
 */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { FileHandle, Files } from './files.ts'
import type { PartList } from './part-list.ts'

const PAGE_BYTES = 4096

export interface DiskFilesOptions {
  /** Writes of at least this many bytes bypass the page cache; Infinity turns that off. */
  readonly directBytesMin?: number
  /** Is told of every descriptor after it was opened and before it is closed. */
  readonly descriptors?: DescriptorWatch
}

export interface DescriptorWatch {
  opened(descriptor: number): void
  closing(descriptor: number): void
}

const nobodyWatches: DescriptorWatch = { opened: () => {}, closing: () => {} }

/** Below this a write into the page cache and its share of a sync cost less. */
const DIRECT_BYTES_MIN_DEFAULT = 512 * 1024
/** IOV_MAX of Linux. */
const VECTORS_MAX = 1024

/** What the system said, as our error. `doing` names the file. */
export function storeErrorOfSystem(thrown: unknown, doing: string): StoreError {
  const errno = (thrown as NodeJS.ErrnoException).code
  if (typeof errno !== 'string') throw thrown
  const code =
    errno === 'ENOSPC' || errno === 'EDQUOT'
      ? ErrorCode.OutOfSpace
      : errno === 'ENOENT'
        ? ErrorCode.NotFound
        : errno === 'EEXIST'
          ? ErrorCode.AlreadyExists
          : ErrorCode.DiskFailure
  return new StoreError(code, `${doing}: ${errno}`, { cause: thrown })
}

export class DiskFiles implements Files {
  private readonly directory: string
  private readonly directBytesMin: number
  private readonly descriptors: DescriptorWatch
  private readonly names = new Map<FileHandle, string>()
  /** Up to here the file has bytes; kept for files that large writes went to. */
  private readonly ends = new Map<FileHandle, number>()
  /** Second descriptor of a file for direct writes; -1 when the filesystem takes none. */
  private readonly direct = new Map<FileHandle, number>()
  /** Memory that is not page aligned: direct writes from it failed. */
  private readonly unaligned = new WeakSet<ArrayBufferLike>()

  constructor(directory: string, options: DiskFilesOptions = {}) {
    this.directory = directory
    this.directBytesMin = options.directBytesMin ?? DIRECT_BYTES_MIN_DEFAULT
    this.descriptors = options.descriptors ?? nobodyWatches
  }

  list(): string[] {
    try {
      return fs.readdirSync(this.directory)
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `list ${this.directory}`)
    }
  }

  open(name: string, mode: 'existing' | 'create' | 'readOnly'): FileHandle {
    const { O_RDWR, O_RDONLY, O_CREAT, O_EXCL } = fs.constants
    const flags =
      mode === 'create' ? O_RDWR | O_CREAT | O_EXCL : mode === 'existing' ? O_RDWR : O_RDONLY
    try {
      const handle = fs.openSync(join(this.directory, name), flags, 0o600)
      this.names.set(handle, name)
      this.descriptors.opened(handle)
      return handle
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `open ${name}`)
    }
  }

  openDirectory(): FileHandle {
    try {
      const handle = fs.openSync(this.directory, fs.constants.O_RDONLY)
      this.names.set(handle, this.directory)
      this.descriptors.opened(handle)
      return handle
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `open ${this.directory}`)
    }
  }

  close(handle: FileHandle): void {
    const direct = this.direct.get(handle)
    this.direct.delete(handle)
    this.ends.delete(handle)
    const name = this.nameOf(handle)
    this.names.delete(handle)
    try {
      if (direct !== undefined && direct >= 0) this.closeDescriptor(direct)
      this.closeDescriptor(handle)
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `close ${name}`)
    }
  }

  size(handle: FileHandle): number {
    try {
      return fs.fstatSync(handle).size
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `size of ${this.nameOf(handle)}`)
    }
  }

  truncate(handle: FileHandle, bytes: number): void {
    try {
      fs.ftruncateSync(handle, bytes)
      this.ends.delete(handle)
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `truncate ${this.nameOf(handle)} to ${bytes}`)
    }
  }

  read(handle: FileHandle, offset: number, into: Buffer, start: number, length: number): number {
    let done = 0
    try {
      while (done < length) {
        const got = fs.readSync(handle, into, start + done, length - done, offset + done)
        if (got === 0) break
        done += got
      }
      return done
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `read ${length} at ${offset} of ${this.nameOf(handle)}`)
    }
  }

  write(handle: FileHandle, offset: number, from: Buffer, start: number, length: number): void {
    if (length >= this.directBytesMin && this.grows(handle, offset, length)) {
      if (this.writeDirect(handle, offset, from, start, length)) return
    }
    this.writeBuffered(handle, offset, from, start, length)
  }

  private writeBuffered(
    handle: FileHandle,
    offset: number,
    from: Buffer,
    start: number,
    length: number
  ): void {
    try {
      writeFully(handle, offset, from, start, length)
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `write ${length} at ${offset} of ${this.nameOf(handle)}`)
    }
  }

  writeGathered(handle: FileHandle, offset: number, parts: PartList): void {
    const mayBeDirect = parts.isStream && parts.bytes >= this.directBytesMin
    if (mayBeDirect && this.grows(handle, offset, parts.bytes)) {
      if (this.writeGatheredDirect(handle, offset, parts)) return
    }
    let at = offset
    for (let i = 0; i < parts.length; i++) {
      const length = parts.lengths[i]!
      const start = parts.starts[i]!
      if (mayBeDirect) this.write(handle, at, parts.buffers[i]!, start, length)
      else this.writeBuffered(handle, at, parts.buffers[i]!, start, length)
      at += length
    }
  }

  sync(handle: FileHandle): void {
    try {
      fs.fdatasyncSync(handle)
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `sync ${this.nameOf(handle)}`)
    }
  }

  remove(name: string): void {
    try {
      fs.unlinkSync(join(this.directory, name))
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `remove ${name}`)
    }
  }

  rename(from: string, to: string): void {
    try {
      fs.renameSync(join(this.directory, from), join(this.directory, to))
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `rename ${from} to ${to}`)
    }
  }

  syncDirectory(): void {
    syncDirectoryAt(this.directory)
  }

  freeBytes(): number {
    try {
      const { bavail, bsize } = fs.statfsSync(this.directory)
      return bavail * bsize
    } catch (thrown) {
      throw storeErrorOfSystem(thrown, `statfs ${this.directory}`)
    }
  }

  /** Whether a write makes the file longer; notes that it does. */
  private grows(handle: FileHandle, offset: number, length: number): boolean {
    const size = this.ends.get(handle) ?? this.size(handle)
    this.ends.set(handle, Math.max(size, offset + length))
    return offset + length > size
  }

  /** False when this memory or filesystem takes no direct writes: the caller writes buffered. */
  private writeDirect(
    handle: FileHandle,
    offset: number,
    from: Buffer,
    start: number,
    length: number
  ): boolean {
    if (((from.byteOffset + start) | offset | length) % PAGE_BYTES !== 0) return false
    if (this.unaligned.has(from.buffer)) return false
    const direct = this.directOf(handle)
    if (direct < 0) return false
    try {
      writeFully(direct, offset, from, start, length)
      return true
    } catch (thrown) {
      // The memory is not page aligned, or the filesystem changed its mind.
      if ((thrown as NodeJS.ErrnoException).code !== 'EINVAL') {
        throw storeErrorOfSystem(thrown, `write ${length} at ${offset} of ${this.nameOf(handle)}`)
      }
      this.unaligned.add(from.buffer)
      return false
    }
  }

  /** All parts in one direct write, as far as the system takes them; false as `writeDirect`. */
  private writeGatheredDirect(handle: FileHandle, offset: number, parts: PartList): boolean {
    let misaligned = offset
    for (let i = 0; i < parts.length; i++) {
      const from = parts.buffers[i]!
      if (this.unaligned.has(from.buffer)) return false
      misaligned |= (from.byteOffset + parts.starts[i]!) | parts.lengths[i]!
    }
    const direct = misaligned % PAGE_BYTES === 0 ? this.directOf(handle) : -1
    if (direct < 0 || parts.length > VECTORS_MAX) return false
    try {
      const done = fs.writevSync(direct, parts.views(), offset)
      if (done < parts.bytes) this.writeRest(handle, offset, parts, done)
      return true
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== 'EINVAL') {
        throw storeErrorOfSystem(
          thrown,
          `write ${parts.bytes} at ${offset} of ${this.nameOf(handle)}`
        )
      }
      return false // some memory is not page aligned: part by part tells which
    }
  }

  private writeRest(handle: FileHandle, offset: number, parts: PartList, done: number): void {
    let at = 0
    for (let i = 0; i < parts.length; i++) {
      const length = parts.lengths[i]!
      const skip = Math.min(Math.max(done - at, 0), length)
      if (skip < length) {
        this.write(
          handle,
          offset + at + skip,
          parts.buffers[i]!,
          parts.starts[i]! + skip,
          length - skip
        )
      }
      at += length
    }
  }

  private directOf(handle: FileHandle): number {
    const known = this.direct.get(handle)
    if (known !== undefined) return known
    let direct = -1
    const flag = fs.constants.O_DIRECT
    if (flag !== undefined) {
      try {
        direct = fs.openSync(join(this.directory, this.nameOf(handle)), fs.constants.O_RDWR | flag)
        this.descriptors.opened(direct)
      } catch {
        direct = -1 // tmpfs and some network filesystems refuse the flag
      }
    }
    this.direct.set(handle, direct)
    return direct
  }

  private closeDescriptor(descriptor: number): void {
    this.descriptors.closing(descriptor)
    fs.closeSync(descriptor)
  }

  private nameOf(handle: FileHandle): string {
    return this.names.get(handle) ?? `handle ${handle}`
  }
}

function writeFully(
  descriptor: number,
  offset: number,
  from: Buffer,
  start: number,
  length: number
): void {
  let done = 0
  while (done < length) {
    done += fs.writeSync(descriptor, from, start + done, length - done, offset + done)
  }
}

/** Makes names created, renamed or removed in `directory` durable. */
export function syncDirectoryAt(directory: string): void {
  let descriptor = -1
  try {
    descriptor = fs.openSync(directory, fs.constants.O_RDONLY)
    fs.fsyncSync(descriptor)
  } catch (thrown) {
    throw storeErrorOfSystem(thrown, `sync directory ${directory}`)
  } finally {
    if (descriptor >= 0) fs.closeSync(descriptor)
  }
}
