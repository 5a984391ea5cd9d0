import type { Timers } from '../core/clock.ts'
import { sliced } from '../core/steps.ts'
import {
  areSame,
  type PlanLimits,
  type PlannedPeer,
  planPool,
  type PoolPlan
} from './controller-plan.ts'
import type { KnownGroup } from './groups.ts'
import type { PoolRecord } from './records.ts'

/** The groups of a pool as they are followed. */
export class FollowedGroups {
  readonly known: Map<number, KnownGroup> = new Map()
  /** Counts changes. */
  version = 0

  /** Whom a change names may have answered before that change is known to have succeeded. */
  set(group: number, known: KnownGroup): void {
    if ((this.known.get(group)?.modRevision ?? 0) > known.modRevision) return
    this.known.set(group, known)
    this.version++
  }

  delete(group: number): void {
    this.known.delete(group)
    this.version++
  }
}

interface Inputs {
  readonly pool: PoolRecord
  readonly version: number
  readonly peers: readonly PlannedPeer[]
  readonly isStaged: boolean
}

/**
 * The plan of one pool. A plan of very many groups takes a while, of which others get their turns;
 * it is made only when something changed: most of the time nothing does.
 */
export class PoolPlanner {
  readonly #limits: Omit<PlanLimits, 'isStaged'>
  readonly #timers: Timers
  #inputs: Inputs | null = null
  #plan: PoolPlan | null = null

  constructor(limits: Omit<PlanLimits, 'isStaged'>, timers: Timers) {
    this.#limits = limits
    this.#timers = timers
  }

  /** As of the call, however long it takes. @throws StoreError as `planPool` does */
  async plan(
    pool: PoolRecord,
    groups: FollowedGroups,
    peers: readonly PlannedPeer[],
    isStaged: boolean
  ): Promise<PoolPlan> {
    const inputs = { pool, version: groups.version, peers, isStaged }
    if (this.#plan !== null && isSame(this.#inputs!, inputs)) return this.#plan
    this.#plan = null
    const known = new Map(groups.known)
    const limits = { ...this.#limits, isStaged }
    const plan = await sliced(planPool(pool, known, peers, limits), this.#timers)
    this.#inputs = inputs
    this.#plan = plan
    return plan
  }
}

const isSame = (one: Inputs, other: Inputs): boolean =>
  one.pool === other.pool &&
  one.version === other.version &&
  one.isStaged === other.isStaged &&
  areSame(one.peers, other.peers)
