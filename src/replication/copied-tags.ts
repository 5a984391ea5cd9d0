/** Tags of sealed blocks on their way from one member to another, which need no key for it. */
import { BLOCK_BYTES } from '../core/limits.ts'
import { SEAL_TAG_BYTES } from '../format/batch.ts'
import { READ_VERSIONS_BLOCKS_MAX, SEAL_ENTRY_BYTES, SealKind } from '../shard/op.ts'
import { type BlockOp, OpFlag } from './block-store.ts'

/** What a ReadVersions of so many blocks needs: its table, the blocks, and seal entries. */
export const copyPages = (count: number): number =>
  1 + count + Math.ceil((READ_VERSIONS_BLOCKS_MAX * SEAL_ENTRY_BYTES) / BLOCK_BYTES)

/** Has a ReadVersions ask for seal entries, behind the blocks. */
export function askForTags(read: BlockOp): void {
  read.flags |= OpFlag.Sealed
  read.tags = read.payload + (1 + read.blockCount) * BLOCK_BYTES
}

/** Is this block sealed in the answer of `read`? */
export function isSealed(bytes: Buffer, read: BlockOp, block: number): boolean {
  if ((read.flags & OpFlag.Sealed) === 0) return false
  const entry = read.tags + (block - read.firstBlock) * SEAL_ENTRY_BYTES
  return bytes.readUInt32LE(entry + SEAL_ENTRY_BYTES - 4) === SealKind.Sealed
}

/**
 * Makes `write`, whose payload stands in the answer of `read`, sealed if its blocks are. Tags are
 * brought together in the place of the entries of the same blocks.
 */
export function takeTags(bytes: Buffer, read: BlockOp, write: BlockOp): void {
  if (!isSealed(bytes, read, write.firstBlock)) return
  const from = read.tags + (write.firstBlock - read.firstBlock) * SEAL_ENTRY_BYTES
  write.flags |= OpFlag.Sealed
  write.tags = from
  for (let i = 1; i < write.blockCount; i++) {
    const at = from + i * SEAL_ENTRY_BYTES
    bytes.copyWithin(from + i * SEAL_TAG_BYTES, at, at + SEAL_TAG_BYTES)
  }
}
