import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync
} from 'node:fs'
import { dirname, join } from 'node:path'
import { open, type RootDatabase } from 'lmdb'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { ReadTables, Tables, WriteTables } from './tables.ts'

type Database = RootDatabase<Buffer, Buffer>

/** There are sealed keys and hashes of tokens in it. */
const OWNER_ONLY = 0o700
const OTHERS = 0o077

/**
 * Tables in an LMDB environment, a directory. Writes are committed on LMDB's own thread, several
 * at a time, so a sync does not stall the main thread.
 */
export class LmdbTables implements Tables {
  readonly #path: string
  readonly #database: Database
  readonly #tables: WriteTables
  #failure: StoreError | null = null
  /** Resolves when every write so far is over. */
  #written: Promise<unknown> = Promise.resolve()

  private constructor(path: string, database: Database) {
    this.#path = path
    this.#database = database
    this.#tables = {
      get: (key) => database.getBinary(toBytes(key)) ?? null,
      range: (start, end, limit) => {
        const found: [string, Buffer][] = []
        const options = { start: toBytes(start), end: toBytes(end) }
        for (const { key, value } of database.getRange(options)) {
          if (found.length >= limit) break
          found.push([key.toString('latin1'), Buffer.from(value)])
        }
        return found
      },
      put: (key, value) => void database.put(toBytes(key), value),
      remove: (key) => void database.remove(toBytes(key))
    }
  }

  /**
   * Opens the environment `path`; with `create` it is made if it is not there. It appears there
   * complete or not at all. One process may have it open at a time; who calls sees to that.
   * @throws StoreError NotFound, Corrupt, UnknownVersion, DiskFailure, OutOfSpace
   */
  static async open(path: string, options: { readonly create: boolean }): Promise<LmdbTables> {
    if (!existsSync(path)) {
      if (!options.create) {
        throw new StoreError(ErrorCode.NotFound, `metadata ${path} is not there`)
      }
      try {
        await make(path)
      } catch (thrown) {
        throw errorOf(`making metadata in ${path}`, thrown)
      }
    }
    return attempt(`opening metadata in ${path}`, () => {
      checkHeads(join(path, DATA_FILE))
      // LMDB makes files that others may read; what is above may let them in.
      if ((statSync(path).mode & OTHERS) !== 0) chmodSync(path, OWNER_ONLY)
      return new LmdbTables(path, openEnvironment(path))
    })
  }

  read<T>(work: (tables: ReadTables) => T): T {
    return attempt(`reading metadata in ${this.#path}`, () => {
      this.#database.resetReadTxn()
      return work(this.#tables)
    })
  }

  write<T>(work: (tables: WriteTables) => T): Promise<T> {
    const writing = this.#write(work)
    this.#written = writing.catch(() => {})
    return writing
  }

  async close(): Promise<void> {
    await this.#written
    await this.#database.close()
  }

  async #write<T>(work: (tables: WriteTables) => T): Promise<T> {
    if (this.#failure !== null) throw this.#failure
    try {
      return await this.#database.childTransaction(() => work(this.#tables))
    } catch (thrown) {
      const error = errorOf(`writing metadata in ${this.#path}`, await causeOf(thrown))
      // What the disk took and what not is unknown now. A later sync that succeeds proves nothing.
      if (error instanceof StoreError && error.code === ErrorCode.DiskFailure) {
        const text = `${error.message}; restart the peer once the disk is well`
        this.#failure = new StoreError(error.code, text, { cause: error.cause })
      }
      throw error
    }
  }
}

const toBytes = (key: string): Buffer => Buffer.from(key, 'latin1')

function openEnvironment(path: string): Database {
  return open<Buffer, Buffer>({
    path,
    noSubdir: false,
    encoding: 'binary',
    keyEncoding: 'binary',
    // A write resolves when it is on disk, not when it is only visible.
    overlappingSync: false,
    // Otherwise a failed commit also rejects a promise of the library's own, which nobody has.
    eventTurnBatching: false
  })
}

/** Makes an empty environment beside its place, and moves it there when it is durable. */
async function make(path: string): Promise<void> {
  const draft = `${path}.new`
  rmSync(draft, { recursive: true, force: true })
  mkdirSync(draft, { recursive: true, mode: OWNER_ONLY })
  const database = openEnvironment(draft)
  await database.put(toBytes('\0'), Buffer.alloc(0))
  await database.close()
  syncDirectory(draft)
  renameSync(draft, path)
  syncDirectory(dirname(path))
}

function syncDirectory(path: string): void {
  const handle = openSync(path, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}

// Head of a page of LMDB's data file, of which the first two are its roots; numbers in the order
// of the machine.
//
//   offset  size  field
//       24     4  magic    0xbeefc0de
//       48     4  bytes of a page
//       88     8  root of the free pages, all ones: none
//      136     8  root of the table, all ones: none
const DATA_FILE = 'data.mdb'
const HEAD_BYTES = 4096
const AT_MAGIC = 24
const MAGICS = [0xbeefc0de, 0xdec0efbe]
const AT_PAGE_BYTES = 48
const AT_ROOTS = [88, 136]
const NO_ROOT = 2n ** 64n - 1n

/** LMDB trusts its file, and ends the process on one that is not its own: look before. */
function checkHeads(file: string): void {
  const heads = Buffer.alloc(2 * HEAD_BYTES)
  const handle = openSync(file, 'r')
  try {
    const bytes = readSync(handle, heads, 0, heads.length, 0)
    for (const page of [0, HEAD_BYTES]) {
      const whole = bytes >= page + HEAD_BYTES
      if (whole && MAGICS.includes(heads.readUInt32BE(page + AT_MAGIC))) continue
      throw new StoreError(ErrorCode.Corrupt, `${file} is damaged: it is no LMDB data file`)
    }
    const { size } = fstatSync(handle)
    if ([0, HEAD_BYTES].some((page) => hasRoots(heads, page, size))) return
    const text = `it has ${size} bytes, and ends before the pages that its heads name`
    throw new StoreError(ErrorCode.Corrupt, `${file} is damaged: ${text}`)
  } finally {
    closeSync(handle)
  }
}

/** Whether a file of `size` bytes has the pages on which the tables of this head begin. */
function hasRoots(heads: Buffer, at: number, size: number): boolean {
  const isLittle = heads.readUInt32BE(at + AT_MAGIC) === MAGICS[1]
  const u64 = (from: number): bigint =>
    isLittle ? heads.readBigUInt64LE(at + from) : heads.readBigUInt64BE(at + from)
  const from = at + AT_PAGE_BYTES
  const pageBytes = BigInt(isLittle ? heads.readUInt32LE(from) : heads.readUInt32BE(from))
  const roots = AT_ROOTS.map(u64).filter((root) => root !== NO_ROOT)
  return roots.every((root) => (root + 1n) * pageBytes <= BigInt(size))
}

function attempt<T>(doing: string, work: () => T): T {
  try {
    return work()
  } catch (thrown) {
    throw errorOf(doing, thrown)
  }
}

/** The library tells the reason of a failed commit by another promise, which must be taken. */
async function causeOf(thrown: unknown): Promise<unknown> {
  const reason = thrown instanceof Error && 'commitError' in thrown ? thrown.commitError : null
  if (!(reason instanceof Promise)) return thrown
  return reason.then(
    () => thrown,
    (cause: unknown) => cause
  )
}

/** What LMDB and the system throw, as a StoreError; bugs stay what they are. */
function errorOf(doing: string, thrown: unknown): unknown {
  if (thrown instanceof StoreError || !(thrown instanceof Error)) return thrown
  if (thrown.name === 'AssertionError' || thrown instanceof TypeError) return thrown
  return new StoreError(codeOf(thrown), `${doing}: ${thrown.message}`, { cause: thrown })
}

function codeOf(error: Error): ErrorCode {
  const text = error.message
  if (/MDB_MAP_FULL|No space left|ENOSPC|Disk quota/i.test(text)) return ErrorCode.OutOfSpace
  if (/MDB_VERSION_MISMATCH/.test(text)) return ErrorCode.UnknownVersion
  if (/MDB_(INVALID|CORRUPTED|PAGE_NOTFOUND|PANIC)|ENOENT/.test(text)) return ErrorCode.Corrupt
  return ErrorCode.DiskFailure
}
