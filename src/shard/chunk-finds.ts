/**
 * Answers FindChunks: in which chunks of a stretch a layer shows anything, in order. What nobody
 * wrote to costs next to nothing, a chunk that is there a look into the index.
 */
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { isGroupCount } from '../placement/groups.ts'
import { groupOfChunk } from '../placement/hash.ts'
import { type ChunkSet, SET_PAGE_CHUNKS, SET_PAGE_WORDS } from './chunk-sets.ts'
import type { ChunkStore } from './chunk-store.ts'
import { BASE_UNKNOWN, type IndexLayers } from './index-layers.ts'
import type { LayerStack } from './layer-chains.ts'
import { GROUP_BITS_PAGES, OpFlag, type ShardOp } from './op.ts'

/** An answer ends after so many pages of sets, or looks into the index: about a millisecond. */
const PAGES_MAX = 16_384
const LOOKS_MAX = 8192
/** A stack of more layers is not looked through: those that have the chunk are collected. */
const PROBED_MAX = 8

/** What is looked at: layers of the stack from place `bottom` on. */
interface View {
  readonly stack: LayerStack
  readonly bottom: number
  readonly sets: readonly ChunkSet[]
}

export class ChunkFinds {
  private readonly store: ChunkStore
  private readonly layers: IndexLayers
  /** Bits of all branches of the stack together. */
  private readonly page = new Uint32Array(SET_PAGE_WORDS)
  private looks = 0

  constructor(store: ChunkStore, layers: IndexLayers) {
    this.store = store
    this.layers = layers
  }

  /** Sets the op's answer. `words` is the memory of payloads. */
  answer(op: ShardOp, words: Uint32Array): void {
    const bits = op.payload / 4
    const at = bits + (GROUP_BITS_PAGES * BLOCK_BYTES) / 4
    const [first, end] = [words[at]!, words[at + 1]!]
    if (!isGroupCount(op.chunk) || op.blockCount < 1 || first > end) {
      op.error = ErrorCode.InvalidArgument
      return
    }
    op.resultB = end
    const { familyHigh, familyLow, layerHigh, layerLow } = op
    const layer = this.layers.findStacked(familyHigh, familyLow, layerHigh, layerLow)
    if (layer === BASE_UNKNOWN) op.error = ErrorCode.BaseUnknown
    if (layer < 0) return
    const view = this.viewOf(layer, op)
    if (view === null) op.error = ErrorCode.InvalidArgument
    else this.find(view, op, { words, bits, at, first, end })
  }

  /** null: the layer does not stand on the one of OpFlag.Since. */
  private viewOf(layer: number, op: ShardOp): View | null {
    const { chains, places } = this.layers
    const stack = chains.stackOf(layer)!
    const isSince = (op.flags & OpFlag.Since) !== 0
    const since = { layerHigh: op.writerEpoch, layerLow: op.sequence }
    const bottom = isSince ? chains.placeAbove(layer, since) : 0
    if (bottom < 0) return null
    const sets: ChunkSet[] = []
    stack.forEachBranch((each) => {
      const set = places.setOf(each)
      if (set !== null) sets.push(set)
    })
    return { stack, bottom, sets }
  }

  private find(
    view: View,
    op: ShardOp,
    range: { words: Uint32Array; bits: number; at: number; first: number; end: number }
  ): void {
    const { words, bits, at, first, end } = range
    const most = (op.blockCount * BLOCK_BYTES) / 4
    const pagesEnd = Math.floor(first / SET_PAGE_CHUNKS) + PAGES_MAX
    this.looks = 0
    for (let chunk = first; chunk < end; ) {
      const number = Math.floor(chunk / SET_PAGE_CHUNKS)
      if (number >= pagesEnd) {
        op.resultB = chunk
        return
      }
      const pageEnd = Math.min(end, (number + 1) * SET_PAGE_CHUNKS)
      const isThere = this.gather(view.sets, number)
      for (; isThere && chunk < pageEnd; chunk++) {
        const word = this.page[(chunk >>> 5) & (SET_PAGE_WORDS - 1)]!
        if (((word >>> (chunk & 31)) & 1) === 0) {
          if (word === 0) chunk |= 31
          continue
        }
        const group = groupOfChunk(op.familyHigh, op.familyLow, chunk, op.chunk)
        if (((words[bits + (group >>> 5)]! >>> (group & 31)) & 1) === 0) continue
        if (op.resultA === most || this.looks === LOOKS_MAX) {
          op.resultB = chunk
          return
        }
        if (this.has(view, chunk)) words[at + op.resultA++] = chunk
      }
      chunk = pageEnd
    }
  }

  /** Puts this page of all sets together; false: there is none. */
  private gather(sets: readonly ChunkSet[], number: number): boolean {
    let found = 0
    for (const set of sets) {
      const page = set.get(number)
      if (page === undefined) continue
      for (let word = 0; word < SET_PAGE_WORDS; word++) {
        this.page[word] = found === 0 ? page[word]! : this.page[word]! | page[word]!
      }
      found++
    }
    return found > 0
  }

  private has({ stack, bottom }: View, chunk: number): boolean {
    const { store } = this
    this.looks++
    if (stack.length - bottom <= PROBED_MAX) {
      for (let place = stack.length - 1; place >= bottom; place--) {
        if (store.find(stack.layerAt(place), chunk) !== 0) return true
      }
      if (bottom === 0) this.tidy(stack, chunk)
      return false
    }
    let isThere = false
    stack.forEachBranch((layer) => {
      for (const address of isThere ? [] : store.allOf(layer, chunk)) {
        if (stack.placeOf(store.layerAt(address)) >= bottom) isThere = true
      }
    })
    if (!isThere && bottom === 0) this.tidy(stack, chunk)
    return isThere
  }

  /** Takes a bit away that no layer of its branch needs any more. */
  private tidy(stack: LayerStack, chunk: number): void {
    stack.forEachBranch((layer) => {
      if (this.store.allOf(layer, chunk).length === 0) this.layers.places.forget(layer, chunk)
    })
  }
}
