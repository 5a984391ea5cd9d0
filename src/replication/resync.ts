/**
 * Brings groups of this peer up to date (PROTOCOL.md, R19 to R24): catching up after an absence,
 * a new copy, and a move are all this. Groups wait in a line and are done some at a time:
 *
 *   read their records -> deletions, own fences -> fences at the sources -> sums
 *     -> those that differ, one by one: chunks, versions, voids, copies
 *     -> sync -> promote
 *
 * What fails goes to the end of the line; what was copied then is equal when its turn comes again.
 */
import { shapeUnder } from '../cluster/group-shape.ts'
import type { GroupGuard, GroupRecords, KnownGroup } from '../cluster/groups.ts'
import { parseId64 } from '../cluster/ids.ts'
import type { Arena } from '../core/arena.ts'
import type { Clock, Timers } from '../core/clock.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import {
  CHUNK_SUMS_MAX,
  RESYNC_CALLS_MAX,
  RESYNC_CHUNKS_MAX,
  RESYNC_GROUPS_MAX
} from '../core/limits.ts'
import type { ShardedStore } from './block-store.ts'
import { forEachOf } from './for-each-of.ts'
import { fenceOf, type Member, type Members, type PoolShape } from './member.ts'
import { Pace } from './pace.ts'
import { ChunkCopier, type CopySource } from './resync-copy.ts'
import { ResyncMeter, type ResyncProgress } from './resync-progress.ts'
import { ChunkList, sumsByGroup } from './resync-sums.ts'
import type { ShardMemberService } from './shard-member-service.ts'
import { errorOf } from './shard-questions.ts'

/** What the metadata says of a volume family. */
export interface FamilyState {
  /** 16 hex digits. */
  readonly family: string
  readonly writerEpoch: number
  /** All in-sync members agree about versions below it; 0 where nobody has settled anything. */
  readonly settledEpoch: number
  /** Holds while its record is the one that this was read from. */
  readonly unchanged: GroupGuard
  /** Holds while nobody has, or is taking, the right to write it. */
  readonly noWriter: GroupGuard
}

export interface ResyncFamilies {
  /** R22: what was deleted is gone from this peer, durably, when it resolves. */
  applyDeletions(): Promise<void>
  /** Exactly those of the pool, as they are when it is called: not from a cache. */
  list(pool: number): Promise<readonly FamilyState[]>
}

export interface ResyncParts {
  readonly self: { readonly peerId: string; readonly bootId: string }
  readonly service: ShardMemberService
  readonly store: ShardedStore
  readonly arena: Arena
  readonly members: Members
  readonly groups: Pick<GroupRecords, 'read' | 'change'>
  readonly families: ResyncFamilies
  /** May an entry of a group record stand for the boot of that peer that is up now? */
  readonly isPresentBoot: (peerId: string, bootId: string) => boolean
  readonly clock: Clock
  readonly timers: Timers
  readonly bytesPerSecond: number
  readonly log: (level: 'info' | 'warn', message: string, fields: Record<string, unknown>) => void
}

interface Waiting {
  readonly shape: PoolShape
  readonly group: number
  /** Not before this time. */
  readonly afterMs: number
  readonly failures: number
}

interface Job {
  readonly waiting: Waiting
  readonly known: KnownGroup
  readonly source: CopySource
  readonly differing: { readonly state: FamilyState; readonly blocks: number }[]
  /** Families of which we have something that may reach the source yet; its oldest writerEpoch. */
  readonly unsettled: Map<FamilyState, number>
}

const RETRY_MS = 1000
const RETRY_MS_MAX = 30_000

export class Resyncer {
  readonly pace: Pace
  readonly #parts: ResyncParts
  readonly #copier: ChunkCopier
  readonly #line = new Map<string, Waiting>()
  #running = false
  #closed = false
  #stopTimer: () => void = () => {}
  readonly #meter: ResyncMeter
  #jobsLeft = 0

  constructor(parts: ResyncParts) {
    this.#parts = parts
    const { store, arena, service, clock, timers, bytesPerSecond } = parts
    const clientDepth = (): number => store.inFlight - this.#copier.inFlight
    this.pace = new Pace(clock, timers, { bytesPerSecond, clientDepth })
    const { questions } = service
    this.#meter = new ResyncMeter(clock)
    const onCopied = (bytes: number): void => this.#meter.copied(bytes)
    this.#copier = new ChunkCopier({ store, arena, questions, pace: this.pace, onCopied })
  }

  /** The group's record lists this boot as syncing: it is brought up to date when its turn is. */
  want(shape: PoolShape, group: number): void {
    const key = `${shape.pool}/${group}`
    if (this.#line.has(key)) return
    this.#meter.begin()
    this.#line.set(key, { shape, group, afterMs: 0, failures: 0 })
    this.#start()
  }

  get progress(): ResyncProgress {
    const waiting = this.#line.size
    return this.#meter.progress(waiting + this.#jobsLeft, waiting)
  }

  /** Blocks whose versions were given up, since the start. */
  get voidedBlocks(): number {
    return this.#copier.voidedBlocks
  }

  /** Begins nothing more; what is under way ends by itself. */
  close(): void {
    this.#closed = true
    this.#line.clear()
    this.#stopTimer()
  }

  #start(): void {
    if (this.#running || this.#closed) return
    this.#running = true
    void this.#work().finally(() => {
      this.#running = false
      if (this.#line.size === 0) this.#meter.end()
      this.#wakeLater()
    })
  }

  /** When the first of those that failed may be tried again. */
  #wakeLater(): void {
    if (this.#closed || this.#line.size === 0) return
    const now = this.#parts.clock.monotonicMs()
    let afterMs = Number.POSITIVE_INFINITY
    for (const waiting of this.#line.values()) afterMs = Math.min(afterMs, waiting.afterMs)
    this.#stopTimer()
    this.#stopTimer = this.#parts.timers.start(Math.max(1, afterMs - now), () => this.#start())
  }

  async #work(): Promise<void> {
    await Promise.resolve() // groups that are wanted in one go share their sums
    for (;;) {
      const batch = this.#takeBatch()
      if (batch.length === 0 || this.#closed) return
      this.#jobsLeft = batch.length
      try {
        await this.#runBatch(batch)
      } catch (thrown) {
        for (const waiting of batch) this.#failed(waiting, thrown)
      }
      this.#jobsLeft = 0
      this.#meter.forgetLeft()
    }
  }

  /** Groups of one pool whose time has come. */
  #takeBatch(): Waiting[] {
    const now = this.#parts.clock.monotonicMs()
    const batch: Waiting[] = []
    for (const [key, waiting] of this.#line) {
      if (waiting.afterMs > now) continue
      if (batch.length > 0 && batch[0]!.shape.pool !== waiting.shape.pool) continue
      batch.push(waiting)
      this.#line.delete(key)
      if (batch.length === RESYNC_GROUPS_MAX) break
    }
    return batch
  }

  #failed(waiting: Waiting, thrown: unknown): void {
    const error = storeErrorOf(thrown)
    const { shape, group } = waiting
    const key = `${shape.pool}/${group}`
    if (this.#closed || this.#line.has(key)) return
    const failures = waiting.failures + 1
    const delayMs = Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** Math.min(10, failures - 1))
    // Another source, or another record: nothing to wait for.
    const isQuick = error.code === ErrorCode.Conflict || error.code === ErrorCode.StaleGroup
    const afterMs = this.#parts.clock.monotonicMs() + (isQuick && failures < 5 ? 1 : delayMs)
    this.#line.set(key, { shape, group, afterMs, failures })
    if (isQuick) return
    this.#parts.log('warn', 'a group could not be brought up to date yet', {
      ...{ pool: shape.pool, group, why: error.message, failures }
    })
  }

  async #runBatch(batch: readonly Waiting[]): Promise<void> {
    const { families } = this.#parts
    const jobs = await this.#prepare(batch)
    if (jobs.length === 0) return
    await families.applyDeletions()
    const states = await families.list(jobs[0]!.waiting.shape.pool)
    await this.#fenceSelf(states, jobs)
    const fenced = await this.#each(jobs, RESYNC_CALLS_MAX, (job) => fenceSource(job))
    for (const groups of new Set(fenced.map(groupsOf))) {
      const alike = fenced.filter((job) => groupsOf(job) === groups)
      await this.#compare(alike, states)
    }
    const equal = fenced.filter(({ differing }) => differing.length === 0)
    for (const { differing } of fenced) {
      this.#meter.compared(differing.reduce((sum, { blocks }) => sum + blocks, 0))
    }
    if (equal.length > 0) {
      await this.#sync()
      await this.#each(equal, RESYNC_CALLS_MAX, (job) => this.#promote(job))
    }
    const different = fenced.filter(({ differing }) => differing.length > 0)
    await this.#each(different, 1, async (job) => {
      for (const { state, blocks } of job.differing) {
        this.#meter.beginPart(blocks)
        await this.#copyFamily(job, state)
        this.#meter.endPart()
      }
      await this.#sync()
      await this.#promote(job)
    })
  }

  /** Runs `work` for jobs, some at once. Those for which it throws wait for another turn. */
  async #each(
    jobs: readonly Job[],
    atOnce: number,
    work: (job: Job) => Promise<void>
  ): Promise<Job[]> {
    const done = new Set<Job>()
    await forEachOf(jobs, atOnce, async (job) => {
      if (this.#closed) return
      try {
        await work(job)
        done.add(job)
      } catch (thrown) {
        this.#jobsLeft--
        this.#failed(job.waiting, thrown)
      }
    })
    return jobs.filter((job) => done.has(job))
  }

  /** Records of the groups, and whom to copy from; those that list us no more are done. */
  async #prepare(batch: readonly Waiting[]): Promise<Job[]> {
    const { groups, self } = this.#parts
    const jobs: Job[] = []
    await forEachOf(batch, RESYNC_CALLS_MAX, async (waiting) => {
      const { pool } = waiting.shape
      const known = await groups.read(pool, waiting.group)
      const isListed = known?.record.syncing.some(
        ({ peer, boot }) => peer === self.peerId && boot === self.bootId
      )
      const members = known === null ? [] : this.#sourcesOf(known)
      if (known === null || isListed !== true) {
        this.#jobsLeft--
        return
      }
      if (members.length === 0) {
        this.#jobsLeft--
        const text = `no member in sync of group ${pool}/${waiting.group} can be reached`
        this.#failed(waiting, new StoreError(ErrorCode.Unavailable, text))
        return
      }
      const groupEpoch = known.record.epoch
      const isDeleted = async (family: string): Promise<boolean> => {
        const states = await this.#parts.families.list(pool)
        return !states.some((state) => state.family === family)
      }
      const { group } = waiting
      const { fences } = this.#parts.service
      const isOvertaken = (): boolean => fences.groupEpoch(pool, group) > groupEpoch
      const source = { members, pool, group, groupEpoch, isDeleted, isOvertaken }
      // R41: it may have been split while it waited.
      const shape = shapeUnder(waiting.shape, known.record)
      const job = { waiting: { ...waiting, shape }, known, source }
      jobs.push({ ...job, differing: [], unsettled: new Map() })
    })
    return jobs
  }

  /** Members in sync that are there, the least busy first. */
  #sourcesOf({ record }: KnownGroup): Member[] {
    const { members, isPresentBoot } = this.#parts
    const found: Member[] = []
    for (const { peer, boot } of record.inSync) {
      const member = members.find(peer)
      if (member === null) continue
      if (member.bootId === boot || isPresentBoot(peer, boot)) found.push(member)
    }
    return found.sort((one, other) => one.inFlight - other.inFlight)
  }

  /** Nothing older than what the metadata says is admitted here from now on. */
  async #fenceSelf(states: readonly FamilyState[], jobs: readonly Job[]): Promise<void> {
    const { fences, questions } = this.#parts.service
    for (const { family, writerEpoch } of states) {
      const { high, low } = parseId64(family)
      if (writerEpoch > fences.familyEpoch(high, low)) fences.raiseFamily(high, low, writerEpoch)
    }
    for (const { source, known } of jobs) {
      try {
        fences.raiseRecord(source.pool, source.group, known.record)
      } catch (thrown) {
        // The record changed meanwhile: promotion will find that out.
        if (storeErrorOf(thrown).code !== ErrorCode.StaleGroup) throw thrown
      }
    }
    await Promise.all([questions.barrier(), fences.hold()])
  }

  /** Finds out in which families each group differs; all are of one number of groups. */
  async #compare(jobs: readonly Job[], states: readonly FamilyState[]): Promise<void> {
    const { questions } = this.#parts.service
    const shape = jobs[0]?.waiting.shape
    if (shape === undefined) return
    const bySource = new Map<Member, Job[]>()
    for (const job of jobs) {
      const source = job.source.members[0]!
      bySource.set(source, [...(bySource.get(source) ?? []), job])
    }
    await forEachOf(states, RESYNC_CHUNKS_MAX, async (state) => {
      const { high, low } = parseId64(state.family)
      const { groups } = shape
      const family = { familyHigh: high, familyLow: low, groups, withHoles: true }
      const ours = sumsByGroup(await questions.groupSums(family))
      for (const [source, sourced] of bySource) {
        const request = { call: 'groupSums', shape, family: state.family, withHoles: true } as const
        const theirs = sumsByGroup((await source.call(request)).data)
        for (const { waiting, differing } of sourced) {
          const their = theirs.get(waiting.group)
          if (their?.sum === ours.get(waiting.group)?.sum) continue
          differing.push({ state, blocks: their?.blocks ?? 0 })
        }
      }
    })
  }

  async #copyFamily(job: Job, state: FamilyState): Promise<void> {
    const { shape, group } = job.waiting
    const { high: familyHigh, low: familyLow } = parseId64(state.family)
    const family = { familyHigh, familyLow, groups: shape.groups, withHoles: true }
    const ours = new ChunkList(await this.#parts.service.questions.chunkSums(family, group))
    let after: { layer: string; chunk: number } | null = null
    for (let more = true; more; ) {
      const answer = await job.source.members[0]!.call({
        ...{ call: 'chunkSums', shape, group, family: state.family, withHoles: true },
        ...{ after, limit: CHUNK_SUMS_MAX }
      })
      const theirs = new ChunkList(answer.data)
      more = answer.more === true && theirs.length > 0
      const differing = ours.differing(theirs, !more)
      await forEachOf(differing, RESYNC_CHUNKS_MAX, async ({ layerHigh, layerLow, chunk }) => {
        if (this.#closed) throw new StoreError(ErrorCode.Closed, 'the resync was ended')
        const layer = { familyHigh, familyLow, layerHigh, layerLow }
        const left = await this.#copier.copyChunk(job.source, layer, chunk, state.settledEpoch)
        const before = job.unsettled.get(state) ?? left
        if (left > 0) job.unsettled.set(state, Math.min(before, left))
      })
      after = theirs.last
    }
  }

  async #sync(): Promise<void> {
    const error = await new Promise<number>((resolve) => this.#parts.service.flush(resolve))
    if (error !== ErrorCode.Ok) throw errorOf(error, 'what was copied could not be synced')
  }

  /**
   * R23: into `inSync`, if the record is still the one under which all of this was done, and no
   * takeover settled without us what only we have.
   */
  async #promote(job: Job): Promise<void> {
    const { groups, self, log } = this.#parts
    const { known, waiting } = job
    const { record } = known
    const present = { peer: self.peerId, boot: self.bootId }
    const { pool } = waiting.shape
    const next = {
      members: record.members,
      inSync: [...record.inSync.filter(({ peer }) => peer !== self.peerId), present],
      syncing: record.syncing.filter(({ peer }) => peer !== self.peerId)
    }
    const guards = [...job.unsettled].flatMap(([state, left]) =>
      // A takeover may have settled this group already, and not all of the family.
      left < state.writerEpoch ? [state.unchanged, state.noWriter] : [state.unchanged]
    )
    const changed = await groups.change(pool, waiting.group, known, next, guards)
    if (changed === null) {
      throw new StoreError(ErrorCode.Conflict, `group ${pool}/${waiting.group} changed meanwhile`)
    }
    this.#jobsLeft--
    this.#meter.groupDone(job.differing.length > 0)
    log('info', 'a group is up to date', { pool, group: waiting.group })
  }
}

const groupsOf = ({ waiting }: Job): number => waiting.shape.groups

/** R19: nothing that was sent before we were listed reaches the source any more. */
async function fenceSource({ source, known }: Job): Promise<void> {
  const { pool, group } = source
  await source.members[0]!.call(fenceOf({ pool, group }, known))
}
