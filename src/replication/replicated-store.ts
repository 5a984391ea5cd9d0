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
import type { KnownGroup } from '../cluster/groups.ts'
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import type { Clock, Timers } from '../core/clock.ts'
import { ErrorCode, type StoreError } from '../core/errors.ts'
import {
  BLOCK_BYTES,
  DETACHED_WRITES_MAX,
  MEMBER_DEADLINE_MS,
  MEMBER_PATIENCE_MS,
  MEMBER_RESERVE_BYTES,
  CLOCK_JUMP_MS_MAX,
  MEMBER_TRUST_MS,
  REPLICATION_RETRY_MS,
  REPLICATION_TICK_MS
} from '../core/limits.ts'
import { groupOfChunk } from '../placement/hash.ts'
import type { ShardOp } from '../shard/op.ts'
import {
  BlockOp,
  copyRequest,
  type BlockStore,
  type FamilyKey,
  isDamage,
  OpFlag,
  OpKind
} from './block-store.ts'
import { type Boot, Boots } from './boots.ts'
import { FamilyIo, type FamilyOptions } from './family-io.ts'
import { FlushRounds } from './flush-rounds.ts'
import { GroupDoctor } from './group-doctor.ts'
import { type GroupIo, PoolIo } from './group-io.ts'
import type { Members } from './member.ts'
import { LateOps } from './late-ops.ts'
import { Overlaps } from './overlaps.ts'
import { Pending, PendingList, Sent } from './pending.ts'
import { Pings } from './pings.ts'
import { ReadRepairs } from './read-repair.ts'

export interface ReplicatedStoreOptions {
  readonly members: Members
  readonly groups: GroupTable
  readonly arena: Arena
  readonly clock: Clock
  readonly timers: Timers
  /** The shards of this process, for what is sent to all of them; null where there are none. */
  readonly local: BlockStore | null
  /** Milliseconds for which the gateway's own lease is surely its own, R26; always by default. */
  readonly trustedForMs?: () => number
  /** Something failed that nobody waits for, or that an operator should know. */
  readonly onTrouble?: (what: string, error: StoreError | null) => void
  readonly patienceMs?: number
  readonly deadlineMs?: number
}

/** Of MEMBER_TRUST_MS: clocks run differently. */
const CONFIRMED_PART = 0.9
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
  readonly pendings: PendingList = new PendingList()
  readonly flushes: FlushRounds
  readonly flushesApart = true
  readonly #local: BlockStore | null
  readonly #pools = new Map<number, PoolIo>()
  readonly #families = new Map<number, FamilyIo[]>()
  readonly #overlaps = new Overlaps()
  readonly #doctor: GroupDoctor
  readonly #repairs: ReadRepairs
  readonly #pings: Pings
  readonly #late: LateOps
  readonly #freeOps: BlockOp[] = []
  readonly #freeCopies: BlockOp[] = []
  readonly #freePendings: Pending[] = []
  readonly #refused: BlockOp[] = []
  #lastFamily: FamilyIo | null = null
  #ticket = 0
  #detached = 0
  #nowMs: number
  #stopTick: (() => void) | null = null
  #idleTicks = 0
  #ringing = false
  /** May ops be sent by the lease alone? Looked at once per batch. */
  #isTrusted = true
  /** Wall less monotonic time at the last look. */
  #offsetMs = 0
  #isChecked = false
  #closed = false
  readonly #onCopyDone = (copy: BlockOp): void => this.#copyDone(copy)
  readonly #tick = (): void => this.#onTick()
  readonly #uncheck = (): void => {
    this.#isChecked = false
  }

  constructor(options: ReplicatedStoreOptions) {
    this.options = options
    this.groups = options.groups
    this.members = options.members
    this.arena = options.arena
    this.clock = options.clock
    this.#offsetMs = this.clock.wallMs() - this.clock.monotonicMs()
    this.timers = options.timers
    this.patienceMs = options.patienceMs ?? MEMBER_PATIENCE_MS
    this.deadlineMs = options.deadlineMs ?? MEMBER_DEADLINE_MS
    this.#local = options.local
    this.#nowMs = options.clock.monotonicMs()
    this.boots = new Boots(options.members, options.clock, {
      onUp: (boot) => this.#onUp(boot),
      onDown: (boot) => this.#onDown(boot)
    })
    this.flushes = new FlushRounds({
      boots: () => this.boots.all(),
      families: () => this.families(),
      onFlushFailed: (boot, error) => this.#onFlushFailed(boot, error)
    })
    this.#doctor = new GroupDoctor(this)
    this.#repairs = new ReadRepairs(this)
    this.#pings = new Pings(this)
    this.#late = new LateOps({
      store: this,
      sendCopy: (pending, boot) => this.#sendCopy(pending, boot),
      giveUp: (pending, error) => this.#detach(pending, error)
    })
    options.groups.onChange((pool, group, known) => this.#onGroup(pool, group, known))
  }

  // ---- families

  pool(view: PoolView): PoolIo {
    let pool = this.#pools.get(view.number)
    if (pool === undefined) {
      pool = new PoolIo(view)
      this.#pools.set(view.number, pool)
    }
    return pool
  }

  /** Serves a family from now on. An earlier one of the same id is closed. */
  openFamily(pool: PoolIo, options: FamilyOptions): FamilyIo {
    const family = new FamilyIo(pool, options)
    const old = this.#find(family.high, family.low)
    if (old !== null) this.closeFamily(old)
    const list = this.#families.get(family.high) ?? []
    list.push(family)
    this.#families.set(family.high, list)
    return family
  }

  /** What is pending ends with Closed; so does what comes later. */
  closeFamily(family: FamilyIo): void {
    this.#shut(family)
    const list = this.#families.get(family.high) ?? []
    const at = list.indexOf(family)
    if (at >= 0) list.splice(at, 1)
    if (this.#lastFamily === family) this.#lastFamily = null
  }

  *families(): Iterable<FamilyIo> {
    for (const list of this.#families.values()) yield* list
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

  #shut(family: FamilyIo): void {
    if (family.isClosed) return
    family.isClosed = true
    for (const pending of this.pendings.select((each) => each.family === family)) {
      if (pending.family === family && !pending.isOver) this.#finish(pending, ErrorCode.Closed)
    }
    family.dirtyGroups.clear()
    for (const group of family.pool.groups) if (group !== null) this.#forgetFailures(group)
    this.flushes.close(family)
    this.flushes.check()
  }

  /** Who could not do its part may be well when somebody uses the group again. */
  #forgetFailures(group: GroupIo): void {
    if (group.failed.size > 0 && this.familiesOf(group).length === 0) group.failed.clear()
  }

  #find(high: number, low: number): FamilyIo | null {
    const last = this.#lastFamily
    if (last !== null && last.low === low && last.high === high) return last
    for (const family of this.#families.get(high) ?? []) {
      if (family.low !== low) continue
      this.#lastFamily = family
      return family
    }
    return null
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
    const family = this.#find(op.familyHigh, op.familyLow)
    if (family === null || family.isClosed) {
      this.#refuse(op, ErrorCode.Closed)
      return
    }
    const { pool } = family
    const index = groupOfChunk(op.familyHigh, op.familyLow, op.chunk, pool.groups.length)
    const group = pool.group(index)
    const isWrite = op.kind !== OpKind.Read && op.kind !== OpKind.BlockStatus
    if (this.#stopTick === null) this.#startTick()
    if (op.kind === OpKind.Write && !this.#makeRoom(group, op)) {
      this.#refuse(op, ErrorCode.OutOfSpace)
      return
    }
    if (!this.#isChecked) this.#checkTrust()
    const pending = this.#freePendings.pop() ?? new Pending()
    pending.client = op
    pending.family = family
    pending.group = group
    pending.isWrite = isWrite
    pending.ticket = ++this.#ticket
    pending.submittedMs = this.#nowMs
    const { request } = pending
    copyRequest(op, request)
    request.pool = pool.view.number
    request.group = index
    this.pendings.add(pending)
    family.pending++
    if (isWrite) {
      if (op.kind !== OpKind.Write && this.#overlaps.find(request, pending.ticket) !== null) {
        request.flags |= OpFlag.KeepHole
      }
      this.#overlaps.enter(pending)
      if (this.#mayStart(pending)) this.#sendWrite(pending)
      else this.#park(pending)
    } else if (this.#mayStart(pending)) this.#sendRead(pending)
    else this.#park(pending)
  }

  /**
   * From this process's own shards where they are in sync, by the rules of any read; not while a
   * write of the same blocks is pending, whose bytes they may have already (R10).
   */
  readNow(op: BlockOp, into: Buffer, start: number): number {
    const family = this.#find(op.familyHigh, op.familyLow)
    if (family === null || family.isClosed) return -1
    const { pool } = family
    const index = groupOfChunk(op.familyHigh, op.familyLow, op.chunk, pool.groups.length)
    const group = pool.group(index)
    const member = group.localMember()
    if (member?.readNow === undefined) return -1
    if (!this.#isChecked) {
      this.#checkTrust()
      // Nobody rings for what is answered at once.
      queueMicrotask(this.#uncheck)
    }
    if (!this.#maySend(family, group) || this.#overlaps.find(op, this.#ticket) !== null) return -1
    op.pool = pool.view.number
    op.group = index
    op.groupEpoch = group.epoch
    op.fenceEpoch = family.writerEpoch
    return member.readNow(op, into, start)
  }

  ring(): void {
    this.#isChecked = false
    this.boots.ring()
  }

  flush(done: (error: number) => void, whose?: FamilyKey): void {
    if (this.#stopTick === null) this.#startTick()
    const family = whose === undefined ? null : this.#find(whose.familyHigh, whose.familyLow)
    if (whose === undefined || (family !== null && !family.isClosed)) {
      this.flushes.flush(family, done)
    } else queueMicrotask(() => done(ErrorCode.Closed))
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

  /** What was told long ago counts no more: the member itself knows, and is asked by the write. */
  #lacksRoom(boot: Boot, bytes: number): boolean {
    return boot.freeBytes < bytes && this.#nowMs - boot.confirmedMs < ROOM_KNOWN_MS
  }

  /**
   * R9: members without room for a write leave before it is sent to anybody, as long as enough of
   * them have it; else nobody gets it, false.
   */
  #makeRoom(group: GroupIo, op: BlockOp): boolean {
    const bytes = op.blockCount * BLOCK_BYTES + MEMBER_RESERVE_BYTES
    const { targets, inSyncCount } = group
    let full = 0
    for (let i = 0; i < targets.length; i++) if (this.#lacksRoom(targets[i]!, bytes)) full++
    if (full === 0) return true
    let able = 0
    for (let i = 0; i < inSyncCount; i++) {
      const boot = targets[i]!
      if (boot.member !== null && !this.#lacksRoom(boot, bytes)) able++
    }
    if (able < Math.max(1, Math.min(inSyncCount, group.pool.view.writeMinimum))) return false
    for (const boot of [...targets]) {
      if (this.#lacksRoom(boot, bytes)) this.failBoot(group, boot, ErrorCode.OutOfSpace)
    }
    return true
  }

  // ---- one op

  #isOpen(pending: Pending): boolean {
    return isOpen(pending.family!, pending.group!)
  }

  /** R26: past its lease a gateway goes on while the members themselves confirm that it may. */
  #maySend(family: FamilyIo, group: GroupIo): boolean {
    return isOpen(family, group) && (this.#isTrusted || this.#isConfirmed(group))
  }

  #mayStart(pending: Pending): boolean {
    return this.#maySend(pending.family!, pending.group!)
  }

  #isConfirmed(group: GroupIo): boolean {
    for (let i = 0; i < group.inSyncCount; i++) {
      if (this.#nowMs - group.targets[i]!.confirmedMs > MEMBER_TRUST_MS * CONFIRMED_PART)
        return false
    }
    return true
  }

  #checkTrust(): void {
    const { trustedForMs } = this.options
    this.#isChecked = true
    if (trustedForMs === undefined) return
    this.#nowMs = this.clock.monotonicMs()
    this.#lookForJump()
    this.#isTrusted = trustedForMs() > 0
  }

  /** What members confirmed before the machine slept, or its clock was set, was long ago. */
  #lookForJump(): void {
    const offsetMs = this.clock.wallMs() - this.#nowMs
    const isJump = Math.abs(offsetMs - this.#offsetMs) > CLOCK_JUMP_MS_MAX
    this.#offsetMs = offsetMs
    if (isJump) for (const boot of this.boots.all()) boot.forgetConfirmed()
  }

  #park(pending: Pending): void {
    pending.isParked = true
    const group = pending.group!
    if (!group.isReady) this.#doctor.wantRecord(group)
    group.isTroubled = true
  }

  /** Sends what the members of the present record lack of a write. */
  #sendWrite(pending: Pending): void {
    const group = pending.group!
    const { targets } = group
    pending.isParked = false
    pending.needed = targets.length
    pending.acked = 0
    if (group.keepHoles && pending.request.kind !== OpKind.Write) {
      pending.request.flags |= OpFlag.KeepHole
    }
    for (let i = 0; i < targets.length; i++) {
      const boot = targets[i]!
      const at = pending.indexOf(boot)
      const sent = at < 0 ? Sent.No : pending.sent[at]!
      if (sent === Sent.Acked) pending.acked++
      else if (sent !== Sent.Yes) {
        if (boot.member === null || group.isAvoided(boot)) group.isTroubled = true
        else this.#sendCopy(pending, boot)
      }
    }
  }

  #sendCopy(pending: Pending, boot: Boot): void {
    const copy = this.#freeCopies.pop() ?? this.#newCopy()
    copyRequest(pending.request, copy)
    copy.pool = pending.request.pool
    copy.group = pending.request.group
    copy.groupEpoch = pending.group!.epoch
    copy.fenceEpoch = pending.family!.writerEpoch
    copy.owner = pending
    if (copy.kind === OpKind.Write) boot.freeBytes -= copy.blockCount * BLOCK_BYTES
    pending.sentTo(boot, copy)
    boot.member!.submit(copy)
    this.boots.wantsRing(boot)
  }

  #newCopy(): BlockOp {
    const copy = new BlockOp()
    copy.onDone = this.#onCopyDone
    return copy
  }

  #sendRead(pending: Pending): void {
    const group = pending.group!
    let best: Boot | null = null
    for (let i = 0; i < group.inSyncCount; i++) {
      const boot = group.targets[i]!
      if (boot.member === null) continue
      const at = pending.boots.length === 0 ? -1 : pending.indexOf(boot)
      if (at >= 0 && (pending.sent[at] === Sent.Failed || pending.copies[at] !== null)) continue
      if (best === null || isNearer(boot, best)) best = boot
    }
    pending.isParked = best === null
    if (best === null) group.isTroubled = true
    else this.#sendCopy(pending, best)
  }

  #copyDone(copy: BlockOp): void {
    const pending = copy.owner as Pending
    const { copies } = pending
    let at = 0
    while (copies[at] !== copy) at++
    copies[at] = null
    pending.inFlight--
    const counts = !pending.isOver && pending.aside !== copy
    if (copy.error === ErrorCode.Ok && counts) verifyRead(pending, copy)
    const { error } = copy
    const boot = pending.boots[at]!
    boot.isSlow = false
    if (pending.aside === copy) {
      this.arena.release(copy.payload)
      pending.aside = null
      pending.sent[at] = Sent.No
      if (pending.isParked) pending.group!.isTroubled = true
    } else if (error === ErrorCode.Ok) {
      pending.sent[at] = Sent.Acked
      if (pending.isOver) {
        // Late: nobody needs it, but its bytes are in that member and not on its disk yet.
        if (pending.isWrite) boot.dirtyRound = this.flushes.current
      } else if (pending.isWrite) this.#writeAcked(pending, boot)
      else this.#readDone(pending, copy)
    } else {
      pending.sent[at] = error === ErrorCode.PeerLost ? Sent.No : Sent.Failed
      pending.errors[at] = error
      if (!pending.isOver) this.#copyFailed(pending, boot, error, copy)
    }
    copy.owner = null
    this.#freeCopies.push(copy)
    if (pending.isOver && pending.inFlight === 0) this.#recycle(pending)
  }

  #writeAcked(pending: Pending, boot: Boot): void {
    boot.dirtyRound = this.flushes.current
    const { targets } = pending.group!
    if (pending.needed !== targets.length || !targets.includes(boot)) return
    if (++pending.acked === pending.needed && this.#isOpen(pending)) this.#finish(pending, 0)
  }

  #readDone(pending: Pending, copy: BlockOp): void {
    pending.request.resultA = copy.resultA
    pending.request.resultB = copy.resultB
    pending.horizon = this.#ticket
    this.#answerRead(pending)
  }

  /** The bytes are there; writes whose bytes they may hold must be acknowledged first, R10. */
  #answerRead(read: Pending): void {
    if (read.family!.isClosed) {
      // The write that it waited for was given up: its bytes may never be seen again.
      this.#finish(read, ErrorCode.Closed)
      return
    }
    const write = this.#overlaps.find(read.request, read.horizon)
    if (write !== null) {
      read.waitsFor = write
      read.nextReader = write.firstReader
      write.firstReader = read
      return
    }
    if (read.boots.length > 1) this.#repairs.afterRead(read)
    this.#finish(read, 0)
  }

  #copyFailed(pending: Pending, boot: Boot, error: number, copy: BlockOp): void {
    const group = pending.group!
    const family = pending.family!
    group.isTroubled = true
    if (error === ErrorCode.StaleEpoch && copy.fenceEpoch === family.writerEpoch) {
      this.fence(family)
      return
    }
    if (error === ErrorCode.StaleEpoch) {
      // It was sent under an epoch that this gateway has raised meanwhile.
      pending.sent[pending.indexOf(boot)] = Sent.No
      pending.isParked = !pending.isWrite
      this.#doctor.treat(group)
      return
    }
    if (error === ErrorCode.StaleGroup) {
      pending.sent[pending.indexOf(boot)] = Sent.No
      group.isStale = true
      group.isReady = false
      pending.isParked = !pending.isWrite
      this.#doctor.treat(group)
      return
    }
    if (!pending.isWrite) {
      pending.request.resultA = copy.resultA
      this.#readFailed(pending)
      return
    }
    if (error !== ErrorCode.PeerLost) this.failBoot(group, boot, error)
    this.#failIfAll(pending)
  }

  #readFailed(pending: Pending): void {
    const group = pending.group!
    pending.isParked = true
    if (!this.#isOpen(pending)) return
    this.#sendRead(pending)
    if (pending.inFlight > 0) {
      this.ringSoon()
      return
    }
    const error = worstError(pending, group)
    if (error !== 0) this.#finish(pending, error)
  }

  /** A write that no member in sync can do ends with its error: nobody has it then. */
  #failIfAll(pending: Pending): void {
    const group = pending.group!
    if (pending.inFlight > 0) return
    const error = worstError(pending, group)
    if (error === 0) return
    // Members that are not in sync yet and have it would be the only ones: they have to leave.
    let syncing = false
    for (let i = group.inSyncCount; i < group.targets.length; i++) {
      this.failBoot(group, group.targets[i]!, error)
      syncing = true
    }
    if (!syncing) this.#finish(pending, error)
  }

  /** Ends an op for its client, and for good unless copies are out. */
  #finish(pending: Pending, error: number): void {
    const { client, family, group } = pending
    this.#unlink(pending)
    if (pending.isWrite && error === 0) family!.noteAcked(group!, this.flushes.current)
    if (pending.isWrite && error !== 0) family!.isTainted = true
    if (client === null) this.#detached--
    if (pending.inFlight > 0) this.#hold(pending)
    pending.isOver = true
    family!.pending--
    const { resultA, resultB } = pending.request
    let reader = pending.firstReader
    pending.firstReader = null
    pending.client = null
    if (pending.inFlight === 0) this.#recycle(pending)
    if (client !== null) {
      client.error = error
      client.resultA = resultA
      client.resultB = resultB
      client.onDone(client)
    }
    while (reader !== null) {
      const next: Pending | null = reader.nextReader
      reader.nextReader = null
      reader.waitsFor = null
      this.#answerRead(reader)
      reader = next
    }
  }

  #unlink(pending: Pending): void {
    this.pendings.remove(pending)
    if (pending.isWrite) this.#overlaps.leave(pending)
    const write = pending.waitsFor
    if (write === null) return
    // A read that ends while it waits.
    pending.waitsFor = null
    if (write.firstReader === pending) write.firstReader = pending.nextReader
    else {
      let before = write.firstReader
      while (before !== null && before.nextReader !== pending) before = before.nextReader
      if (before !== null) before.nextReader = pending.nextReader
    }
    pending.nextReader = null
  }

  /** Late copies read their bytes, or write them, after the client gave the pages back. */
  #hold(pending: Pending): void {
    const { kind } = pending.request
    const isPaged = kind === OpKind.Write || kind === OpKind.Read || kind === OpKind.BlockStatus
    if (pending.heldRun >= 0 || !isPaged) return
    pending.heldRun = pending.request.payload
    this.arena.retain(pending.heldRun)
  }

  #recycle(pending: Pending): void {
    if (pending.heldRun >= 0) this.arena.release(pending.heldRun)
    pending.reset()
    this.#freePendings.push(pending)
  }

  /** The client gets `error` now; the write goes on until all members have it. */
  #detach(pending: Pending, error: number): void {
    const client = pending.client!
    if (!pending.isWrite || this.#detached >= DETACHED_WRITES_MAX) {
      this.#finish(pending, error)
      return
    }
    this.#hold(pending)
    this.#detached++
    pending.family!.isTainted = true
    pending.client = null
    client.error = error
    client.onDone(client)
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

  /** Members of `group` changed, or came back: sends what is to be sent, ends what is done. */
  reconcile(group: GroupIo): void {
    this.#checkTrust()
    const mine = this.pendings.select((pending) => pending.group === group)
    for (const pending of mine) {
      // Ends of others may have ended it.
      if (pending.group !== group || pending.isOver) continue
      if (pending.waitsFor !== null) continue
      if (pending.isParked ? !this.#mayStart(pending) : !this.#isOpen(pending)) continue
      if (pending.isWrite) {
        this.#sendWrite(pending)
        if (pending.acked === pending.needed && group.inSyncCount > 0) this.#finish(pending, 0)
        else this.#failIfAll(pending)
      } else if (pending.isParked && pending.inFlight === (pending.aside === null ? 0 : 1)) {
        for (let at = 0; at < pending.sent.length; at++) {
          if (!isDamage(pending.errors[at]!)) pending.sent[at] = Sent.No
        }
        this.#sendRead(pending)
      }
    }
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
    this.#checkTrust()
    return this.#isTrusted
  }

  hasPending(group: GroupIo): boolean {
    for (let at = this.pendings.oldest; at !== null; at = at.newer) {
      if (at.group === group) return true
    }
    return false
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
    const group = this.#pools.get(poolNumber)?.groups[index]
    if (group === null || group === undefined) return
    this.#doctor.learn(group, known)
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

  #onFlushFailed(boot: Boot, error: number): void {
    if (error === ErrorCode.PeerLost) return
    for (const family of this.families()) {
      for (const group of family.dirtyGroups) {
        if (!group.targets.includes(boot)) continue
        this.failBoot(group, boot, error)
        const inSync = group.targets.slice(0, group.inSyncCount)
        if (!inSync.every((each) => group.failed.has(each))) continue
        this.flushes.fail(boot, family, error)
      }
    }
  }

  // ---- time

  /** Something waits for time to pass. */
  wake(): void {
    if (this.#stopTick === null) this.#startTick()
  }

  #startTick(): void {
    if (this.#closed) return
    this.#nowMs = this.clock.monotonicMs()
    this.#idleTicks = 0
    this.#late.begin(this.#nowMs)
    this.#stopTick = this.timers.start(REPLICATION_TICK_MS, this.#tick)
  }

  #onTick(): void {
    this.#nowMs = this.clock.monotonicMs()
    this.#stopTick = this.timers.start(REPLICATION_TICK_MS, this.#tick)
    const isIdle = this.pendings.count === 0 && this.flushes.isIdle && !this.#doctor.isWaiting
    this.#idleTicks = isIdle ? this.#idleTicks + 1 : 0
    if (this.#idleTicks > IDLE_TICKS) {
      this.#stopTick()
      this.#stopTick = null
      return
    }
    this.#checkTrust()
    this.#pings.tick(
      this.#nowMs,
      (this.options.trustedForMs?.() ?? MEMBER_TRUST_MS) < MEMBER_TRUST_MS
    )
    this.#late.look(this.#nowMs)
    for (const group of this.allGroups()) if (group.isTroubled) this.#doctor.treat(group)
    this.flushes.check()
  }
}

/** Is the group's record in use, and are its members equal for the family? */
const isOpen = (family: FamilyIo, group: GroupIo): boolean =>
  group.isReady && !(family.unsettled.size > 0 && family.unsettled.has(group.index))

/** What a member told about its room is known for so long: several pings. */
const ROOM_KNOWN_MS = 4 * REPLICATION_RETRY_MS

/** Sealed bytes count once they were opened. */
function verifyRead({ client }: Pending, copy: BlockOp): void {
  if (client === null || client.verify === null) return
  copy.error = client.verify(client)
  if (copy.error !== ErrorCode.Ok) copy.resultA = client.resultA
}

function isNearer(boot: Boot, than: Boot): boolean {
  if (boot.isSlow !== than.isSlow) return than.isSlow
  if (boot.isLocal !== than.isLocal) return boot.isLocal
  return boot.member!.inFlight < than.member!.inFlight
}

/** The error when every member in sync failed, 0 while one has not. */
function worstError(pending: Pending, group: GroupIo): number {
  let error = 0
  for (let i = 0; i < group.inSyncCount; i++) {
    const at = pending.indexOf(group.targets[i]!)
    if (at < 0 || pending.sent[at] !== Sent.Failed) return 0
    if (!isDamage(error)) error = pending.errors[at]!
  }
  assert(error !== 0 || group.inSyncCount === 0, 'what failed has an error')
  return error
}

const nobodyWaits = (): void => {}
