import { crc32c as native } from '@node-rs/crc32'

/**
 * CRC-32C (Castagnoli) of `bytes`, as an unsigned 32-bit number. Works on shared memory.
 * Source of the polynomial: RFC 3720, appendix B.4.
 */
export const crc32c = (bytes: Buffer, initial?: number): number => native(bytes, initial)

/** The polynomial with its bits reversed, as the tables want it. */
const POLYNOMIAL = 0x82f6_3b78

/** The four tables of "slicing by 4", one behind the other. */
const tables: Int32Array = makeTables()

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
      tables[768 + (crc & 0xff)]! ^
      tables[512 + ((crc >>> 8) & 0xff)]! ^
      tables[256 + ((crc >>> 16) & 0xff)]! ^
      tables[crc >>> 24]!
  }
  return ~crc >>> 0
}
