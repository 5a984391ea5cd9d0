import type { Arena } from '../core/arena.ts'
import type { Clock } from '../core/clock.ts'
import { SUB_BLOCK_SCRATCH_PAGES } from '../core/limits.ts'
import type { BlockStore } from '../replication/block-store.ts'
import { Turns } from './admission.ts'
import { Edit } from './edit.ts'
import { Flushes } from './flushes.ts'
import { complete } from './open-volume.ts'
import type { VolumeRequest } from './request.ts'
import { ScratchPages } from './scratch-pages.ts'
import { StatusWalks } from './status-walk.ts'

/** What all volumes of a process share on the request path. */
export class VolumeIo {
  readonly store: BlockStore
  readonly arena: Arena
  readonly clock: Clock
  readonly scratch: ScratchPages
  readonly flushes: Flushes
  readonly walks: StatusWalks
  readonly turns: Turns
  readonly #edits: Edit[] = []
  #deferred: VolumeRequest[] = []
  #deferring: VolumeRequest[] = []
  #scheduled = false
  #ringing = false
  readonly #runDeferred = (): void => this.#deliver()
  readonly #runRing = (): void => {
    this.#ringing = false
    this.store.ring()
  }

  /** With `beside` the blocks go another way to the same store, and all else is shared. */
  constructor(options: {
    readonly store: BlockStore
    readonly arena: Arena
    readonly clock: Clock
    readonly scratchPages?: number
    readonly beside?: VolumeIo
  }) {
    const { store, arena, clock, beside } = options
    const scratchPages = options.scratchPages ?? SUB_BLOCK_SCRATCH_PAGES
    this.store = store
    this.arena = arena
    this.clock = clock
    this.scratch = beside?.scratch ?? new ScratchPages(arena, scratchPages)
    this.flushes = beside?.flushes ?? new Flushes(store, clock)
    this.turns = beside?.turns ?? new Turns()
    this.walks = beside?.walks ?? new StatusWalks(store, arena, () => this.ringSoon())
  }

  acquireEdit(): Edit {
    return this.#edits.pop() ?? new Edit()
  }

  releaseEdit(edit: Edit): void {
    edit.request = null
    edit.edits = null
    this.#edits.push(edit)
  }

  /** Completes `request` soon: an `onDone` is never called from inside `submit`. */
  defer(request: VolumeRequest): void {
    this.#deferred.push(request)
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(this.#runDeferred)
  }

  /** Rings at the end of this turn: for ops that are submitted because others ended. */
  ringSoon(): void {
    if (this.#ringing) return
    this.#ringing = true
    queueMicrotask(this.#runRing)
  }

  #deliver(): void {
    this.#scheduled = false
    const requests = this.#deferred
    this.#deferred = this.#deferring
    this.#deferring = requests
    for (const request of requests) complete(request)
    requests.length = 0
  }
}
