/**
 * Block status: asks the volume window by window, merges what is alike, and answers one chunk per
 * metadata context. A walk ends at the end of the range, at STATUS_BYTES_MAX, at
 * STATUS_EXTENTS_MAX, or with NBD_CMD_FLAG_REQ_ONE at the end of the first extent, so that its
 * memory and its time are bounded; clients ask on from there.
 */
import {
  STATUS_BYTES_MAX,
  STATUS_EXTENTS_MAX,
  STATUS_FILTER_IDS_MAX,
  STATUS_WALKS_PER_CONNECTION,
  STATUS_WINDOW_BYTES_MAX,
  STATUS_WINDOW_BYTES_MIN
} from './limits.ts'
import { contextIdOf, type MetaContext } from './meta-contexts.ts'
import { NBD_CMD_FLAG_REQ_ONE, NBD_REPLY_FLAG_DONE } from './protocol.ts'
import { putStatusChunk, statusChunkSize } from './replies.ts'
import type { NbdRequest } from './request.ts'
import type { Transmission } from './transmission.ts'

/** What a block status request gathers; its `owner`. */
interface Walk {
  readonly contexts: readonly MetaContext[]
  /** Which of them is walked now. */
  contextIndex: number
  /** Merged extents so far. */
  lengths: number[]
  states: number[]
  /** Where the next window starts, and where the walk ends. */
  position: number
  end: number
  windowBytes: number
}

export class StatusWalks {
  private readonly transmission: Transmission
  private readonly contexts: readonly MetaContext[]
  private walks = 0

  constructor(transmission: Transmission, contexts: readonly MetaContext[]) {
    this.transmission = transmission
    this.contexts = contexts
  }

  /** Longest payload that can be a filter: 8 bytes of effect length, then ids. */
  get filterBytesMax(): number {
    return 8 + 4 * STATUS_FILTER_IDS_MAX
  }

  /** The contexts a payload names; null when it names none, unknown ones, or one twice. */
  parseFilter(view: DataView, at: number, payloadBytes: number): readonly MetaContext[] | null {
    if (payloadBytes < 12 || payloadBytes % 4 !== 0) return null
    const wanted: MetaContext[] = []
    for (let offset = 8; offset < payloadBytes; offset += 4) {
      const id = view.getUint32(at + offset)
      const context = this.contexts.find((each) => contextIdOf(each) === id)
      if (context === undefined || wanted.includes(context)) return null
      wanted.push(context)
    }
    return wanted
  }

  /** Starts a walk; false: too many are under way. `filter` null: all selected contexts. */
  begin(request: NbdRequest, filter: readonly MetaContext[] | null): boolean {
    if (this.walks === STATUS_WALKS_PER_CONNECTION) return this.transmission.block(false)
    this.walks++
    const walk: Walk = {
      contexts: filter ?? this.contexts,
      contextIndex: 0,
      lengths: [],
      states: [],
      position: 0,
      end: 0,
      windowBytes: 0
    }
    request.owner = walk
    this.startContext(request, walk)
    return true
  }

  /** The volume answered a window. */
  finished(request: NbdRequest): void {
    const { transmission } = this
    const walk = request.owner as Walk
    if (request.error !== 0 || transmission.state === 'closed') {
      transmission.answer(request)
      return
    }
    const more = this.merge(request, walk)
    walk.position += request.length
    request.extents.length = 0
    if (more && walk.position < walk.end) {
      walk.windowBytes = Math.min(walk.windowBytes * 2, STATUS_WINDOW_BYTES_MAX)
      this.ask(request, walk)
    } else transmission.answer(request)
  }

  /** Puts the chunk of one context into the output; false: no room. */
  deliver(request: NbdRequest): boolean {
    const { transmission } = this
    const { sender, mode } = transmission
    const walk = request.owner as Walk
    if (request.error !== 0) {
      const { error, commandOffset } = request
      const flags = NBD_REPLY_FLAG_DONE
      if (!transmission.answers.failure(request, error, commandOffset, flags)) return false
      this.end(request, true)
      return true
    }
    const size = statusChunkSize(mode, walk.lengths.length)
    if (!sender.room(size)) return false
    const last = walk.contextIndex === walk.contexts.length - 1
    const id = contextIdOf(walk.contexts[walk.contextIndex]!)
    const at = sender.reserve(size)
    putStatusChunk(mode, sender.view, at, request, last, id, walk.lengths, walk.states)
    if (last) this.end(request, false)
    else {
      walk.contextIndex++
      this.startContext(request, walk)
    }
    return true
  }

  abandon(request: NbdRequest): void {
    this.walks--
    this.transmission.retire(request)
  }

  private end(request: NbdRequest, failed: boolean): void {
    this.transmission.answers.note(request, failed)
    this.abandon(request)
  }

  private startContext(request: NbdRequest, walk: Walk): void {
    walk.lengths = []
    walk.states = []
    walk.position = request.commandOffset
    walk.end = request.commandOffset + Math.min(request.commandLength, STATUS_BYTES_MAX)
    walk.windowBytes = STATUS_WINDOW_BYTES_MIN
    this.ask(request, walk)
  }

  private ask(request: NbdRequest, walk: Walk): void {
    request.kind = walk.contexts[walk.contextIndex]!.requestKind
    request.offset = walk.position
    request.length = Math.min(walk.windowBytes, walk.end - walk.position)
    this.transmission.submit(request)
  }

  /** Returns whether the answer can still grow. */
  private merge(request: NbdRequest, walk: Walk): boolean {
    const { lengths, states } = walk
    const one = (request.commandFlags & NBD_CMD_FLAG_REQ_ONE) !== 0
    const extentsMax = one ? 1 : STATUS_EXTENTS_MAX
    const stateOf = walk.contexts[walk.contextIndex]!.stateOf
    const { extents } = request
    for (let index = 0; index < extents.length; index += 2) {
      const state = stateOf[extents[index + 1]!]!
      const last = lengths.length - 1
      if (last >= 0 && states[last] === state) lengths[last]! += extents[index]!
      else {
        if (lengths.length === extentsMax) return false
        lengths.push(extents[index]!)
        states.push(state)
      }
    }
    return true
  }
}
