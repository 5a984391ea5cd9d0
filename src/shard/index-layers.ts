import { assert } from '../core/assert.ts'
import { isBasedLayer, layerNumber } from '../core/layer-ids.ts'
import { LayerChains } from './layer-chains.ts'
import { LayerPlaces } from './layer-places.ts'

export interface LayerKey {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
}

const LAYERS_MIN = 16
/** In place of the number of a layer. */
export const BASE_UNKNOWN = -2

/**
 * Small numbers for layers: ids of 64 bits on disk and in requests, 0, 1, 2… in the index. That of
 * a layer of which nothing is left is used again, in a new life.
 */
export class IndexLayers {
  /** Numbers given out. */
  length = 0
  /** Where the chunks of each lie in the table: by branch. */
  readonly places: LayerPlaces = new LayerPlaces()
  /** Which of them stand on which. */
  readonly chains: LayerChains = new LayerChains()
  /** Some layer may stand on others. */
  hasNumbered = false
  /** Family and layer id, four words for each number. */
  private keys = new Uint32Array(LAYERS_MIN * 4)
  private dropped = new Uint8Array(LAYERS_MIN)
  /** How often each number was given out. */
  private lives = new Uint32Array(LAYERS_MIN)
  private readonly free: number[] = []
  /** Open addressing: number + 1, 0 is free. */
  private slots = new Uint32Array(LAYERS_MIN * 2)
  /** The number found last: requests come in runs of one layer. */
  private recent = -1

  get bytes(): number {
    const { keys, dropped, slots, lives, places } = this
    return keys.byteLength + dropped.byteLength + slots.byteLength + lives.byteLength + places.bytes
  }

  /** Another one than before: the number is that of another layer. */
  lifeOf(number: number): number {
    return this.lives[number]!
  }

  /** Number of a layer, -1 when it is unknown or dropped. */
  find(familyHigh: number, familyLow: number, layerHigh: number, layerLow: number): number {
    if (this.recent >= 0 && this.is(this.recent, familyHigh, familyLow, layerHigh, layerLow)) {
      return this.recent
    }
    const mask = this.slots.length - 1
    for (let slot = hashOf(familyLow, layerHigh, layerLow) & mask; ; slot = (slot + 1) & mask) {
      const number = this.slots[slot]! - 1
      if (number < 0) return -1
      if (this.dropped[number] === 1) continue
      if (!this.is(number, familyHigh, familyLow, layerHigh, layerLow)) continue
      this.recent = number
      return number
    }
  }

  /** Gives a number to a layer that has none. */
  add(familyHigh: number, familyLow: number, layerHigh: number, layerLow: number): number {
    if (this.free.length === 0 && this.length * 4 === this.keys.length) this.grow()
    const number = this.free.pop() ?? this.length++
    this.keys.set([familyHigh, familyLow, layerHigh, layerLow], number * 4)
    this.dropped[number] = 0
    this.lives[number]!++
    this.insert(number)
    this.places.begin(number, branchHash(familyLow, layerHigh))
    this.chains.add(number, { familyHigh, familyLow, layerHigh, layerLow })
    if (layerNumber(layerLow) > 0) this.hasNumbered = true
    return number
  }

  /** As `find`; of a layer without entries, too, if it stands on one of its branch here. */
  findInBranch(familyHigh: number, familyLow: number, layerHigh: number, layerLow: number): number {
    const known = this.find(familyHigh, familyLow, layerHigh, layerLow)
    if (known >= 0 || layerNumber(layerLow) === 0) return known
    const isOn = this.chains.hasBelow({ familyHigh, familyLow, layerHigh, layerLow })
    return isOn ? this.add(familyHigh, familyLow, layerHigh, layerLow) : -1
  }

  /**
   * As `find`; of a layer without entries, too, if it stands on one that is here, of whatever
   * branch. BASE_UNKNOWN: what it stands on is not known.
   */
  findStacked(familyHigh: number, familyLow: number, layerHigh: number, layerLow: number): number {
    if (!isBasedLayer(layerLow)) {
      return this.findInBranch(familyHigh, familyLow, layerHigh, layerLow)
    }
    const known = this.find(familyHigh, familyLow, layerHigh, layerLow)
    if (known >= 0) return this.chains.stackOf(known) === null ? BASE_UNKNOWN : known
    const below = this.chains.below({ familyHigh, familyLow, layerHigh, layerLow })
    if (below === null) return BASE_UNKNOWN
    return below.length > 0 ? this.add(familyHigh, familyLow, layerHigh, layerLow) : -1
  }

  drop(number: number): void {
    assert(number < this.length, 'only a known layer is dropped')
    this.dropped[number] = 1
    this.recent = -1
    this.chains.drop(number)
  }

  /** Those without chunks are as if they had never been. Returns which. */
  retire(numbers: readonly number[]): ReadonlySet<number> {
    const empty = new Set(numbers.filter((number) => this.places.chunks[number] === 0))
    if (empty.size === 0) return empty
    this.chains.dropEmpty(empty)
    for (const number of empty) {
      this.remove(number)
      this.dropped[number] = 1
      this.free.push(number)
    }
    this.recent = -1
    return empty
  }

  /** Whether it is a layer of the family, and not dropped. */
  isOf(number: number, familyHigh: number, familyLow: number): boolean {
    const at = number * 4
    if (this.keys[at] !== familyHigh || this.keys[at + 1] !== familyLow) return false
    return this.dropped[number] === 0
  }

  isDropped(number: number): boolean {
    return this.dropped[number] === 1
  }

  keyOf(number: number): LayerKey {
    assert(number >= 0 && number < this.length, 'the layer has a number')
    const at = number * 4
    return {
      familyHigh: this.keys[at]!,
      familyLow: this.keys[at + 1]!,
      layerHigh: this.keys[at + 2]!,
      layerLow: this.keys[at + 3]!
    }
  }

  isOfFamily(number: number, familyHigh: number, familyLow: number): boolean {
    return this.keys[number * 4 + 1] === familyLow && this.keys[number * 4] === familyHigh
  }

  isBranchOf(number: number, other: number): boolean {
    const { familyHigh, familyLow, layerHigh } = this.keyOf(number)
    return this.is(other, familyHigh, familyLow, layerHigh, this.keyOf(other).layerLow)
  }

  private is(number: number, familyHigh: number, familyLow: number, high: number, low: number) {
    const at = number * 4
    return (
      this.keys[at + 3] === low &&
      this.keys[at + 2] === high &&
      this.keys[at + 1] === familyLow &&
      this.keys[at] === familyHigh
    )
  }

  private homeOf(number: number): number {
    const at = number * 4
    const hash = hashOf(this.keys[at + 1]!, this.keys[at + 2]!, this.keys[at + 3]!)
    return hash & (this.slots.length - 1)
  }

  private insert(number: number): void {
    const mask = this.slots.length - 1
    let slot = this.homeOf(number)
    while (this.slots[slot] !== 0) slot = (slot + 1) & mask
    this.slots[slot] = number + 1
  }

  /** Frees its slot and moves those behind it up, so that no probe ends too early. */
  private remove(number: number): void {
    const { slots } = this
    const mask = slots.length - 1
    let hole = this.homeOf(number)
    while (slots[hole] !== number + 1) {
      if (slots[hole] === 0) return // dropped before the slots grew
      hole = (hole + 1) & mask
    }
    for (let next = (hole + 1) & mask; slots[next] !== 0; next = (next + 1) & mask) {
      const home = this.homeOf(slots[next]! - 1)
      if (((next - home) & mask) < ((next - hole) & mask)) continue
      slots[hole] = slots[next]!
      hole = next
    }
    slots[hole] = 0
  }

  private grow(): void {
    const keys = new Uint32Array(this.keys.length * 2)
    keys.set(this.keys)
    this.keys = keys
    const dropped = new Uint8Array(this.dropped.length * 2)
    dropped.set(this.dropped)
    this.dropped = dropped
    const lives = new Uint32Array(this.lives.length * 2)
    lives.set(this.lives)
    this.lives = lives
    this.slots = new Uint32Array(this.slots.length * 2)
    for (let number = 0; number < this.length; number++) {
      if (this.dropped[number] === 0) this.insert(number)
    }
  }
}

/** Chunks of all layers of a branch lie together. */
const branchHash = (familyLow: number, layerHigh: number): number =>
  Math.imul(layerHigh ^ Math.imul(familyLow, 0x85ebca6b), 0x9e3779b1)

/** Ids are random, so little mixing does. */
function hashOf(familyLow: number, layerHigh: number, layerLow: number): number {
  const hash = Math.imul(layerLow ^ Math.imul(layerHigh, 0x85ebca6b) ^ familyLow, 0x9e3779b1)
  return hash ^ (hash >>> 15)
}
