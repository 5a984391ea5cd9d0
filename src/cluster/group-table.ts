import { ErrorCode, StoreError } from '../core/errors.ts'
import { TRANSACTION_ATTEMPTS_MAX } from '../core/limits.ts'
import type { Following } from '../metadata/follow.ts'
import type { Compare } from '../metadata/store.ts'
import type { Cluster } from './cluster.ts'
import { groupsUnder, leastGroups, newSplit } from './group-shape.ts'
import { GroupRecords, type KnownGroup } from './groups.ts'
import { decodeRecord, type GroupMember, type GroupRecord } from './records.ts'

/** A pool as its gateways see it. */
export interface PoolView {
  readonly number: number
  readonly name: string
  /** A power of two. It grows when the pool is split. */
  readonly groups: number
  /** The least number of groups for which there may be records: fewer while it is being split. */
  readonly leastGroups: number
  /** What a record means that names no number of groups. */
  readonly firstGroups: number
  /** Members in sync below which writes wait. */
  readonly writeMinimum: number
  /** Peers on which the ring puts a group, best first: where a group that is new begins. */
  place(group: number): Promise<readonly string[]>
}

/** What must still be so for a change of a group: the writer record of the gateway, R8. */
export interface Claim {
  readonly key: string
  readonly modRevision: number
}

export type RemovalResult =
  | { readonly kind: 'done'; readonly known: KnownGroup }
  /** Nothing was changed: too few would be left. */
  | { readonly kind: 'belowMinimum' }
  /** A claim does not hold any more. */
  | { readonly kind: 'fenced'; readonly claim: Claim }

type Listener = (pool: number, group: number, known: KnownGroup) => void

/**
 * Group records as a gateway sees them: read when a pool is first used, followed from then on.
 * What is cached may be behind; `refresh` is not. Changes by this process are seen at once.
 */
export class GroupTable {
  readonly #cluster: Cluster
  readonly #records: GroupRecords
  readonly #onTrouble: (error: StoreError) => void
  readonly #known = new Map<string, KnownGroup>()
  readonly #following = new Map<number, Following>()
  readonly #listeners: Listener[] = []

  constructor(cluster: Cluster, onTrouble: (error: StoreError) => void = () => {}) {
    this.#cluster = cluster
    this.#records = new GroupRecords(cluster)
    this.#onTrouble = onTrouble
  }

  /** `listener` is called with every group that is new or changed; never with an older one. */
  onChange(listener: Listener): void {
    this.#listeners.push(listener)
  }

  /** Null while the group has no record, as far as is known here. */
  get(pool: number, group: number): KnownGroup | null {
    return this.#known.get(cacheKey(pool, group)) ?? null
  }

  /** Follows the pool's groups; resolves when all that were there are known. */
  open(pool: number): Promise<void> {
    let following = this.#following.get(pool)
    if (following === undefined) {
      following = this.#records.follow(pool, {
        onGroup: (group, known) => this.#learn(pool, group, known),
        onTrouble: this.#onTrouble
      })
      this.#following.set(pool, following)
    }
    return following.ready
  }

  /** As the record is now. */
  async refresh(pool: number, group: number): Promise<KnownGroup | null> {
    const known = await this.#records.read(pool, group)
    if (known !== null) this.#learn(pool, group, known)
    return known
  }

  /** All records of the pool as they are now, or newer. */
  async refreshAll(pool: number): Promise<Map<number, KnownGroup>> {
    const all = await this.#records.readAll(pool)
    for (const [group, known] of all) this.#learn(pool, group, known)
    return all
  }

  /**
   * The group's record; one is made if there is none: the peers where the ring puts it that are
   * up, under their present boots. It never held anything, so all of them are in sync. Of `groups`
   * groups, which may not be what the pool has any more (R44).
   * @throws StoreError NoQuorum while fewer are up than writes need, or while peers may know of it
   * that have not started since the metadata was restored; Closed when `claim` is lost; Conflict
   */
  async ensure(
    pool: PoolView,
    { group, groups }: { readonly group: number; readonly groups: number },
    claim: Claim
  ): Promise<KnownGroup> {
    for (let attempt = 0; attempt < TRANSACTION_ATTEMPTS_MAX; attempt++) {
      const known = await this.refresh(pool.number, group)
      if (known !== null) return known
      const shape = await this.#shapeOf(pool, group, groups)
      const members = [...(await pool.place(group))]
      const { inSync, guards } = await this.#running(members)
      const { epochFloor, guard } = await this.#restoreOf(pool.number, group)
      if (inSync.length < Math.max(1, pool.writeMinimum)) {
        const text = `group ${pool.number}/${group}: ${inSync.length} of its peers are up`
        throw new StoreError(ErrorCode.NoQuorum, `${text}, ${pool.writeMinimum} are needed`)
      }
      const record = { members, inSync, syncing: [], ...newSplit(groups, pool.firstGroups) }
      const all = [...guards, guard, shape, claim]
      const { number } = pool
      const made = await this.#records.change(number, group, null, record, all, epochFloor)
      if (made !== null) {
        this.#learn(pool.number, group, made)
        return made
      }
      if (!(await this.holds(claim))) {
        throw new StoreError(ErrorCode.Closed, 'another gateway has the writer lease')
      }
    }
    throw new StoreError(ErrorCode.Conflict, `group ${pool.number}/${group} changes all the time`)
  }

  /**
   * Takes `entries` out of the group, those that are in it still. `mayStay` decides about what
   * would be left: false leaves all as it is. @throws StoreError of the store
   */
  async remove(
    pool: PoolView,
    group: number,
    entries: readonly GroupMember[],
    claims: readonly Claim[],
    mayStay: (inSync: readonly GroupMember[]) => boolean = () => true
  ): Promise<RemovalResult> {
    for (let attempt = 0; attempt < TRANSACTION_ATTEMPTS_MAX; attempt++) {
      const known = await this.refresh(pool.number, group)
      if (known === null) {
        throw new StoreError(ErrorCode.NotFound, `group ${pool.number}/${group} has no record`)
      }
      const { record } = known
      // It tells who was in sync at some time: to be settled first.
      if (record.restored !== undefined) return { kind: 'belowMinimum' }
      const left = without(record, entries)
      const inSyncChanges = left.inSync.length < record.inSync.length
      const changes = inSyncChanges || left.syncing.length < record.syncing.length
      if (!changes) return { kind: 'done', known }
      if (inSyncChanges && (left.inSync.length < pool.writeMinimum || !mayStay(left.inSync))) {
        return { kind: 'belowMinimum' }
      }
      const changed = await this.#records.change(pool.number, group, known, left, claims)
      if (changed !== null) {
        this.#learn(pool.number, group, changed)
        return { kind: 'done', known: changed }
      }
      for (const claim of claims) {
        if (!(await this.holds(claim))) return { kind: 'fenced', claim }
      }
    }
    throw new StoreError(ErrorCode.Conflict, `group ${pool.number}/${group} changes all the time`)
  }

  async holds(claim: Claim): Promise<boolean> {
    const entry = await this.#cluster.store.get(claim.key)
    return entry?.modRevision === claim.modRevision
  }

  /** The boot that followed `bootId` after a clean end, and runs or ran last; null: none did. */
  async cleanSuccessor(peerId: string, bootId: string): Promise<string | null> {
    const { keys, store } = this.#cluster
    const entry = await store.get(keys.peer(peerId))
    if (entry === null) return null
    const record = decodeRecord('peer', keys.peer(peerId), entry.value)
    return record.cleanPredecessor === bootId ? record.bootId : null
  }

  close(): void {
    for (const following of this.#following.values()) following.stop()
    this.#following.clear()
  }

  /** Those of `peers` that are up, and guards that they are still when the group is made. */
  async #running(
    peers: readonly string[]
  ): Promise<{ inSync: GroupMember[]; guards: readonly Compare[] }> {
    const { keys, store } = this.#cluster
    const inSync: GroupMember[] = []
    const guards: Compare[] = []
    const asked = peers.map((peer) => ({ get: keys.alive(peer) }))
    const { entries } = await store.transact({ success: asked })
    for (const [at, entry] of entries.entries()) {
      if (entry === null) continue
      const { bootId } = decodeRecord('alive', entry.key, entry.value)
      inSync.push({ peer: peers[at]!, boot: bootId })
      // A boot that registers later reads the groups after that, and finds itself in this one.
      guards.push({ key: entry.key, modRevision: entry.modRevision })
    }
    return { inSync, guards }
  }

  /** R44: nobody has begun to split the pool into more, and what this came from has no record. */
  async #shapeOf(pool: PoolView, group: number, groups: number): Promise<Compare> {
    const { keys, store } = this.#cluster
    const key = keys.pool(pool.name)
    const entry = await store.get(key)
    const guard = { key, modRevision: entry?.modRevision ?? 0 }
    const record = entry === null ? null : decodeRecord('pool', key, entry.value)
    if (record?.groups !== groups) {
      const text = `group ${pool.number}/${group} is of ${groups}, and its pool has another number`
      throw new StoreError(ErrorCode.Conflict, text)
    }
    // Who makes a record of a parent compares that of the pool, so that none comes any more.
    for (let before = leastGroups(record); before < groups; before *= 2) {
      const parent = group & (before - 1)
      const known = parent === group ? null : await this.refresh(pool.number, parent)
      if (known === null || groupsUnder(known.record, pool.firstGroups) > before) continue
      const text = `group ${pool.number}/${parent} is not split yet into ${group}`
      throw new StoreError(ErrorCode.Conflict, text)
    }
    return guard
  }

  /** R31: whether a group is new can be told once every peer said what it remembers. */
  async #restoreOf(pool: number, group: number): Promise<{ epochFloor: number; guard: Compare }> {
    const { keys, store } = this.#cluster
    const key = keys.restore
    const entry = await store.get(key)
    const guard = { key, modRevision: entry?.modRevision ?? 0 }
    if (entry === null) return { epochFloor: 0, guard }
    const { epochFloor, pendingPeers } = decodeRecord('restore', key, entry.value)
    if (pendingPeers.length === 0) return { epochFloor, guard }
    const text = `group ${pool}/${group} is not in the metadata that was restored, and `
    const missing = `${pendingPeers.length} peers that may know it have not started since`
    throw new StoreError(ErrorCode.NoQuorum, text + missing)
  }

  #learn(pool: number, group: number, known: KnownGroup): void {
    const key = cacheKey(pool, group)
    const old = this.#known.get(key)
    if (old !== undefined && old.modRevision >= known.modRevision) return
    this.#known.set(key, known)
    for (const listener of this.#listeners) listener(pool, group, known)
  }
}

const cacheKey = (pool: number, group: number): string => `${pool}/${group}`

function without(
  record: GroupRecord,
  entries: readonly GroupMember[]
): Pick<GroupRecord, 'members' | 'inSync' | 'syncing'> {
  const stays = ({ peer, boot }: GroupMember): boolean =>
    !entries.some((entry) => entry.peer === peer && entry.boot === boot)
  return {
    members: record.members,
    inSync: record.inSync.filter(stays),
    syncing: record.syncing.filter(stays)
  }
}
