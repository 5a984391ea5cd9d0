import { isBasedLayer, layerNumber } from '../core/layer-ids.ts'
import type { LayerKey } from './index-layers.ts'

type BranchKey = Omit<LayerKey, 'layerLow'>

/** Layers that stand on each other, lowest first. */
interface Branch extends BranchKey {
  /** By place: lower half of the id, and number in the index. */
  readonly lows: number[]
  readonly layers: number[]
  /** On which its based layers stand: null is nothing, undefined is not known yet. */
  base: LayerKey | null | undefined
}

/**
 * Which of the layers in this shard stand on which: their ids tell (core/layer-ids.ts), and of the
 * first layers of branches that begin on others what `setBase` was told.
 */
export class LayerChains {
  /** A layer has this place among those of its branch, which it may have taken from another. */
  onAdded: (layer: number, place: number) => void = () => {}
  /** What layers stand on is not what it was. */
  onChanged: () => void = () => {}
  private readonly byHash = new Map<number, Branch[]>()
  /** Those that have a base. */
  private readonly based = new Set<Branch>()
  /** By number in the index. */
  private readonly branches: (Branch | null)[] = []
  private readonly places: number[] = []
  /** Of layers of branches with a base, made when asked for. */
  private readonly stacks = new Map<number, readonly number[]>()

  add(layer: number, key: LayerKey): void {
    const number = layerNumber(key.layerLow)
    const branch = this.findBranch(key) ?? this.begin(key)
    const { lows, layers } = branch
    // Roots come in any order, one beside the other.
    let place = lows.length
    while (place > 0 && layerNumber(lows[place - 1]!) > number) place--
    lows.splice(place, 0, key.layerLow)
    layers.splice(place, 0, layer)
    this.branches[layer] = branch
    for (let at = place; at < layers.length; at++) this.places[layers[at]!] = at
    this.stacks.clear()
    if (this.isBelowOthers(branch)) this.onChanged()
    this.onAdded(layer, place)
  }

  drop(layer: number): void {
    const branch = this.branches[layer] ?? null
    if (branch === null) return
    const place = this.places[layer]!
    branch.lows.splice(place, 1)
    branch.layers.splice(place, 1)
    this.branches[layer] = null
    for (let at = place; at < branch.layers.length; at++) this.places[branch.layers[at]!] = at
    this.stacks.clear()
    this.onChanged()
  }

  /** The branch of `key` begins on this layer; null: on none (any more). */
  setBase(key: BranchKey, base: LayerKey | null): void {
    const branch = this.findBranch(key) ?? this.begin(key)
    if (isSame(branch.base, base)) return
    branch.base = base
    if (base === null) this.based.delete(branch)
    else this.based.add(branch)
    this.stacks.clear()
    this.onChanged()
  }

  /** Is anything here of what such a layer, which is not known, stands on in its branch? */
  hasBelow(key: LayerKey): boolean {
    const number = layerNumber(key.layerLow)
    if (number === 0) return false
    const branch = this.findBranch(key)
    return branch !== null && branch.lows.length > 0 && layerNumber(branch.lows[0]!) < number
  }

  /** All that a layer is read through, which may not be known; null: a base is not known. */
  below(key: LayerKey): readonly number[] | null {
    const found: number[] = []
    return this.collect(key, found) ? found : null
  }

  /** Does the layer, which was not dropped, stand on others that are here? */
  isStacked(layer: number): boolean {
    if (this.bottomOf(layer) < this.places[layer]!) return true
    return this.isBased(layer) && (this.stackOf(layer)?.length ?? 0) > 1
  }

  /** Is `lower` one of those that `layer` is read through, but not itself? */
  isAbove(layer: number, lower: number): boolean {
    const branch = this.branches[layer] ?? null
    if (branch === null) return false
    if (this.branches[lower] === branch) return this.places[lower]! < this.places[layer]!
    return this.isBased(layer) && this.stackOf(layer)?.includes(lower) === true
  }

  /**
   * The layers that a layer is read through, lowest first, itself last; null: a base is not known.
   * Where no base is, the places in it are those in `layersOf` less `bottomOf`.
   */
  stackOf(layer: number): readonly number[] | null {
    const branch = this.branches[layer]!
    const place = this.places[layer]!
    const known = this.stacks.get(layer)
    if (known !== undefined) return known
    const found: number[] = []
    const isKnown = this.collect({ ...branch, layerLow: branch.lows[place]! }, found)
    if (!isKnown) return null
    this.stacks.set(layer, found)
    return found
  }

  /** Place of the layer in `layersOf`. */
  placeOf(layer: number): number {
    return this.places[layer]!
  }

  /** It stands on those of its branch at places from here on. */
  bottomOf(layer: number): number {
    const place = this.places[layer]!
    return layerNumber(this.branches[layer]!.lows[place]!) > 0 ? 0 : place
  }

  /**
   * Place in its stack of the lowest layer above `lower`, which may be one that nobody wrote to, of
   * its branch or of one below; -1: the layer does not stand on it. What it stands on is known.
   */
  placeAbove(layer: number, lower: Pick<LayerKey, 'layerHigh' | 'layerLow'>): number {
    const branch = this.branches[layer]!
    const { lows } = branch
    const number = layerNumber(lower.layerLow)
    if (branch.layerHigh !== lower.layerHigh) return this.placeBelow(branch, lower)
    if (layerNumber(lows[this.placeOf(layer)]!) < number) return -1
    const bottom = this.bottomOf(layer)
    let place = bottom
    while (place < lows.length && layerNumber(lows[place]!) <= number) place++
    const belowBranch = this.stackOf(layer)!.length - 1 - (this.placeOf(layer) - bottom)
    return belowBranch + place - bottom
  }

  /** As `placeAbove`, of a layer in another branch of the family. */
  private placeBelow(
    { familyHigh, familyLow, base }: Branch,
    lower: Pick<LayerKey, 'layerHigh' | 'layerLow'>
  ): number {
    let at = base ?? null
    while (at !== null && at.layerHigh !== lower.layerHigh) at = this.findBranch(at)?.base ?? null
    if (at?.familyLow !== familyLow || at.familyHigh !== familyHigh) return -1
    if (layerNumber(at.layerLow) < layerNumber(lower.layerLow)) return -1
    // What both are read through comes first in their stacks.
    return this.below({ ...at, layerLow: lower.layerLow })?.length ?? -1
  }

  /** All layers of its branch, lowest first. */
  layersOf(layer: number): readonly number[] {
    return this.branches[layer]!.layers
  }

  private isBased(layer: number): boolean {
    return isBasedLayer(this.branches[layer]!.lows[this.places[layer]!]!)
  }

  /** Some branch begins on a layer of this one. */
  private isBelowOthers({ familyHigh, familyLow, layerHigh }: Branch): boolean {
    for (const { base } of this.based) {
      if (base?.layerHigh !== layerHigh || base.familyLow !== familyLow) continue
      if (base.familyHigh === familyHigh) return true
    }
    return false
  }

  /** False: a base is not known. */
  private collect(key: LayerKey, found: number[]): boolean {
    const branch = this.findBranch(key)
    if (isBasedLayer(key.layerLow)) {
      if (branch === null || branch.base === undefined) return false
      if (branch.base !== null && !this.collect(branch.base, found)) return false
    }
    if (branch === null) return true
    const number = layerNumber(key.layerLow)
    for (const [place, low] of branch.lows.entries()) {
      const isShown = number === 0 ? low === key.layerLow : layerNumber(low) <= number
      if (isShown) found.push(branch.layers[place]!)
    }
    return true
  }

  private findBranch({ familyHigh, familyLow, layerHigh }: BranchKey): Branch | null {
    for (const branch of this.byHash.get(hashOf(familyLow, layerHigh)) ?? []) {
      if (branch.layerHigh !== layerHigh || branch.familyLow !== familyLow) continue
      if (branch.familyHigh === familyHigh) return branch
    }
    return null
  }

  private begin({ familyHigh, familyLow, layerHigh }: BranchKey): Branch {
    const ids = { familyHigh, familyLow, layerHigh }
    const branch: Branch = { ...ids, lows: [], layers: [], base: undefined }
    const hash = hashOf(familyLow, layerHigh)
    const others = this.byHash.get(hash)
    if (others === undefined) this.byHash.set(hash, [branch])
    else others.push(branch)
    return branch
  }
}

function isSame(one: LayerKey | null | undefined, other: LayerKey | null): boolean {
  if (!one || other === null) return one === other
  return (
    one.layerLow === other.layerLow &&
    one.layerHigh === other.layerHigh &&
    one.familyLow === other.familyLow &&
    one.familyHigh === other.familyHigh
  )
}

/** Both are random. */
const hashOf = (familyLow: number, layerHigh: number): number => (familyLow ^ layerHigh) >>> 0
