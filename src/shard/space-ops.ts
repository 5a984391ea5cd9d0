/** Answers LayerSpace: one count at a time goes on, see index-space.ts. */
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { IndexSpace, SpaceBranch, SpaceNode, SpaceTree } from './index-space.ts'
import { GROUP_BITS_PAGES, type ShardOp, SPACE_BYTES } from './op.ts'

const BRANCH_WORDS = 4
const NODE_WORDS = 3

export class SpaceOps {
  private readonly memory: Buffer
  private readonly words: Uint32Array
  private readonly index: ExtentIndex
  private count: IndexSpace | null = null
  /** Names the count, so that who was interrupted by another one is told. */
  private token = 0
  /** Views that were answered; -1 while counting. */
  private answered = -1

  constructor(memory: Buffer, index: ExtentIndex) {
    this.memory = memory
    this.words = new Uint32Array(memory.buffer, memory.byteOffset, Math.floor(memory.length / 4))
    this.index = index
  }

  answer(op: ShardOp): void {
    if (op.sequence === 0) this.begin(op)
    else if (op.sequence === this.token && this.count !== null) this.goOn(op, this.count)
    else op.error = ErrorCode.Conflict
  }

  private begin(op: ShardOp): void {
    const { words } = this
    const bitsAt = op.payload / 4
    const at = bitsAt + (GROUP_BITS_PAGES * BLOCK_BYTES) / 4
    const room = (op.blockCount * BLOCK_BYTES) / 4
    const tree = op.chunk < 1 ? null : readTree(words, at, at + room)
    if (tree === null) {
      op.error = ErrorCode.InvalidArgument
      return
    }
    const bits = words.slice(bitsAt, at)
    const isWanted = (group: number): boolean => ((bits[group >>> 5]! >>> (group & 31)) & 1) === 1
    const { familyHigh, familyLow } = op
    this.count = this.index.space({ tree, familyHigh, familyLow, groups: op.chunk, isWanted })
    this.answered = -1
    this.token = (this.token % 0xffff_ffff) + 1
    op.resultA = 0
    op.resultB = this.token
  }

  private goOn(op: ShardOp, count: IndexSpace): void {
    op.resultA = 0
    op.resultB = this.token
    if (this.answered < 0) {
      if (!count.step()) this.answered = 0
      return
    }
    const { own, exclusive, change } = count.counts
    const end = op.payload + op.blockCount * BLOCK_BYTES
    let at = op.payload
    for (; this.answered <= own.length && at + SPACE_BYTES <= end; at += SPACE_BYTES) {
      const view = this.answered++
      // The last entry is no view.
      this.memory.writeDoubleLE(own[view] ?? count.pending, at)
      this.memory.writeDoubleLE(exclusive[view] ?? 0, at + 8)
      this.memory.writeDoubleLE(change[view] ?? 0, at + 16)
      op.resultA++
    }
    if (this.answered <= own.length) return
    this.count = null
    op.resultB = 0
  }
}

/** null: it is none. */
function readTree(words: Uint32Array, start: number, end: number): SpaceTree | null {
  const [branchCount, nodeCount] = [words[start]!, words[start + 1]!]
  let at = start + 2
  if (branchCount < 1 || nodeCount < 1) return null
  if (at + branchCount * BRANCH_WORDS + nodeCount * NODE_WORDS > end) return null
  const branches: SpaceBranch[] = []
  for (; branches.length < branchCount; at += BRANCH_WORDS) {
    branches.push({
      ...{ familyHigh: words[at]!, familyLow: words[at + 1]!, layerHigh: words[at + 2]! },
      isOpen: words[at + 3] === 1
    })
  }
  const nodes: SpaceNode[] = []
  for (; nodes.length < nodeCount; at += NODE_WORDS) {
    const [parent, branch] = [words[at]! - 1, words[at + 1]!]
    if (parent >= nodes.length || branch >= branchCount) return null
    nodes.push({ parent, branch, layerLow: words[at + 2]! })
  }
  return { branches, nodes }
}
