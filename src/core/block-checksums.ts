/**
 * CRC-32C of single blocks, four at a time, at two to three times the speed of the native package,
 * by the sparse multiple of the generator that `folded-checksum.ts` tells about:
 *
 *   folded[i] = given[i] ^ folded[i - 65] ^ folded[i - 155] ^ … ^ folded[i - 209]
 *
 * holds for pieces of any power of two bits. In pieces of 16 bytes a block alone would leave as
 * much as went in; so the words of four blocks are laid side by side,
 *
 *   a0 b0 c0 d0 | a1 b1 c1 d1 | …
 *
 * and are folded in pieces of 32 bits, four at once. The 209 words that each block leaves are
 * folded in pieces of one bit: 65 bits are two words and a shift. What those leave, eight words,
 * goes through tables.
 *
 *   scratch:  tables | zeroes, folded words, zeroes | rest of the words
 *           | zeroes, folded bits, zeroes | rest of the bits | list
 */
import { assert } from './assert.ts'
import { crc32c, crcTables } from './checksum.ts'
import { DISTANCES } from './folded-checksum.ts'
import { BLOCK_BYTES } from './limits.ts'
import { type Code, instanceOf, type WasmMemory } from './wasm.ts'
import {
  advance,
  AND,
  countDown,
  get,
  load,
  loadVector,
  loop,
  number,
  pickWords,
  set,
  SHIFT_LEFT,
  SHIFT_RIGHT,
  shiftWordsLeft,
  shiftWordsRight,
  store,
  storeVector,
  tee,
  XOR,
  XOR_VECTORS,
  ZERO_VECTOR
} from './wasm-code.ts'

const NEAREST = DISTANCES[0]!
const LONGEST = DISTANCES.at(-1)!
/** Blocks side by side, and words of each that one turn of a loop takes. */
const LANES = 4
const VECTOR_BYTES = 16
const TURN_BYTES = LANES * VECTOR_BYTES
const WORD_BITS = 32
const WORDS = BLOCK_BYTES / 4
/** Words that a block leaves when words are folded, and when bits are; whole turns. */
const REST_WORDS = Math.ceil(LONGEST / LANES) * LANES
const LAST_WORDS = Math.ceil(LONGEST / WORD_BITS / LANES) * LANES

const TABLES_BYTES = 4 * 256 * 4
const AT_WORDS = TABLES_BYTES + LONGEST * VECTOR_BYTES
const WORDS_BYTES = (WORDS - REST_WORDS) * VECTOR_BYTES
const AT_REST = AT_WORDS + WORDS * VECTOR_BYTES
const AT_BITS = AT_REST + REST_WORDS * VECTOR_BYTES + LAST_WORDS * VECTOR_BYTES
const BITS_BYTES = (REST_WORDS - LAST_WORDS) * VECTOR_BYTES
const AT_LAST = AT_BITS + REST_WORDS * VECTOR_BYTES
const AT_LIST = AT_LAST + LAST_WORDS * VECTOR_BYTES
/** Blocks of one call. */
const LIST_BLOCKS = 1024
const USED_BYTES = AT_LIST + LIST_BLOCKS * 4

/** What one needs of its memory besides the blocks; zero in the beginning. */
export const SUMS_SCRATCH_BYTES = 64 * 1024

/** Replaces 4 * `groups` addresses at `list` by checksums. */
type Sum = (list: number, groups: number) => void

export class BlockChecksums {
  private readonly bytes: Buffer
  private readonly list: Uint32Array
  private readonly listAt: number
  private readonly sum: Sum

  /** Takes SUMS_SCRATCH_BYTES of `memory` at `scratch` for itself. */
  constructor(memory: WasmMemory, scratch: number) {
    this.bytes = Buffer.from(memory.buffer)
    this.listAt = scratch + AT_LIST
    this.list = new Uint32Array(memory.buffer, this.listAt, LIST_BLOCKS)
    new Int32Array(memory.buffer, scratch, crcTables.length).set(crcTables)
    this.sum = (instanceOf(memory, sumCode(scratch), 2) as { readonly call: Sum }).call
  }

  /** Replaces `sums[at, at + count)`, where blocks begin in the memory, by their CRC-32C. */
  of(sums: Uint32Array, at: number, count: number): void {
    const { list } = this
    for (let done = 0; done < count; done += LIST_BLOCKS) {
      const blocks = Math.min(LIST_BLOCKS, count - done)
      for (let i = 0; i < blocks; i++) list[i] = sums[at + done + i]!
      this.sumList(blocks)
      for (let i = 0; i < blocks; i++) sums[at + done + i] = list[i]!
    }
  }

  /** CRC-32C of the `count` blocks from byte `from` on, to `sums[at, at + count)`. */
  ofRun(from: number, count: number, sums: Uint32Array, at: number): void {
    for (let i = 0; i < count; i++) sums[at + i] = from + i * BLOCK_BYTES
    this.of(sums, at, count)
  }

  private sumList(count: number): void {
    const { bytes, list } = this
    const last = count - 1
    const rest = count % LANES
    if (rest > 1) list.fill(list[last]!, count, count - rest + LANES)
    const groups = rest > 1 ? Math.ceil(count / LANES) : Math.floor(count / LANES)
    if (groups > 0) this.sum(this.listAt, groups)
    // The work of four for one takes longer than the native package.
    if (rest === 1) list[last] = crc32c(bytes.subarray(list[last]!, list[last]! + BLOCK_BYTES))
  }
}

// Locals: parameters, 32-bit numbers, vectors.
const [LIST, GROUPS] = [0, 1]
/** Where each block is read. */
const FROM = [2, 3, 4, 5] as const
/** The checksum of each. */
const SUM = [6, 7, 8, 9] as const
const [INDEX, WORD] = [10, 11]
const NUMBERS = 10
/** What the four vectors of a turn become. */
const NOW = [12, 13, 14, 15] as const
/** The vectors three, two and one before this turn, or others. */
const BEFORE = [16, 17, 18] as const
const [TEMP, OTHER] = [16, 19]
const VECTORS = 8
const TURN = [0, 1, 2, 3] as const

function sumCode(scratch: number): Code {
  const group: number[] = []
  for (const lane of TURN) group.push(...get(LIST), ...load(4 * lane), ...set(FROM[lane]))
  group.push(...foldWords(scratch), ...foldBits(scratch), ...sumWords(scratch))
  for (const lane of TURN) group.push(...get(LIST), ...get(SUM[lane]), ...store(4 * lane))
  group.push(...advance(LIST, 4 * LANES))
  return { locals: NUMBERS, vectors: VECTORS, body: countDown(GROUPS, group) }
}

/** for (INDEX = 0; INDEX < bytes; INDEX += a turn) */
const turns = (bytes: number, body: readonly number[]): number[] => [
  ...number(0),
  ...set(INDEX),
  ...loop(INDEX, TURN_BYTES, number(bytes), body)
]
const at = (offset: number): number[] => [...get(INDEX), ...loadVector(offset)]

/** The first turns fold; what they leave in the last ones is folded no more. */
function foldWords(scratch: number): number[] {
  const end = scratch + AT_WORDS + WORDS_BYTES
  return [
    ...turns(WORDS_BYTES, wordsTurn(scratch + AT_WORDS, scratch + AT_WORDS)),
    ...turns(REST_WORDS * VECTOR_BYTES, wordsTurn(end, scratch + AT_REST))
  ]
}

/** to[i] = word i of each block ^ folded[i - 65] ^ …, for four i */
function wordsTurn(folded: number, to: number): number[] {
  const code: number[] = []
  for (const lane of TURN) code.push(...get(FROM[lane]), ...loadVector(0), ...set(NOW[lane]))
  const [a, b, c, d] = NOW
  const pairs: readonly (readonly [number, number])[] = [
    [a, b],
    [c, d]
  ]
  // a0 b0 a1 b1 and a2 b2 a3 b3; c0 d0 c1 d1 and c2 d2 c3 d3
  for (const [pair, [left, right]] of pairs.entries()) {
    for (const half of [0, 1]) {
      const words = [0, 4, 1, 5].map((word) => word + 2 * half)
      code.push(...get(left), ...get(right), ...pickWords(...words), ...set(TEMP + 2 * half + pair))
    }
  }
  for (const i of TURN) {
    const left = TEMP + 2 * (i >> 1)
    const words = i % 2 === 0 ? [0, 1, 4, 5] : [2, 3, 6, 7]
    code.push(...get(INDEX), ...get(left), ...get(left + 1), ...pickWords(...words))
    for (const distance of DISTANCES) {
      code.push(...at(folded + (i - distance) * VECTOR_BYTES), ...XOR_VECTORS)
    }
    code.push(...storeVector(to + i * VECTOR_BYTES))
  }
  for (const lane of TURN) code.push(...advance(FROM[lane], VECTOR_BYTES))
  return code
}

function foldBits(scratch: number): number[] {
  const folded = scratch + AT_BITS
  const rest = scratch + AT_REST
  const code: number[] = []
  for (const vector of BEFORE) code.push(...ZERO_VECTOR, ...set(vector))
  code.push(...turns(BITS_BYTES, bitsTurn(rest, folded, folded, true)))
  const last = bitsTurn(rest + BITS_BYTES, folded + BITS_BYTES, scratch + AT_LAST, false)
  return [...code, ...turns(LAST_WORDS * VECTOR_BYTES, last)]
}

/**
 * to[i] = from[i] ^ folded, 65 bits before, ^ …, for four i. The nearest of these are what this
 * turn and the one before made: in a chain, they never leave their registers.
 */
function bitsTurn(from: number, folded: number, to: number, isChain: boolean): number[] {
  const code: number[] = []
  for (const i of TURN) code.push(...at(from + i * VECTOR_BYTES), ...set(NOW[i]))
  for (const distance of DISTANCES.slice(isChain ? 1 : 0)) {
    const [words, bits] = [Math.floor(distance / WORD_BITS), distance % WORD_BITS]
    code.push(...at(folded - (words + 1) * VECTOR_BYTES), ...set(OTHER))
    for (const i of TURN) {
      code.push(...get(NOW[i]), ...get(OTHER), ...shiftWordsRight(WORD_BITS - bits), ...XOR_VECTORS)
      code.push(...at(folded + (i - words) * VECTOR_BYTES), ...tee(OTHER))
      code.push(...shiftWordsLeft(bits), ...XOR_VECTORS, ...set(NOW[i]))
    }
  }
  // The vector 2 or 3 before vector i of this turn.
  const madeAt = (i: number): number => (i < 0 ? BEFORE[i + BEFORE.length]! : NOW[i]!)
  const bits = NEAREST % WORD_BITS
  for (const i of TURN) {
    if (isChain) {
      code.push(...get(NOW[i]), ...get(madeAt(i - 2)), ...shiftWordsLeft(bits), ...XOR_VECTORS)
      code.push(...get(madeAt(i - 3)), ...shiftWordsRight(WORD_BITS - bits), ...XOR_VECTORS)
      code.push(...set(NOW[i]))
    }
    code.push(...get(INDEX), ...get(NOW[i]), ...storeVector(to + i * VECTOR_BYTES))
  }
  if (isChain) for (const i of [0, 1, 2]) code.push(...get(NOW[i + 1]!), ...set(BEFORE[i]!))
  return code
}

/** The usual algorithm, a word at a time, over the words that each block left. */
function sumWords(scratch: number): number[] {
  const code: number[] = []
  for (const lane of TURN) code.push(...number(0), ...set(SUM[lane]))
  const step: number[] = []
  for (const lane of TURN) {
    step.push(...get(INDEX), ...load(scratch + AT_LAST + 4 * lane))
    step.push(...get(SUM[lane]), XOR, ...set(WORD))
    for (const byte of TURN) {
      step.push(...get(WORD), ...number(8 * byte), SHIFT_RIGHT, ...number(255), AND)
      step.push(...number(2), SHIFT_LEFT, ...load(scratch + (3 - byte) * 1024))
      if (byte > 0) step.push(XOR)
    }
    step.push(...set(SUM[lane]))
  }
  code.push(...number(0), ...set(INDEX))
  code.push(...loop(INDEX, VECTOR_BYTES, number(LAST_WORDS * VECTOR_BYTES), step))
  // What beginning with a state of all ones, and inverting it in the end, adds.
  const ofZeroes = crc32c(Buffer.alloc(BLOCK_BYTES))
  for (const lane of TURN) code.push(...get(SUM[lane]), ...number(ofZeroes), XOR, ...set(SUM[lane]))
  return code
}

assert(USED_BYTES <= SUMS_SCRATCH_BYTES, 'the scratch has room')
assert(Math.floor(NEAREST / WORD_BITS) === 2, 'a chain is two vectors long')
assert(NEAREST >= LANES, 'no turn needs words of its own')
