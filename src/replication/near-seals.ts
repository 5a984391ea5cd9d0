import { SEAL_TAG_BYTES } from '../format/batch.ts'
import { BlockSeal } from '../seal/block-seal.ts'
import type { SealKeys } from '../seal/key-table.ts'
import {
  MAP_WORDS,
  SEAL_EPOCHS,
  SEAL_FAMILIES,
  SEAL_HIGHS,
  SEAL_LOWS,
  SEAL_MAP_WORDS
} from '../shard/chunk-map.ts'
import type { BlockOp } from './block-store.ts'
import type { ChunkMaps } from './chunk-maps.ts'

const TWO_32 = 2 ** 32

/** Opens sealed blocks that the main thread read by itself. */
export class NearSeals {
  private readonly maps: ChunkMaps
  private readonly bytes: Buffer
  private readonly keys: SealKeys | null
  private readonly seal = new BlockSeal()

  constructor(maps: ChunkMaps, keys: SealKeys | null) {
    this.maps = maps
    this.bytes = Buffer.from(maps.sealsShared)
    this.keys = keys
  }

  /** Opens in place a block of the chunk whose map holds the op's first block at `at`. */
  open(op: BlockOp, at: number, block: number, bytes: Buffer): boolean {
    const { seals } = this.maps
    const map = Math.floor(at / MAP_WORDS) * SEAL_MAP_WORDS
    const writerEpoch = seals[map + SEAL_EPOCHS + block]!
    const sequence = seals[map + SEAL_LOWS + block]! + seals[map + SEAL_HIGHS + block]! * TWO_32
    const familyLow = seals[map + SEAL_FAMILIES + block]!
    const key = this.keys?.keyOf(op.keySlot, familyLow, writerEpoch) ?? null
    if (key === null || writerEpoch === 0) return false
    const tagAt = (map + 4 * block) * 4
    const tag = this.bytes.subarray(tagAt, tagAt + SEAL_TAG_BYTES)
    this.seal.version(op.familyHigh, familyLow, writerEpoch, sequence)
    return this.seal.open(key, op.chunk, block, bytes, tag, bytes)
  }
}
