import { assert } from '../core/assert.ts'
import { BlockChecksums, SUMS_SCRATCH_BYTES } from '../core/block-checksums.ts'
import { crc32c } from '../core/checksum.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { privateMemory } from '../core/wasm.ts'

/** Memory that begins on a page, as direct I/O needs it; the engine gives no other way to ask. */
export function pageAlignedBuffer(bytes: number): Buffer {
  return Buffer.from(privateMemory(bytes).buffer, 0, bytes)
}

/**
 * Views of single blocks of a long-lived memory, made once each: a checksum over a block needs a
 * view, and making one costs as much as a tenth of the checksum.
 */
export class BlockViews {
  private readonly memory: Buffer
  private readonly views: (Buffer | undefined)[]

  constructor(memory: Buffer) {
    this.memory = memory
    this.views = new Array<Buffer | undefined>(Math.floor(memory.length / BLOCK_BYTES)).fill(
      undefined
    )
  }

  /** The block that starts at byte `offset`, which is a multiple of the block size. */
  at(offset: number): Buffer {
    const block = offset / BLOCK_BYTES
    const known = this.views[block]
    if (known !== undefined) return known
    assert(Number.isInteger(block) && block < this.views.length, 'a payload is whole blocks')
    const view = this.memory.subarray(offset, offset + BLOCK_BYTES)
    this.views[block] = view
    return view
  }
}

/** Takes the CRC-32C of blocks of one memory. */
export interface Summing {
  /** Replaces `sums[at, at + count)`, where the blocks begin, by their checksums. */
  of(sums: Uint32Array, at: number, count: number): void
}

/** One by one, where the memory is none of WebAssembly's. */
export class NativeChecksums implements Summing {
  private readonly views: BlockViews

  constructor(views: BlockViews) {
    this.views = views
  }

  of(sums: Uint32Array, at: number, count: number): void {
    for (let i = at; i < at + count; i++) sums[i] = crc32c(this.views.at(sums[i]!))
  }
}

/** Page-aligned blocks of this thread whose checksums are taken many at a time. */
export class SummedBlocks {
  readonly bytes: Buffer
  readonly sums: BlockChecksums

  constructor(blocks: number) {
    const bytes = blocks * BLOCK_BYTES
    const memory = privateMemory(bytes + SUMS_SCRATCH_BYTES)
    this.bytes = Buffer.from(memory.buffer, 0, bytes)
    this.sums = new BlockChecksums(memory, bytes)
  }
}
