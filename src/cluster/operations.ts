import { ErrorCode, StoreError } from '../core/errors.ts'
import { sliced } from '../core/steps.ts'
import { membersOf, parseRedundancy } from '../placement/redundancy.ts'
import type { Cluster } from './cluster.ts'
import type { Controller } from './controller.ts'
import { type PlannedPeer, plannedPeerOf } from './controller-plan.ts'
import { splittingOf } from './pool-splitter.ts'
import { GroupRecords, type KnownGroup, SharedReads } from './groups.ts'
import {
  acceptLoss,
  type Acceptance,
  type WaitingGroup,
  type WaitingGroups,
  waitingGroups
} from './losses.ts'
import type { Membership, PeerView } from './membership.ts'
import { type NewPool, type PoolChange, type Pools, writeMinimumOf } from './pools.ts'
import type { GroupRecord, PeerRecord, PoolRecord } from './records.ts'
import { degradedWithout, requirePlaceable, sharedText } from './redundancy-checks.ts'
import { type RingView, ringViewOf } from './ring-view.ts'
import { finalizeCluster, type UpgradeState, upgradeStateOf } from './finalize.ts'
import { changeSettings, readSettings, type Settings, type SettingsChange } from './settings.ts'

/** A peer and what its copies are worth. */
export interface PeerSummary {
  readonly view: PeerView
  /** Groups in which it is, by state. */
  readonly inSync: number
  readonly syncing: number
}

/** How a pool's groups are. */
export interface PoolSummary {
  readonly pool: PoolRecord
  readonly writeMinimum: number
  /** Groups that have a record: the others hold nothing yet. */
  readonly groupsUsed: number
  /** Groups with fewer members in sync that are up than the redundancy asks for. */
  readonly degraded: number
  /** Groups whose writes wait. */
  readonly belowMinimum: number
  /** Groups that nobody who is up has in sync. */
  readonly unavailable: number
  /** Who is down and has them. */
  readonly awaited: readonly string[]
  readonly syncing: number
  /** Its groups are being split into so many; those that are in use and not split yet. */
  readonly splitting: { readonly to: number; readonly left: number } | null
}

export interface PeerChange {
  readonly labels?: Readonly<Record<string, string>>
  readonly weight?: number | null
  readonly drained?: boolean
  /** Milliseconds from now; 0 ends it. */
  readonly maintenanceMs?: number
}

/** What operators do to a cluster, on any of its peers. */
export class ClusterOperations {
  readonly #cluster: Cluster
  readonly #membership: Membership
  readonly #controller: Controller
  readonly #records: GroupRecords
  readonly #looks: SharedReads
  readonly pools: Pools

  constructor(parts: {
    readonly cluster: Cluster
    readonly membership: Membership
    readonly controller: Controller
    readonly pools: Pools
  }) {
    this.#cluster = parts.cluster
    this.#membership = parts.membership
    this.#controller = parts.controller
    this.#records = new GroupRecords(parts.cluster)
    this.#looks = new SharedReads(this.#records)
    this.pools = parts.pools
  }

  get #parts(): { readonly cluster: Cluster; readonly membership: Membership } {
    return { cluster: this.#cluster, membership: this.#membership }
  }

  get clusterId(): string {
    return this.#cluster.self.clusterId
  }

  /** Peer id of the elected controller, null while there is none. */
  get controller(): string | null {
    return this.#controller.elected
  }

  async peers(): Promise<PeerSummary[]> {
    const inSync = new Map<string, number>()
    const syncing = new Map<string, number>()
    const count = (into: Map<string, number>, peer: string): void => {
      into.set(peer, (into.get(peer) ?? 0) + 1)
    }
    for (const pool of await this.pools.list()) {
      for (const { record } of (await this.#looks.readAll(pool.number)).values()) {
        for (const { peer } of record.inSync) count(inSync, peer)
        for (const { peer } of record.syncing) count(syncing, peer)
      }
    }
    return this.#membership.peers().map((view) => ({
      view,
      inSync: inSync.get(view.record.peerId) ?? 0,
      syncing: syncing.get(view.record.peerId) ?? 0
    }))
  }

  async poolSummaries(): Promise<PoolSummary[]> {
    const pools = await this.pools.list()
    return Promise.all(
      pools.map(async (pool) => this.#summaryOf(pool, await this.#looks.readAll(pool.number)))
    )
  }

  /** A peer by its id, or by the beginning of it that no other has. @throws StoreError NotFound */
  find(name: string): PeerView {
    const found = this.#membership.peers().filter(({ record }) => record.peerId.startsWith(name))
    if (found.length === 1 && name !== '') return found[0]!
    const why = found.length === 0 || name === '' ? 'there is no peer' : 'several peers begin with'
    throw new StoreError(ErrorCode.NotFound, `${why} ${JSON.stringify(name)}`)
  }

  changePeer(peerId: string, change: PeerChange): Promise<PeerRecord> {
    const { labels, weight, drained, maintenanceMs } = change
    if (weight !== undefined && weight !== null && !(weight >= 0 && weight <= 2 ** 53)) {
      throw new StoreError(ErrorCode.InvalidArgument, `weight ${weight} is not from 0 to 2^53`)
    }
    const until =
      maintenanceMs === undefined || maintenanceMs === 0
        ? null
        : new Date(this.#cluster.clock.wallMs() + maintenanceMs).toISOString()
    this.#requireMembership()
    return this.#membership.change(peerId, (record) => {
      if (drained !== undefined) refusePending(record)
      return {
        ...(labels === undefined ? {} : { labels: withLabels(record.labels, labels) }),
        ...(weight === undefined ? {} : { weight }),
        ...(drained === undefined ? {} : { state: drained ? 'drained' : 'active' }),
        ...(drained === false ? { replacedBy: null } : {}),
        ...(maintenanceMs === undefined ? {} : { maintenanceUntil: until })
      }
    })
  }

  /** Lets a pending peer in; of any other it changes nothing. @throws StoreError NotFound */
  addPeer(peerId: string): Promise<PeerRecord> {
    this.#requireMembership()
    return this.#membership.change(peerId, ({ state }) =>
      state === 'pending' ? { state: 'active' } : {}
    )
  }

  /**
   * `newId` gets every copy that `oldId` has, or had if it is down; then the old one holds nothing
   * and can be removed.
   * @throws StoreError NotFound; InvalidArgument when the new one cannot hold data, or has
   * it already
   */
  async replacePeer(oldId: string, newId: string): Promise<PeerRecord> {
    this.#requireMembership()
    const replacing = this.#membership.peer(newId)
    if (replacing === null || this.#membership.peer(oldId) === null) throw notFound(oldId, newId)
    refusePending(replacing.record)
    const why =
      oldId === newId
        ? 'it cannot replace itself'
        : replacing.record.state === 'drained'
          ? 'it is drained'
          : replacing.alive === null
            ? 'it is down'
            : null
    if (why !== null) throw new StoreError(ErrorCode.InvalidArgument, `peer ${newId}: ${why}`)
    const pools = await this.pools.list()
    for (const pool of pools) {
      const groups = [...(await this.#records.readAll(pool.number)).values()]
      const parts = { peers: this.#membership.peers(), oldId, newId }
      const shared = sharedText(
        pool,
        groups.map(({ record }) => record),
        parts
      )
      if (shared === null) continue
      throw new StoreError(ErrorCode.InvalidArgument, `peer ${newId}: ${shared}`)
    }
    for (const { name, peers } of pools) {
      if (peers?.includes(oldId) !== true) continue
      const others = peers.filter((peer) => peer !== oldId && peer !== newId)
      await this.pools.set(name, { peers: [...others, newId] })
    }
    return this.#membership.change(oldId, () => ({ state: 'drained', replacedBy: newId }))
  }

  async waitingGroups(): Promise<WaitingGroups> {
    return waitingGroups(this.#parts, await this.pools.list(), this.#looks)
  }

  /** @throws StoreError NotFound, Busy */
  async acceptLoss(accepted: Acceptance): Promise<WaitingGroup[]> {
    this.#requireMembership()
    return acceptLoss(this.#parts, await this.pools.list(), accepted)
  }

  settings(): Promise<Settings> {
    return readSettings(this.#cluster)
  }

  async changeSettings(change: SettingsChange): Promise<Settings> {
    this.#requireMembership()
    return changeSettings(this.#cluster, change)
  }

  /** Of what is followed. */
  get upgrade(): UpgradeState {
    const records = this.#membership.peers().map(({ record }) => record)
    return upgradeStateOf(this.#cluster.features.level, records)
  }

  /** @throws StoreError Busy when peers do not know the level that this program brings */
  async finalize(dryRun: boolean): Promise<UpgradeState> {
    this.#requireMembership()
    return finalizeCluster(this.#cluster, dryRun)
  }

  /** @throws StoreError NotFound */
  async ring(name: string): Promise<RingView> {
    const pool = await this.pools.get(name)
    const groups = await this.#records.readAll(pool.number)
    return sliced(ringViewOf(pool, groups, this.#plannedPeers()), this.#cluster.timers)
  }

  /**
   * The peer never comes back as it is; its copies are made anew from others at once.
   * @throws StoreError Busy without `force`: it is up, nobody else has what it has, or there are
   * too few others for all copies
   */
  async removePeer(peerId: string, force: boolean): Promise<void> {
    this.#requireMembership()
    const view = this.#membership.peer(peerId)
    if (view === null) throw new StoreError(ErrorCode.NotFound, `there is no peer ${peerId}`)
    if (!force) {
      const reasons = await this.#whyToKeep(view)
      if (reasons.length > 0) {
        const text = `peer ${peerId} is not removed: ${reasons.join('; and ')}`
        throw new StoreError(ErrorCode.Busy, text)
      }
    }
    await this.#membership.change(peerId, () => ({ state: 'removed' }))
  }

  /** What would be lost, what would stay degraded, and what is to be done before. */
  async #whyToKeep({ record: { peerId, state }, alive }: PeerView): Promise<string[]> {
    const only: string[] = []
    const degraded: string[] = []
    let holds = 0
    for (const pool of await this.pools.list()) {
      let inPool = 0
      for (const [group, { record }] of await this.#records.readAll(pool.number)) {
        if (!record.inSync.some(({ peer }) => peer === peerId)) continue
        inPool++
        if (!this.#survivesWithout(pool, record, peerId)) only.push(`${pool.name}/${group}`)
      }
      holds += inPool
      const text = degradedWithout(pool, this.#membership.peers(), { peerId, holds: inPool })
      if (text !== null) degraded.push(text)
    }
    const reasons: string[] = []
    if (only.length > 0) {
      const shown = only.slice(0, 3).join(', ')
      const text = `${only.length} groups (${shown}…) have too few other copies in sync`
      reasons.push(`${text} and would be lost`)
    }
    reasons.push(...degraded)
    if (alive !== null && holds > 0) {
      const advice = state === 'drained' ? 'wait until they are elsewhere' : 'drain it first'
      reasons.push(`it is up and has ${holds} groups in sync: ${advice}`)
    }
    return reasons
  }

  /** @throws StoreError InvalidArgument, or Busy without `force`: the peers cannot satisfy it */
  async createPool(pool: NewPool, force = false): Promise<PoolRecord> {
    this.#requireMembership()
    if (parseRedundancy(pool.redundancy).kind === 'erasure') {
      const text = `${pool.redundancy}: erasure-coded pools are not there yet, use replicated:N`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    for (const peer of pool.peers ?? []) this.find(peer)
    const draft = { ...(await this.#draftOf(pool)) }
    requirePlaceable(draft, null, { peers: this.#membership.peers(), force })
    return this.pools.create(pool)
  }

  /** @throws StoreError NotFound, InvalidArgument; Busy: see `createPool` */
  async changePool(name: string, change: PoolChange, force = false): Promise<PoolRecord> {
    this.#requireMembership()
    const { groups: _, ...plain } = change
    const old = await this.pools.get(name)
    requirePlaceable({ ...old, ...plain }, old, { peers: this.#membership.peers(), force })
    return this.pools.set(name, change)
  }

  async #draftOf(pool: NewPool): Promise<PoolRecord> {
    const { redundancy, failureDomain = 'host', ring = 'ketama', peers = null } = pool
    return {
      v: 1,
      name: pool.name,
      number: 0,
      redundancy,
      failureDomain,
      ring,
      groups: pool.groups ?? 1,
      seed: 0,
      writeMinimum: null,
      peers: peers === null ? null : [...peers],
      createdAt: this.#cluster.nowText()
    }
  }

  #plannedPeers(): PlannedPeer[] {
    return this.#membership.peers().map(plannedPeerOf)
  }

  /** Who is not let in yet must not let itself in, nor change anything else. */
  #requireMembership(): void {
    const { peerId } = this.#cluster.self
    if (this.#membership.peer(peerId)?.record.state !== 'pending') return
    const text = `this peer (${peerId}) is not part of the cluster yet`
    const advice = `let it in on another one with "torus peer add ${peerId.slice(0, 8)}"`
    throw new StoreError(ErrorCode.Forbidden, `${text}: ${advice}`)
  }

  #survivesWithout(pool: PoolRecord, record: GroupRecord, peerId: string): boolean {
    const others = this.#upInSync(record).filter((peer) => peer !== peerId)
    const wanted = Math.min(writeMinimumOf(pool), record.inSync.length)
    return others.length >= Math.max(1, wanted)
  }

  #upInSync(record: GroupRecord): string[] {
    return record.inSync
      .filter(({ peer, boot }) => this.#membership.isPresentBoot(peer, boot))
      .map(({ peer }) => peer)
  }

  #summaryOf(pool: PoolRecord, groups: ReadonlyMap<number, KnownGroup>): PoolSummary {
    const wanted = membersOf(parseRedundancy(pool.redundancy))
    const writeMinimum = writeMinimumOf(pool)
    let degraded = 0
    let belowMinimum = 0
    let unavailable = 0
    const awaited = new Set<string>()
    let syncing = 0
    for (const { record } of groups.values()) {
      const up = this.#upInSync(record).length
      if (up < wanted) degraded++
      if (up < Math.min(writeMinimum, record.inSync.length)) belowMinimum++
      if (up === 0) {
        unavailable++
        for (const { peer } of record.inSync) {
          const view = this.#membership.peer(peer)
          if (view?.alive === null && view.record.state !== 'removed') awaited.add(peer)
        }
      }
      if (record.syncing.length > 0) syncing++
    }
    const groupsUsed = groups.size
    const counts = { degraded, belowMinimum, unavailable, syncing }
    const splitting = splittingOf(pool, groups)
    return { pool, writeMinimum, groupsUsed, ...counts, awaited: [...awaited], splitting }
  }
}

const notFound = (...ids: readonly string[]): StoreError =>
  new StoreError(ErrorCode.NotFound, `there is no peer ${ids.join(', or no peer ')}`)

function refusePending({ state, peerId }: PeerRecord): void {
  if (state !== 'pending') return
  const text = `peer ${peerId} is not part of the cluster yet: let it in with "torus peer add"`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

/** An empty value takes a label away. */
function withLabels(
  old: Readonly<Record<string, string>>,
  change: Readonly<Record<string, string>>
): Record<string, string> {
  const entries = Object.entries({ ...old, ...change })
  return Object.fromEntries(entries.filter(([, value]) => value !== ''))
}
