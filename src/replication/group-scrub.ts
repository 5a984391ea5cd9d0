/**
 * The part of a scrub that takes several members: what the shards found damaged here is repaired
 * from others, and groups of which this peer is the first in sync are compared, each once in the
 * scrub period. When a group's turn comes is drawn by lot when the process learns of it: who
 * restarts often still gets to all of them, and they spread over the period by themselves.
 */
import type { GroupRecord } from '../cluster/records.ts'
import type { Clock, Random } from '../core/clock.ts'
import { StoreError } from '../core/errors.ts'
import { COMPARE_BYTES_PER_SECOND, COMPARE_GROUPS_MAX, SCRUB_LOOK_MS } from '../core/limits.ts'
import type { ShardedStore } from './block-store.ts'
import { type CompareParts, GroupComparer, isComparable } from './group-compare.ts'
import type { PoolShape } from './member.ts'
import { Mender } from './mender.ts'
import { Pace } from './pace.ts'
import { ChunkCopier } from './resync-copy.ts'
import type { ShardMemberService } from './shard-member-service.ts'

export interface ScrubParts extends Omit<CompareParts, 'pace'> {
  readonly store: ShardedStore
  readonly service: ShardMemberService
  readonly clock: Clock
  readonly random: Random
  /** 0: groups are compared only when asked. */
  readonly periodMs: number
}

export interface ScrubProgress {
  /** That are compared now, or wait because somebody asked. */
  readonly groupsLeft: number
  readonly groups: number
  /** Since the start, as what follows. */
  readonly groupsCompared: number
  /** Blocks that members in sync had differently; and those of them that are equal again. */
  readonly differences: number
  readonly repaired: number
  /** Blocks damaged here that got their bytes back from others; and those that wait for it. */
  readonly mended: number
  readonly damaged: number
}

interface Turn {
  shape: PoolShape
  readonly group: number
  dueMs: number
}

/** Of the period: groups wait so long for others, with which they share the sums of a volume. */
const GATHER_SHARE = 0.02
/** A group that could not be compared is looked at again so much later. */
const RETRY_MS = 60_000

export class GroupScrub {
  readonly #parts: ScrubParts
  readonly #mender: Mender
  readonly #comparer: GroupComparer
  readonly #turns = new Map<string, Turn>()
  readonly #shapes = new Map<number, PoolShape>()
  #compared = 0
  #isForced = false
  #comparing = 0
  #closed = false
  #stopTimer: () => void = () => {}

  constructor(parts: ScrubParts) {
    this.#parts = parts
    const { store, arena, service, clock, timers } = parts
    const copierDepth = (): number => store.inFlight - copier.inFlight
    const pace = new Pace(clock, timers, {
      bytesPerSecond: COMPARE_BYTES_PER_SECOND,
      clientDepth: copierDepth
    })
    const { questions } = service
    const copier = new ChunkCopier({ store, arena, questions, pace, onCopied: () => {} })
    this.#mender = new Mender({ ...parts, questions, copier })
    this.#comparer = new GroupComparer({ ...parts, pace })
    this.#again()
  }

  get progress(): ScrubProgress {
    const now = this.#parts.clock.monotonicMs()
    const { differences, repaired } = this.#comparer
    const due = [...this.#turns.values()].filter(({ dueMs }) => dueMs <= now)
    return {
      groupsLeft: this.#isForced ? due.length : this.#comparing,
      groups: this.#turns.size,
      groupsCompared: this.#compared,
      ...{ differences, repaired },
      mended: this.#mender.mendedBlocks,
      damaged: this.#mender.damagedBlocks
    }
  }

  /** A record of a group, whoever it lists. */
  learn(shape: PoolShape, group: number, record: GroupRecord): void {
    if (shape.groups >= (this.#shapes.get(shape.pool)?.groups ?? 0)) {
      this.#shapes.set(shape.pool, shape)
    }
    const key = `${shape.pool}/${group}`
    if (!isComparable(record, this.#parts.self.peerId)) {
      this.#turns.delete(key)
      return
    }
    const turn = this.#turns.get(key)
    if (turn !== undefined) {
      turn.shape = shape
      return
    }
    const { random, clock, periodMs } = this.#parts
    const lot = (random.u32() + 1) / 2 ** 32
    const dueMs = clock.monotonicMs() + lot * (periodMs || Infinity)
    this.#turns.set(key, { shape, group, dueMs })
  }

  /** An operator asked: it is every group's turn. */
  force(): void {
    const now = this.#parts.clock.monotonicMs()
    for (const turn of this.#turns.values()) turn.dueMs = Math.min(turn.dueMs, now)
    this.#isForced = true
  }

  stop(): void {
    const { clock, periodMs } = this.#parts
    const now = clock.monotonicMs()
    this.#isForced = false
    for (const turn of this.#turns.values()) {
      if (turn.dueMs <= now) turn.dueMs = now + (periodMs || Infinity)
    }
  }

  /** Begins nothing more; what is under way ends by itself. */
  close(): void {
    this.#closed = true
    this.#comparer.close()
    this.#stopTimer()
  }

  #again(): void {
    if (this.#closed) return
    this.#stopTimer = this.#parts.timers.start(SCRUB_LOOK_MS, () => {
      void this.#look().finally(() => this.#again())
    })
  }

  async #look(): Promise<void> {
    try {
      await this.#mender.look([...this.#shapes.values()])
      for (let batch = this.#batch(); batch.length > 0; batch = this.#batch()) {
        await this.#compare(batch)
        if (this.#closed) return
      }
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      this.#parts.log('info', 'groups cannot be compared now', { why: thrown.message })
    }
  }

  /** Groups of one pool, and one number of groups, whose turn it is. */
  #batch(): Turn[] {
    const now = this.#parts.clock.monotonicMs()
    const batch: Turn[] = []
    for (const turn of this.#turns.values()) {
      if (turn.dueMs > now) continue
      const { pool, groups } = batch[0]?.shape ?? turn.shape
      if (pool !== turn.shape.pool || groups !== turn.shape.groups) continue
      batch.push(turn)
      if (batch.length === COMPARE_GROUPS_MAX) return batch
    }
    if (batch.length === 0) this.#isForced = false
    const oldestMs = Math.min(...batch.map(({ dueMs }) => dueMs))
    const isTime = this.#isForced || now - oldestMs >= this.#parts.periodMs * GATHER_SHARE
    return isTime ? batch : []
  }

  async #compare(batch: readonly Turn[]): Promise<void> {
    const { clock, periodMs } = this.#parts
    const { shape } = batch[0]!
    const numbers = batch.map(({ group }) => group)
    let left: readonly number[] = numbers
    this.#comparing = batch.length
    try {
      left = await this.#comparer.compare(shape, numbers)
    } finally {
      this.#comparing = 0
      const now = clock.monotonicMs()
      for (const turn of batch) {
        const delayMs = left.includes(turn.group) ? RETRY_MS : periodMs || Infinity
        turn.dueMs = now + delayMs
      }
      this.#compared += batch.length - left.length
    }
  }
}
