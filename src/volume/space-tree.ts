/** What a volume and its snapshots are read through, as a tree whose nodes are counted. Pure. */
import { parseId64 } from '../cluster/ids.ts'
import type { SnapshotRecord, VolumeRecord } from '../cluster/records.ts'
import { layerNumber } from '../core/layer-ids.ts'
import type { SpaceTree } from '../replication/space-question.ts'

export interface FamilyLayer {
  readonly family: string
  readonly layer: string
}

/** On which layer the branch of this one begins; null: on none. */
export type BaseOf = (layer: FamilyLayer) => FamilyLayer | null

export interface VolumeTree {
  readonly tree: SpaceTree
  /** Node of each snapshot, by its id. */
  readonly snapshots: ReadonlyMap<string, number>
  readonly head: number
  /** Nodes whose blocks are another volume's. */
  readonly foreign: ReadonlySet<number>
}

export function spaceTreeOf(
  { family, headLayer }: Pick<VolumeRecord, 'family' | 'headLayer'>,
  snapshots: readonly Pick<SnapshotRecord, 'id' | 'layer'>[],
  baseOf: BaseOf = () => null
): VolumeTree {
  const layers = new Map<string, FamilyLayer>()
  const add = (each: FamilyLayer): void => {
    if (layers.has(each.layer)) return
    const base = baseOf(each)
    if (base !== null) add(base)
    layers.set(each.layer, each)
  }
  for (const { layer } of snapshots) add({ family, layer })
  add({ family, layer: headLayer })
  const branches: { family: string; layerHigh: number; isOpen: boolean }[] = []
  const nodes: [number, number, number][] = []
  const nodeOf = new Map<string, number>()
  /** By branch: the highest that is placed. */
  const lastOf = new Map<number, number>()
  const headHigh = parseId64(headLayer).high
  for (const each of inOrder(layers, baseOf)) {
    const { family: owner, layer } = each
    const { high, low } = parseId64(layer)
    let branch = branches.findIndex(({ layerHigh }) => layerHigh === high)
    if (branch < 0) {
      branch = branches.length
      branches.push({ family: owner, layerHigh: high, isOpen: high === headHigh })
    }
    const base = baseOf(each)
    const parent = lastOf.get(high) ?? (base === null ? -1 : nodeOf.get(base.layer)!)
    lastOf.set(high, nodes.length)
    nodeOf.set(layer, nodes.length)
    nodes.push([parent, branch, low])
  }
  const all = [...layers.values()]
  const foreign = all.filter((each) => each.family !== family)
  return {
    tree: { branches, nodes },
    snapshots: new Map(snapshots.map(({ id, layer }) => [id, nodeOf.get(layer)!])),
    head: nodeOf.get(headLayer)!,
    foreign: new Set(foreign.map(({ layer }) => nodeOf.get(layer)!))
  }
}

const numberOf = ({ layer }: FamilyLayer): number => layerNumber(parseId64(layer).low)

/** Branches after those that they begin on, layers lowest first. */
function inOrder(layers: ReadonlyMap<string, FamilyLayer>, baseOf: BaseOf): FamilyLayer[] {
  const depthOf = (layer: FamilyLayer): number => {
    const base = baseOf(layer)
    return base === null ? 0 : 1 + depthOf(base)
  }
  const all = [...layers.values()]
  const depths = new Map(all.map((layer) => [layer, depthOf(layer)]))
  return all.sort(
    (one, other) => depths.get(one)! - depths.get(other)! || numberOf(one) - numberOf(other)
  )
}
