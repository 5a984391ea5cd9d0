import type { LiveCounter } from './packed-chunks.ts'

const LAYERS_MIN = 16

/**
 * Stands between the index and who counts live blocks by segment, and counts them by layer too.
 * The index says whose chunk it changes; a move inside a layer adds and takes away as much.
 */
export class LayerUsage implements LiveCounter {
  private readonly next: LiveCounter
  private blocks = new Float64Array(LAYERS_MIN)
  private layer = 0

  constructor(next: LiveCounter) {
    this.next = next
  }

  get bytes(): number {
    return this.blocks.byteLength
  }

  /** What is counted from here on belongs to this layer. */
  select(layer: number): void {
    if (layer >= this.blocks.length) this.grow(layer)
    this.layer = layer
  }

  /** Blocks with data; holes and zeroes take no space. */
  blocksOf(layer: number): number {
    return this.blocks[layer] ?? 0
  }

  onLive(location: number, count: number): void {
    this.blocks[this.layer]! += count
    this.next.onLive(location, count)
  }

  onDead(location: number, count: number): void {
    this.blocks[this.layer]! -= count
    this.next.onDead(location, count)
  }

  private grow(layer: number): void {
    const blocks = new Float64Array(Math.max(this.blocks.length * 2, layer + 1))
    blocks.set(this.blocks)
    this.blocks = blocks
  }
}
