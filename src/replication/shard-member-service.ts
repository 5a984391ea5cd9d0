/** The service of a peer over its own shards. */
import { parseId64 } from '../cluster/ids.ts'
import type { Arena } from '../core/arena.ts'
import { type Clock, systemClock } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { CHUNK_LISTS_MAX, CHUNK_SUMS_MAX } from '../core/limits.ts'
import { CHUNK_SUM_BYTES } from '../shard/op.ts'
import { BlockOp, OpKind, type ShardedStore } from './block-store.ts'
import { encodeFound, findInShards } from './chunk-finder.ts'
import { Confirmations, encodeQuiet } from './confirmations.ts'
import type { Fences } from './fences.ts'
import type { MemberAnswer, MemberCall } from './member.ts'
import type { Caller, MemberService } from './member-service.ts'
import type { PeerReport } from './peer-report.ts'
import { compareChunks, errorOf, ShardQuestions, type SumsOf } from './shard-questions.ts'
import { SpaceCounts } from './space-counts.ts'

type CallOf<K extends MemberCall['call']> = Extract<MemberCall, { readonly call: K }>

const NO_REPORT: MemberAnswer = { data: Buffer.alloc(0) }

/** Bit per kind. */
const ADMITTED =
  (1 << OpKind.Read) |
  (1 << OpKind.Write) |
  (1 << OpKind.Trim) |
  (1 << OpKind.WriteZeroes) |
  (1 << OpKind.BlockStatus) |
  (1 << OpKind.ReadVersions)

export class ShardMemberService implements MemberService {
  /** Also for resync, which asks its own shards. */
  readonly questions: ShardQuestions
  readonly fences: Fences
  /** How this peer is; null before anybody can tell. */
  report: (() => PeerReport) | null = null
  /** A family is fenced here: a gateway in this process that had it before has it no more. */
  onFence: (family: string, writerEpoch: number) => void = () => {}
  readonly #store: ShardedStore
  readonly #space: SpaceCounts
  readonly #confirmations: Confirmations
  /** Sums of chunks by who asked for which, for answers that go on; the newest one last. */
  readonly #lists = new Map<string, Buffer>()
  /** Ops answered without the shards, from a microtask. */
  #refused: BlockOp[] = []

  constructor(store: ShardedStore, arena: Arena, fences: Fences, clock: Clock = systemClock) {
    this.#store = store
    store.readmit = (op) => fences.admit(op, false)
    this.#confirmations = new Confirmations(clock)
    this.fences = fences
    this.questions = new ShardQuestions(store, arena)
    this.#space = new SpaceCounts(this.questions)
  }

  get inFlight(): number {
    return this.#store.inFlight + this.#refused.length
  }

  submit(op: BlockOp): void {
    const { kind } = op
    if (kind > 31 || ((ADMITTED >>> kind) & 1) === 0) {
      this.#refuse(op, ErrorCode.InvalidArgument)
      return
    }
    const error = this.fences.admit(op, kind === OpKind.ReadVersions)
    if (error === ErrorCode.Ok) this.#store.submit(op)
    else this.#refuse(op, error)
  }

  /** A fence that is raised now is raised after this read: there is nothing to wait for. */
  readNow(op: BlockOp, into: Buffer, start: number, isRemote = false): number {
    if (this.fences.admit(op, false) !== ErrorCode.Ok) return -1
    return this.#store.readNow(op, into, start, isRemote)
  }

  ring(isLast = true): void {
    this.#store.ring(isLast)
  }

  /** R31: what is durable tells under which epochs it was written. */
  flush(done: (error: number) => void): void {
    if (!this.fences.isUnheld) {
      this.#store.flush(done)
      return
    }
    this.fences.hold().then(
      () => this.#store.flush(done),
      (thrown: unknown) => {
        if (!(thrown instanceof StoreError)) throw thrown
        done(thrown.code)
      }
    )
  }

  async call(request: MemberCall, from: Caller): Promise<MemberAnswer> {
    switch (request.call) {
      case 'fenceFamily': {
        const { high, low } = parseId64(request.family)
        this.fences.raiseFamily(high, low, request.writerEpoch)
        this.onFence(request.family, request.writerEpoch)
        const quietMs = this.#confirmations.quietMs(request.family)
        await this.#hold()
        return { data: encodeQuiet(quietMs) }
      }
      case 'fenceGroup': {
        const { pool, group } = request.id
        this.fences.raiseParents(pool, request.parents ?? [])
        this.fences.raiseGroup(pool, group, request.epoch)
        return this.#hold()
      }
      case 'groupSums':
        return { data: await this.questions.groupSums(sumsOf(request)) }
      case 'chunkSums':
        return this.#chunkSums(request, from)
      case 'versions':
        return { data: await this.#versions(request) }
      case 'void':
        return this.#void(request)
      case 'ping':
        return this.#ping(request)
      case 'space':
        return this.#space.answer(request.count, request.question)
      case 'chunks':
        return { data: await this.#chunks(request) }
      case 'report':
        return this.report === null ? NO_REPORT : { report: this.report(), data: Buffer.alloc(0) }
    }
  }

  /** What was admitted under an older bar is done, and the bar is on disk. */
  async #hold(): Promise<MemberAnswer> {
    await Promise.all([this.questions.barrier(), this.fences.hold()])
    return { data: Buffer.alloc(0) }
  }

  #versions(request: CallOf<'versions'>): Promise<Buffer> {
    const family = parseId64(request.family)
    const layer = parseId64(request.layer)
    const id = {
      ...{ familyHigh: family.high, familyLow: family.low },
      ...{ layerHigh: layer.high, layerLow: layer.low }
    }
    return this.questions.versions(id, request.chunk)
  }

  /** Admitted as a write is, and in the moment in which it enters the queue. */
  async #void(request: CallOf<'void'>): Promise<MemberAnswer> {
    const { pool, group, groupEpoch, writerEpoch, chunk, voids } = request
    const [family, layer] = [parseId64(request.family), parseId64(request.layer)]
    const id = {
      ...{ familyHigh: family.high, familyLow: family.low },
      ...{ layerHigh: layer.high, layerLow: layer.low }
    }
    const op = Object.assign(new BlockOp(), id, {
      ...{ kind: OpKind.Write, fenceEpoch: writerEpoch, pool, group, groupEpoch }
    })
    await this.questions.addVoids(id, chunk, voids, () => {
      const error = this.fences.admit(op, false)
      if (error !== ErrorCode.Ok) throw errorOf(error, `void versions of group ${pool}/${group}`)
    })
    return { data: Buffer.alloc(0) }
  }

  /** Admitted in the moment in which the shards are asked, so that nothing is dropped between. */
  async #chunks(request: CallOf<'chunks'>): Promise<Buffer> {
    const { shape, wanted, first, end } = request
    const [family, layer] = [parseId64(request.family), parseId64(request.layer)]
    const id = {
      ...{ familyHigh: family.high, familyLow: family.low },
      ...{ layerHigh: layer.high, layerLow: layer.low }
    }
    const since = request.since === null ? null : parseId64(request.since)
    const op = new BlockOp()
    Object.assign(op, id, { fenceEpoch: request.writerEpoch, pool: shape.pool })
    const admit = (): void => {
      for (const [group, groupEpoch] of wanted) {
        const error = this.fences.admit(Object.assign(op, { group, groupEpoch }), false)
        if (error !== ErrorCode.Ok) throw errorOf(error, `chunks of group ${shape.pool}/${group}`)
      }
    }
    const groups = { groups: shape.groups, wanted: wanted.map(([group]) => group) }
    return encodeFound(
      await findInShards(this.questions, { ...id, since, first, end }, groups, admit)
    )
  }

  #ping(request: CallOf<'ping'>): MemberAnswer {
    const fenced = request.families.filter(([family, writerEpoch]) => {
      const { high, low } = parseId64(family)
      if (this.fences.familyEpoch(high, low) > writerEpoch) return true
      this.#confirmations.note(family)
      return false
    })
    return {
      fenced: fenced.map(([family]) => family),
      freeBytes: this.#store.freeBytes,
      data: Buffer.alloc(0)
    }
  }

  /**
   * The first answer makes the list of all chunks, the next ones go on in it: it need not be of
   * one moment, because what changes meanwhile changes on both sides.
   */
  async #chunkSums(request: CallOf<'chunkSums'>, from: Caller): Promise<MemberAnswer> {
    const { after, group, shape, family } = request
    const limit = Math.min(request.limit, CHUNK_SUMS_MAX)
    if (limit < 1) throw new StoreError(ErrorCode.InvalidArgument, 'chunkSums: limit of nothing')
    const kind = [request.withHoles, request.withChecksums]
    const key = [from.bootId, shape.pool, shape.groups, group, family, ...kind].join()
    let list = after === null ? undefined : this.#lists.get(key)
    if (list === undefined) list = await this.questions.chunkSums(sumsOf(request), group)
    const start = after === null ? 0 : firstAfter(list, after)
    const end = Math.min(list.length, start + limit * CHUNK_SUM_BYTES)
    const more = end < list.length
    this.#lists.delete(key)
    if (more) this.#keepList(key, list)
    return { data: Buffer.from(list.subarray(start, end)), more }
  }

  #keepList(key: string, list: Buffer): void {
    this.#lists.set(key, list)
    if (this.#lists.size <= CHUNK_LISTS_MAX) return
    const [oldest] = this.#lists.keys()
    this.#lists.delete(oldest!)
  }

  #refuse(op: BlockOp, error: ErrorCode): void {
    op.error = error
    op.resultA = 0
    op.resultB = 0
    if (this.#refused.push(op) === 1) queueMicrotask(this.#answerRefused)
  }

  readonly #answerRefused = (): void => {
    const refused = this.#refused
    this.#refused = []
    for (const op of refused) op.onDone(op)
  }
}

function sumsOf(request: CallOf<'groupSums'> | CallOf<'chunkSums'>): SumsOf {
  const { high, low } = parseId64(request.family)
  const { groups } = request.shape
  const withChecksums = request.withChecksums === true
  const { withHoles } = request
  return { familyHigh: high, familyLow: low, groups, withHoles, withChecksums }
}

/** Where the first entry behind `after` begins. */
function firstAfter(list: Buffer, after: { layer: string; chunk: number }): number {
  const last = Buffer.alloc(CHUNK_SUM_BYTES)
  const { high, low } = parseId64(after.layer)
  last.writeUInt32LE(low, 0)
  last.writeUInt32LE(high, 4)
  last.writeUInt32LE(after.chunk, 8)
  let from = 0
  let to = list.length / CHUNK_SUM_BYTES
  while (from < to) {
    const middle = (from + to) >>> 1
    const at = middle * CHUNK_SUM_BYTES
    if (compareChunks(list.subarray(at, at + CHUNK_SUM_BYTES), last) <= 0) from = middle + 1
    else to = middle
  }
  return from * CHUNK_SUM_BYTES
}
