/**
 * What a peer does about the groups that list it: the start rule, resyncs, deletions of volumes,
 * and keeping tombstones while a group is not whole.
 */
import type { Cluster } from '../cluster/cluster.ts'
import { parseId64 } from '../cluster/ids.ts'
import { firstGroups, groupsUnder } from '../cluster/group-shape.ts'
import type { GroupRecords, KnownGroup } from '../cluster/groups.ts'
import type { Membership } from '../cluster/membership.ts'
import { DEFAULT_POOL } from '../cluster/pools.ts'
import type { PoolViews } from '../cluster/pool-views.ts'
import {
  decodeRecord,
  type DeletedRecord,
  type GroupRecord,
  type PoolRecord
} from '../cluster/records.ts'
import type { Arena } from '../core/arena.ts'
import { StoreError } from '../core/errors.ts'
import { TOMBSTONE_PAUSE_MS } from '../core/limits.ts'
import { type Follower, type Following, follow } from '../metadata/follow.ts'
import type { ShardedStore } from '../replication/block-store.ts'
import { ClusterFamilies } from '../replication/cluster-families.ts'
import type { Members, PoolShape } from '../replication/member.ts'
import { GroupScrub } from '../replication/group-scrub.ts'
import { giveBackRule, giveUpRule } from '../replication/reclaim-rules.ts'
import { Reclaimer, type ReclaimProgress } from '../replication/reclaimer.ts'
import { Resyncer } from '../replication/resync.ts'
import type { ResyncProgress } from '../replication/resync-progress.ts'
import type { ShardMemberService } from '../replication/shard-member-service.ts'
import { settleRestored } from '../replication/settle-restored.ts'
import { decideAtStart, settleAtStart } from '../replication/start-rule.ts'
import { Tombstones } from '../replication/tombstones.ts'
import { membersOf, parseRedundancy } from '../placement/redundancy.ts'
import { dropFamily } from '../volume/reclaim.ts'

const RETRY_MS = 1000
/** A disk that failed, or metadata that is away, is not back at once. */
const DELETION_RETRY_MS = 30_000

interface GroupId {
  readonly pool: number
  readonly group: number
}

/** Transactions of the start rule at a time. */
const SETTLING_MAX = 16

export interface GroupsHereParts {
  readonly self: { readonly peerId: string; readonly bootId: string }
  readonly cluster: Cluster
  readonly pools: PoolViews
  readonly membership: Membership
  readonly records: GroupRecords
  readonly service: ShardMemberService
  readonly local: ShardedStore
  readonly arena: Arena
  readonly members: Members
  /** Of all resyncs of this peer together; client I/O goes first anyway. */
  readonly resyncBytesPerSecond: number
  /** 0: groups are compared only when asked. */
  readonly scrubPeriodMs: number
  /** Tombstones are kept at least twice as long. */
  readonly tombstonePauseMs?: number
  /** Hears of every record of a group. */
  readonly onGroup: (pool: number, group: number, known: KnownGroup) => void
  readonly log: (
    level: 'info' | 'warn' | 'error',
    message: string,
    fields: Record<string, unknown>
  ) => void
}

export class GroupsHere {
  readonly #parts: GroupsHereParts
  readonly #resyncer: Resyncer
  readonly #reclaimer: Reclaimer
  /** Gives up old copies of groups that take this peer in anew. */
  readonly #joiner: Reclaimer
  /** What compares this peer with others, and repairs it from them. */
  readonly scrub: GroupScrub
  readonly #families: ClusterFamilies
  /** By number of pool. */
  readonly #following = new Map<number, Following>()
  /** Pools whose groups were all read once. */
  #readPools = 0
  readonly #tombstones: Tombstones
  /** Numbers of groups for which these are. */
  readonly #groups = new Map<string, number>()
  #deletions: Following | null = null
  /** The start rule for one group; null before the start. */
  #settle: ((id: GroupId) => Promise<unknown>) | null = null
  #closed = false

  constructor(parts: GroupsHereParts) {
    this.#parts = parts
    const { self, service, local, arena, members, records, membership, cluster, pools } = parts
    this.#families = new ClusterFamilies({
      cluster,
      poolOf: (volume) => pools.find(volume.pool ?? DEFAULT_POOL).number,
      drop: async (deleted) => {
        await dropFamily(local, deleted)
        const { high, low } = parseId64(deleted.family)
        service.fences.forgetFamily(high, low)
      }
    })
    const shared = {
      ...{ self, service, members, families: this.#families },
      ...{ store: local, arena, groups: records },
      isPresentBoot: (peerId: string, bootId: string) => membership.isPresentBoot(peerId, bootId),
      ...{ clock: cluster.clock, timers: cluster.timers, log: parts.log }
    }
    this.#resyncer = new Resyncer({ ...shared, bytesPerSecond: parts.resyncBytesPerSecond })
    const copies = (number: number): number =>
      copiesOf(pools.all().find((pool) => pool.number === number))
    this.#reclaimer = new Reclaimer({ ...shared, rule: giveBackRule(shared, copies) })
    this.#joiner = new Reclaimer({ ...shared, rule: giveUpRule(shared, records) })
    const { tombstonePauseMs: pauseMs = TOMBSTONE_PAUSE_MS } = parts
    this.#tombstones = new Tombstones({ ...shared, pauseMs })
    service.fences.onGroupRaised = (pool, group, epoch) => this.#tombstones.hear(pool, group, epoch)
    const { random } = cluster
    this.scrub = new GroupScrub({ ...shared, random, periodMs: parts.scrubPeriodMs })
  }

  get progress(): ResyncProgress {
    return this.#resyncer.progress
  }

  get reclaimed(): ReclaimProgress {
    return this.#reclaimer.progress
  }

  /** R13 and R14, for every group that lists this peer. @throws StoreError */
  async settleAtStart(): Promise<void> {
    const { pools, records, self, cluster, membership } = this.#parts
    const own = membership.peer(self.peerId)?.record.cleanPredecessor ?? null
    const started = {
      ...self,
      cleanPredecessor: own,
      counterFollows: cluster.bootCounterFollows
    }
    const hasAll = (peerId: string, bootId: string): boolean =>
      membership.isPresentBoot(peerId, bootId) || membership.endedCleanly(peerId, bootId)
    const memory = this.#parts.service.fences
    await settleRestored({ cluster, records, memory }, self, pools.all())
    const settle = (id: GroupId): ReturnType<typeof settleAtStart> =>
      settleAtStart(records, id, started, hasAll)
    this.#settle = settle
    const distrusted = new Set<string>()
    const decide = (record: GroupRecord) => decideAtStart(record, started, hasAll).kind
    for (;;) {
      // R45: what a group is split into meanwhile lists whom the group did.
      const waiting = await this.#listed((record) => decide(record) !== 'keep')
      const isDone = waiting.every(({ pool, group }) => distrusted.has(keyOf(pool, group)))
      if (isDone) break
      const work = async (): Promise<void> => {
        for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
          const key = keyOf(next.pool, next.group)
          if ((await settle(next)).distrusted) distrusted.add(key)
          else distrusted.delete(key)
        }
      }
      await Promise.all(Array.from({ length: SETTLING_MAX }, work))
    }
    if (distrusted.size === 0) return
    this.#parts.log('error', 'this disk is an older state of what the cluster knows', {
      groups: distrusted.size,
      advice: 'remove the peer, or say that its copy is to count'
    })
  }

  async #listed(isWanted: (record: GroupRecord) => boolean): Promise<GroupId[]> {
    const { pools, records } = this.#parts
    const found: GroupId[] = []
    for (const { number } of pools.all()) {
      for (const [group, { record }] of await records.readAll(number)) {
        if (isWanted(record)) found.push({ pool: number, group })
      }
    }
    return found
  }

  start(): void {
    const { pools, cluster } = this.#parts
    pools.onPool((pool) => this.#follow(pool))
    const { keys, store, timers } = cluster
    const follower: Follower = {
      onPut: ({ key, value }) => this.#applyDeletion(decodeRecord('deleted', key, value)),
      onDelete: () => {},
      onTrouble: (error) => this.#trouble('following deletions', error)
    }
    this.#deletions = follow(store, keys.deletions, follower, timers)
  }

  #applyDeletion(deleted: DeletedRecord): void {
    if (this.#closed) return
    this.#families.apply(deleted).catch((thrown: unknown) => {
      if (this.#closed) return
      this.#trouble(`the blocks of deleted volume ${deleted.name} are not given back yet`, thrown)
      this.#parts.cluster.timers.start(DELETION_RETRY_MS, () => this.#applyDeletion(deleted))
    })
  }

  close(): void {
    this.#closed = true
    this.#resyncer.close()
    this.#reclaimer.close()
    this.#joiner.close()
    this.scrub.close()
    this.#tombstones.close()
    this.#deletions?.stop()
    for (const following of this.#following.values()) following.stop()
  }

  #follow(pool: PoolRecord): void {
    if (this.#closed || this.#following.has(pool.number)) return
    this.#tombstones.isComplete = false
    const following = this.#parts.records.follow(pool.number, {
      onGroup: (group, known) => {
        this.#parts.onGroup(pool.number, group, known)
        this.#learn(pool, group, known)
      },
      onTrouble: (error) => this.#trouble(`following the groups of pool ${pool.name}`, error)
    })
    this.#following.set(pool.number, following)
    void following.ready.then(() => {
      this.#readPools++
      this.#tombstones.isComplete = this.#readPools === this.#following.size
    })
  }

  #learn(pool: PoolRecord, group: number, { record }: KnownGroup): void {
    const { self, service } = this.#parts
    const isOurs = ({ peer }: { peer: string }): boolean => peer === self.peerId
    const isBehind = record.epoch < service.fences.groupEpoch(pool.number, group)
    // R41: the number of groups is the record's, whatever the pool has by now.
    const shape = { pool: pool.number, groups: groupsUnder(record, firstGroups(pool)) }
    this.#hearOfSplit(shape, group, record)
    this.#tombstones.learn(pool.number, group, record, isBehind)
    const isSyncing = record.syncing.some(
      ({ peer, boot }) => peer === self.peerId && boot === self.bootId
    )
    this.#reclaimer.learn(shape, group, record)
    this.#joiner.learn(shape, group, record)
    this.scrub.learn(shape, group, record)
    if (isSyncing) this.#resyncer.want(shape, group)
    else if (record.syncing.some(isOurs)) this.#standIn({ pool: pool.number, group })
  }

  /** R13: somebody who had not heard of this start listed the boot before it. */
  #standIn(id: GroupId): void {
    const { self, membership, cluster } = this.#parts
    if (this.#settle === null || this.#closed) return
    if (!membership.isPresentBoot(self.peerId, self.bootId)) return
    this.#settle(id).catch((thrown: unknown) => {
      this.#trouble('a group lists an earlier start of this peer', thrown)
      cluster.timers.start(RETRY_MS, () => this.#standIn(id))
    })
  }

  /** R12: what came from a group together with this one is as it was, until its record is read. */
  #hearOfSplit({ pool, groups }: PoolShape, group: number, record: GroupRecord): void {
    const key = keyOf(pool, group)
    const before = this.#groups.get(key) ?? groups
    this.#groups.set(key, groups)
    for (let other = group + before; other < groups; other += before) {
      this.#tombstones.hear(pool, other, record.epoch)
    }
  }

  #trouble(what: string, thrown: unknown): void {
    if (!(thrown instanceof StoreError)) throw thrown
    this.#parts.log('warn', what, { reason: thrown.message })
  }
}

const keyOf = (pool: number, group: number): string => `${pool}/${group}`

/** More than there are peers where the pool is unknown: nothing is given back then. */
function copiesOf(pool: PoolRecord | undefined): number {
  return pool === undefined ? Number.POSITIVE_INFINITY : membersOf(parseRedundancy(pool.redundancy))
}
