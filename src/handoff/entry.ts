import { assert } from '../core/assert.ts'
import { BLOCK_BYTES } from '../core/limits.ts'

// Entries never leave the process: native 32-bit words.
//
// Submission entry, 64 bytes:
//
//   word  field
//      0  kind | flags << 8
//      1  slot           place in the client's table of requests in flight; comes back as it is
//      2  familyHigh
//      3  familyLow
//      4  layerHigh
//      5  layerLow
//      6  chunk
//      7  firstBlock | blockCount << 16
//      8  payload        page index in the arena
//      9  writerEpoch
//     10  sequence       low 32 bits
//     11  sequence       high 32 bits
//     12  keySlot
//     13  tags           byte offset in the arena
//  14-15  zero
//
// Completion entry, 64 bytes:
//
//   word  field
//      0  slot
//      1  error
//      2  resultA
//      3  resultB
//      4  resultC
//    5-8  tag0..tag3     where keySlot is not 0
//   9-15  zero
export const ENTRY_WORDS = 16

/** The fields of a shard's request that cross threads: ShardOp of shard/, as handoff sees it. */
export interface HandoffOp {
  kind: number
  flags: number
  familyHigh: number
  familyLow: number
  layerHigh: number
  layerLow: number
  chunk: number
  firstBlock: number
  blockCount: number
  writerEpoch: number
  sequence: number
  payload: number
  tags: number
  keySlot: number
  error: number
  resultA: number
  resultB: number
  resultC: number
  tag0: number
  tag1: number
  tag2: number
  tag3: number
}

export function writeSubmission(words: Uint32Array, at: number, slot: number, op: HandoffOp): void {
  words[at] = op.kind | (op.flags << 8)
  words[at + 1] = slot
  words[at + 2] = op.familyHigh
  words[at + 3] = op.familyLow
  words[at + 4] = op.layerHigh
  words[at + 5] = op.layerLow
  words[at + 6] = op.chunk
  words[at + 7] = op.firstBlock | (op.blockCount << 16)
  words[at + 8] = op.payload / BLOCK_BYTES
  words[at + 9] = op.writerEpoch
  words[at + 10] = op.sequence
  words[at + 11] = op.sequence / TWO_32
  words[at + 12] = op.keySlot
  words[at + 13] = op.tags
}

/** Fills `op` with a submission and clears its answer; returns the slot. */
export function readSubmission(words: Uint32Array, at: number, op: HandoffOp): number {
  const kindAndFlags = words[at]!
  op.kind = kindAndFlags & 0xff
  op.flags = kindAndFlags >>> 8
  op.familyHigh = words[at + 2]!
  op.familyLow = words[at + 3]!
  op.layerHigh = words[at + 4]!
  op.layerLow = words[at + 5]!
  op.chunk = words[at + 6]!
  const range = words[at + 7]!
  op.firstBlock = range & 0xffff
  op.blockCount = range >>> 16
  op.payload = words[at + 8]! * BLOCK_BYTES
  op.writerEpoch = words[at + 9]!
  op.sequence = words[at + 10]! + words[at + 11]! * TWO_32
  op.keySlot = words[at + 12]!
  op.tags = words[at + 13]!
  op.error = 0
  op.resultA = 0
  op.resultB = 0
  op.resultC = 0
  return words[at + 1]!
}

export function writeCompletion(words: Uint32Array, at: number, slot: number, op: HandoffOp): void {
  words[at] = slot
  words[at + 1] = op.error
  words[at + 2] = op.resultA
  words[at + 3] = op.resultB
  words[at + 4] = op.resultC
  if (op.keySlot === 0) return
  words[at + 5] = op.tag0
  words[at + 6] = op.tag1
  words[at + 7] = op.tag2
  words[at + 8] = op.tag3
}

/** Sets the answer fields of `op`; the slot is word 0. */
export function readCompletion(words: Uint32Array, at: number, op: HandoffOp): void {
  op.error = words[at + 1]!
  op.resultA = words[at + 2]!
  op.resultB = words[at + 3]!
  op.resultC = words[at + 4]!
  if (op.keySlot === 0) return
  op.tag0 = words[at + 5]!
  op.tag1 = words[at + 6]!
  op.tag2 = words[at + 7]!
  op.tag3 = words[at + 8]!
}

const TWO_32 = 2 ** 32

assert(ENTRY_WORDS * 4 === 64, 'an entry is one cache line')
