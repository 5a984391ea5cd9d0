import { layerNumber } from '../core/layer-ids.ts'
import type { LayerKey } from './index-layers.ts'

/** Layers that stand on each other, lowest first. */
interface Branch {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  /** By place: number in the branch, and in the index. */
  readonly numbers: number[]
  readonly layers: number[]
}

/** Which of the layers in this shard stand on which: their ids tell (core/layer-ids.ts). */
export class LayerChains {
  /** A layer has this place among those of its branch, which it may have taken from another. */
  onAdded: (layer: number, place: number) => void = () => {}
  onDropped: () => void = () => {}
  private readonly byHash = new Map<number, Branch[]>()
  /** By number in the index. */
  private readonly branches: (Branch | null)[] = []
  private readonly places: number[] = []

  add(layer: number, key: LayerKey): void {
    const number = layerNumber(key.layerLow)
    const branch = this.find(key.familyHigh, key.familyLow, key.layerHigh) ?? this.begin(key)
    const { numbers, layers } = branch
    // Roots come in any order, one beside the other.
    let place = numbers.length
    while (place > 0 && numbers[place - 1]! > number) place--
    numbers.splice(place, 0, number)
    layers.splice(place, 0, layer)
    this.branches[layer] = branch
    for (let at = place; at < layers.length; at++) this.places[layers[at]!] = at
    this.onAdded(layer, place)
  }

  drop(layer: number): void {
    const branch = this.branches[layer] ?? null
    if (branch === null) return
    const place = this.places[layer]!
    branch.numbers.splice(place, 1)
    branch.layers.splice(place, 1)
    this.branches[layer] = null
    for (let at = place; at < branch.layers.length; at++) this.places[branch.layers[at]!] = at
    this.onDropped()
  }

  /** Is anything here of what such a layer, which is not known, stands on? */
  hasBelow(key: LayerKey): boolean {
    const number = layerNumber(key.layerLow)
    if (number === 0) return false
    const branch = this.find(key.familyHigh, key.familyLow, key.layerHigh)
    return branch !== null && branch.numbers.length > 0 && branch.numbers[0]! < number
  }

  /** Does the layer, which was not dropped, stand on others that are here? */
  isStacked(layer: number): boolean {
    return this.bottomOf(layer) < this.places[layer]!
  }

  /** Is `lower` of the same branch and below `layer`? */
  isAbove(layer: number, lower: number): boolean {
    const branch = this.branches[layer] ?? null
    const isSame = branch !== null && this.branches[lower] === branch
    return isSame && this.places[lower]! < this.places[layer]!
  }

  /** Place of the layer in `layersOf`. */
  placeOf(layer: number): number {
    return this.places[layer]!
  }

  /** It stands on those at places from here on. */
  bottomOf(layer: number): number {
    const place = this.places[layer]!
    return this.branches[layer]!.numbers[place]! > 0 ? 0 : place
  }

  /** Place of the lowest of them that is above the layer `number` of its branch. */
  placeAbove(layer: number, number: number): number {
    const { numbers } = this.branches[layer]!
    let place = this.bottomOf(layer)
    while (place < numbers.length && numbers[place]! <= number) place++
    return place
  }

  /** All layers of its branch, lowest first. */
  layersOf(layer: number): readonly number[] {
    return this.branches[layer]!.layers
  }

  private find(familyHigh: number, familyLow: number, layerHigh: number): Branch | null {
    for (const branch of this.byHash.get(hashOf(familyLow, layerHigh)) ?? []) {
      if (branch.layerHigh !== layerHigh || branch.familyLow !== familyLow) continue
      if (branch.familyHigh === familyHigh) return branch
    }
    return null
  }

  private begin({ familyHigh, familyLow, layerHigh }: LayerKey): Branch {
    const branch = { familyHigh, familyLow, layerHigh, numbers: [], layers: [] }
    const hash = hashOf(familyLow, layerHigh)
    const others = this.byHash.get(hash)
    if (others === undefined) this.byHash.set(hash, [branch])
    else others.push(branch)
    return branch
  }
}

/** Both are random. */
const hashOf = (familyLow: number, layerHigh: number): number => (familyLow ^ layerHigh) >>> 0
