/** Sums of groups and chunks as a resync compares them: of this peer's shards, and of a source. */
import { CHUNK_SUM_BYTES, GROUP_SUM_BYTES } from '../shard/op.ts'
import { hexOf } from './resync-copy.ts'
import { compareChunks } from './shard-questions.ts'

export function sumsByGroup(data: Buffer): Map<number, { sum: string; blocks: number }> {
  const sums = new Map<number, { sum: string; blocks: number }>()
  for (let at = 0; at + GROUP_SUM_BYTES <= data.length; at += GROUP_SUM_BYTES) {
    const sum = data.toString('hex', at + 4, at + GROUP_SUM_BYTES)
    sums.set(data.readUInt32LE(at), { sum, blocks: data.readUInt32LE(at + 4) })
  }
  return sums
}

interface ChunkName {
  readonly layerHigh: number
  readonly layerLow: number
  readonly chunk: number
}

/** Entries of CHUNK_SUM_BYTES in order, walked once. */
export class ChunkList {
  readonly length: number
  readonly #data: Buffer
  #next = 0

  constructor(data: Buffer) {
    this.#data = data
    this.length = Math.floor(data.length / CHUNK_SUM_BYTES)
  }

  entry(index: number): Buffer {
    return this.#data.subarray(index * CHUNK_SUM_BYTES, (index + 1) * CHUNK_SUM_BYTES)
  }

  get last(): { layer: string; chunk: number } | null {
    if (this.length === 0) return null
    const { layerHigh, layerLow, chunk } = nameOf(this.entry(this.length - 1))
    return { layer: hexOf(layerHigh, layerLow), chunk }
  }

  /**
   * Chunks up to the last of `theirs` (with `all`: all that are left here too) that only one list
   * has, or both with other sums.
   */
  differing(theirs: ChunkList, all: boolean): ChunkName[] {
    const names: ChunkName[] = []
    let at = 0
    while (at < theirs.length || (all && this.#next < this.length)) {
      const their = at < theirs.length ? theirs.entry(at) : null
      const our = this.#next < this.length ? this.entry(this.#next) : null
      const order = their === null ? 1 : our === null ? -1 : compareChunks(their, our)
      if (order !== 0 || !their!.equals(our!)) names.push(nameOf(order <= 0 ? their! : our!))
      if (order <= 0) at++
      if (order >= 0) this.#next++
    }
    return names
  }
}

const nameOf = (entry: Buffer): ChunkName => ({
  layerLow: entry.readUInt32LE(0),
  layerHigh: entry.readUInt32LE(4),
  chunk: entry.readUInt32LE(8)
})
