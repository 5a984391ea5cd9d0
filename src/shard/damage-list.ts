import { BLOCK_BYTES, DAMAGE_LISTED_MAX } from '../core/limits.ts'
import type { LayerKey } from './extent-index.ts'
import { DAMAGE_BYTES, type ShardOp } from './op.ts'

interface Damage {
  readonly key: LayerKey
  readonly chunk: number
  readonly firstBlock: number
  blockCount: number
}

/** Damaged blocks until somebody takes them who may have better ones. More come next time. */
export class DamageList {
  private readonly memory: Buffer
  private entries: Damage[] = []

  constructor(memory: Buffer) {
    this.memory = memory
  }

  add(key: LayerKey, chunk: number, block: number): void {
    const has = (each: Damage, end: number): boolean =>
      each.chunk === chunk && each.firstBlock <= block && block < end && isSame(each.key, key)
    // Clients read again what failed.
    if (this.entries.some((each) => has(each, each.firstBlock + each.blockCount))) return
    const last = this.entries.at(-1)
    const goesOn = last !== undefined && has(last, Infinity)
    if (goesOn && last.firstBlock + last.blockCount === block) last.blockCount++
    else if (this.entries.length < DAMAGE_LISTED_MAX) {
      this.entries.push({ key, chunk, firstBlock: block, blockCount: 1 })
    }
  }

  /** TakeDamage. */
  take(op: ShardOp): void {
    const room = Math.floor((op.blockCount * BLOCK_BYTES) / DAMAGE_BYTES)
    const taken = this.entries.slice(0, room)
    this.entries = this.entries.slice(room)
    for (const [i, { key, chunk, firstBlock, blockCount }] of taken.entries()) {
      const at = op.payload + i * DAMAGE_BYTES
      this.memory.writeUInt32LE(key.familyLow, at)
      this.memory.writeUInt32LE(key.familyHigh, at + 4)
      this.memory.writeUInt32LE(key.layerLow, at + 8)
      this.memory.writeUInt32LE(key.layerHigh, at + 12)
      this.memory.writeUInt32LE(chunk, at + 16)
      this.memory.writeUInt16LE(firstBlock, at + 20)
      this.memory.writeUInt16LE(blockCount, at + 22)
    }
    op.resultA = taken.length
  }
}

const isSame = (one: LayerKey, other: LayerKey): boolean =>
  one.familyHigh === other.familyHigh &&
  one.familyLow === other.familyLow &&
  one.layerHigh === other.layerHigh &&
  one.layerLow === other.layerLow
