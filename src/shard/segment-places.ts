/**
 * Where a shard's segments can be read right now, in shared memory: for another thread of the
 * process that knows the location of a block and reads it without asking the shard.
 *
 * Four words a slot:
 *
 *   word  field
 *      0  version     odd while the others change; a change adds two
 *      1  descriptor  of the open file, + 1; 0 when there is none
 *      2  birth       the life of the segment that its bytes belong to; 0 is none
 *      3  zero
 *
 * A reader takes the version before and after its pread. If it did not change, the bytes are those
 * of that life of that segment: the shard announces here that it closes a file, or begins another
 * life in one, before it does.
 */
import { assert } from '../core/assert.ts'
import { SEGMENT_SLOTS_MAX } from '../core/limits.ts'

const PLACE_WORDS = 4

export class SegmentPlaces {
  /** Pages of it become real memory when first touched. */
  static readonly bytes: number = SEGMENT_SLOTS_MAX * PLACE_WORDS * 4
  private readonly words: Int32Array

  constructor(shared: SharedArrayBuffer) {
    assert(shared.byteLength === SegmentPlaces.bytes, 'every slot has a place')
    this.words = new Int32Array(shared)
  }

  // The shard's side.

  show(slot: number, descriptor: number, birth: number): void {
    const at = slot * PLACE_WORDS
    if (this.words[at + 1] === descriptor + 1 && this.words[at + 2] === birth) return
    Atomics.add(this.words, at, 1)
    Atomics.store(this.words, at + 1, descriptor + 1)
    Atomics.store(this.words, at + 2, birth)
    Atomics.add(this.words, at, 1)
  }

  /** Returns before anybody is told, by `version`, that what it read there counts. */
  hide(slot: number): void {
    this.show(slot, -1, 0)
  }

  /** The shard's thread is gone, perhaps in the middle of a change. */
  hideAll(): void {
    for (let at = 0; at < this.words.length; at += PLACE_WORDS) {
      if (this.words[at] === 0) continue
      Atomics.store(this.words, at + 1, 0)
      Atomics.store(this.words, at + 2, 0)
      Atomics.store(this.words, at, (this.words[at]! | 1) + 1)
    }
  }

  // The reader's side.

  version(slot: number): number {
    return Atomics.load(this.words, slot * PLACE_WORDS)
  }

  /** -1: cannot be read here now. Taken after `version`, like `birth`. */
  descriptor(slot: number): number {
    return Atomics.load(this.words, slot * PLACE_WORDS + 1) - 1
  }

  birth(slot: number): number {
    return Atomics.load(this.words, slot * PLACE_WORDS + 2)
  }
}
