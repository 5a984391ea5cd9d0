/** Which layers a volume has, and which of them somebody reads (src/shard/LAYERS.md). */
import { BASED_START, isBasedLayer, layerNumber, nextLayerLow } from '../core/layer-ids.ts'
import { formatId64, parseId64 } from './ids.ts'
import type { DeletedRecord, VolumeRecord } from './records.ts'

/** Layers of one branch that follow each other, from the lowest to the highest. */
export interface LayerLine {
  readonly root: string
  readonly last: string
}

/** Layers from `lowest` up to `highest`, of which only the highest is read. */
export interface MergedLayers {
  readonly branch: number
  readonly lowest: number
  readonly highest: number
}

type Deleted = Pick<DeletedRecord, 'layers' | 'lines'>
type Layered = Pick<VolumeRecord, 'rootLayer' | 'headLayer' | 'branches'>

/** The last one ends with the head; those before it are what restores left. */
export const linesOf = ({ rootLayer, headLayer, branches = [] }: Layered): LayerLine[] => [
  ...branches,
  { root: rootLayer ?? headLayer, last: headLayer }
]

/** All layers that a volume may have blocks in. */
export const layersOf = (volume: Layered): string[] =>
  linesOf(volume).flatMap(({ root, last }) => between(root, last))

/** Layers that follow each other, as lines. */
function asLines(layers: readonly string[]): LayerLine[] {
  const lines: { root: string; last: string }[] = []
  for (const layer of layers) {
    const line = lines.at(-1)
    if (line !== undefined && isNext(line.last, layer)) line.last = layer
    else lines.push({ root: layer, last: layer })
  }
  return lines
}

function isNext(layer: string, other: string): boolean {
  const [before, after] = [parseId64(layer), parseId64(other)]
  if (before.high !== after.high) return false
  return layerNumber(after.low) === layerNumber(before.low) + 1
}

/** All layers of which blocks are to go. */
export const deletedLayers = ({ layers, lines = [] }: Deleted): string[] => [
  ...layers,
  ...lines.flatMap(({ root, last }) => between(root, last))
]

/** How a record names them: a volume has had thousands, and a record has its limit. */
export const namedLayers = (layers: readonly string[], isShort: boolean): Deleted =>
  isShort ? { layers: [], lines: asLines(layers) } : { layers: [...layers] }

function between(root: string, last: string): string[] {
  const layers = [root]
  const { high, low: end } = parseId64(last)
  for (let { low } = parseId64(root); layerNumber(low) < layerNumber(end); ) {
    low = nextLayerLow(low)
    layers.push(formatId64(high, low))
  }
  return layers
}

/** Of the layers of each line these and the head are read: the others show only through them. */
export function mergedLayers(volume: Layered, read: readonly string[]): MergedLayers[] {
  const runs: MergedLayers[] = []
  for (const { root, last } of linesOf(volume)) {
    const { high: branch } = parseId64(last)
    const lows = readIn({ root, last }, last === volume.headLayer ? [...read, last] : read)
    let { low: lowest } = parseId64(root)
    for (const highest of lows) {
      if (layerNumber(highest) < layerNumber(lowest)) continue
      if (layerNumber(highest) > layerNumber(lowest)) runs.push({ branch, lowest, highest })
      lowest = nextLayerLow(highest)
    }
  }
  return runs
}

/** A layer that is read, and the one below which it shows what others have; null: nothing is. */
export interface View {
  readonly layer: string
  readonly since: string | null
}

/** Below all layers of a branch that has a base: what it shows of that is from there or below. */
export const belowBranch = (layer: string): string =>
  formatId64(parseId64(layer).high, BASED_START - 1)

/** What of these layers is read, in the volume's own lines; the last one is `head`. */
export function viewsBelow(volume: Layered, head: string, read: readonly string[]): View[] {
  const views: View[] = []
  for (const line of linesOf({ ...volume, headLayer: head })) {
    const { high, low } = parseId64(line.last)
    let since = isBasedLayer(low) ? belowBranch(line.last) : null
    for (const each of new Set(readIn(line, line.last === head ? [...read, head] : read))) {
      const layer = formatId64(high, each)
      views.push({ layer, since })
      since = layer
    }
  }
  return views
}

/** The lowest layer that is read of the line that begins with `root`; null: none is. */
export function lowestRead(volume: Layered, root: string, read: readonly string[]): string | null {
  const line = linesOf(volume).find((each) => each.root === root)
  if (line === undefined) return null
  const isHead = line.last === volume.headLayer
  const [lowest] = readIn(line, isHead ? [...read, volume.headLayer] : read)
  return lowest === undefined ? null : formatId64(parseId64(root).high, lowest)
}

/** What is left of the lines of earlier restores when nobody reads but `read`, and what is not. */
export function withoutDead(
  { branches = [] }: Layered,
  read: readonly string[]
): { readonly kept: LayerLine[]; readonly dead: string[] } {
  const kept: LayerLine[] = []
  const dead: string[] = []
  for (const line of branches) {
    const highest = readIn(line, read).at(-1)
    const layers = between(line.root, line.last)
    const end =
      highest === undefined ? 0 : layers.findIndex((layer) => parseId64(layer).low === highest) + 1
    dead.push(...layers.slice(end))
    if (end > 0) kept.push({ root: line.root, last: layers[end - 1]! })
  }
  return { kept, dead }
}

/** Lower halves of those of `read` that are in the line, lowest first. */
function readIn({ root, last }: LayerLine, read: readonly string[]): number[] {
  const { high, low: end } = parseId64(last)
  const { low: start } = parseId64(root)
  return read
    .map(parseId64)
    .filter((layer) => layer.high === high && isWithin(layer.low, start, end))
    .map(({ low }) => low)
    .sort((one, other) => layerNumber(one) - layerNumber(other))
}

const isWithin = (low: number, start: number, end: number): boolean =>
  layerNumber(low) >= layerNumber(start) && layerNumber(low) <= layerNumber(end)
