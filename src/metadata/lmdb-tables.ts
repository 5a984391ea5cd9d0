import { closeSync, fsyncSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { open, type RootDatabase } from 'lmdb'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { ReadTables, Tables, WriteTables } from './tables.ts'

const toBytes = (key: string): Buffer => Buffer.from(key, 'latin1')

/**
 * Tables in an LMDB environment. Writes are committed on LMDB's own thread, several transactions
 * at a time, so a sync does not stall the main thread.
 */
export class LmdbTables implements Tables {
  readonly #path: string
  readonly #database: RootDatabase<Buffer, Buffer>
  readonly #tables: WriteTables

  /** Opens, or creates, the environment in the directory `path`. One process at a time. */
  constructor(path: string) {
    this.#path = path
    const existed = mkdirSync(path, { recursive: true }) === undefined
    this.#database = this.#try('opening', () =>
      open<Buffer, Buffer>({
        path,
        noSubdir: false,
        encoding: 'binary',
        keyEncoding: 'binary',
        // A write resolves when it is on disk, not when it is only visible.
        overlappingSync: false
      })
    )
    if (!existed) {
      syncDirectory(path)
      syncDirectory(dirname(path))
    }
    const database = this.#database
    this.#tables = {
      get: (key) => database.getBinary(toBytes(key)) ?? null,
      range: (start, end, limit) => {
        const found: [string, Buffer][] = []
        for (const { key, value } of database.getRange({
          start: toBytes(start),
          end: toBytes(end)
        })) {
          if (found.length >= limit) break
          found.push([key.toString('latin1'), Buffer.from(value)])
        }
        return found
      },
      put: (key, value) => void database.put(toBytes(key), value),
      remove: (key) => void database.remove(toBytes(key))
    }
  }

  read<T>(work: (tables: ReadTables) => T): T {
    this.#database.resetReadTxn()
    return this.#try('reading', () => work(this.#tables))
  }

  async write<T>(work: (tables: WriteTables) => T): Promise<T> {
    try {
      return await this.#database.transaction(() => work(this.#tables))
    } catch (thrown) {
      throw this.#error('writing', thrown)
    }
  }

  async close(): Promise<void> {
    await this.#database.close()
  }

  #try<T>(doing: string, work: () => T): T {
    try {
      return work()
    } catch (thrown) {
      throw this.#error(doing, thrown)
    }
  }

  #error(doing: string, thrown: unknown): unknown {
    if (thrown instanceof StoreError || !(thrown instanceof Error)) return thrown
    if (thrown.name === 'AssertionError' || thrown instanceof TypeError) return thrown
    const message = `${doing} metadata in ${this.#path}: ${thrown.message}`
    return new StoreError(codeOf(thrown), message, { cause: thrown })
  }
}

function codeOf(error: Error): ErrorCode {
  const text = error.message
  if (/MDB_MAP_FULL|No space left|ENOSPC|Disk quota/i.test(text)) return ErrorCode.OutOfSpace
  if (/MDB_VERSION_MISMATCH/.test(text)) return ErrorCode.UnknownVersion
  if (/MDB_(INVALID|CORRUPTED|PAGE_NOTFOUND|PANIC)|not an LMDB/i.test(text)) {
    return ErrorCode.Corrupt
  }
  return ErrorCode.DiskFailure
}

function syncDirectory(path: string): void {
  const handle = openSync(path, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}
