/**
 * Where chunks lie in the index's table. All layers of a branch have a chunk of one index within
 * one block of hashes, so that who looks through many layers finds those that have it in one go,
 * however many there are.
 */
import { type ChunkSet, ChunkSets } from './chunk-sets.ts'
import { HASHES_OF_CHUNK } from './index-table.ts'

const LAYERS_MIN = 16

export class LayerPlaces {
  /** By layer: chunks in the index. */
  chunks: Uint32Array<ArrayBuffer> = new Uint32Array(LAYERS_MIN)
  private branches = new Uint32Array(LAYERS_MIN)
  private readonly sets = new ChunkSets()

  get bytes(): number {
    return this.chunks.byteLength + this.branches.byteLength + this.sets.bytes
  }

  /** The chunk is in the index now. */
  added(layer: number, chunk: number): void {
    this.chunks[layer]!++
    this.sets.add(this.branches[layer]!, chunk)
  }

  /** It is there no more. */
  removed(layer: number, chunk: number): void {
    this.chunks[layer]!--
    this.sets.remove(this.branches[layer]!, chunk)
  }

  /** What the layers of this one's branch may have; null: nothing. */
  setOf(layer: number): ChunkSet | null {
    return this.sets.find(this.branches[layer]!)
  }

  /** No layer of its branch has it. */
  forget(layer: number, chunk: number): void {
    this.sets.forget(this.branches[layer]!, chunk)
  }

  /** The number is that of a layer of this branch. */
  begin(layer: number, branch: number): void {
    if (layer >= this.chunks.length) {
      this.chunks = wider(this.chunks, layer)
      this.branches = wider(this.branches, layer)
    }
    this.chunks[layer] = 0
    this.branches[layer] = branch
  }

  /** Well mixed; the top bits are the home slot. */
  hashOf(layer: number, chunk: number): number {
    let hash = Math.imul(chunk ^ this.branches[layer]!, 0x85ebca6b)
    hash ^= hash >>> 15
    hash = Math.imul(hash, 0xc2b2ae35)
    hash ^= hash >>> 13
    hash = Math.imul(hash, 0x27d4eb2f)
    return (hash ^ (hash >>> 16) ^ (layer & (HASHES_OF_CHUNK - 1))) >>> 0
  }

  /** Of one branch, or of two that happen to lie alike. */
  areTogether(layer: number, other: number): boolean {
    return this.branches[layer] === this.branches[other]
  }

  /** First of the hashes that the chunk has in layers of this one's branch. */
  blockOf(layer: number, chunk: number): number {
    const hash = this.hashOf(layer, chunk)
    return hash - (hash % HASHES_OF_CHUNK)
  }
}

function wider(from: Uint32Array, layer: number): Uint32Array<ArrayBuffer> {
  const to = new Uint32Array(Math.max(from.length * 2, layer + 1))
  to.set(from)
  return to
}
