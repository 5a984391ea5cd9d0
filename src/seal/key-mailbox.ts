/**
 * How one worker gets and loses keys: memory that it shares with the main thread.
 *
 *   word  field
 *      0  CHANGES   counts what the main thread changed: the worker looks when it is another one
 *   then of each key slot, a cache line of 16 words:
 *      0  state     MailState
 *      1  key       8 words; zero but while the state is Handed
 *      9  fromEpoch the first writerEpoch that the key is for
 *     10  older     slot of the key for those before; 0: there is none
 *     11  zero
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
const AT_OLDER = 10

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
  describe(slot: number, fromEpoch: number, older: number): void {
    this.words[placeOf(slot) + AT_FROM_EPOCH] = fromEpoch
    this.words[placeOf(slot) + AT_OLDER] = older
  }

  fromEpochOf(slot: number): number {
    return this.words[placeOf(slot) + AT_FROM_EPOCH]! >>> 0
  }

  olderOf(slot: number): number {
    return this.words[placeOf(slot) + AT_OLDER]!
  }

  keyOf(slot: number): Buffer {
    return Buffer.from(this.shared, (placeOf(slot) + AT_KEY) * 4, KEY_BYTES)
  }
}

function placeOf(slot: number): number {
  assert(slot >= 1 && slot <= KEY_SLOTS_MAX, 'a key slot has a number')
  return HEAD_WORDS + (slot - 1) * SLOT_WORDS
}

assert(AT_KEY + KEY_BYTES / 4 === AT_FROM_EPOCH && AT_OLDER < SLOT_WORDS, 'a key fits its place')
