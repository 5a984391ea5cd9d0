/**
 * The members of groups as one store: a gateway's half of PROTOCOL.md.
 *
 *   submit ─► Pending ─┬─ write: a copy to every member ──► all acknowledged ──► onDone
 *                      └─ read: to one member in sync ────► no write in its way ─► onDone
 *
 * While nothing fails no promise, closure or object is made per op. Whatever does not go that way
 * (a member is lost, a record is old or unknown, a group is below its write minimum) leaves its
 * ops in the list, and `GroupDoctor` changes things until they can go on: a tick looks after them.
 */
import type { GroupTable, PoolView } from '../cluster/group-table.ts'
import { groupsUnder } from '../cluster/group-shape.ts'
import type { KnownGroup } from '../cluster/groups.ts'
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import type { Clock, Timers } from '../core/clock.ts'
import { ErrorCode, type StoreError } from '../core/errors.ts'
import {
  BLOCK_BYTES,
  MEMBER_DEADLINE_MS,
  MEMBER_PATIENCE_MS,
  REPLICATION_TICK_MS
} from '../core/limits.ts'
import type { ShardOp } from '../shard/op.ts'
import { BlockOp, type BlockStore, type FamilyKey, OpKind } from './block-store.ts'
import { type Boot, Boots } from './boots.ts'
import type { ChunkFinder } from './chunk-finder.ts'
import { FamilyIo, type FamilyOptions } from './family-io.ts'
import { FamilyTable } from './family-table.ts'
import { FlushRounds } from './flush-rounds.ts'
import { GatewayTrust } from './gateway-trust.ts'
import { GroupDoctor } from './group-doctor.ts'
import { type GroupIo, PoolIo } from './group-io.ts'
import { LateOps } from './late-ops.ts'
import { MemberChunkFinder } from './member-chunk-finder.ts'
import { findFull } from './member-room.ts'
import type { Members } from './member.ts'
import type { PendingList } from './pending.ts'
import { Pings } from './pings.ts'
import { ReplicaRequests } from './replica-requests.ts'
import type { ReplicatedStoreOptions } from './replicated-store-options.ts'

/** Ticks without anything to do after which they end. */
const IDLE_TICKS = 20

export class ReplicatedStore implements BlockStore {
  readonly boots: Boots
  readonly groups: GroupTable
  readonly members: Members
  readonly arena: Arena
  readonly clock: Clock
  readonly timers: Timers
  readonly options: ReplicatedStoreOptions
  readonly patienceMs: number
  readonly deadlineMs: number
  readonly flushes: FlushRounds
  readonly flushesApart = true
  readonly finder: ChunkFinder = new MemberChunkFinder(this)
  readonly #local: BlockStore | null
  readonly #pools = new Map<number, PoolIo>()
  readonly #families = new FamilyTable()
  readonly #trust: GatewayTrust
  readonly #requests: ReplicaRequests
  readonly #doctor: GroupDoctor
  readonly #pings: Pings
  readonly #late: LateOps
  readonly #freeOps: BlockOp[] = []
  readonly #refused: BlockOp[] = []
  #stopTick: (() => void) | null = null
  #idleTicks = 0
  #ringing = false
  #closed = false
  readonly #tick = (): void => this.#onTick()

  constructor(options: ReplicatedStoreOptions) {
    this.options = options
    this.groups = options.groups
    this.members = options.members
    this.arena = options.arena
    this.clock = options.clock
    this.timers = options.timers
    this.patienceMs = options.patienceMs ?? MEMBER_PATIENCE_MS
    this.deadlineMs = options.deadlineMs ?? MEMBER_DEADLINE_MS
    this.#local = options.local
    this.boots = new Boots(options.members, options.clock, {
      onUp: (boot) => this.#onUp(boot),
      onDown: (boot) => this.#onDown(boot)
    })
    this.flushes = new FlushRounds({
      boots: () => this.boots.all(),
      families: () => this.families(),
      mayAnswer: ({ pool }) => this.#trust.holdsNowFor(pool.groups),
      onFlushFailed: (boot, error) => this.#doctor.onFlushFailed(boot, error)
    })
    this.#doctor = new GroupDoctor(this)
    this.#trust = new GatewayTrust(this.clock, this.boots, options.trustedForMs ?? null)
    this.#requests = new ReplicaRequests(this, this.#trust)
    this.#pings = new Pings(this)
    this.#late = new LateOps(this, this.#requests)
    options.groups.onChange((pool, group, known) => this.#onGroup(pool, group, known))
  }

  // ---- families

  pool(view: PoolView): PoolIo {
    let pool = this.#pools.get(view.number)
    if (pool === undefined) {
      pool = new PoolIo(view, (group, other) => this.#onSplit(group, other))
      this.#pools.set(view.number, pool)
    }
    return pool
  }

  /** Serves a family from now on. An earlier one of the same id is closed. */
  openFamily(pool: PoolIo, options: FamilyOptions): FamilyIo {
    const family = new FamilyIo(pool, options)
    const old = this.#families.find(family.high, family.low)
    if (old !== null) this.closeFamily(old)
    this.#families.add(family)
    return family
  }

  /** What is pending ends with Closed; so does what comes later. */
  closeFamily(family: FamilyIo): void {
    this.#shut(family)
    this.#families.remove(family)
  }

  /** One that is served here. */
  family(high: number, low: number): FamilyIo | null {
    const family = this.#families.find(high, low)
    return family === null || family.isClosed ? null : family
  }

  /** Groups of its pool, of as many as are known, to which its ops may go now. */
  openGroups(family: FamilyIo): GroupIo[] {
    this.#trust.look()
    const { groups } = family.pool
    const isOpen = (group: GroupIo | null): group is GroupIo =>
      group?.count === groups.length && this.#requests.maySend(family, group)
    return groups.filter(isOpen)
  }

  families(): Iterable<FamilyIo> {
    return this.#families.all()
  }

  /** The group's members are equal for this family now. */
  settled(family: FamilyIo, group: GroupIo): void {
    if (!family.unsettled.delete(group.index)) return
    this.reconcile(group)
  }

  /** Another gateway has the family. */
  fence(family: FamilyIo): void {
    if (family.isClosed) return
    this.#shut(family)
    family.options.onFenced()
  }

  losePower(family: FamilyIo): void {
    if (family.isClosed) return
    this.#shut(family)
    family.options.onPowerLoss()
  }

  /**
   * Answers with Closed what is pending, and all that comes. The lease is not left clean then: the
   * next takeover settles what only some members have.
   */
  giveUp(): void {
    for (const family of this.families()) this.#shut(family)
  }

  #shut(family: FamilyIo): void {
    if (family.isClosed) return
    family.isClosed = true
    this.#requests.close(family)
    family.dirtyGroups.clear()
    for (const group of family.pool.groups) if (group !== null) this.#forgetFailures(group)
    this.flushes.close(family)
    this.flushes.check()
  }

  /** Who could not do its part may be well when somebody uses the group again. */
  #forgetFailures(group: GroupIo): void {
    if (group.failed.size > 0 && this.familiesOf(group).length === 0) group.failed.clear()
  }

  // ---- BlockStore

  acquireOp(): BlockOp {
    return this.#freeOps.pop() ?? new BlockOp()
  }

  releaseOp(op: BlockOp): void {
    op.owner = null
    op.onDone = nobodyWaits
    op.tags = 0
    this.#freeOps.push(op)
  }

  submit(op: BlockOp): void {
    assert(op.keySlot === 0, 'what members get is sealed before')
    const family = this.family(op.familyHigh, op.familyLow)
    if (family === null) {
      this.#refuse(op, ErrorCode.Closed)
      return
    }
    const { pool } = family
    const group = pool.groupOf(op.familyHigh, op.familyLow, op.chunk)
    if (this.#stopTick === null) this.#startTick()
    if (op.kind === OpKind.Write && !this.#makeRoom(group, op)) {
      this.#refuse(op, ErrorCode.OutOfSpace)
      return
    }
    this.#trust.lookOnce()
    this.#requests.begin(op, family, group)
  }

  /**
   * From this process's own shards where they are in sync, by the rules of any read; not while a
   * write of the same blocks is pending, whose bytes they may have already (R10).
   */
  readNow(op: BlockOp, into: Buffer, start: number): number {
    const family = this.family(op.familyHigh, op.familyLow)
    if (family === null) return -1
    const { pool } = family
    const group = pool.groupOf(op.familyHigh, op.familyLow, op.chunk)
    const member = group.localMember()
    if (member?.readNow === undefined) return -1
    // Nobody rings for what is answered at once.
    if (this.#trust.lookOnce()) queueMicrotask(this.#trust.expire)
    if (!this.#requests.maySend(family, group) || this.#requests.isInTheWayOf(op)) return -1
    op.pool = pool.view.number
    op.group = group.index
    op.groupEpoch = group.epoch
    op.fenceEpoch = family.writerEpoch
    return member.readNow(op, into, start)
  }

  ring(): void {
    this.#trust.expire()
    this.boots.ring()
  }

  flush(done: (error: number) => void, whose?: FamilyKey): void {
    if (this.#stopTick === null) this.#startTick()
    const family = whose === undefined ? null : this.family(whose.familyHigh, whose.familyLow)
    if (whose === undefined || family !== null) this.flushes.flush(family, done)
    else queueMicrotask(() => done(ErrorCode.Closed))
  }

  hasDetached({ familyHigh, familyLow }: FamilyKey): boolean {
    return this.#requests.hasDetached(familyHigh, familyLow)
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    if (this.#local === null) queueMicrotask(() => done(ErrorCode.Ok))
    else this.#local.broadcast(op, done)
  }

  /** Ends all: what is pending is answered with Closed. */
  close(): void {
    this.#closed = true
    for (const family of [...this.families()]) this.closeFamily(family)
    this.#stopTick?.()
    this.#stopTick = null
  }

  /** R9: has the group room for a write, once members that have none are gone? */
  #makeRoom(group: GroupIo, op: BlockOp): boolean {
    const full = findFull(group, op.blockCount * BLOCK_BYTES, this.#trust.nowMs)
    if (full === null) return false
    for (const boot of full) this.failBoot(group, boot, ErrorCode.OutOfSpace)
    return true
  }

  #refuse(op: BlockOp, error: number): void {
    op.error = error
    op.resultA = 0
    op.resultB = 0
    if (this.#refused.push(op) === 1) queueMicrotask(this.#answerRefused)
  }

  readonly #answerRefused = (): void => {
    const refused = this.#refused.splice(0)
    for (const op of refused) op.onDone(op)
  }

  // ---- what changes around ops

  /** Members of `group` changed, or came back: what can go on does. */
  reconcile(group: GroupIo): void {
    this.#trust.look()
    this.#requests.reconcile(group)
    this.flushes.check()
    this.ringSoon()
  }

  /** `boot` cannot do its part in `group`: the doctor takes it out if it may. */
  failBoot(group: GroupIo, boot: Boot, error: number): void {
    if (!group.targets.includes(boot)) return
    if (!group.failed.has(boot)) group.failed.set(boot, error)
    group.isTroubled = true
    this.#doctor.treat(group)
  }

  findSuccessors(group: GroupIo): Promise<void> {
    return this.#doctor.findSuccessors(group)
  }

  /** Is there a newer record of the group than the one in use? */
  isBehind(group: GroupIo): boolean {
    return this.#doctor.isBehind(group)
  }

  /** A record of the group, which may be news. */
  learn(group: GroupIo, known: KnownGroup): void {
    this.#doctor.learn(group, known)
  }

  /** Does the lease hold as far as is known? */
  get isTrusted(): boolean {
    this.#trust.look()
    return this.#trust.isTrusted
  }

  /** Ops of clients that are not done, in the order of submission. */
  get pendings(): PendingList {
    return this.#requests.list
  }

  hasPending(group: GroupIo): boolean {
    return this.#requests.has(group)
  }

  /** Has the record of the group looked up, or looks at its members. */
  treat(group: GroupIo): void {
    this.#doctor.treat(group)
  }

  wantRecord(group: GroupIo): void {
    this.#doctor.wantRecord(group)
  }

  /** Families with ops in the group, whose writer records stand up for its change. */
  familiesOf(group: GroupIo): FamilyIo[] {
    const found = new Set<FamilyIo>()
    for (let at = this.pendings.oldest; at !== null; at = at.newer) {
      if (at.group === group) found.add(at.family!)
    }
    for (const family of this.families()) if (family.dirtyGroups.has(group)) found.add(family)
    return [...found]
  }

  *allGroups(): Iterable<GroupIo> {
    for (const { groups } of this.#pools.values()) {
      for (const group of groups) if (group !== null) yield group
    }
  }

  ringSoon(): void {
    if (this.#ringing) return
    this.#ringing = true
    queueMicrotask(() => {
      this.#ringing = false
      this.boots.ring()
    })
  }

  trouble(what: string, error: StoreError | null): void {
    this.options.onTrouble?.(what, error)
  }

  #onGroup(poolNumber: number, index: number, known: KnownGroup): void {
    const pool = this.#pools.get(poolNumber)
    if (pool?.isMade(index) === true) this.learnRecord(pool, index, known)
  }

  /** R43: the record of a half tells that the whole was split. Null: it is of before that. */
  learnRecord(pool: PoolIo, index: number, known: KnownGroup): GroupIo | null {
    const count = groupsUnder(known.record, pool.view.firstGroups)
    const group = pool.groupUnder(index, count)
    if (group.count > count) return null
    this.#doctor.learn(group, known)
    return group
  }

  /** Both halves go on when their records are read. */
  #onSplit(group: GroupIo, other: GroupIo): void {
    for (const family of this.families()) {
      if (family.pool === group.pool) family.noteSplit(group, other)
    }
    this.#requests.split(group, other)
    this.#doctor.treat(group)
    this.#doctor.treat(other)
  }

  #onUp(boot: Boot): void {
    this.flushes.onUp(boot)
    for (const group of this.allGroups()) {
      if (group.targets.includes(boot)) {
        group.failed.delete(boot)
        this.reconcile(group)
      } else if (group.targets.some(({ peerId }) => peerId === boot.peerId)) {
        // Another boot than the record has: the record changes, or did.
        group.isStale = true
        group.isTroubled = true
        if (this.hasPending(group) || this.flushes.isIdle === false) this.#doctor.treat(group)
      }
    }
  }

  #onDown(boot: Boot): void {
    for (const group of this.allGroups()) {
      if (group.targets.includes(boot)) group.isTroubled = true
    }
  }

  // ---- time

  /** Something waits for time to pass. */
  wake(): void {
    if (this.#stopTick === null) this.#startTick()
  }

  #startTick(): void {
    if (this.#closed) return
    this.#trust.nowMs = this.clock.monotonicMs()
    this.#idleTicks = 0
    this.#late.begin(this.#trust.nowMs)
    this.#stopTick = this.timers.start(REPLICATION_TICK_MS, this.#tick)
  }

  #onTick(): void {
    this.#trust.nowMs = this.clock.monotonicMs()
    this.#stopTick = this.timers.start(REPLICATION_TICK_MS, this.#tick)
    const isIdle = this.pendings.count === 0 && this.flushes.isIdle && !this.#doctor.isWaiting
    this.#idleTicks = isIdle ? this.#idleTicks + 1 : 0
    if (this.#idleTicks > IDLE_TICKS) {
      this.#stopTick()
      this.#stopTick = null
      return
    }
    this.#trust.look()
    this.#pings.tick(this.#trust.nowMs, this.#trust.isRunningOut)
    this.#late.look(this.#trust.nowMs)
    for (const group of this.allGroups()) if (group.isTroubled) this.#doctor.treat(group)
    this.flushes.check()
  }
}

const nobodyWaits = (): void => {}
