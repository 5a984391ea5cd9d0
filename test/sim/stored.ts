/** What the metadata says, for checks that look all the time: no process sees it like this. */
import { decodeRecord, type GroupRecord, type RecordKind } from '../../src/cluster/records.ts'
import { decodeRecord as decodeEntry, STATE_KEY } from '../../src/metadata/layout.ts'
import type { MemoryTables } from '../../src/metadata/memory-tables.ts'

type RecordOf<K extends RecordKind> = ReturnType<typeof decodeRecord<K>>

export class StoredRecords {
  readonly #tables: MemoryTables
  /** By the bytes of the table, which are others after each change. */
  readonly #decoded = new WeakMap<Buffer, object>()
  #groups: ReadonlyMap<number, GroupRecord> = new Map()
  /** State of the store in which these are the groups. */
  #groupsAt: Buffer | null = null

  constructor(tables: MemoryTables) {
    this.#tables = tables
  }

  get<K extends RecordKind>(kind: K, key: string): RecordOf<K> | null {
    const bytes = this.#bytes(key)
    return bytes === null ? null : this.#of(kind, key, bytes)
  }

  /** 0: there is none. */
  modRevision(key: string): number {
    const bytes = this.#bytes(key)
    return bytes === null ? 0 : decodeEntry(key, bytes).modRevision
  }

  /** All groups below a prefix, which is always the same. */
  groups(prefix: string): ReadonlyMap<number, GroupRecord> {
    return this.#tables.read((read) => {
      const state = read.get(STATE_KEY)
      if (state === this.#groupsAt) return this.#groups
      const found = new Map<number, GroupRecord>()
      for (const [key, value] of read.range(`k${prefix}`, `k${prefix}\u00ff`, 10_000)) {
        const record = this.#of('group', key.slice(1), value)
        found.set(Number(key.slice(1 + prefix.length)), record)
      }
      this.#groups = found
      this.#groupsAt = state
      return found
    })
  }

  #bytes(key: string): Buffer | null {
    return this.#tables.read((read) => read.get(`k${key}`))
  }

  #of<K extends RecordKind>(kind: K, key: string, bytes: Buffer): RecordOf<K> {
    const known = this.#decoded.get(bytes)
    if (known !== undefined) return known as RecordOf<K>
    const record = decodeRecord(kind, key, decodeEntry(key, bytes).value)
    this.#decoded.set(bytes, record)
    return record
  }
}
