import { assert } from '../core/assert.ts'
import { BLOCK_BYTES } from '../core/limits.ts'

/** The one part of the WebAssembly interface that is used; the compiler's library has no DOM. */
declare const WebAssembly: {
  Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer }
}

/** WebAssembly's page: memory comes in multiples of it. */
const WASM_PAGE_BYTES = 64 * 1024

/** Memory that begins on a page, as direct I/O needs it; the engine gives no other way to ask. */
export function pageAlignedBuffer(bytes: number): Buffer {
  const pages = Math.ceil(bytes / WASM_PAGE_BYTES)
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages })
  return Buffer.from(memory.buffer, 0, bytes)
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
