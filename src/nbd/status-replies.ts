/**
 * Block status: one question to the volume per metadata context, one chunk per answer. The volume
 * answers as much of the range as costs little (at least one extent); clients ask on from there.
 */
import { RequestFlag, RequestKind } from '../volume/request.ts'
import {
  STATUS_FILTER_IDS_MAX,
  STATUS_REPLIES_PER_CONNECTION,
  STATUS_REPLY_EXTENTS_MAX
} from './limits.ts'
import { contextIdOf, type MetaContext } from './meta-contexts.ts'
import { NBD_CMD_FLAG_REQ_ONE, NBD_REPLY_FLAG_DONE } from './protocol.ts'
import { putStatusChunk, statusChunkSize } from './replies.ts'
import type { NbdRequest } from './request.ts'
import type { Transmission } from './transmission.ts'

/** The contexts a request is answered for, and which of them it is at; its `owner`. */
interface StatusProgress {
  readonly contexts: readonly MetaContext[]
  index: number
  /** What is told of the current one: adjacent extents of one state are joined. */
  lengths: number[]
  states: number[]
}

export class StatusReplies {
  private readonly transmission: Transmission
  private readonly contexts: readonly MetaContext[]
  private underWay = 0

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
      const context = this.contexts.find((each) => contextIdOf(this.contexts, each) === id)
      if (context === undefined || wanted.includes(context)) return null
      wanted.push(context)
    }
    return wanted
  }

  /** Asks; false: too many are under way. `filter` null: all selected contexts. */
  begin(request: NbdRequest, filter: readonly MetaContext[] | null): boolean {
    if (this.underWay === STATUS_REPLIES_PER_CONNECTION) return this.transmission.block(false)
    this.underWay++
    const progress: StatusProgress = {
      contexts: filter ?? this.contexts,
      index: 0,
      lengths: [],
      states: []
    }
    request.owner = progress
    this.ask(request, progress)
    return true
  }

  /** The volume answered for one context. */
  finished(request: NbdRequest): void {
    if (request.error === 0) this.join(request, request.owner as StatusProgress)
    request.extents.length = 0
    this.transmission.answer(request)
  }

  /** Puts the chunk of one context into the output; false: no room. */
  deliver(request: NbdRequest): boolean {
    const { sender, mode, answers } = this.transmission
    const progress = request.owner as StatusProgress
    const { contexts, index, lengths, states } = progress
    if (request.error !== 0) {
      const { error, commandOffset } = request
      if (!answers.failure(request, error, commandOffset, NBD_REPLY_FLAG_DONE)) return false
      this.end(request, true)
      return true
    }
    const size = statusChunkSize(mode, lengths.length)
    if (!sender.room(size)) return false
    const last = index === contexts.length - 1
    const id = contextIdOf(this.contexts, contexts[index]!)
    putStatusChunk(mode, sender.view, sender.reserve(size), request, last, id, lengths, states)
    if (last) this.end(request, false)
    else {
      progress.index++
      this.ask(request, progress)
    }
    return true
  }

  abandon(request: NbdRequest): void {
    this.underWay--
    this.transmission.retire(request)
  }

  private end(request: NbdRequest, failed: boolean): void {
    this.transmission.answers.note(request, failed)
    this.abandon(request)
  }

  private ask(request: NbdRequest, progress: StatusProgress): void {
    progress.lengths = []
    progress.states = []
    request.kind = RequestKind.BlockStatus
    request.since = progress.contexts[progress.index]!.since
    const one = (request.commandFlags & NBD_CMD_FLAG_REQ_ONE) !== 0
    request.flags = one ? RequestFlag.FirstExtent : 0
    this.transmission.submit(request)
  }

  private join(request: NbdRequest, progress: StatusProgress): void {
    const { lengths, states } = progress
    const one = (request.commandFlags & NBD_CMD_FLAG_REQ_ONE) !== 0
    const extentsMax = one ? 1 : STATUS_REPLY_EXTENTS_MAX
    const stateOf = progress.contexts[progress.index]!.stateOf
    const { extents } = request
    for (let index = 0; index < extents.length; index += 2) {
      const state = stateOf[extents[index + 1]!]!
      const last = lengths.length - 1
      if (last >= 0 && states[last] === state) lengths[last]! += extents[index]!
      else {
        if (lengths.length === extentsMax) return
        lengths.push(extents[index]!)
        states.push(state)
      }
    }
  }
}
