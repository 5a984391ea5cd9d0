import { assert } from '../core/assert.ts'
import { isBasedLayer, layerNumber } from '../core/layer-ids.ts'
import { LayerChains } from './layer-chains.ts'

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
 * Small numbers for layers: ids of 64 bits on disk and in requests, 0, 1, 2… in the index. A number
 * is not used again in this process, so the number of a dropped layer means nothing to anybody.
 */
export class IndexLayers {
  /** Numbers given out. */
  length = 0
  /** Which of them stand on which. */
  readonly chains: LayerChains = new LayerChains()
  /** Some layer may stand on others. */
  hasNumbered = false
  /** Family and layer id, four words for each number. */
  private keys = new Uint32Array(LAYERS_MIN * 4)
  private dropped = new Uint8Array(LAYERS_MIN)
  /** Open addressing: number + 1, 0 is free. */
  private slots = new Uint32Array(LAYERS_MIN * 2)
  /** The number found last: requests come in runs of one layer. */
  private recent = -1

  get bytes(): number {
    return this.keys.byteLength + this.dropped.byteLength + this.slots.byteLength
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
    if (this.length * 4 === this.keys.length) this.grow()
    const number = this.length++
    this.keys.set([familyHigh, familyLow, layerHigh, layerLow], number * 4)
    this.insert(number)
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

  private is(number: number, familyHigh: number, familyLow: number, high: number, low: number) {
    const at = number * 4
    return (
      this.keys[at + 3] === low &&
      this.keys[at + 2] === high &&
      this.keys[at + 1] === familyLow &&
      this.keys[at] === familyHigh
    )
  }

  private insert(number: number): void {
    const at = number * 4
    const mask = this.slots.length - 1
    let slot = hashOf(this.keys[at + 1]!, this.keys[at + 2]!, this.keys[at + 3]!) & mask
    while (this.slots[slot] !== 0) slot = (slot + 1) & mask
    this.slots[slot] = number + 1
  }

  private grow(): void {
    const keys = new Uint32Array(this.keys.length * 2)
    keys.set(this.keys)
    this.keys = keys
    const dropped = new Uint8Array(this.dropped.length * 2)
    dropped.set(this.dropped)
    this.dropped = dropped
    this.slots = new Uint32Array(this.slots.length * 2)
    for (let number = 0; number < this.length; number++) {
      if (this.dropped[number] === 0) this.insert(number)
    }
  }
}

/** Ids are random, so little mixing does. */
function hashOf(familyLow: number, layerHigh: number, layerLow: number): number {
  const hash = Math.imul(layerLow ^ Math.imul(layerHigh, 0x85ebca6b) ^ familyLow, 0x9e3779b1)
  return hash ^ (hash >>> 15)
}
