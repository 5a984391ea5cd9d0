/**
 * A disk in memory that behaves as badly as a real one may. It forgets what was not synced when
 * the power goes, sector by sector and in any mixture; it forgets names whose directory was not
 * synced; a failed sync drops what it should have written, as Linux does; bits flip; calls fail
 * when told to.
 */
import type { Random } from '../../src/core/clock.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { PartList } from '../../src/shard/part-list.ts'
import type { FileHandle, Files } from '../../src/shard/files.ts'

const SECTOR_BYTES = 512

interface FileData {
  /** What a read sees. */
  content: Buffer
  /** What a power loss leaves for certain. */
  durable: Buffer
  /** Sectors written since they were last synced. */
  readonly dirty: Set<number>
}

const DIRECTORY = '.'

const emptyFile = (): FileData => ({
  content: Buffer.alloc(0),
  durable: Buffer.alloc(0),
  dirty: new Set()
})

type NameChange = { readonly name: string; readonly file: FileData | null }

export type FaultyCall = 'open' | 'read' | 'write' | 'sync' | 'remove' | 'rename' | 'truncate'

export class FaultyFiles implements Files {
  /** Asked before each call: an errno name makes it fail. */
  fault: (call: FaultyCall, name: string) => '' | 'EIO' | 'ENOSPC' | 'EROFS' = () => ''
  /** Bytes of all files, above which writes that grow a file fail with ENOSPC. */
  capacityBytes = Number.POSITIVE_INFINITY
  syncs = 0
  writes = 0
  private names = new Map<string, FileData>()
  private durableNames = new Map<string, FileData>()
  /** Changes of names since the directory was synced, in order. */
  private nameChanges: NameChange[] = []
  private readonly handles = new Map<FileHandle, { name: string; file: FileData }>()
  private nextHandle = 3
  private readonly random: Random & { below(limit: number): number }

  constructor(random: Random & { below(limit: number): number }) {
    this.random = random
  }

  /**
   * The power goes: all handles are invalid, and of what was not durable some survives. `mode`
   * says how much: none, all, or each sector by chance.
   */
  crash(mode: 'none' | 'all' | 'some' = 'some'): void {
    this.handles.clear()
    const kept =
      mode === 'all'
        ? this.nameChanges.length
        : mode === 'none'
          ? 0
          : this.random.below(this.nameChanges.length + 1)
    const names = new Map(this.durableNames)
    for (const { name, file } of this.nameChanges.slice(0, kept)) {
      if (file === null) names.delete(name)
      else names.set(name, file)
    }
    this.names = names
    this.durableNames = new Map(names)
    this.nameChanges = []
    const share = mode === 'all' ? 1 : mode === 'none' ? 0 : this.random.below(101) / 100
    for (const file of new Set(names.values())) this.crashFile(file, share)
  }

  /** The process is killed; the system goes on: nothing is lost. */
  kill(): void {
    this.handles.clear()
  }

  /** The disk as it is now, all of it durable, for one that is put back later. */
  copy(): FaultyFiles {
    const copy = new FaultyFiles(this.random)
    for (const [name, { content }] of this.names) {
      const file = {
        content: resized(content, content.length, true),
        durable: resized(content, content.length, true),
        dirty: new Set<number>()
      }
      copy.names.set(name, file)
    }
    copy.durableNames = new Map(copy.names)
    return copy
  }

  flipBit(name: string, bit: number): void {
    const file = this.fileOf(name)
    const byte = Math.floor(bit / 8)
    for (const bytes of [file.content, file.durable]) {
      if (byte < bytes.length) bytes[byte]! ^= 1 << (bit % 8)
    }
  }

  /** Bytes of a file as a read sees them. */
  bytesOf(name: string): Buffer {
    return this.fileOf(name).content
  }

  /** What a power loss leaves of it for certain. */
  durableBytesOf(name: string): Buffer {
    return this.fileOf(name).durable
  }

  list(): string[] {
    return [...this.names.keys()]
  }

  open(name: string, mode: 'existing' | 'create' | 'readOnly'): FileHandle {
    if (mode !== 'readOnly') this.check('open', name)
    let file = this.names.get(name)
    if (mode === 'create') {
      if (file !== undefined) throw new StoreError(ErrorCode.AlreadyExists, `open ${name}: EEXIST`)
      file = emptyFile()
      this.setName(name, file)
    }
    if (file === undefined) throw new StoreError(ErrorCode.NotFound, `open ${name}: ENOENT`)
    const handle = this.nextHandle++
    this.handles.set(handle, { name, file })
    return handle
  }

  openDirectory(): FileHandle {
    const handle = this.nextHandle++
    this.handles.set(handle, { name: DIRECTORY, file: emptyFile() })
    return handle
  }

  close(handle: FileHandle): void {
    this.opened(handle)
    this.handles.delete(handle)
  }

  size(handle: FileHandle): number {
    return this.opened(handle).file.content.length
  }

  truncate(handle: FileHandle, bytes: number): void {
    const { file, name } = this.opened(handle)
    this.check('truncate', name)
    file.content = resized(file.content, bytes)
    if (bytes < file.durable.length) file.durable = resized(file.durable, bytes)
  }

  read(handle: FileHandle, offset: number, into: Buffer, start: number, length: number): number {
    const { file, name } = this.opened(handle)
    this.check('read', name)
    const end = Math.min(offset + length, file.content.length)
    return end <= offset ? 0 : file.content.copy(into, start, offset, end)
  }

  write(handle: FileHandle, offset: number, from: Buffer, start: number, length: number): void {
    const { file, name } = this.opened(handle)
    this.writes++
    try {
      this.check('write', name)
    } catch (error) {
      // A write that fails may have got part of the way.
      const part = this.random.below(Math.floor(length / SECTOR_BYTES) + 1) * SECTOR_BYTES
      if (part > 0) this.put(file, offset, from, start, part)
      throw error
    }
    const growth = Math.max(0, offset + length - file.content.length)
    if (growth > this.freeBytes()) throw new StoreError(ErrorCode.OutOfSpace, `${name}: ENOSPC`)
    this.put(file, offset, from, start, length)
  }

  writeGathered(handle: FileHandle, offset: number, parts: PartList): void {
    let at = offset
    for (let i = 0; i < parts.length; i++) {
      this.write(handle, at, parts.buffers[i]!, parts.starts[i]!, parts.lengths[i]!)
      at += parts.lengths[i]!
    }
  }

  sync(handle: FileHandle): void {
    const { file, name } = this.opened(handle)
    this.syncs++
    if (name === DIRECTORY) {
      this.syncDirectory()
      return
    }
    try {
      this.check('sync', name)
    } catch (error) {
      if (error instanceof StoreError) file.dirty.clear() // the system takes its pages for clean
      throw error
    }
    if (file.durable.length !== file.content.length) {
      file.durable = resized(file.durable, file.content.length)
    }
    copySectors(file.content, file.durable, file.dirty)
    file.dirty.clear()
  }

  remove(name: string): void {
    this.check('remove', name)
    this.fileOf(name)
    this.setName(name, null)
  }

  rename(from: string, to: string): void {
    this.check('rename', from)
    const file = this.fileOf(from)
    this.setName(to, file)
    this.setName(from, null)
  }

  syncDirectory(): void {
    this.check('sync', '')
    this.durableNames = new Map(this.names)
    this.nameChanges = []
  }

  freeBytes(): number {
    let used = 0
    for (const file of this.names.values()) used += file.content.length
    return Math.max(0, Math.min(this.capacityBytes, 2 ** 40) - used)
  }

  private put(file: FileData, offset: number, from: Buffer, start: number, length: number): void {
    const end = offset + length
    if (end > file.content.length) file.content = resized(file.content, end)
    from.copy(file.content, offset, start, start + length)
    const last = Math.ceil(end / SECTOR_BYTES)
    for (let sector = Math.floor(offset / SECTOR_BYTES); sector < last; sector++) {
      file.dirty.add(sector)
    }
  }

  private crashFile(file: FileData, share: number): void {
    const kept = [...file.dirty].filter(() => this.random.below(1000) < share * 1000)
    const reach = kept.reduce((most, sector) => Math.max(most, (sector + 1) * SECTOR_BYTES), 0)
    const bytes = Math.min(file.content.length, Math.max(file.durable.length, reach))
    const content = Buffer.alloc(bytes)
    file.durable.copy(content)
    copySectors(file.content, content, kept)
    file.content = content
    file.durable = resized(content, bytes, true)
    file.dirty.clear()
  }

  private setName(name: string, file: FileData | null): void {
    if (file === null) this.names.delete(name)
    else this.names.set(name, file)
    this.nameChanges.push({ name, file })
  }

  private fileOf(name: string): FileData {
    const file = this.names.get(name)
    if (file === undefined) throw new StoreError(ErrorCode.NotFound, `${name}: ENOENT`)
    return file
  }

  private opened(handle: FileHandle): { name: string; file: FileData } {
    const opened = this.handles.get(handle)
    if (opened === undefined) throw new Error(`handle ${handle} is not open`)
    return opened
  }

  private check(call: FaultyCall, name: string): void {
    const errno = this.fault(call, name)
    if (errno === '') return
    const code = errno === 'ENOSPC' ? ErrorCode.OutOfSpace : ErrorCode.DiskFailure
    throw new StoreError(code, `${call} ${name}: ${errno}`)
  }
}

/**
 * The same bytes, then zeroes. Files grow in steps: a buffer has room behind it that was never
 * written, and none is of Node's pool.
 */
function resized(bytes: Buffer, length: number, isCopy: boolean = false): Buffer {
  const room = bytes.buffer.byteLength
  if (!isCopy && length >= bytes.length && length <= room)
    return Buffer.from(bytes.buffer, 0, length)
  const copy = Buffer.from(new ArrayBuffer(isCopy ? length : 2 * length), 0, length)
  bytes.copy(copy)
  return copy
}

/** Neighbours in one go. */
function copySectors(from: Buffer, to: Buffer, sectors: Iterable<number>): void {
  let first = 0
  let end = 0
  const copy = (): void => {
    const start = first * SECTOR_BYTES
    if (end > first) from.copy(to, start, start, Math.min(end * SECTOR_BYTES, from.length))
  }
  for (const sector of sectors) {
    if (sector !== end) {
      copy()
      first = sector
    }
    end = sector + 1
  }
  copy()
}
