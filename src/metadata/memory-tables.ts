import type { Tables, WriteTables } from './tables.ts'

/** Tables in memory, for tests and the simulator. They outlive the store opened on them. */
export class MemoryTables implements Tables {
  readonly #keys: string[] = []
  readonly #values = new Map<string, Buffer>()
  readonly #tables: WriteTables = {
    get: (key) => this.#values.get(key) ?? null,
    range: (start, end, limit) => this.#range(start, end, limit),
    put: (key, value) => {
      if (!this.#values.has(key)) this.#keys.splice(this.#indexOf(key), 0, key)
      this.#values.set(key, Buffer.from(value))
    },
    remove: (key) => {
      if (this.#values.delete(key)) this.#keys.splice(this.#indexOf(key), 1)
    }
  }

  read<T>(work: (tables: WriteTables) => T): T {
    return work(this.#tables)
  }

  async write<T>(work: (tables: WriteTables) => T): Promise<T> {
    return work(this.#tables)
  }

  async close(): Promise<void> {}

  #range(start: string, end: string, limit: number): [string, Buffer][] {
    const found: [string, Buffer][] = []
    for (let index = this.#indexOf(start); index < this.#keys.length; index++) {
      const key = this.#keys[index]!
      if (key >= end || found.length >= limit) break
      found.push([key, this.#values.get(key)!])
    }
    return found
  }

  /** Index of the first key that is not before `key`. */
  #indexOf(key: string): number {
    let low = 0
    let high = this.#keys.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#keys[middle]! < key) low = middle + 1
      else high = middle
    }
    return low
  }
}
