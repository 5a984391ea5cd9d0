import { crc32c as native } from '@node-rs/crc32'
import { BLOCK_BYTES } from './limits.ts'

/**
 * CRC-32C (Castagnoli) of `bytes`, as an unsigned 32-bit number. Works on shared memory.
 * Source of the polynomial: RFC 3720, appendix B.4.
 */
export const crc32c = (bytes: Buffer, initial?: number): number => native(bytes, initial)

/** The polynomial with its bits reversed, as the tables want it. */
const POLYNOMIAL = 0x82f6_3b78

/** The four tables of "slicing by 4", one behind the other. */
export const crcTables: Int32Array = makeTables()

function makeTables(): Int32Array {
  const made = new Int32Array(4 * 256)
  for (let byte = 0; byte < 256; byte++) {
    let rest = byte
    for (let bit = 0; bit < 8; bit++) rest = (rest >>> 1) ^ ((rest & 1) * POLYNOMIAL)
    made[byte] = rest
  }
  for (let at = 256; at < made.length; at++) {
    const before = made[at - 256]!
    made[at] = (before >>> 8) ^ made[before & 0xff]!
  }
  return made
}

/**
 * The same of `words` 32-bit words at `at`, in JavaScript: for headers of a few words, where a
 * native call with a Buffer of its own costs more than the sum.
 */
export function crc32cOfWords(view: DataView, at: number, words: number): number {
  let crc = -1
  for (let end = at + words * 4, from = at; from < end; from += 4) {
    crc ^= view.getUint32(from, true)
    crc =
      crcTables[768 + (crc & 0xff)]! ^
      crcTables[512 + ((crc >>> 8) & 0xff)]! ^
      crcTables[256 + ((crc >>> 16) & 0xff)]! ^
      crcTables[crc >>> 24]!
  }
  return ~crc >>> 0
}

/** `shifts[256 * k + byte]`: what byte k of a checksum becomes when a block of zeroes follows. */
let shifts: Uint32Array | null = null

/**
 * CRC-32C of `count` blocks that stand one after the other, of their own checksums
 * `crcs[at, at + count)`: crc(A B) = shift(crc(A)) ^ crc(B), where the shift over one length is
 * linear. 2 ns a block, so that a long run is verified by one call, which costs more.
 */
export function crc32cOfBlocks(crcs: Uint32Array, at: number, count: number): number {
  shifts ??= shiftsOver(BLOCK_BYTES)
  let crc = 0
  for (let i = at; i < at + count; i++) crc = shifted(shifts, crc) ^ crcs[i]!
  return crc >>> 0
}

/** crc(A B) = crc32cBefore(crc(A), blocks of B) ^ crc(B) */
export function crc32cBefore(crc: number, blocks: number): number {
  shifts ??= shiftsOver(BLOCK_BYTES)
  let moved = crc
  for (let i = 0; i < blocks; i++) moved = shifted(shifts, moved)
  return moved >>> 0
}

const shifted = (table: Uint32Array, crc: number): number =>
  table[crc & 0xff]! ^
  table[256 + ((crc >>> 8) & 0xff)]! ^
  table[512 + ((crc >>> 16) & 0xff)]! ^
  table[768 + (crc >>> 24)]!

function shiftsOver(bytes: number): Uint32Array {
  const zeroes = Buffer.alloc(bytes)
  const table = new Uint32Array(4 * 256)
  for (let bit = 0; bit < 32; bit++) {
    // The algorithm inverts its state before and after; the shift is that of the bare state.
    const shifted = ~crc32c(zeroes, ~(1 << bit) >>> 0)
    const byte = bit >>> 3
    const one = 1 << (bit & 7)
    for (let value = 0; value < 256; value++) {
      if ((value & one) !== 0) table[256 * byte + value]! ^= shifted
    }
  }
  return table
}
