/** A backup store in a directory: an object is a file, written beside and renamed. */
import { randomBytes } from 'node:crypto'
import { link, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname, join, relative, sep } from 'node:path'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BackupStore, StoredObject } from './store.ts'

/** Ends of names of files that are being written. */
const UNFINISHED = '.part'

export class DirectoryStore implements BackupStore {
  readonly name: string
  readonly #made = new Set<string>()

  constructor(path: string) {
    this.name = path
  }

  /** Its directory is made, but not the one in which that is: a disk may not be mounted. */
  async prepare(): Promise<void> {
    const above = await stat(dirname(this.name)).catch(absent)
    if (above === null || !above.isDirectory()) {
      const text = `there is no directory ${dirname(this.name)} for backups in ${this.name}`
      throw new StoreError(ErrorCode.NotFound, `${text}: is its disk mounted?`)
    }
    const found = await stat(this.name).catch(absent)
    if (found === null || found.isDirectory()) return
    throw new StoreError(ErrorCode.InvalidArgument, `${this.name} is a file, not a directory`)
  }

  async *list(prefix: string): AsyncIterable<StoredObject> {
    const at = prefix.lastIndexOf('/')
    const folder = at < 0 ? this.name : this.#pathOf(prefix.slice(0, at))
    for await (const path of this.#filesIn(folder)) {
      const key = relative(this.name, path).split(sep).join('/')
      if (!key.startsWith(prefix) || key.endsWith(UNFINISHED)) continue
      const found = await stat(path).catch(absent)
      if (found !== null) yield { key, bytes: found.size, modifiedMs: found.mtimeMs }
    }
  }

  get(key: string): Promise<Buffer | null> {
    return this.#try(`read ${key}`, () => readFile(this.#pathOf(key)).catch(absent))
  }

  put(key: string, bytes: Buffer): Promise<void> {
    return this.#try(`write ${key}`, async () => {
      // A list that goes on could miss a file whose place another one takes.
      if (await this.#isSame(key, bytes)) return
      const part = await this.#written(key, bytes)
      await rename(part, this.#pathOf(key))
      await syncFolder(dirname(part))
    })
  }

  putIfAbsent(key: string, bytes: Buffer): Promise<boolean> {
    return this.#try(`write ${key}`, async () => {
      const part = await this.#written(key, bytes)
      try {
        await link(part, this.#pathOf(key))
      } catch (thrown) {
        if ((thrown as NodeJS.ErrnoException).code === 'EEXIST') return false
        throw thrown
      } finally {
        await rm(part)
      }
      await syncFolder(dirname(part))
      return true
    })
  }

  delete(key: string): Promise<void> {
    return this.#try(`delete ${key}`, () => rm(this.#pathOf(key), { force: true }))
  }

  async *#filesIn(folder: string): AsyncIterable<string> {
    const entries = await this.#try(`list ${folder}`, () =>
      readdir(folder, { withFileTypes: true }).catch(absent)
    )
    for (const entry of entries ?? []) {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) yield* this.#filesIn(path)
      else yield path
    }
  }

  /** What has the bytes already gets them again, for a new time by the clock of its disk. */
  async #isSame(key: string, bytes: Buffer): Promise<boolean> {
    const path = this.#pathOf(key)
    const found = await readFile(path).catch(absent)
    if (found === null || !found.equals(bytes)) return false
    const file = await open(path, 'r+').catch(absent)
    if (file === null) return false
    await file.write(bytes, 0, bytes.length, 0).finally(() => file.close())
    return true
  }

  /** A file beside it that has the bytes, synced. */
  async #written(key: string, bytes: Buffer): Promise<string> {
    const path = this.#pathOf(key)
    const folder = dirname(path)
    if (!this.#made.has(folder)) {
      const first = await mkdir(folder, { recursive: true })
      // Each folder that is new stands in the one above it.
      for (let made = folder; first !== undefined && made.length >= first.length; ) {
        made = dirname(made)
        await syncFolder(made)
      }
      this.#made.add(folder)
    }
    const part = `${path}.${randomBytes(6).toString('hex')}${UNFINISHED}`
    const file = await open(part, 'wx')
    try {
      await file.writeFile(bytes)
      await file.sync()
    } catch (thrown) {
      await rm(part, { force: true })
      throw thrown
    } finally {
      await file.close()
    }
    return part
  }

  #pathOf(key: string): string {
    return join(this.name, ...key.split('/'))
  }

  async #try<T>(what: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (cause) {
      const { code = String(cause) } = cause as NodeJS.ErrnoException
      const isFull = code === 'ENOSPC' || code === 'EDQUOT'
      const why = isFull ? 'the disk is full' : code
      const text = `backup store ${this.name}: cannot ${what}: ${why}`
      throw new StoreError(isFull ? ErrorCode.OutOfSpace : ErrorCode.DiskFailure, text, { cause })
    }
  }
}

function absent(thrown: unknown): null {
  const { code } = thrown as NodeJS.ErrnoException
  if (code === 'ENOENT' || code === 'ENOTDIR') return null
  throw thrown
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
