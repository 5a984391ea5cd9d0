/** What the views of a volume take, as peers ask and answer each other. */
import { parseId64 } from '../cluster/ids.ts'
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES, SNAPSHOTS_MAX } from '../core/limits.ts'
import { GROUP_BITS_PAGES, SPACE_BYTES } from '../shard/op.ts'

/** In blocks of data, see LayerSpace. Added up over all who count different groups. */
export class SpaceSums {
  readonly own: Float64Array
  readonly exclusive: Float64Array
  readonly change: Float64Array
  pending = 0

  constructor(nodes: number) {
    this.own = new Float64Array(nodes)
    this.exclusive = new Float64Array(nodes)
    this.change = new Float64Array(nodes)
  }

  /** Entry number `index` of an answer. */
  add(index: number, bytes: Buffer, at: number): void {
    if (index >= this.own.length) {
      this.pending += bytes.readDoubleLE(at)
      return
    }
    this.own[index]! += bytes.readDoubleLE(at)
    this.exclusive[index]! += bytes.readDoubleLE(at + 8)
    this.change[index]! += bytes.readDoubleLE(at + 16)
  }

  addAll(bytes: Buffer): void {
    for (let i = 0; (i + 1) * SPACE_BYTES <= bytes.length; i++) this.add(i, bytes, i * SPACE_BYTES)
  }

  encode(): Buffer {
    const views = this.own.length
    const bytes = Buffer.alloc((views + 1) * SPACE_BYTES)
    for (let view = 0; view < views; view++) {
      bytes.writeDoubleLE(this.own[view]!, view * SPACE_BYTES)
      bytes.writeDoubleLE(this.exclusive[view]!, view * SPACE_BYTES + 8)
      bytes.writeDoubleLE(this.change[view]!, view * SPACE_BYTES + 16)
    }
    bytes.writeDoubleLE(this.pending, views * SPACE_BYTES)
    return bytes
  }
}

export interface SpaceBranchName {
  /** 16 hex digits. */
  readonly family: string
  /** Upper half of the ids of its layers. */
  readonly layerHigh: number
  /** Layers above its last node are of that: a head was begun since. */
  readonly isOpen: boolean
}

/** What a volume is read through: see src/shard/index-space.ts. */
export interface SpaceTree {
  readonly branches: readonly SpaceBranchName[]
  /** Each [parent, branch, layerLow]: a parent comes before, -1 is none. */
  readonly nodes: readonly (readonly [parent: number, branch: number, layerLow: number])[]
}

export interface SpaceQuestion extends SpaceTree {
  /** Of the volume: by it everything is placed. */
  readonly family: string
  /** Of the pool. */
  readonly groups: number
  /** Those that are counted. */
  readonly wanted: readonly number[]
}

/** Volumes and restores that stand on each other. */
export const SPACE_BRANCHES_MAX = 256
export const SPACE_NODES_MAX = SNAPSHOTS_MAX + 1 + SPACE_BRANCHES_MAX
/** For the longest question, and for answers. */
export const SPACE_PAGES = 14
const wordsMax = 2 + 4 * SPACE_BRANCHES_MAX + 3 * SPACE_NODES_MAX
assert(wordsMax * 4 <= SPACE_PAGES * BLOCK_BYTES, 'the longest question fits')

/** The payload of LayerSpace that asks. */
export function writeSpaceQuestion(question: SpaceQuestion, bytes: Buffer, payload: number): void {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + payload)
  const start = (GROUP_BITS_PAGES * BLOCK_BYTES) / 4
  words.fill(0, 0, start)
  for (const group of question.wanted) words[group >>> 5]! |= 1 << (group & 31)
  const { branches, nodes } = question
  const branchWords = branches.flatMap(({ family, layerHigh, isOpen }) => {
    const { high, low } = parseId64(family)
    return [high, low, layerHigh, isOpen ? 1 : 0]
  })
  const nodeWords = nodes.flatMap(([parent, branch, low]) => [parent + 1, branch, low])
  words.set([branches.length, nodes.length, ...branchWords, ...nodeWords], start)
}
