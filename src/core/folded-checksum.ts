/**
 * CRC-32C of long runs of bytes at several times the speed of a CPU's CRC instruction behind a
 * native call, by nothing but exclusive or.
 *
 * A checksum is the remainder of the bytes, taken as one polynomial over GF(2), by the generator.
 * Any multiple of the generator may be added before, so with one of few terms, all at multiples of
 * 16 bytes,
 *
 *   x^(128*209) + x^(128*144) + x^(128*54) + x^(128*39) + x^(128*14) + 1  =  0
 *
 * every 16 bytes can be cleared by adding them to those 65, 155, 170, 195 and 209 places behind.
 * What is left is as long as the multiple, 3.3 KiB, and goes through the usual checksum.
 *
 *   folded[i] = bytes[i] ^ folded[i - 65] ^ folded[i - 155] ^ … ^ folded[i - 209]
 *
 * The folded bytes stand in a small scratch that stays in the cache, behind those of before:
 *
 *   scratch:  zeroes | folded before, 209 * 16 bytes | folded now, a piece | what is left
 *
 * Such multiples for another polynomial: S. Russell, "Chorba: a novel CRC32 implementation", 2024.
 */
import { assert } from './assert.ts'
import { crc32c, crc32cBefore, crc32cOfBlocks } from './checksum.ts'
import { BLOCK_BYTES } from './limits.ts'
import { type Code, instanceOf, type Mover, moverOf, type WasmMemory } from './wasm.ts'
import { ADD, advance, get, loadVector, loop, set, storeVector, XOR_VECTORS } from './wasm-code.ts'

const VECTOR_BYTES = 16
/** Where a folded vector, or any piece of a power of two bits, goes, in such pieces behind it. */
export const DISTANCES: readonly number[] = [65, 155, 170, 195, 209]
const HISTORY_BYTES = 209 * VECTOR_BYTES
/** Vectors folded in one turn of the loop. */
const UNROLL = 8
const UNROLL_BYTES = UNROLL * VECTOR_BYTES
/** No less than the history, and so that any number of blocks less this is whole turns. */
const REST_BYTES = Math.ceil(HISTORY_BYTES / UNROLL_BYTES) * UNROLL_BYTES
const PIECE_BYTES = 16 * 1024

const AT_HISTORY = REST_BYTES
const AT_FOLDED = AT_HISTORY + HISTORY_BYTES
const AT_REST = AT_FOLDED + PIECE_BYTES
const USED_BYTES = AT_REST + REST_BYTES

/** What one that folds needs of its memory besides the bytes; zero in the beginning. */
export const FOLD_SCRATCH_BYTES = 64 * 1024

/** Of fewer the native package takes the checksum as soon. */
const FOLDED_BLOCKS_MIN = 4

/** folded[0..bytes) = from[0..bytes) ^ …; `history` is where folded - 209 vectors are. */
type Fold = (from: number, history: number, to: number, bytes: number) => void

export class FoldedChecksum {
  private readonly scratch: number
  private readonly fold: Fold
  private readonly move: Mover
  private readonly rest: Buffer
  /** Checksums of so many blocks of zeroes. */
  private readonly ofZeroes: number[] = [0]
  private readonly zero: Uint32Array

  /** Takes FOLD_SCRATCH_BYTES of `memory` at `scratch` for itself. */
  constructor(memory: WasmMemory, scratch: number) {
    this.scratch = scratch
    this.fold = (instanceOf(memory, foldCode(), 4) as { readonly call: Fold }).call
    this.move = moverOf(memory)
    this.rest = Buffer.from(memory.buffer, scratch + AT_REST, REST_BYTES)
    this.zero = Uint32Array.of(0, crc32c(Buffer.alloc(BLOCK_BYTES)))
  }

  /** CRC-32C of `count` blocks of the memory at byte `from`. */
  ofBlocks(from: number, count: number): number {
    assert(count >= 1, 'what is folded is at least a block')
    const { scratch } = this
    const end = from + count * BLOCK_BYTES - REST_BYTES
    this.move(scratch + AT_HISTORY, scratch, HISTORY_BYTES)
    for (let at = from; at < end; at += PIECE_BYTES) {
      const bytes = Math.min(PIECE_BYTES, end - at)
      this.fold(at, scratch + AT_HISTORY, scratch + AT_FOLDED, bytes)
      this.move(scratch + AT_HISTORY, scratch + AT_HISTORY + bytes, HISTORY_BYTES)
    }
    // Nothing of the rest is folded into the rest.
    this.move(scratch + AT_FOLDED, scratch, REST_BYTES)
    this.fold(end, scratch + AT_HISTORY, scratch + AT_REST, REST_BYTES)
    // A state that begins as all zeroes; the algorithm inverts it before and after.
    const bare = ~crc32c(this.rest, 0xffff_ffff)
    return (bare ^ this.ofZeroBlocks(count)) >>> 0
  }

  /**
   * CRC-32C of any `bytes`, those in the memory by folding, behind others whose checksum is
   * `before`.
   */
  ofBytes(bytes: Buffer, before: number = 0): number {
    const blocks = Math.floor(bytes.length / BLOCK_BYTES)
    if (blocks < FOLDED_BLOCKS_MIN || bytes.buffer !== this.rest.buffer) {
      return crc32c(bytes, before)
    }
    const sum = crc32cBefore(before, blocks) ^ this.ofBlocks(bytes.byteOffset, blocks)
    const done = blocks * BLOCK_BYTES
    return done === bytes.length ? sum >>> 0 : crc32c(bytes.subarray(done), sum >>> 0)
  }

  /** What beginning with a state of all ones, and inverting it in the end, adds. */
  private ofZeroBlocks(count: number): number {
    const { ofZeroes, zero } = this
    while (ofZeroes.length <= count) {
      zero[0] = ofZeroes.at(-1)!
      ofZeroes.push(ofZeroes.length === 1 ? zero[1]! : crc32cOfBlocks(zero, 0, 2))
    }
    return ofZeroes[count]!
  }
}

const [FROM, HISTORY, TO, BYTES, FROM_END] = [0, 1, 2, 3, 4]

// fromEnd = from + bytes
// do { to[i] = from[i] ^ history[209 + i - 65] ^ … for i in 0..7; advance } while (from < fromEnd)
function foldCode(): Code {
  const turn: number[] = []
  for (let vector = 0; vector < UNROLL; vector++) {
    turn.push(...get(TO), ...get(FROM), ...loadVector(vector * VECTOR_BYTES))
    for (const distance of DISTANCES) {
      const at = HISTORY_BYTES + (vector - distance) * VECTOR_BYTES
      turn.push(...get(HISTORY), ...loadVector(at), ...XOR_VECTORS)
    }
    turn.push(...storeVector(vector * VECTOR_BYTES))
  }
  for (const local of [HISTORY, TO]) turn.push(...advance(local, UNROLL_BYTES))
  const start = [...get(FROM), ...get(BYTES), ADD, ...set(FROM_END)]
  return { locals: 1, body: [...start, ...loop(FROM, UNROLL_BYTES, get(FROM_END), turn)] }
}

assert(USED_BYTES <= FOLD_SCRATCH_BYTES, 'the scratch has room')
assert(BLOCK_BYTES % UNROLL_BYTES === 0 && REST_BYTES <= BLOCK_BYTES, 'blocks are whole turns')
