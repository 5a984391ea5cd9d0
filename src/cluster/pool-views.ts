import type { Timers } from '../core/clock.ts'
import { type Follower, type Following, follow } from '../metadata/follow.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { parseRedundancy } from '../placement/redundancy.ts'
import { sliced } from '../core/steps.ts'
import { planningTargets, type Targets } from '../placement/targets.ts'
import type { Cluster } from './cluster.ts'
import { areSame, type PlannedPeer, plannedPeerOf, ringOf } from './controller-plan.ts'
import { firstGroups, leastGroups } from './group-shape.ts'
import type { PoolView } from './group-table.ts'
import type { Membership } from './membership.ts'
import { writeMinimumOf } from './pools.ts'
import { decodeRecord, type PoolRecord } from './records.ts'

/** A pool as gateways see it, and always as its record is now. */
class FollowedPool implements PoolView {
  record: PoolRecord
  readonly #membership: Membership
  readonly #timers: Timers
  #targets: Promise<Targets | null> = Promise.resolve(null)
  /** Of the targets. */
  #peers: readonly PlannedPeer[] = []
  #membershipVersion = -1

  constructor(record: PoolRecord, membership: Membership, timers: Timers) {
    this.record = record
    this.#membership = membership
    this.#timers = timers
  }

  get number(): number {
    return this.record.number
  }

  get name(): string {
    return this.record.name
  }

  get groups(): number {
    return this.record.groups
  }

  get leastGroups(): number {
    return leastGroups(this.record)
  }

  get firstGroups(): number {
    return firstGroups(this.record)
  }

  get writeMinimum(): number {
    return writeMinimumOf(this.record)
  }

  /** Peers that are up come before none at all: a new group begins on those. */
  async place(group: number): Promise<readonly string[]> {
    if (this.#membershipVersion !== this.#membership.version) this.#look()
    const members = (await this.#targets)?.membersOf(group) ?? []
    return members.filter((peer) => peer !== null)
  }

  renew(record: PoolRecord): void {
    this.record = record
    this.#peers = []
    this.#membershipVersion = -1
  }

  /** Most of what changes about peers changes no ring. */
  #look(): void {
    this.#membershipVersion = this.#membership.version
    const peers = this.#membership.peers().map((view) => ({
      ...plannedPeerOf(view),
      isLost: view.alive === null,
      replacedBy: null
    }))
    if (areSame(this.#peers, peers)) return
    this.#peers = peers
    this.#targets = this.#plan(peers)
  }

  async #plan(peers: readonly PlannedPeer[]): Promise<Targets | null> {
    try {
      const redundancy = parseRedundancy(this.record.redundancy)
      const ring = ringOf(this.record, peers)
      return await sliced(planningTargets({ redundancy, ring }, null), this.#timers)
    } catch (thrown) {
      if (thrown instanceof StoreError && thrown.code === ErrorCode.InvalidArgument) return null
      throw thrown
    }
  }
}

/** The pools of the cluster, followed. */
export class PoolViews {
  readonly #membership: Membership
  readonly #timers: Timers
  readonly #pools = new Map<string, FollowedPool>()
  readonly #listeners: ((pool: PoolRecord) => void)[] = []
  readonly #following: Following

  constructor(cluster: Cluster, membership: Membership, onTrouble: (error: StoreError) => void) {
    this.#membership = membership
    this.#timers = cluster.timers
    const { keys, store, timers } = cluster
    const follower: Follower = {
      onPut: ({ key, value }) => this.#learn(decodeRecord('pool', key, value)),
      onDelete: () => {},
      onTrouble
    }
    this.#following = follow(store, keys.pools, follower, timers)
  }

  get ready(): Promise<void> {
    return this.#following.ready
  }

  /** @throws StoreError NotFound */
  find(name: string): PoolView {
    const pool = this.#pools.get(name)
    if (pool !== undefined) return pool
    throw new StoreError(ErrorCode.NotFound, `there is no pool ${JSON.stringify(name)}`)
  }

  all(): PoolRecord[] {
    return [...this.#pools.values()].map(({ record }) => record)
  }

  /** `listener` is called with every pool that is known, new or changed. */
  onPool(listener: (pool: PoolRecord) => void): void {
    this.#listeners.push(listener)
    for (const { record } of this.#pools.values()) listener(record)
  }

  close(): void {
    this.#following.stop()
  }

  #learn(record: PoolRecord): void {
    const known = this.#pools.get(record.name)
    if (known === undefined) {
      this.#pools.set(record.name, new FollowedPool(record, this.#membership, this.#timers))
    } else known.renew(record)
    for (const listener of this.#listeners) listener(record)
  }
}
