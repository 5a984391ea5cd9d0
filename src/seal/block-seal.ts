/**
 * Seals and opens single blocks of encrypted volumes: each with a nonce and a tag of its own.
 *
 * No nonce is used twice under one key. Each family has data keys of its own, made at random, so
 * what other volumes do is of no concern: keys are never given to another family to write with, and
 * what a clone reads of others it only opens.
 *
 * - It is (writerEpoch, sequence, block of the volume). A family has one writer at a time: whoever
 *   becomes it takes a writerEpoch from the metadata that nobody had before, also after a crash, a
 *   takeover, or a restore of the metadata (fencing tokens only grow). Within an epoch the writer
 *   gives each write a sequence of its own, and a write has a block once. So (version, block) names
 *   one write of one block, in all layers of the family.
 * - Clones of before that had the data key of what they were cloned from. What keeps them apart is
 *   the kin in the nonce, drawn at random from 2^28, and not one of a family that is there, or is
 *   being deleted: of many thousand clones, one after the other, two may have had the same. A
 *   rekey gives each its own.
 * - A volume that goes back to a snapshot is the same family, whose epochs and sequences go on.
 * - The same version and block is sealed again only when a worker died over a write that is then
 *   carried out again: from the same plaintext, which stays where it is until the write is
 *   answered, because a worker seals into memory of its own. The outcome is the same bytes. What
 *   was sealed for members of a group is kept and sent again as it is.
 * - A client that writes again what failed, or what it is not sure of, gets a new version.
 * - Compaction, resync, repair, a merge of layers, a move to other peers and a split of groups copy
 *   ciphertext with its version and tag; they have no keys. Who reads, changes and writes a block
 *   back (sub-block writes, rekey, flatten) does so as a writer, with a new version, also where
 *   that goes to a layer below the head: versions are of the family, not of a layer.
 * - A rekey is another key, for blocks of epochs from some epoch on, all of which are above every
 *   one that was given out when it was made. It is known to a writer before its first write under
 *   such an epoch (ManagedVolume.#followKeys), so an epoch has one key.
 * - Metadata that was restored may give out a generation's number again; its key is another one.
 *
 * What breaks it: disks and metadata of a whole cluster put back to an earlier moment together,
 * by somebody's snapshot of all its machines, and written again from there. Then versions come
 * twice, and who has both copies of a block sees where the two differ in plaintext.
 *
 * What is sealed with a block, besides its bytes, is where it belongs and which write it is. So
 * members and disks cannot change a block, nor pass one off for another, of another place, volume
 * or write than they say. They can say that a block is at an older version, or is not there at all
 * (hole, zeroes): both are what a copy is that missed writes. The other members tell better.
 */
import { assert } from '../core/assert.ts'
import { kinOf } from '../core/family-ids.ts'
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { type Aead, aead, NONCE_BYTES, TAG_BYTES } from './aead.ts'

// Nonce, 24 bytes, big-endian:
//
//   offset  size  field
//        0     4  writerEpoch
//        4     8  sequence
//       12     8  block          in the volume: chunk * 1024 + block of the chunk
//       20     4  kin            of the family (core/family-ids.ts); 0 where it has none
//
// Additional data, 32 bytes, big-endian:
//
//   offset  size  field
//        0     4  format         SEAL_FORMAT
//        4     4  writerEpoch
//        8     8  family
//       16     8  block
//       24     8  sequence
const SEAL_FORMAT = 1
const ADDITIONAL_BYTES = 32
const TWO_32 = 2 ** 32

/** One is used for block after block, in one thread. */
export class BlockSeal {
  private readonly aead: Aead
  private readonly nonce = Buffer.from(new ArrayBuffer(NONCE_BYTES))
  private readonly additional = Buffer.from(new ArrayBuffer(ADDITIONAL_BYTES))
  private readonly nonceView = new DataView(this.nonce.buffer)
  private readonly view = new DataView(this.additional.buffer)

  constructor(cipher: Aead = aead) {
    this.aead = cipher
    this.view.setUint32(0, SEAL_FORMAT)
  }

  /** The write that the next blocks belong to. */
  version(familyHigh: number, familyLow: number, writerEpoch: number, sequence: number): void {
    assert(writerEpoch > 0, 'what is sealed has a version')
    const high = Math.floor(sequence / TWO_32)
    const { view, nonceView } = this
    nonceView.setUint32(0, writerEpoch)
    nonceView.setUint32(4, high)
    nonceView.setUint32(8, sequence)
    nonceView.setUint32(20, kinOf(familyHigh, familyLow))
    view.setUint32(4, writerEpoch)
    view.setUint32(8, familyHigh)
    view.setUint32(12, familyLow)
    view.setUint32(24, high)
    view.setUint32(28, sequence)
  }

  /** Seals block `block` of a chunk; `plain` may be `cipher`. */
  seal(
    key: Buffer,
    chunk: number,
    block: number,
    plain: Buffer,
    cipher: Buffer,
    tag: Buffer
  ): void {
    this.place(chunk, block)
    this.aead.seal(key, this.nonce, this.additional, plain, cipher, tag)
  }

  /** Opens it, in place or not. False: it is not what was sealed there, as this version. */
  open(
    key: Buffer,
    chunk: number,
    block: number,
    cipher: Buffer,
    tag: Buffer,
    plain: Buffer
  ): boolean {
    this.place(chunk, block)
    return this.aead.open(key, this.nonce, this.additional, cipher, tag, plain)
  }

  private place(chunk: number, block: number): void {
    const index = chunk * CHUNK_BLOCKS + block
    const high = Math.floor(index / TWO_32)
    this.nonceView.setUint32(12, high)
    this.nonceView.setUint32(16, index)
    this.view.setUint32(16, high)
    this.view.setUint32(20, index)
  }
}

/** Views of the tags in `memory`, one behind the other from `start` on. */
export function tagViews(memory: Buffer, start: number, count: number): Buffer[] {
  return Array.from({ length: count }, (_, i) => {
    const at = start + i * TAG_BYTES
    return memory.subarray(at, at + TAG_BYTES)
  })
}
