/**
 * The elected peer that looks after groups (PROTOCOL.md, R25): removes members that are lost,
 * lists new ones, drops those that are no longer wanted. Every peer runs one of these; the one
 * whose lease holds the key does something.
 */
import type { Timers } from '../core/clock.ts'
import { StoreError } from '../core/errors.ts'
import { type Follower, type Following, follow } from '../metadata/follow.ts'
import type { Compare } from '../metadata/store.ts'
import type { Cluster } from './cluster.ts'
import { type PlannedPeer, isFull, type PoolPlan, plannedPeerOf } from './controller-plan.ts'
import { DeletionKeeper } from './deletions.ts'
import { GroupRecords } from './groups.ts'
import type { Membership, PeerView } from './membership.ts'
import { FollowedGroups, PoolPlanner } from './pool-planner.ts'
import { PoolSplitter } from './pool-splitter.ts'
import { decodeRecord, encodeRecord, type PoolRecord } from './records.ts'
import { Rests } from './rests.ts'
import type { Session } from './session.ts'

/** Between two looks; what changes meanwhile waits no longer than that. */
const ROUND_MS = 1000
/** While data is being moved: groups that hold little are done in milliseconds. */
const BUSY_ROUND_MS = 100
/** In a report: whose progress somebody may look at. */
const REPORTED_PEERS_MAX = 1024
const LIMITS = { syncsMax: 256, syncsPerPeerMax: 16, changesMax: 64 }

export interface ControllerOptions {
  readonly cluster: Cluster
  readonly session: Session
  readonly membership: Membership
  readonly timers: Timers
  /** How long a peer may be away, as this process itself saw it, before copies are made anew. */
  readonly downAfterMs: number
  readonly log: (
    level: 'info' | 'warn' | 'error',
    message: string,
    fields: Record<string, unknown>
  ) => void
}

/** What the elected one sees and is about. */
export interface ControllerReport {
  /** Why nothing is done, '' when something may be. */
  readonly paused: string
  /** Why groups of a pool have fewer members than they should. */
  readonly shortages: { readonly pool: string; readonly text: string }[]
  /** Copies that each peer is to get and that were not begun. */
  readonly addsLeft: { readonly peer: string; readonly groups: number }[]
}

/** Who is elected, as the metadata says. */
interface Holder {
  readonly peer: string
  readonly bootId: string
  readonly modRevision: number
}

interface FollowedPool {
  readonly groups: FollowedGroups
  readonly planner: PoolPlanner
  readonly following: Following
  ready: boolean
}

export class Controller {
  readonly #options: ControllerOptions
  readonly #records: GroupRecords
  readonly #splitter: PoolSplitter
  readonly #deletions: DeletionKeeper
  readonly #followed = new Map<number, FollowedPool>()
  readonly #plans = new Map<string, PoolPlan>()
  readonly #rests = new Rests()
  readonly #pools = new Map<string, PoolRecord>()
  #following: Following[] = []
  #isReady = false
  /** The election as it is known here; null while nobody is elected. */
  #holder: Holder | null = null
  /** Revision in which this process was elected, 0 when it is not. */
  #electedRevision = 0
  /** Since when it has seen everything without interruption. */
  #watchingSinceMs = 0
  #paused = ''
  #cancel: () => void = () => {}
  #closed = false
  #isBusy = false
  /** The next round is soon, or under way. */
  #isHurried = false
  readonly #seenUp = new Set<string>()
  #round: Promise<void> = Promise.resolve()

  constructor(options: ControllerOptions) {
    this.#options = options
    this.#records = new GroupRecords(options.cluster)
    this.#splitter = new PoolSplitter(options.cluster, this.#records)
    this.#deletions = new DeletionKeeper(options.cluster, options.membership)
    options.session.onReplaced(() => this.#depose())
  }

  /** Follows the election and the pools: without changes it asks the metadata for nothing. */
  start(): void {
    const { keys, store, timers } = this.#options.cluster
    const onTrouble = (error: StoreError): void => this.#noteTrouble(error)
    const election: Follower = {
      onPut: ({ key, value, modRevision }) => {
        const { peer, bootId } = decodeRecord('controller', key, value)
        this.#learn({ peer, bootId, modRevision })
      },
      onDelete: () => this.#learn(null),
      onTrouble
    }
    const pools: Follower = {
      onPut: ({ key, value }) => this.#pools.set(key, decodeRecord('pool', key, value)),
      onDelete: (key) => this.#pools.delete(key),
      onTrouble
    }
    this.#following = [
      follow(store, keys.controller, election, timers),
      follow(store, keys.pools, pools, timers)
    ]
    void Promise.all(this.#following.map(({ ready }) => ready)).then(() => {
      this.#isReady = true
    })
    this.#schedule(0)
  }

  /** Peer id of the elected one, null while there is none. */
  get elected(): string | null {
    return this.#holder?.peer ?? null
  }

  /** Null for one that is not elected. */
  get report(): ControllerReport | null {
    if (this.#electedRevision === 0) return null
    const shortages = [...this.#plans].flatMap(([pool, { shortage }]) =>
      shortage === null ? [] : [{ pool, text: shortage }]
    )
    const adds = new Map<string, number>()
    for (const { addsTo } of this.#plans.values()) {
      for (const [peer, groups] of addsTo) adds.set(peer, (adds.get(peer) ?? 0) + groups)
    }
    const addsLeft = [...adds].map(([peer, groups]) => ({ peer, groups }))
    addsLeft.sort((one, other) => other.groups - one.groups)
    return { paused: this.#paused, shortages, addsLeft: addsLeft.slice(0, REPORTED_PEERS_MAX) }
  }

  /** Ends the round that runs, and the election with it if it was won. */
  async close(): Promise<void> {
    this.#closed = true
    this.#cancel()
    for (const following of this.#following) following.stop()
    await this.#round
    const revision = this.#electedRevision
    this.#depose()
    if (revision === 0) return
    const { cluster } = this.#options
    const key = cluster.keys.controller
    const compare = [{ key, modRevision: revision }]
    await cluster.store.transact({ compare, success: [{ delete: key }] }).catch(ignoreStoreError)
  }

  #schedule(delayMs: number): void {
    if (this.#closed) return
    this.#isHurried = delayMs < ROUND_MS
    this.#cancel = this.#options.timers.start(delayMs, () => {
      this.#isHurried = true
      this.#round = this.#runRound()
        .catch((thrown: unknown) => {
          if (!(thrown instanceof StoreError)) throw thrown
          this.#noteTrouble(thrown)
        })
        .finally(() => this.#schedule(this.#isBusy ? BUSY_ROUND_MS : ROUND_MS))
    })
  }

  /** Somebody waits for what comes next. */
  #hurry(): void {
    if (this.#isHurried) return
    this.#cancel()
    this.#schedule(BUSY_ROUND_MS)
  }

  /** What happens meanwhile is not seen: patience begins anew. */
  #noteTrouble(error: StoreError): void {
    this.#watchingSinceMs = this.#options.cluster.clock.monotonicMs()
    this.#options.log('warn', 'the controller could not look', { why: error.message })
  }

  #learn(holder: Holder | null): void {
    const { self } = this.#options.cluster
    this.#holder = holder
    if (holder === null || holder.peer !== self.peerId || holder.bootId !== self.bootId) {
      this.#depose()
    } else if (this.#electedRevision === 0) this.#win(holder.modRevision)
  }

  #win(revision: number): void {
    this.#electedRevision = revision
    this.#watchingSinceMs = this.#options.cluster.clock.monotonicMs()
    this.#options.log('info', 'elected as controller', {})
  }

  async #runRound(): Promise<void> {
    this.#isBusy = false
    const { session, cluster } = this.#options
    if (!this.#isReady) return
    if (session.trustedForMs <= 0) {
      this.#watchingSinceMs = cluster.clock.monotonicMs()
      return
    }
    if (this.#holder === null) await this.#campaign()
    if (this.#electedRevision === 0) return
    const pools = [...this.#pools.values()]
    this.#followPools(pools)
    await this.#noteLastSeen()
    await this.#deletions.step(this.#isElected)
    if (this.#closed || this.#electedRevision === 0) return
    const peers = this.#plannedPeers()
    if (peers === null) return
    const isStaged = cluster.features.has('fresh-members')
    for (const pool of pools) {
      const followed = this.#followed.get(pool.number)
      if (followed?.ready !== true) continue
      const isSplit = await this.#splitter.step(pool, followed.groups.known, this.#isElected)
      if (this.#closed || this.#electedRevision === 0) return
      if (isSplit) {
        // To plan for groups that are others at once is of no use.
        this.#isBusy = true
        continue
      }
      const plan = await followed.planner.plan(pool, followed.groups, peers, isStaged)
      if (this.#closed || this.#electedRevision === 0) return
      this.#plans.set(pool.name, plan)
      if (plan.changes.length > 0) this.#isBusy = true
      await this.#carryOut(pool, followed, plan)
      if (this.#closed || this.#electedRevision === 0) return
    }
  }

  async #campaign(): Promise<void> {
    const { cluster, session, membership } = this.#options
    if (membership.peer(cluster.self.peerId)?.record.state === 'pending') return
    const { keys, store, self } = cluster
    const key = keys.controller
    const value = encodeRecord('controller', { v: 1, peer: self.peerId, bootId: self.bootId })
    const { succeeded, revision } = await store.transact({
      compare: [
        { key, is: 'absent' },
        { key: keys.cluster, modRevision: cluster.recordRevision }
      ],
      success: [{ put: key, value, lease: session.lease }]
    })
    if (!succeeded) return
    this.#holder = { peer: self.peerId, bootId: self.bootId, modRevision: revision }
    if (this.#electedRevision === 0) this.#win(revision)
  }

  /** Of who went away since, so that others can tell after this process is gone. */
  async #noteLastSeen(): Promise<void> {
    const { membership } = this.#options
    const gone = new Set<string>()
    for (const { record, alive } of membership.peers()) {
      if (alive !== null) this.#seenUp.add(record.peerId)
      else if (this.#seenUp.delete(record.peerId)) gone.add(record.peerId)
    }
    // It is only told to people: nothing waits for it.
    for (const peerId of gone) await membership.noteLastSeen(peerId).catch(ignoreStoreError)
  }

  #depose(): void {
    if (this.#electedRevision !== 0) this.#options.log('info', 'no longer the controller', {})
    this.#electedRevision = 0
    for (const { following } of this.#followed.values()) following.stop()
    this.#followed.clear()
    this.#plans.clear()
    this.#deletions.stop()
  }

  #followPools(pools: readonly PoolRecord[]): void {
    for (const { number, name } of pools) {
      if (this.#followed.has(number)) continue
      const groups = new FollowedGroups()
      const following = this.#records.follow(number, {
        onGroup: (group, known) => {
          const old = groups.known.get(group) ?? null
          this.#rests.note(old, known, this.#nowMs)
          groups.set(group, known)
          if ((old?.record.fresh?.length ?? 0) > (known.record.fresh?.length ?? 0)) this.#hurry()
        },
        onGone: (group) => groups.delete(group),
        onTrouble: (error) => {
          this.#options.log('warn', 'following groups failed', { pool: name, why: error.message })
        }
      })
      const planner = new PoolPlanner(LIMITS, this.#options.timers)
      const followed: FollowedPool = { groups, planner, following, ready: false }
      this.#followed.set(number, followed)
      void following.ready.then(() => {
        followed.ready = true
      })
    }
  }

  /** Null when so many are away that the network is the likelier reason. */
  #plannedPeers(): PlannedPeer[] | null {
    const { membership, cluster, downAfterMs } = this.#options
    const now = cluster.clock.monotonicMs()
    const views = membership.peers()
    const isAway = ({ alive }: PeerView): boolean => alive === null
    const away = views.filter(isAway).length
    const isLost = (view: PeerView): boolean => {
      if (!isAway(view) || this.#isInMaintenance(view)) return false
      if ((view.record.replacedBy ?? null) !== null) return true
      const sinceMs = Math.max(view.changedMs, this.#watchingSinceMs)
      return now - sinceMs >= downAfterMs
    }
    const paused =
      away * 2 > views.length && views.length > 2
        ? `${away} of ${views.length} peers are away together: nothing is moved until more are back`
        : ''
    if (paused !== this.#paused && paused !== '') {
      this.#options.log('error', 'the controller waits', { why: paused })
    }
    this.#paused = paused
    if (paused !== '') {
      this.#watchingSinceMs = now
      return null
    }
    // Its address comes with the first moment at which others can have links to it.
    const isThere = ({ alive }: PeerView): boolean =>
      views.length === 1 || (alive?.peerAddress ?? null) !== null
    return views.map((view) => ({
      ...plannedPeerOf(view),
      ...(isThere(view) ? {} : { boot: null }),
      isResting: this.#rests.isResting(view.record.peerId, now),
      isLost: isLost(view),
      isFull: isFull(view.record.capacityBytes, view.alive?.usedBytes ?? 0)
    }))
  }

  get #isElected(): Compare {
    const { keys } = this.#options.cluster
    return { key: keys.controller, modRevision: this.#electedRevision }
  }

  get #nowMs(): number {
    return this.#options.cluster.clock.monotonicMs()
  }

  #isInMaintenance({ record }: PeerView): boolean {
    const until = record.maintenanceUntil ?? null
    return until !== null && Date.parse(until) > this.#options.cluster.clock.wallMs()
  }

  async #carryOut(pool: PoolRecord, followed: FollowedPool, plan: PoolPlan): Promise<void> {
    const elected = this.#isElected
    for (const { group, from, record, why } of plan.changes) {
      if (this.#closed || this.#electedRevision === 0) return
      const known = await this.#records.change(pool.number, group, from, record, [elected])
      if (known === null) continue
      followed.groups.set(group, known)
      this.#options.log('info', 'group changed', {
        pool: pool.name,
        group,
        epoch: known.record.epoch,
        why
      })
    }
  }
}

function ignoreStoreError(thrown: unknown): void {
  if (!(thrown instanceof StoreError)) throw thrown
}
