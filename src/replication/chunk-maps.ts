/**
 * What the main thread knows of where blocks stand, so that it can read them without a worker: a
 * bounded number of frames (shard/chunk-map.ts), each with the map of one chunk.
 *
 *   nothing ── a read misses ──► loading ── the shard answered ──► ready ── replaced ──► nothing
 *
 * Every change of the chunk passes here twice: when it is submitted its blocks become unknown, and
 * reads of them queue up behind it at the shard; when it is done, a write of one block says where
 * that stands now, unless another change of it was submitted since. So a read sees every change
 * submitted before it, which is what changes of parts of a block build on. Compaction moves blocks
 * without a word: the old place stays good for as long as `SegmentPlaces` says that the segment's
 * life goes on.
 */
import { isBasedLayer, layerNumber } from '../core/layer-ids.ts'
import {
  LOCATION_UNKNOWN,
  MAP_BIRTHS,
  MAP_BYTES,
  MAP_CRCS,
  MAP_WORDS,
  SEAL_EPOCHS,
  SEAL_FAMILIES,
  SEAL_HIGHS,
  SEAL_LOWS,
  SEAL_MAP_WORDS
} from '../shard/chunk-map.ts'
import type { BlockOp } from './block-store.ts'

const TWO_32 = 2 ** 32

/** Frames that a chunk may be in: few enough to look at all of them. */
const WAYS = 8
const SETS_LOG2 = 8
const FRAMES = WAYS << SETS_LOG2
/** A full set gives a frame up for one in so many misses: a map costs ten reads. */
const REPLACE_EVERY = 16
/** Reads of unknown blocks in a frame after which its map is asked for again. */
const UNKNOWN_READS_MAX = 16

const Frame = { Free: 0, Loading: 1, Ready: 2, /** Loading, and changed meanwhile. */ Stale: 3 }

interface Layer {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
}

/** Which layers of branches stand on which: a BaseTeacher. */
interface Branches {
  isUnder(op: BlockOp, layer: Layer): boolean
}

export class ChunkMaps {
  /** For the workers to fill: 24 MiB once 8 GiB were read at random. */
  readonly shared: SharedArrayBuffer = new SharedArrayBuffer(FRAMES * MAP_BYTES)
  readonly words: Uint32Array = new Uint32Array(this.shared)
  /** What opens sealed blocks: 64 MiB once as much was read of encrypted volumes. */
  readonly sealsShared: SharedArrayBuffer = new SharedArrayBuffer(FRAMES * SEAL_MAP_WORDS * 4)
  readonly seals: Uint32Array = new Uint32Array(this.sealsShared)
  /** Of sealed families: `seals` has the frame too. */
  private readonly sealed = new Uint8Array(FRAMES)
  private readonly states = new Uint8Array(FRAMES)
  /** Read since the set last looked for a frame to give up. */
  private readonly used = new Uint8Array(FRAMES)
  private readonly unknownReads = new Uint8Array(FRAMES)
  private readonly chunks = new Uint32Array(FRAMES)
  private readonly familiesHigh = new Uint32Array(FRAMES)
  private readonly familiesLow = new Uint32Array(FRAMES)
  private readonly layersHigh = new Uint32Array(FRAMES)
  private readonly layersLow = new Uint32Array(FRAMES)
  private misses = 0

  /** Where the map of the op's chunk starts in `words`; -1 when there is none to use. */
  find(op: BlockOp, hash: number): number {
    const frame = this.frameOf(op, hash)
    if (frame < 0 || this.states[frame] !== Frame.Ready) return -1
    if (op.keySlot !== 0 && this.sealed[frame] === 0) return -1
    this.used[frame] = 1
    return frame * MAP_WORDS
  }

  /**
   * A read found nothing that it could use. Returns the frame that the shard is to fill now, as
   * payload of a Locate op; -1 for none.
   */
  missed(op: BlockOp, hash: number): number {
    let frame = this.frameOf(op, hash)
    if (frame >= 0) {
      if (this.states[frame] !== Frame.Ready) return -1
      if (++this.unknownReads[frame]! < UNKNOWN_READS_MAX) return -1
    } else {
      frame = this.freeFrame(hash)
      if (frame < 0) return -1
      this.chunks[frame] = op.chunk
      this.familiesHigh[frame] = op.familyHigh
      this.familiesLow[frame] = op.familyLow
      this.layersHigh[frame] = op.layerHigh
      this.layersLow[frame] = op.layerLow
    }
    this.states[frame] = Frame.Loading
    this.unknownReads[frame] = 0
    this.sealed[frame] = op.keySlot === 0 ? 0 : 1
    return frame * MAP_BYTES
  }

  /** The shard answered the Locate op that was given this payload. */
  loaded(payload: number, failed: boolean): void {
    const frame = payload / MAP_BYTES
    const whole = this.states[frame] === Frame.Loading && !failed
    this.states[frame] = whole ? Frame.Ready : Frame.Free
  }

  /** The op changes its blocks, which are unknown until it is done, and perhaps after. */
  forget(op: BlockOp, hash: number, branches: Branches | null = null): void {
    this.forgetAbove(op, hash, branches)
    const frame = this.frameOf(op, hash)
    if (frame < 0) return
    if (this.states[frame] !== Frame.Ready) {
      this.states[frame] = Frame.Stale
      return
    }
    // Whose change a block waits for: its version stands where birth and checksum would.
    const { words } = this
    const at = frame * MAP_WORDS + op.firstBlock
    for (let word = at; word < at + op.blockCount; word++) {
      words[word] = LOCATION_UNKNOWN
      words[word + MAP_BIRTHS] = op.writerEpoch
      words[word + MAP_CRCS] = op.sequence
    }
  }

  /** Maps of layers that may stand on the op's: nobody changes that one but to bring a copy. */
  private forgetAbove(op: BlockOp, hash: number, branches: Branches | null): void {
    const first = (hash >>> (32 - SETS_LOG2)) * WAYS
    for (let frame = first; frame < first + WAYS; frame++) {
      if (this.chunks[frame] !== op.chunk || this.states[frame] === Frame.Free) continue
      if (!this.isAbove(frame, op) && !this.isBasedOn(frame, op, branches)) continue
      this.states[frame] = this.states[frame] === Frame.Ready ? Frame.Free : Frame.Stale
    }
  }

  /** In the order of its family's layers: those of other branches may count too. */
  private isAbove(frame: number, op: BlockOp): boolean {
    if (this.familiesLow[frame] !== op.familyLow) return false
    if (this.familiesHigh[frame] !== op.familyHigh) return false
    return layerNumber(this.layersLow[frame]!) > layerNumber(op.layerLow)
  }

  private isBasedOn(frame: number, op: BlockOp, branches: Branches | null): boolean {
    if (branches === null || !isBasedLayer(this.layersLow[frame]!)) return false
    return branches.isUnder(op, {
      familyHigh: this.familiesHigh[frame]!,
      familyLow: this.familiesLow[frame]!,
      layerHigh: this.layersHigh[frame]!,
      layerLow: this.layersLow[frame]!
    })
  }

  /**
   * The op, for which `forget` was called when it was submitted, is done. A map that is being
   * loaded needs no care: it was asked for later than the op, or it is stale already.
   */
  changed(op: BlockOp, hash: number): void {
    const frame = this.frameOf(op, hash)
    if (frame < 0 || this.states[frame] !== Frame.Ready) return
    if (op.error !== 0 || op.resultC === 0) return
    const { words } = this
    const at = frame * MAP_WORDS + op.firstBlock
    const isNewest =
      words[at] === LOCATION_UNKNOWN &&
      words[at + MAP_BIRTHS] === op.writerEpoch &&
      words[at + MAP_CRCS] === op.sequence >>> 0
    if (!isNewest) return
    words[at] = op.resultA
    words[at + MAP_BIRTHS] = op.resultC
    words[at + MAP_CRCS] = op.resultB
    if (this.sealed[frame] === 1) this.noteSeal(op, frame * SEAL_MAP_WORDS)
  }

  private noteSeal(op: BlockOp, at: number): void {
    const { seals } = this
    const { firstBlock: block } = op
    seals[at + 4 * block] = op.tag0
    seals[at + 4 * block + 1] = op.tag1
    seals[at + 4 * block + 2] = op.tag2
    seals[at + 4 * block + 3] = op.tag3
    seals[at + SEAL_EPOCHS + block] = op.writerEpoch
    seals[at + SEAL_LOWS + block] = op.sequence
    seals[at + SEAL_HIGHS + block] = op.sequence / TWO_32
    seals[at + SEAL_FAMILIES + block] = op.familyLow
  }

  /** Forgets everything. */
  clear(): void {
    for (let frame = 0; frame < FRAMES; frame++) {
      const isLoading = this.states[frame] === Frame.Loading || this.states[frame] === Frame.Stale
      this.states[frame] = isLoading ? Frame.Stale : Frame.Free
    }
  }

  private frameOf(op: BlockOp, hash: number): number {
    const first = (hash >>> (32 - SETS_LOG2)) * WAYS
    for (let frame = first; frame < first + WAYS; frame++) {
      if (this.chunks[frame] !== op.chunk || this.states[frame] === Frame.Free) continue
      if (this.layersLow[frame] !== op.layerLow || this.layersHigh[frame] !== op.layerHigh) continue
      if (this.familiesLow[frame] !== op.familyLow) continue
      if (this.familiesHigh[frame] === op.familyHigh) return frame
    }
    return -1
  }

  /** A frame of the set that is free, or that was not used lately. */
  private freeFrame(hash: number): number {
    const first = (hash >>> (32 - SETS_LOG2)) * WAYS
    for (let frame = first; frame < first + WAYS; frame++) {
      if (this.states[frame] === Frame.Free) return frame
    }
    if (++this.misses % REPLACE_EVERY !== 0) return -1
    let found = -1
    for (let frame = first; frame < first + WAYS; frame++) {
      if (this.states[frame] === Frame.Ready && this.used[frame] === 0) found = frame
      this.used[frame] = 0
    }
    return found
  }
}
