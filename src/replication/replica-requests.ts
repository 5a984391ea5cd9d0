/**
 * What clients ask for, as copies at members: sent, answered, sent again, ended (R7, R10, R12).
 * Ops that cannot go on stay in the list; `reconcile` looks at them when their group has changed.
 */
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES, DETACHED_WRITES_MAX } from '../core/limits.ts'
import { BlockOp, copyRequest, isDamage, OpFlag, OpKind } from './block-store.ts'
import type { Boot } from './boots.ts'
import type { FamilyIo } from './family-io.ts'
import type { GatewayTrust } from './gateway-trust.ts'
import type { GroupIo } from './group-io.ts'
import { Overlaps } from './overlaps.ts'
import { Pending, PendingList, Sent } from './pending.ts'
import { ReadRepairs } from './read-repair.ts'
import type { ReplicatedStore } from './replicated-store.ts'

export class ReplicaRequests {
  readonly list: PendingList = new PendingList()
  readonly #store: ReplicatedStore
  readonly #trust: GatewayTrust
  readonly #overlaps = new Overlaps()
  readonly #repairs: ReadRepairs
  readonly #freeCopies: BlockOp[] = []
  readonly #freePendings: Pending[] = []
  #ticket = 0
  /** Writes whose clients were told an error, and that go on. */
  #detached = 0
  readonly #onCopyDone = (copy: BlockOp): void => this.#copyDone(copy)

  constructor(store: ReplicatedStore, trust: GatewayTrust) {
    this.#store = store
    this.#trust = trust
    this.#repairs = new ReadRepairs(store)
  }

  /** Takes a client's op. */
  begin(op: BlockOp, family: FamilyIo, group: GroupIo): void {
    const isWrite = op.kind !== OpKind.Read && op.kind !== OpKind.BlockStatus
    const pending = this.#freePendings.pop() ?? new Pending()
    pending.client = op
    pending.family = family
    pending.group = group
    pending.isWrite = isWrite
    pending.ticket = ++this.#ticket
    pending.submittedMs = this.#trust.nowMs
    const { request } = pending
    copyRequest(op, request)
    request.pool = family.pool.view.number
    request.group = group.index
    this.list.add(pending)
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

  /** R26, and whether the group is known and settled: may ops of the family be sent to it? */
  maySend(family: FamilyIo, group: GroupIo): boolean {
    return isOpen(family, group) && this.#trust.holdsFor(group)
  }

  /** A pending write of the op's blocks, whose bytes a read may see already (R10). */
  isInTheWayOf(op: BlockOp): boolean {
    return this.#overlaps.find(op, this.#ticket) !== null
  }

  has(group: GroupIo): boolean {
    for (let at = this.list.oldest; at !== null; at = at.newer) if (at.group === group) return true
    return false
  }

  /** All of the family end with Closed. */
  close(family: FamilyIo): void {
    for (const pending of this.list.select((each) => each.family === family)) {
      if (pending.family === family && !pending.isOver) this.#finish(pending, ErrorCode.Closed)
    }
  }

  /** Members of the group changed, or came back: sends what is to be sent, ends what is done. */
  reconcile(group: GroupIo): void {
    const mine = this.list.select((pending) => pending.group === group)
    for (const pending of mine) {
      // Ends of others may have ended it.
      if (pending.group !== group || pending.isOver) continue
      if (pending.waitsFor !== null) continue
      if (pending.isParked ? !this.#mayStart(pending) : !isOpenFor(pending)) continue
      if (pending.isWrite) {
        this.#sendWrite(pending)
        if (pending.acked === pending.needed && group.inSyncCount > 0) this.#finish(pending, 0)
        else this.#failIfAll(pending)
      } else if (pending.isParked && pending.inFlight === (pending.aside === null ? 0 : 1)) {
        for (let at = 0; at < pending.sent.length; at++) {
          if (!isDamage(pending.errors[at]!)) pending.sent[at] = Sent.No
        }
        this.#readFailed(pending)
      }
    }
  }

  /** Are there writes of it that go on without their client? */
  hasDetached(familyHigh: number, familyLow: number): boolean {
    const isDetached = ({ client, isWrite, request }: Pending): boolean =>
      isWrite &&
      client === null &&
      request.familyHigh === familyHigh &&
      request.familyLow === familyLow
    return this.#detached > 0 && this.list.select(isDetached).length > 0
  }

  /** R43: what is under way in `group`, and is `other`'s now, goes on there. */
  split(group: GroupIo, other: GroupIo): void {
    const { pool, index } = other
    for (const pending of this.list.select((each) => each.group === group)) {
      const { familyHigh, familyLow, chunk } = pending.request
      if (pool.groupOf(familyHigh, familyLow, chunk) !== other) continue
      pending.group = other
      pending.request.group = index
    }
  }

  #mayStart(pending: Pending): boolean {
    return this.maySend(pending.family!, pending.group!)
  }

  #park(pending: Pending): void {
    pending.isParked = true
    const group = pending.group!
    if (!group.isReady) this.#store.wantRecord(group)
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
      const isOut = at >= 0 && pending.sent[at] === Sent.Yes
      if (pending.isAckedBy(boot)) pending.acked++
      else if (!isOut) {
        if (boot.member === null || group.isAvoided(boot)) group.isTroubled = true
        else this.sendCopy(pending, boot)
      }
    }
  }

  sendCopy(pending: Pending, boot: Boot): void {
    const copy = this.#freeCopies.pop() ?? this.#newCopy()
    copyRequest(pending.request, copy)
    copy.pool = pending.request.pool
    copy.group = pending.request.group
    copy.groupEpoch = pending.group!.epoch
    copy.fenceEpoch = pending.family!.writerEpoch
    copy.owner = pending
    const member = boot.member!
    const isLocal = member.readNow !== undefined
    copy.payloadCrc = isLocal ? -1 : pending.payloadCrc(this.#store.arena)
    if (copy.kind === OpKind.Write) boot.freeBytes -= copy.blockCount * BLOCK_BYTES
    pending.sentTo(boot, copy)
    member.submit(copy)
    this.#store.boots.wantsRing(boot)
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
    else this.sendCopy(pending, best)
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
      this.#store.arena.release(copy.payload)
      pending.aside = null
      pending.sent[at] = Sent.No
      if (pending.isParked) pending.group!.isTroubled = true
    } else if (error === ErrorCode.Ok) {
      pending.sent[at] = Sent.Acked
      if (pending.isOver) {
        // Late: nobody needs it, but its bytes are in that member and not on its disk yet.
        if (pending.isWrite) boot.dirtyRound = this.#store.flushes.current
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
    boot.dirtyRound = this.#store.flushes.current
    const { targets } = pending.group!
    if (pending.needed !== targets.length || !targets.includes(boot)) return
    if (!pending.isAckedBy(boot)) {
      // It left and came back meanwhile, perhaps without what it acknowledges.
      if (isOpenFor(pending)) this.sendCopy(pending, boot)
      return
    }
    if (++pending.acked === pending.needed && isOpenFor(pending)) this.#finish(pending, 0)
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
      this.#store.fence(family)
      return
    }
    if (error === ErrorCode.StaleEpoch) {
      // It was sent under an epoch that this gateway has raised meanwhile.
      pending.sent[pending.indexOf(boot)] = Sent.No
      pending.isParked = !pending.isWrite
      this.#store.treat(group)
      return
    }
    if (error === ErrorCode.StaleGroup) {
      pending.sent[pending.indexOf(boot)] = Sent.No
      group.isStale = true
      group.isReady = false
      pending.isParked = !pending.isWrite
      this.#store.treat(group)
      return
    }
    if (!pending.isWrite) {
      pending.request.resultA = copy.resultA
      this.#readFailed(pending)
      return
    }
    if (error !== ErrorCode.PeerLost) this.#store.failBoot(group, boot, error)
    this.#failIfAll(pending)
  }

  #readFailed(pending: Pending): void {
    pending.isParked = true
    if (!isOpenFor(pending)) return
    this.#sendRead(pending)
    if (pending.inFlight > 0) {
      this.#store.ringSoon()
      return
    }
    const error = pending.worstError()
    if (error === 0) return
    if (pending.isDoubted) {
      this.#finish(pending, error)
      return
    }
    this.#doubt(pending)
  }

  /**
   * A write that no member in sync can do ends with its error: nobody has it then. One that is
   * away may be able to when it is back.
   */
  #failIfAll(pending: Pending): void {
    const group = pending.group!
    if (pending.inFlight > 0) return
    for (let i = 0; i < group.inSyncCount; i++) if (group.targets[i]!.member === null) return
    const error = pending.worstError()
    if (error === 0) return
    // Members that are not in sync yet and have it would be the only ones: they have to leave.
    let syncing = false
    for (let i = group.inSyncCount; i < group.targets.length; i++) {
      this.#store.failBoot(group, group.targets[i]!, error)
      syncing = true
    }
    if (syncing) return
    if (pending.isDoubted) this.#finish(pending, error)
    else this.#doubt(pending)
  }

  /** R48: others may be in sync by a newer record. It is tried again when that was looked up. */
  #doubt(pending: Pending): void {
    const group = pending.group!
    pending.isDoubted = true
    group.isStale = true
    group.isTroubled = true
    this.#store.treat(group)
  }

  /** Ends an op for its client, and for good unless copies are out. */
  #finish(pending: Pending, error: number): void {
    const { client, family, group } = pending
    this.#unlink(pending)
    if (pending.isWrite && error === 0) family!.noteAcked(group!, this.#store.flushes.current)
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
      if (error === 0) this.#answerRead(reader)
      else this.#readAgain(reader)
      reader = next
    }
  }

  /** The write that it waited for failed: whoever it was read from may have had that, and left. */
  #readAgain(read: Pending): void {
    if (read.family!.isClosed) {
      this.#answerRead(read)
      return
    }
    for (let at = 0; at < read.sent.length; at++) {
      if (read.sent[at] === Sent.Acked) read.sent[at] = Sent.No
    }
    if (this.#mayStart(read)) this.#readFailed(read)
    else this.#park(read)
  }

  #unlink(pending: Pending): void {
    this.list.remove(pending)
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
    this.#store.arena.retain(pending.heldRun)
  }

  #recycle(pending: Pending): void {
    if (pending.heldRun >= 0) this.#store.arena.release(pending.heldRun)
    pending.reset()
    this.#freePendings.push(pending)
  }

  /** The client gets `error` now; the write goes on until all members have it. */
  giveUp(pending: Pending, error: number): void {
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
}

/** Is the group's record in use, and are its members equal for the family? */
const isOpen = (family: FamilyIo, group: GroupIo): boolean =>
  group.isReady && !(family.unsettled.size > 0 && family.unsettled.has(group.index))

const isOpenFor = ({ family, group }: Pending): boolean => isOpen(family!, group!)

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
