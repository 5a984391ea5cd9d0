/**
 * How one worker gets and loses keys: memory that it shares with the main thread.
 *
 *   word  field
 *      0  CHANGES   counts what the main thread changed: the worker looks when it is another one
 *   then of each key slot, a cache line of 16 words:
 *      0  state     MailState
 *      1  key       8 words; zero but while the state is Handed
 *      9  fromEpoch the first writerEpoch that the key is for
 *     10  family    whose blocks it is for: lower half of the id; 0: of any
 *     11  group     of the keys that requests for one volume find by its number
 *     12  zero
 *
 * Only the main thread changes Empty, Taken -> Handed and Handed, Taken -> Dropped; only the worker
 * Handed -> Taken and Dropped -> Empty. A slot gets another key when every worker has it Empty, so
 * nobody writes the words of a key that somebody else is about to zero.
 */
import { assert } from '../core/assert.ts'
import { KEY_SLOTS_MAX } from '../core/limits.ts'

export const KEY_BYTES = 32
const CHANGES = 0
const HEAD_WORDS = 16
const SLOT_WORDS = 16
const AT_KEY = 1
const AT_FROM_EPOCH = 9
const AT_FAMILY = 10
const AT_GROUP = 11

/** Which blocks a key is for. */
export interface KeyPlace {
  /** Requests carry its number (`ShardOp.keySlot`), and need keys of it alone. */
  readonly group: number
  /** Lower half of the id; 0: of any. */
  readonly family: number
  /** Versions with this writerEpoch, up to that of the next key of the family. */
  readonly fromEpoch: number
}

export const MailState = { Empty: 0, Handed: 1, Taken: 2, Dropped: 3 } as const

export class KeyMailbox {
  static readonly bytes: number = (HEAD_WORDS + KEY_SLOTS_MAX * SLOT_WORDS) * 4
  readonly shared: SharedArrayBuffer
  private readonly words: Int32Array

  constructor(shared: SharedArrayBuffer = new SharedArrayBuffer(KeyMailbox.bytes)) {
    assert(shared.byteLength === KeyMailbox.bytes, 'every key has a place')
    this.shared = shared
    this.words = new Int32Array(shared)
  }

  /** Other than before: something is to be taken or given up. */
  get changes(): number {
    return Atomics.load(this.words, CHANGES)
  }

  stateOf(slot: number): number {
    return Atomics.load(this.words, placeOf(slot))
  }

  /** The main thread: after what it put in place. */
  change(slot: number, state: number): void {
    Atomics.store(this.words, placeOf(slot), state)
    Atomics.add(this.words, CHANGES, 1)
  }

  /** The worker: false when the main thread was first. */
  answer(slot: number, from: number, to: number): boolean {
    return Atomics.compareExchange(this.words, placeOf(slot), from, to) === from
  }

  /** The main thread: which blocks the key is for, before it is handed. */
  describe(slot: number, { fromEpoch, family, group }: KeyPlace): void {
    this.words[placeOf(slot) + AT_FROM_EPOCH] = fromEpoch
    this.words[placeOf(slot) + AT_FAMILY] = family
    this.words[placeOf(slot) + AT_GROUP] = group
  }

  described(slot: number): KeyPlace {
    const { words } = this
    return {
      fromEpoch: words[placeOf(slot) + AT_FROM_EPOCH]! >>> 0,
      family: words[placeOf(slot) + AT_FAMILY]! >>> 0,
      group: words[placeOf(slot) + AT_GROUP]!
    }
  }

  keyOf(slot: number): Buffer {
    return Buffer.from(this.shared, (placeOf(slot) + AT_KEY) * 4, KEY_BYTES)
  }
}

function placeOf(slot: number): number {
  assert(slot >= 1 && slot <= KEY_SLOTS_MAX, 'a key slot has a number')
  return HEAD_WORDS + (slot - 1) * SLOT_WORDS
}

assert(AT_KEY + KEY_BYTES / 4 === AT_FROM_EPOCH && AT_GROUP < SLOT_WORDS, 'a key fits its place')
