import { isBasedLayer, layerNumber } from '../core/layer-ids.ts'
import type { LayerKey } from './index-layers.ts'

type BranchKey = Omit<LayerKey, 'layerLow'>

/** Layers that stand on each other, lowest first. */
interface Branch extends BranchKey {
  /** By place: lower half of the id, and number in the index. */
  lows: number[]
  layers: number[]
  /** They came in another order and are not sorted yet: a checkpoint names thousands in any. */
  isMixed: boolean
  /** On which its based layers stand: null is nothing, undefined is not known yet. */
  base: LayerKey | null | undefined
}

/** Layers of one branch, at places from `from` up to `end`, in a stack from place `at` on. */
interface Level {
  readonly branch: Branch
  readonly from: number
  readonly end: number
  readonly at: number
}

/** What a layer is read through, lowest first: itself last, unless nobody wrote to it. */
export class LayerStack {
  readonly length: number
  private readonly levels: readonly Level[]
  private readonly places: readonly number[]
  private readonly branchOf: readonly (Branch | null)[]

  constructor(
    levels: readonly Level[],
    places: readonly number[],
    branchOf: readonly (Branch | null)[]
  ) {
    const top = levels.at(-1)
    this.length = top === undefined ? 0 : top.at + top.end - top.from
    this.levels = levels
    this.places = places
    this.branchOf = branchOf
  }

  /** The number of the layer at a place. */
  layerAt(place: number): number {
    let level = this.levels.length - 1
    while (this.levels[level]!.at > place) level--
    const { branch, from, at } = this.levels[level]!
    return branch.layers[from + place - at]!
  }

  /** -1: it is none of them. */
  placeOf(layer: number): number {
    const branch = this.branchOf[layer] ?? null
    for (const level of this.levels) {
      if (level.branch !== branch) continue
      const place = this.places[layer]!
      if (place >= level.from && place < level.end) return level.at + place - level.from
    }
    return -1
  }

  /** A layer of each branch that is in it. */
  forEachBranch(visit: (layer: number) => void): void {
    for (const { branch, from, end } of this.levels) if (from < end) visit(branch.layers[from]!)
  }
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
  /** By layer, made when asked for. */
  private readonly stacks = new Map<number, LayerStack>()

  add(layer: number, key: LayerKey): void {
    const branch = this.findBranch(key) ?? this.begin(key)
    const { lows, layers } = branch
    const last = lows.at(-1)
    this.branches[layer] = branch
    this.places[layer] = layers.length
    lows.push(key.layerLow)
    layers.push(layer)
    this.stacks.clear()
    if (last !== undefined && layerNumber(last) > layerNumber(key.layerLow)) {
      branch.isMixed = true
      this.onChanged()
      return
    }
    if (this.isBelowOthers(branch)) this.onChanged()
    if (!branch.isMixed) this.onAdded(layer, layers.length - 1)
  }

  drop(layer: number): void {
    const branch = this.settledBranchOf(layer)
    if (branch === null) return
    const place = this.places[layer]!
    branch.lows.splice(place, 1)
    branch.layers.splice(place, 1)
    this.branches[layer] = null
    for (let at = place; at < branch.layers.length; at++) this.places[branch.layers[at]!] = at
    this.stacks.clear()
    this.onChanged()
  }

  /** Takes out many layers of one branch at once; nobody reads what they stood in for. */
  dropEmpty(gone: ReadonlySet<number>): void {
    const changed = new Set<Branch>()
    for (const layer of gone) {
      const branch = this.settledBranchOf(layer)
      this.branches[layer] = null
      if (branch !== null) changed.add(branch)
    }
    for (const branch of changed) {
      branch.lows = branch.lows.filter((_, place) => !gone.has(branch.layers[place]!))
      branch.layers = branch.layers.filter((layer) => !gone.has(layer))
      for (const [place, layer] of branch.layers.entries()) this.places[layer] = place
    }
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
    if (branch === null || branch.lows.length === 0) return false
    return layerNumber(settled(branch, this.places).lows[0]!) < number
  }

  /** All that a layer is read through, which may not be known; null: a base is not known. */
  below(key: LayerKey): LayerStack | null {
    const levels: Level[] = []
    if (!this.collect(key, levels)) return null
    return new LayerStack(levels, this.places, this.branches)
  }

  /** Does the layer, which was not dropped, stand on others that are here? */
  isStacked(layer: number): boolean {
    if (this.bottomOf(layer) < this.placeOf(layer)) return true
    return this.isBased(layer) && (this.stackOf(layer)?.length ?? 0) > 1
  }

  /** Is `lower` one of those that `layer` is read through, but not itself? */
  isAbove(layer: number, lower: number): boolean {
    const branch = this.settledBranchOf(layer)
    if (branch === null) return false
    if (this.branches[lower] === branch) return this.places[lower]! < this.places[layer]!
    return this.isBased(layer) && (this.stackOf(layer)?.placeOf(lower) ?? -1) >= 0
  }

  /** The layers that a layer is read through; null: a base is not known. */
  stackOf(layer: number): LayerStack | null {
    const known = this.stacks.get(layer)
    if (known !== undefined) return known
    const branch = this.settledBranchOf(layer)!
    const stack = this.below({ ...branch, layerLow: branch.lows[this.places[layer]!]! })
    if (stack !== null) this.stacks.set(layer, stack)
    return stack
  }

  /** Place of the layer in `layersOf`. */
  placeOf(layer: number): number {
    this.settledBranchOf(layer)
    return this.places[layer]!
  }

  /** It stands on those of its branch at places from here on. */
  bottomOf(layer: number): number {
    const branch = this.settledBranchOf(layer)!
    const place = this.places[layer]!
    return layerNumber(branch.lows[place]!) > 0 ? 0 : place
  }

  /**
   * Place in its stack of the lowest layer above `lower`, which may be one that nobody wrote to, of
   * its branch or of one below; -1: the layer does not stand on it. What it stands on is known.
   */
  placeAbove(layer: number, lower: Pick<LayerKey, 'layerHigh' | 'layerLow'>): number {
    const branch = this.settledBranchOf(layer)!
    const { lows } = branch
    const number = layerNumber(lower.layerLow)
    if (branch.layerHigh !== lower.layerHigh) return this.placeBelow(branch, lower)
    if (layerNumber(lows[this.places[layer]!]!) < number) return -1
    const bottom = this.bottomOf(layer)
    let place = bottom
    while (place < lows.length && layerNumber(lows[place]!) <= number) place++
    const belowBranch = this.stackOf(layer)!.length - 1 - (this.places[layer]! - bottom)
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
    return this.settledBranchOf(layer)!.layers
  }

  private isBased(layer: number): boolean {
    return isBasedLayer(this.settledBranchOf(layer)!.lows[this.places[layer]!]!)
  }

  private settledBranchOf(layer: number): Branch | null {
    const branch = this.branches[layer] ?? null
    return branch === null ? null : settled(branch, this.places)
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
  private collect(key: LayerKey, levels: Level[]): boolean {
    const branch = this.findBranch(key)
    if (isBasedLayer(key.layerLow)) {
      if (branch === null || branch.base === undefined) return false
      if (branch.base !== null && !this.collect(branch.base, levels)) return false
    }
    if (branch === null) return true
    const { lows } = settled(branch, this.places)
    const below = levels.at(-1)
    const at = below === undefined ? 0 : below.at + below.end - below.from
    const number = layerNumber(key.layerLow)
    if (number === 0) {
      // Roots stand beside each other.
      const from = lows.indexOf(key.layerLow)
      if (from >= 0) levels.push({ branch, from, end: from + 1, at })
      return true
    }
    let [end, above] = [0, lows.length]
    while (end < above) {
      const middle = (end + above) >>> 1
      if (layerNumber(lows[middle]!) <= number) end = middle + 1
      else above = middle
    }
    levels.push({ branch, from: 0, end, at })
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
    const branch: Branch = { ...ids, lows: [], layers: [], isMixed: false, base: undefined }
    const hash = hashOf(familyLow, layerHigh)
    const others = this.byHash.get(hash)
    if (others === undefined) this.byHash.set(hash, [branch])
    else others.push(branch)
    return branch
  }
}

/** The same, its layers in their order. */
function settled(branch: Branch, places: number[]): Branch {
  if (!branch.isMixed) return branch
  const pairs = branch.lows.map((low, at) => ({ low, layer: branch.layers[at]! }))
  pairs.sort((one, other) => layerNumber(one.low) - layerNumber(other.low))
  branch.lows = pairs.map(({ low }) => low)
  branch.layers = pairs.map(({ layer }) => layer)
  for (const [place, layer] of branch.layers.entries()) places[layer] = place
  branch.isMixed = false
  return branch
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
