import { assert } from '../core/assert.ts'

/**
 * The ordered map of bytes below the embedded store: LMDB, or memory in tests and simulation.
 * Keys are *byte strings*: one character below 256 for each byte, so that comparing two strings
 * compares their bytes.
 */
export interface ReadTables {
  get(key: string): Buffer | null
  /** At most `limit` pairs with start <= key < end, in order. */
  range(start: string, end: string, limit: number): [key: string, value: Buffer][]
}

export interface WriteTables extends ReadTables {
  put(key: string, value: Buffer): void
  remove(key: string): void
}

export interface Tables {
  /** Runs `work` on what was committed last. */
  read<T>(work: (tables: ReadTables) => T): T
  /**
   * Runs `work` alone and commits what it wrote, all or nothing; resolves when that is durable.
   * Calls are carried out in order. `work` sees its own writes. It checks before it writes: what
   * it wrote before it threw is undone only where the tables can.
   */
  write<T>(work: (tables: WriteTables) => T): Promise<T>
  close(): Promise<void>
}

/** The first byte string that is after all that start with `prefix`. */
export function endOfPrefix(prefix: string): string {
  for (let length = prefix.length; length > 0; length--) {
    const last = prefix.charCodeAt(length - 1)
    if (last < 255) return prefix.slice(0, length - 1) + String.fromCharCode(last + 1)
  }
  assert(false, 'a prefix has a byte below 255')
}

export const byteStringOf = (text: string): string => Buffer.from(text, 'utf8').toString('latin1')
export const textOfByteString = (bytes: string): string =>
  Buffer.from(bytes, 'latin1').toString('utf8')
