/**
 * Counts how many blocks each view of a volume (a snapshot, or the head) sees, and how many it
 * alone sees. Nothing is kept for that while clients write: who asks has the index walked in
 * stretches, each of them an op among others.
 *
 *   walk     the index in the order of its hashes: notes (chunk, layer) of the volume in buckets
 *   count    bucket by bucket, chunk by chunk, layers lowest first: who covers whom, by block
 *   answer   three numbers for each view
 *
 * Views are nodes of a tree: below each the one that it stands on. A node has the layers of its
 * branch above the node before it, up to its own. What is there from the first stretch to the last
 * is counted once; what changes meanwhile is counted as it is when its bucket's turn comes. Each
 * (layer, chunk) is looked at once however many views there are, and costs 12 bytes while the count
 * goes on.
 */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { layerNumber } from '../core/layer-ids.ts'
import { groupOfChunk } from '../placement/hash.ts'
import { AT_CHUNK, AT_LAYER } from './chunk-layout.ts'
import type { ChunkImage } from './chunk-image.ts'
import type { ChunkStore } from './chunk-store.ts'
import type { IndexLayers } from './index-layers.ts'
import { slabOf, wordOf } from './index-pages.ts'
import { LOCATION_END } from './run-list.ts'

/** Chunks that the walk finds together. */
const RANGE_CHUNKS = 16
/** A stretch ends after so many: some tenths of a millisecond each. */
const WALKED_MAX = 4096
const COUNTED_MAX = 128
const PAIRS_MIN = 1024
const PAIRS_PER_BUCKET = 16
const BUCKETS_BITS_MAX = 20
const END = 2 ** 32

export interface SpaceBranch {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  /** Layers above its last node are of that: a head was begun since. */
  readonly isOpen: boolean
}

export interface SpaceNode {
  /** What it stands on, before it in the list; -1: nothing. */
  readonly parent: number
  readonly branch: number
  readonly layerLow: number
}

export interface SpaceTree {
  readonly branches: readonly SpaceBranch[]
  readonly nodes: readonly SpaceNode[]
}

export interface SpaceQuestion {
  readonly tree: SpaceTree
  /** Groups are those of this family: all that the volume is read through is placed as it. */
  readonly familyHigh: number
  readonly familyLow: number
  readonly groups: number
  readonly isWanted: (group: number) => boolean
}

/** By node, in blocks of data. */
export interface SpaceCounts {
  /** In its own layers. */
  readonly own: Float64Array
  /** Of them those that no node above it sees. */
  readonly exclusive: Float64Array
  /** What it sees less what its parent sees. */
  readonly change: Float64Array
}

interface Pair {
  readonly chunk: number
  readonly node: number
  readonly number: number
  readonly layer: number
}

/** What a node that has something in the chunk sees, and how many above it do not. */
interface Sight {
  readonly node: number
  /** By block: node whose data it is, plus 1; 0 for no data. */
  readonly from: Uint16Array
  /** By block: nodes that stand on it and cover what it has itself. */
  readonly covers: Uint16Array
}

export class IndexSpace {
  /** Of the family: dead, and not given back yet; hidden by another layer of the same node. */
  pending = 0
  readonly counts: SpaceCounts
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  private readonly question: SpaceQuestion
  /** By branch, by number. */
  private readonly nodesOf: { readonly number: number; readonly node: number }[][]
  private readonly children: Uint16Array
  /** By layer: its node, or -1; and which life of the number that is of. */
  private readonly nodeOf = new Map<number, { readonly node: number; readonly life: number }>()
  /** Where the walk stands, as hash. */
  private at = 0
  private readonly heads: Uint32Array
  private readonly bucketShift: number
  private bucket = 0
  private length = 0
  private chunks = new Uint32Array(PAIRS_MIN)
  private layersOfPairs = new Uint32Array(PAIRS_MIN)
  private next = new Uint32Array(PAIRS_MIN)
  private readonly addresses: number[] = []
  private readonly pairs: Pair[] = []
  /** Of the chunk at hand. */
  private readonly sights = new Map<number, Sight>()
  private readonly spare: Sight[] = []

  constructor(store: ChunkStore, layers: IndexLayers, question: SpaceQuestion) {
    const { branches, nodes } = question.tree
    this.store = store
    this.layers = layers
    this.question = question
    this.children = new Uint16Array(nodes.length)
    this.nodesOf = branches.map(() => [])
    for (const [node, { parent, branch, layerLow }] of nodes.entries()) {
      if (parent >= 0) this.children[parent]!++
      this.nodesOf[branch]!.push({ number: layerNumber(layerLow), node })
    }
    for (const list of this.nodesOf) list.sort((one, other) => one.number - other.number)
    this.counts = {
      own: new Float64Array(nodes.length),
      exclusive: new Float64Array(nodes.length),
      change: new Float64Array(nodes.length)
    }
    const buckets = Math.max(2, store.table.count / PAIRS_PER_BUCKET)
    const bits = Math.min(BUCKETS_BITS_MAX, Math.ceil(Math.log2(buckets)))
    this.heads = new Uint32Array(2 ** bits)
    this.bucketShift = 32 - bits
  }

  /** One stretch. Returns whether there is more. */
  step(): boolean {
    if (this.at < END) {
      this.walk()
      return true
    }
    let counted = 0
    while (counted < COUNTED_MAX && this.bucket < this.heads.length) {
      counted += this.countBucket(this.bucket++) + 1 / PAIRS_PER_BUCKET
    }
    return this.bucket < this.heads.length
  }

  private walk(): void {
    const { table, pages } = this.store
    const width = table.rangeOf(RANGE_CHUNKS)
    for (let walked = 0; walked < WALKED_MAX && this.at < END; this.at += width) {
      this.addresses.length = 0
      table.collect(this.at, Math.min(END, this.at + width), this.addresses)
      for (const address of this.addresses) {
        const words = pages.slabs[slabOf(address)]!
        const at = wordOf(address)
        this.note(words[at + AT_LAYER]!, words[at + AT_CHUNK]!)
      }
      walked += this.addresses.length + 1
    }
  }

  private note(layer: number, chunk: number): void {
    if (this.findNode(layer) < 0) return
    const { familyHigh, familyLow, groups, isWanted } = this.question
    if (!isWanted(groupOfChunk(familyHigh, familyLow, chunk, groups))) return
    if (this.length === this.chunks.length) this.grow()
    const bucket = Math.imul(chunk, 0x9e3779b1) >>> this.bucketShift
    const pair = this.length++
    this.chunks[pair] = chunk
    this.layersOfPairs[pair] = layer
    this.next[pair] = this.heads[bucket]!
    this.heads[bucket] = pair + 1
  }

  private findNode(layer: number): number {
    const known = this.nodeOf.get(layer)
    const life = this.layers.lifeOf(layer)
    if (known?.life === life) return known.node
    const key = this.layers.keyOf(layer)
    const { branches } = this.question.tree
    const branch = branches.findIndex(
      ({ familyHigh, familyLow, layerHigh }) =>
        familyHigh === key.familyHigh && familyLow === key.familyLow && layerHigh === key.layerHigh
    )
    const nodes = this.nodesOf[branch] ?? []
    const number = layerNumber(key.layerLow)
    const above = nodes.find((each) => each.number >= number)
    const last = branches[branch]?.isOpen === true ? nodes.at(-1) : undefined
    const node = (above ?? last)?.node ?? -1
    this.nodeOf.set(layer, { node, life })
    return node
  }

  private grow(): void {
    const wider = (from: Uint32Array): Uint32Array<ArrayBuffer> => {
      const to = new Uint32Array(from.length * 2)
      to.set(from)
      return to
    }
    this.chunks = wider(this.chunks)
    this.layersOfPairs = wider(this.layersOfPairs)
    this.next = wider(this.next)
  }

  /** Returns how many chunks of layers it looked at. */
  private countBucket(bucket: number): number {
    const { pairs } = this
    pairs.length = 0
    for (let pair = this.heads[bucket]! - 1; pair >= 0; pair = this.next[pair]! - 1) {
      const layer = this.layersOfPairs[pair]!
      const number = layerNumber(this.layers.keyOf(layer).layerLow)
      const { node, life } = this.nodeOf.get(layer)!
      // The layer went meanwhile, and another one has its number.
      if (life !== this.layers.lifeOf(layer)) continue
      pairs.push({ chunk: this.chunks[pair]!, node, number, layer })
    }
    pairs.sort((a, b) => a.chunk - b.chunk || a.node - b.node || a.number - b.number)
    let chunk = -1
    for (const pair of pairs) {
      if (pair.chunk !== chunk) this.clear()
      chunk = pair.chunk
      const address = this.layers.isDropped(pair.layer) ? 0 : this.store.find(pair.layer, chunk)
      if (address === 0) continue
      this.count(this.sightOf(pair.node), this.store.look(address, 0, CHUNK_BLOCKS))
    }
    this.clear()
    return pairs.length
  }

  private clear(): void {
    this.spare.push(...this.sights.values())
    this.sights.clear()
  }

  /** Begins with what is seen by what the node stands on. */
  private sightOf(node: number): Sight {
    const known = this.sights.get(node)
    if (known !== undefined) return known
    const { nodes } = this.question.tree
    let parent = nodes[node]!.parent
    while (parent >= 0 && !this.sights.has(parent)) parent = nodes[parent]!.parent
    const { from, covers } = this.spare.pop() ?? {
      from: new Uint16Array(CHUNK_BLOCKS),
      covers: new Uint16Array(CHUNK_BLOCKS)
    }
    const below = this.sights.get(parent)
    if (below === undefined) from.fill(0)
    else from.set(below.from)
    covers.fill(0)
    const sight = { node, from, covers }
    this.sights.set(node, sight)
    return sight
  }

  private count(sight: Sight, found: ChunkImage): void {
    const { own, exclusive, change } = this.counts
    const { node, from } = sight
    for (let run = 0; run < found.length; run++) {
      const first = found.firsts[run]!
      const count = found.counts[run]!
      for (let block = first; block < first + count; block++) this.cover(sight, block)
      if (found.locations[run]! >= LOCATION_END) continue
      from.fill(node + 1, first, first + count)
      own[node]! += count
      change[node]! += count
      if (this.children[node] === 0) exclusive[node]! += count
    }
  }

  /** What was seen in the block is not seen by this node. */
  private cover({ node, from }: Sight, block: number): void {
    const { own, exclusive, change } = this.counts
    const seen = from[block]! - 1
    if (seen < 0) return
    from[block] = 0
    change[node]!--
    if (seen === node) {
      own[node]!--
      if (this.children[node] === 0) exclusive[node]!--
      if (this.isOfFamily(node)) this.pending++
      return
    }
    if (this.question.tree.nodes[node]!.parent !== seen) return
    const covers = ++this.sights.get(seen)!.covers[block]!
    if (covers === this.children[seen]) exclusive[seen]!++
  }

  /** What is hidden in another volume may be read there. */
  private isOfFamily(node: number): boolean {
    const { tree, familyHigh, familyLow } = this.question
    const branch = tree.branches[tree.nodes[node]!.branch]!
    return branch.familyLow === familyLow && branch.familyHigh === familyHigh
  }
}
