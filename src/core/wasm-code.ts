/** Instructions of WebAssembly, as far as code is made here, as bytes. */
import { leb } from './wasm.ts'

const VECTOR = 0xfd

export const ADD = 0x6a
const SUBTRACT = 0x6b
export const AND = 0x71
export const XOR = 0x73
export const SHIFT_LEFT = 0x74
export const SHIFT_RIGHT = 0x76
const LESS = 0x49
const LOOP = [0x03, 0x40]
/** What follows a condition: back to the start of the innermost loop where it holds; its end. */
const AGAIN = [0x0d, 0, 0x0b]

export const get = (local: number): number[] => [0x20, local]
export const set = (local: number): number[] => [0x21, local]
export const tee = (local: number): number[] => [0x22, local]
export const number = (value: number): number[] => [0x41, ...signedLeb(value)]
export const advance = (local: number, by: number): number[] => [
  ...get(local),
  ...number(by),
  ADD,
  ...set(local)
]

/** Of 32 bits, at the address on the stack and `offset`. */
export const load = (offset: number): number[] => [0x28, 2, ...leb(offset)]
export const store = (offset: number): number[] => [0x36, 2, ...leb(offset)]
/** Of 16 bytes. */
export const loadVector = (offset: number): number[] => [VECTOR, 0x00, 4, ...leb(offset)]
export const storeVector = (offset: number): number[] => [VECTOR, 0x0b, 4, ...leb(offset)]
export const XOR_VECTORS: readonly number[] = [VECTOR, 0x51]
export const ZERO_VECTOR: readonly number[] = [VECTOR, 0x0c, ...new Array<number>(16).fill(0)]
/** Of each of the four words of a vector. */
export const shiftWordsLeft = (bits: number): number[] => [...number(bits), VECTOR, 0xab, 0x01]
export const shiftWordsRight = (bits: number): number[] => [...number(bits), VECTOR, 0xad, 0x01]
/** Four of the eight words of two vectors. */
export const pickWords = (...words: readonly number[]): number[] => [
  VECTOR,
  0x0d,
  ...words.flatMap((word) => [4 * word, 4 * word + 1, 4 * word + 2, 4 * word + 3])
]

/** do { body; local += step } while (local < end), unsigned. */
export const loop = (
  local: number,
  step: number,
  end: readonly number[],
  body: readonly number[]
): number[] => [...LOOP, ...body, ...advance(local, step), ...get(local), ...end, LESS, ...AGAIN]

/** do { body } while (--local != 0) */
export const countDown = (local: number, body: readonly number[]): number[] => [
  ...LOOP,
  ...body,
  ...get(local),
  ...number(1),
  SUBTRACT,
  ...tee(local),
  ...AGAIN
]

function signedLeb(value: number): number[] {
  const bytes: number[] = []
  let rest = value | 0
  while (rest < -64 || rest > 63) {
    bytes.push((rest & 0x7f) | 0x80)
    rest >>= 7
  }
  bytes.push(rest & 0x7f)
  return bytes
}
