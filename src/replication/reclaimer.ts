/**
 * Drops what this peer has of groups that want it no more (PROTOCOL.md, R27 to R30), or that take
 * it in anew (R34): reclaim-rules.ts tells which those are, and who has to flush before.
 *
 *   a record that the rule concerns
 *     -> is there anything here? -> the record, read anew -> fenced at its epoch, durably
 *     -> those who have it are there and flush -> list the chunks -> drop them, slice by slice
 *
 * A slice enters a shard's queue only while the fence is where we put it. Who lists us again raises
 * it first: with the first write that comes, or before the resync compares.
 */
import { shapeUnder } from '../cluster/group-shape.ts'
import type { GroupRecords, KnownGroup } from '../cluster/groups.ts'
import { parseId64 } from '../cluster/ids.ts'
import type { GroupRecord } from '../cluster/records.ts'
import type { Clock, Timers } from '../core/clock.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import {
  BLOCK_BYTES,
  RECLAIM_CHUNKS_PER_SECOND,
  RECLAIM_GROUPS_MAX,
  RECLAIM_LIST_MAX,
  RESYNC_CALLS_MAX
} from '../core/limits.ts'
import { groupOfChunk } from '../placement/hash.ts'
import { DROP_CHUNKS_MAX } from '../shard/op.ts'
import type { ShardedStore } from './block-store.ts'
import { forEachOf } from './for-each-of.ts'
import type { Member, Members, PoolShape } from './member.ts'
import { Pace } from './pace.ts'
import type { ReclaimRule } from './reclaim-rules.ts'
import type { ResyncFamilies } from './resync.ts'
import type { ShardMemberService } from './shard-member-service.ts'
import { type ChunkId, errorOf } from './shard-questions.ts'

export interface ReclaimParts {
  readonly rule: ReclaimRule
  readonly service: ShardMemberService
  readonly store: ShardedStore
  readonly members: Members
  readonly groups: Pick<GroupRecords, 'read'>
  readonly families: Pick<ResyncFamilies, 'list'>
  readonly clock: Clock
  readonly timers: Timers
  readonly log: (level: 'info' | 'warn', message: string, fields: Record<string, unknown>) => void
}

export interface ReclaimProgress {
  /** Groups whose chunks are being given back now. */
  readonly groupsLeft: number
  /** Of data, zeroes and holes, since the start. */
  readonly bytesGivenBack: number
  readonly groupsDone: number
}

interface Waiting {
  readonly shape: PoolShape
  readonly group: number
  readonly afterMs: number
  readonly failures: number
}

interface Job {
  readonly waiting: Waiting
  readonly known: KnownGroup
  /** They flush, and are there until the end. */
  readonly witnesses: readonly Member[]
}

interface Held extends ChunkId {
  readonly group: number
}

const RETRY_MS = 2000
const RETRY_MS_MAX = 60_000
const NEW = { afterMs: Number.POSITIVE_INFINITY, failures: 0 }

export class Reclaimer {
  readonly #parts: ReclaimParts
  readonly #pace: Pace
  readonly #line = new Map<string, Waiting>()
  /** Being worked on. Who is taken out here is dropped no further. */
  readonly #active = new Map<string, Waiting>()
  /** Nothing is here of them, and nothing comes before they list us. */
  readonly #done = new Set<string>()
  #running = false
  #closed = false
  #stopTimer: () => void = () => {}
  #jobsLeft = 0
  #groupsDone = 0
  #blocks = 0

  constructor(parts: ReclaimParts) {
    this.#parts = parts
    const { store, clock, timers } = parts
    const options = {
      bytesPerSecond: RECLAIM_CHUNKS_PER_SECOND,
      clientDepth: () => store.inFlight
    }
    this.#pace = new Pace(clock, timers, options)
  }

  get progress(): ReclaimProgress {
    return {
      groupsLeft: this.#jobsLeft,
      bytesGivenBack: this.#blocks * BLOCK_BYTES,
      groupsDone: this.#groupsDone
    }
  }

  /** A record of a group, whether it lists us or not. */
  learn(shape: PoolShape, group: number, record: GroupRecord): void {
    const key = keyOf(shape, group)
    const { rule } = this.#parts
    if (!rule.concerns(record)) {
      this.#line.delete(key)
      this.#active.delete(key)
      this.#done.delete(key)
      return
    }
    this.#fence(shape, group, record)
    if (this.#done.has(key) || this.#active.has(key)) return
    // When it becomes whole its record changes; when fewer copies are wanted, that of the pool.
    const delayMs = rule.allows(shape.pool, record) ? rule.gatherMs : RETRY_MS_MAX
    const { afterMs, failures } = this.#line.get(key) ?? NEW
    const soonest = Math.min(afterMs, this.#parts.clock.monotonicMs() + delayMs)
    this.#line.set(key, { shape, group, afterMs: soonest, failures })
    if (!this.#running) this.#wakeLater()
  }

  /** Nothing that was sent while we were listed comes when nobody looks for it any more. */
  #fence({ pool }: PoolShape, group: number, record: GroupRecord): void {
    const { fences } = this.#parts.service
    const known = fences.groupEpoch(pool, group)
    if (known > 0 && known < record.epoch) fences.raiseRecord(pool, group, record)
  }

  /** Begins nothing more; what is under way ends by itself. */
  close(): void {
    this.#closed = true
    this.#line.clear()
    this.#active.clear()
    this.#stopTimer()
  }

  #start(): void {
    if (this.#running || this.#closed) return
    this.#running = true
    void this.#work().finally(() => {
      this.#running = false
      this.#wakeLater()
    })
  }

  #wakeLater(): void {
    if (this.#closed || this.#line.size === 0) return
    let afterMs = Number.POSITIVE_INFINITY
    for (const waiting of this.#line.values()) afterMs = Math.min(afterMs, waiting.afterMs)
    this.#stopTimer()
    const delayMs = Math.max(1, afterMs - this.#parts.clock.monotonicMs())
    this.#stopTimer = this.#parts.timers.start(delayMs, () => this.#start())
  }

  async #work(): Promise<void> {
    for (;;) {
      this.#takeBatch()
      if (this.#active.size === 0) return
      try {
        await this.#runBatch([...this.#active.values()])
      } catch (thrown) {
        for (const waiting of this.#active.values()) this.#failed(waiting, thrown)
      }
      this.#active.clear()
      this.#jobsLeft = 0
    }
  }

  /** Groups of one pool, and one number of groups, whose time has come. */
  #takeBatch(): void {
    const now = this.#parts.clock.monotonicMs()
    let first: PoolShape | null = null
    for (const [key, waiting] of this.#line) {
      if (waiting.afterMs > now || (first !== null && !areAlike(first, waiting.shape))) continue
      first = waiting.shape
      this.#active.set(key, waiting)
      this.#line.delete(key)
      if (this.#active.size === RECLAIM_GROUPS_MAX) return
    }
  }

  #failed(waiting: Waiting, thrown: unknown): void {
    const error = storeErrorOf(thrown)
    const { shape, group } = waiting
    const failures = waiting.failures + 1
    const backoffMs = Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** Math.min(10, failures - 1))
    // Another record: nothing to wait for.
    const isQuick = error.code === ErrorCode.Conflict && failures < 5
    const delayMs = isQuick ? this.#parts.rule.gatherMs : backoffMs
    const afterMs = this.#parts.clock.monotonicMs() + delayMs
    this.#putBack({ shape, group, afterMs, failures })
    // Members that restart are no news; a disk that cannot is.
    if (failures < 3) return
    this.#parts.log('warn', 'the copy of a group cannot be given back yet', {
      ...{ pool: shape.pool, group, why: error.message, failures }
    })
  }

  #putBack(waiting: Waiting): void {
    const key = keyOf(waiting.shape, waiting.group)
    if (!this.#closed && this.#active.delete(key)) this.#line.set(key, waiting)
  }

  async #runBatch(batch: readonly Waiting[]): Promise<void> {
    const { shape } = batch[0]!
    const chosen = await this.#choose(shape, batch)
    this.#jobsLeft = chosen.length
    const jobs: Job[] = []
    await forEachOf(chosen, RESYNC_CALLS_MAX, async (waiting) => {
      const job = await this.#prepare(waiting)
      if (job !== null) jobs.push(job)
    })
    if (jobs.length === 0) return
    const { questions, fences } = this.#parts.service
    // What was admitted under an older record is done, and nothing of one comes any more.
    await Promise.all([questions.barrier(), fences.hold()])
    const ready = await this.#confirm(jobs)
    if (ready.length === 0) return
    const byShard = new Map<number, Held[]>()
    await this.#list(shape, ready.map(groupOf), (held, shard) => {
      const list = byShard.get(shard)
      if (list === undefined) byShard.set(shard, [held])
      else list.push(held)
    })
    const dropped = await this.#dropAll(shape, ready, byShard)
    await forEachOf(dropped, RESYNC_CALLS_MAX, (job) => this.#finish(job))
    if (byShard.size === 0) return
    const { log, rule } = this.#parts
    log('info', rule.done, { pool: shape.pool, groups: dropped.length })
    await questions.endDrops()
  }

  /** Those of which anything is here, as many as fit a list; of the others there is nothing. */
  async #choose(shape: PoolShape, batch: readonly Waiting[]): Promise<Waiting[]> {
    const counts = new Map<number, number>()
    await this.#list(shape, batch.map(numberOf), ({ group }) => {
      counts.set(group, (counts.get(group) ?? 0) + 1)
    })
    const chosen: Waiting[] = []
    let sum = 0
    for (const waiting of batch) {
      const count = counts.get(waiting.group) ?? 0
      if (count === 0 && this.#parts.rule.finish === null) this.#noteEmpty(waiting)
      else if (chosen.length > 0 && sum + count > RECLAIM_LIST_MAX) this.#putBack(waiting)
      else {
        chosen.push(waiting)
        sum += count
      }
    }
    return chosen
  }

  #noteEmpty({ shape, group }: Waiting): void {
    const key = keyOf(shape, group)
    if (this.#active.delete(key)) this.#done.add(key)
  }

  async #finish({ waiting, known }: Job): Promise<void> {
    this.#jobsLeft--
    const { finish } = this.#parts.rule
    if (finish === null) {
      this.#groupsDone++
      this.#noteEmpty(waiting)
      return
    }
    const { shape, group } = waiting
    try {
      await finish(shape, group, known)
      // Should the group take us in once more, then anew.
      this.#active.delete(keyOf(shape, group))
    } catch (thrown) {
      this.#failed(waiting, thrown)
    }
  }

  /** Shows the chunks here of these groups and the pool's families. */
  async #list(
    shape: PoolShape,
    groups: readonly number[],
    take: (held: Held, shard: number) => void
  ): Promise<void> {
    const families = new Map<number, number[]>()
    for (const { family } of await this.#parts.families.list(shape.pool)) {
      const { high, low } = parseId64(family)
      families.set(low, [...(families.get(low) ?? []), high])
    }
    const { questions } = this.#parts.service
    await questions.listChunks(shape.groups, new Set(groups), (chunk, shard) => {
      const { familyHigh, familyLow } = chunk
      if (families.get(familyLow)?.includes(familyHigh) !== true) return
      const group = groupOfChunk(familyHigh, familyLow, chunk.chunk, shape.groups)
      take({ ...chunk, group }, shard)
    })
  }

  /** R28: the record as it is now, and the fence at its epoch. Null when it is not for us. */
  async #prepare(waiting: Waiting): Promise<Job | null> {
    const { groups, service, rule } = this.#parts
    const { pool } = waiting.shape
    try {
      const known = await groups.read(pool, waiting.group)
      if (known === null || !rule.concerns(known.record)) {
        // Its next record tells more.
        this.#active.delete(keyOf(waiting.shape, waiting.group))
        this.#jobsLeft--
        return null
      }
      const shape = shapeUnder(waiting.shape, known.record)
      if (!areAlike(shape, waiting.shape)) {
        // R41: of what is here another part is this group's than when it was learnt of.
        this.#jobsLeft--
        this.#putBack({ ...waiting, shape })
        return null
      }
      if (!rule.allows(pool, known.record)) {
        this.#jobsLeft--
        const afterMs = this.#parts.clock.monotonicMs() + RETRY_MS_MAX
        this.#putBack({ ...waiting, afterMs })
        return null
      }
      service.fences.raiseRecord(pool, waiting.group, known.record)
      return { waiting, known, witnesses: rule.witnesses(known, waiting.failures) }
    } catch (thrown) {
      this.#jobsLeft--
      this.#failed(waiting, thrown)
      return null
    }
  }

  /** Jobs whose witnesses have everything on disk. */
  async #confirm(jobs: readonly Job[]): Promise<Job[]> {
    const errors = new Map<Member, number>()
    const members = [...new Set(jobs.flatMap((job) => job.witnesses))]
    await forEachOf(members, RESYNC_CALLS_MAX, async (member) => {
      errors.set(member, await new Promise<number>((resolve) => member.flush(resolve)))
    })
    return jobs.filter((job) => {
      const error = job.witnesses.map((member) => errors.get(member)!).find((each) => each !== 0)
      if (error === undefined) return true
      this.#jobsLeft--
      this.#failed(job.waiting, errorOf(error, 'a member does not flush'))
      return false
    })
  }

  /** Returns the jobs that were done to their end. */
  async #dropAll(
    shape: PoolShape,
    jobs: readonly Job[],
    byShard: ReadonlyMap<number, Held[]>
  ): Promise<Job[]> {
    const byGroup = new Map(jobs.map((job) => [job.waiting.group, job]))
    const stopped = new Set<Job>()
    const { questions } = this.#parts.service
    await forEachOf([...byShard], 1, async ([shard, list]) => {
      list.sort(compareHeld)
      const chunks = list.filter((held, i) => i === 0 || compareHeld(held, list[i - 1]!) !== 0)
      for (let at = 0; at < chunks.length && !this.#closed; at += DROP_CHUNKS_MAX) {
        const slice = chunks.slice(at, at + DROP_CHUNKS_MAX)
        await this.#pace.take(slice.length)
        this.#blocks += await questions.dropChunks(shard, shape.groups, () =>
          slice.filter(({ group }) => {
            const job = byGroup.get(group)!
            if (!stopped.has(job) && !this.#mayGoOn(job)) stopped.add(job)
            return !stopped.has(job)
          })
        )
      }
    })
    for (const job of stopped) {
      this.#jobsLeft--
      const text = 'its group changed meanwhile'
      this.#failed(job.waiting, new StoreError(ErrorCode.Conflict, text))
    }
    return this.#closed ? [] : jobs.filter((job) => !stopped.has(job))
  }

  /** R28: asked in the moment in which a drop enters a shard's queue. */
  #mayGoOn({ waiting, known, witnesses }: Job): boolean {
    const { shape, group } = waiting
    const { fences } = this.#parts.service
    const { epoch } = known.record
    if (fences.groupEpoch(shape.pool, group) !== epoch) return false
    if (!this.#active.has(keyOf(shape, group))) return false
    return witnesses.every((member) => this.#parts.members.find(member.peerId) === member)
  }
}

const keyOf = ({ pool }: PoolShape, group: number): string => `${pool}/${group}`
const areAlike = (one: PoolShape, other: PoolShape): boolean =>
  one.pool === other.pool && one.groups === other.groups
const numberOf = ({ group }: Waiting): number => group
const groupOf = ({ waiting }: Job): number => waiting.group

/** The order of DropChunks. */
const compareHeld = (one: Held, other: Held): number =>
  one.familyHigh - other.familyHigh ||
  one.familyLow - other.familyLow ||
  one.group - other.group ||
  one.chunk - other.chunk
