/**
 * What a gateway does before it serves a family that others wrote (R15–R17): nobody older writes
 * or reads it any more (fence), its members in sync hold the same (equalise), on disk (flush).
 * Groups that cannot be settled yet wait, and are tried again; the others are served.
 */
import { lacksHalves } from '../cluster/group-shape.ts'
import { peersOf } from '../cluster/groups.ts'
import type { TakenWriter, Writers } from '../cluster/writers.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  MEMBER_TRUST_MS,
  REPLICATION_RETRY_MS,
  REPLICATION_TICK_MS,
  SETTLED_AT_ONCE_MAX
} from '../core/limits.ts'
import type { Boot } from './boots.ts'
import { decodeQuiet } from './confirmations.ts'
import { callBoot, Equaliser, forEach, MemberFailed } from './equalise.ts'
import type { FamilyIo } from './family-io.ts'
import type { GroupIo } from './group-io.ts'
import type { ReplicatedStore } from './replicated-store.ts'

export interface TakeoverOptions {
  readonly store: ReplicatedStore
  readonly writers: Writers
  readonly family: FamilyIo
  readonly taken: TakenWriter
  readonly readers: readonly FormerReader[]
}

/** R16: a gateway that had the family, and may not know that it has not. */
export interface FormerReader {
  readonly peer: string
  readonly boot: string
  /** How long after the last fence it may still read where it was not fenced. */
  readonly trustMs: number
}

/** A member that failed so often has to leave, although it answers. */
const MEMBER_FAILURES_MAX = 3

/** Of the patience: what a peer gets whose own lease has ended too. */
const DOWN_PART = 4

type Outcome = 'settled' | 'again' | 'blocked'

export class Takeover {
  readonly #options: TakeoverOptions
  readonly #store: ReplicatedStore
  readonly #family: FamilyIo
  /** Fences that were answered, or are on their way. */
  readonly #fences = new Map<Boot, Promise<boolean>>()
  /** Could not be fenced within the patience that a lost link gets. */
  readonly #away = new Set<Boot>()
  /** How often members failed that could be fenced. */
  readonly #failures = new Map<Boot, number>()
  #lastFenceMs = 0
  /** When one of those that were fenced last confirmed the writer before, at the latest. */
  #lastConfirmedMs = Number.NEGATIVE_INFINITY
  /** Groups that have a record. */
  readonly #groups = new Set<GroupIo>()
  /** Chunks that differed between members. */
  chunks = 0

  constructor(options: TakeoverOptions) {
    this.#options = options
    this.#store = options.store
    this.#family = options.family
  }

  /**
   * Resolves when the family can be served; groups whose members are away go on waiting.
   * @throws StoreError Closed when the writer lease is lost meanwhile
   */
  async run(): Promise<void> {
    const { view } = this.#family.pool
    this.#family.takeover = this
    await this.#store.groups.open(view.number)
    // The writer before drained and flushed: nothing is on its way, and all members are equal.
    if (this.#options.taken.wasClean) {
      for (const group of this.#open) this.#store.settled(this.#family, group)
      return
    }
    await this.#learnAll()
    const { done } = await this.#settle()
    const { taken, writers } = this.#options
    await this.#quarantine()
    // Should this process end before, the next takeover waits as long.
    const isSettled = this.#isAllOf(done) && this.#mayRaise
    if (isSettled) await writers.settle(this.#family.id, taken)
    // Groups may have been split since: what is open then is one of those, or a half of one.
    for (const group of isSettled ? this.#open : done) this.#store.settled(this.#family, group)
    if (!isSettled) this.#goOn()
  }

  /** Groups without a record hold nothing. */
  async #learnAll(): Promise<void> {
    const { pool, unsettled } = this.#family
    const { number, firstGroups } = pool.view
    let records = await this.#store.groups.refreshAll(number)
    // They are read one after the other: of a group that is split meanwhile perhaps one half.
    while (lacksHalves(records, firstGroups)) {
      records = await this.#store.groups.refreshAll(number)
    }
    for (const [index, known] of records) this.#store.learnRecord(pool, index, known)
    const used = new Set([...records.keys()].map((index) => pool.covering(index)))
    for (const group of pool.groups) if (group !== null && group.known !== null) used.add(group)
    for (const { index } of used) unsettled.add(index)
    for (const group of this.#open) if (!used.has(group)) this.#store.settled(this.#family, group)
  }

  /** Groups that are not settled yet, halves of those that were split since among them. */
  get #open(): GroupIo[] {
    return [...this.#family.unsettled].map((index) => this.#family.pool.covering(index))
  }

  #isAllOf(done: ReadonlySet<GroupIo>): boolean {
    return this.#open.every((group) => done.has(group))
  }

  /**
   * R17: versions below settledEpoch are what members in sync have, or void. A gateway that takes
   * its lease anew sends what was under way again, with the versions that it has: until members
   * have that, and nothing more of the kind can come, settledEpoch stays as it was.
   */
  get #mayRaise(): boolean {
    const { begunEpoch, writerEpoch } = this.#family
    return begunEpoch === writerEpoch && !this.#store.pendings.hasOlder(this.#family)
  }

  get #isOver(): boolean {
    return this.#family.isClosed || this.#family.takeover !== this
  }

  /** Who had the family and was not fenced may read for a while where nobody was fenced. */
  async #quarantine(): Promise<void> {
    const { readers } = this.#options
    if (readers.length === 0) return
    const fenced = new Set([...this.#fences.keys()].map(({ peerId }) => peerId))
    const isLeft = readers.filter(({ peer }) => !fenced.has(peer))
    const named = new Set([...this.#groups].flatMap(peersIn))
    const unfenced = [...named].filter((peer) => !fenced.has(peer))
    if (isLeft.length === 0 || unfenced.length === 0) return
    const trustMs = Math.max(...isLeft.map((each) => each.trustMs))
    // One that may go on by what others confirm, and nobody is left to confirm it.
    const isKnown =
      trustMs <= MEMBER_TRUST_MS && isLeft.length === 1 && unfenced.join() === isLeft[0]!.peer
    const sinceMs = isKnown ? this.#lastConfirmedMs : this.#lastFenceMs
    await this.#sleep(sinceMs + trustMs - this.#store.clock.monotonicMs())
  }

  /** Tries the groups that could not be settled until they can, then settles the family. */
  #goOn(): void {
    const { store } = this.#options
    const { unsettled } = this.#family
    const work = async (): Promise<void> => {
      while (!this.#isOver && !(unsettled.size === 0 && this.#mayRaise)) {
        await this.#sleep(REPLICATION_RETRY_MS)
        if (this.#isOver) return
        if (unsettled.size === 0) continue
        this.#failures.clear()
        const { done } = await this.#settle()
        if (done.size > 0) await this.#quarantine()
        for (const group of done) store.settled(this.#family, group)
      }
      if (!this.#isOver) {
        await this.#options.writers.settle(this.#family.id, this.#options.taken)
      }
    }
    work().catch((thrown: unknown) => {
      if (!(thrown instanceof StoreError)) throw thrown
      if (this.#isOver) return
      if (thrown.code === ErrorCode.Closed) store.fence(this.#family)
      else {
        store.trouble(`taking over family ${this.#family.id}`, thrown)
        this.#goOn()
      }
    })
  }

  /** Makes the members of groups equal, all but of those whose members are away. */
  async #settle(): Promise<{ readonly done: ReadonlySet<GroupIo> }> {
    const blocked = new Set<GroupIo>()
    const done = new Set<GroupIo>()
    const left = (): GroupIo[] => this.#open.filter((one) => !done.has(one) && !blocked.has(one))
    for (let open = left(); open.length > 0; open = left()) {
      if (this.#isOver) throw leaseLost(this.#family)
      for (const group of open) this.#groups.add(group)
      const equaliser = new Equaliser(this.#store, this.#family, this.#options.taken.settledEpoch)
      let isAgain = false
      const fenced: { group: GroupIo; revision: number }[] = []
      await forEach(open, SETTLED_AT_ONCE_MAX, async (group) => {
        const outcome = await this.#fence(group)
        if (outcome === 'settled') fenced.push({ group, revision: group.known!.modRevision })
        else if (outcome === 'again') isAgain = true
        else blocked.add(group)
      })
      const equal: typeof fenced = []
      await forEach(fenced, SETTLED_AT_ONCE_MAX, async (each) => {
        if (await this.#try(() => equaliser.equalise(each.group))) equal.push(each)
        else isAgain = true
      })
      this.chunks += equaliser.chunks
      await this.#flush(equal.map(({ group }) => group))
      for (const { group, revision } of equal) {
        // Members that came meanwhile were not looked at.
        const isSame = group.known!.modRevision === revision && !this.#store.isBehind(group)
        if (isSame && group.isKnown && this.#isWhole(group)) done.add(group)
        else isAgain = true
      }
      if (isAgain) await this.#sleep(REPLICATION_TICK_MS)
    }
    return { done }
  }

  /** Every member of the group is fenced, or taken out of it. */
  async #fence(group: GroupIo): Promise<Outcome> {
    const { view } = group.pool
    if (!group.isKnown) {
      this.#store.treat(group)
      return 'again'
    }
    await this.#store.findSuccessors(group)
    const boots = [...group.targets]
    const revision = group.known!.modRevision
    const fenced = await Promise.all(boots.map((boot) => this.#fenceBoot(boot)))
    const isSame = group.isKnown && group.known!.modRevision === revision
    if (!isSame || this.#store.isBehind(group)) return 'again'
    const away = boots.filter((_, at) => !fenced[at])
    if (away.length === 0) return 'settled'
    if (!fenced.some((one, at) => one && at < group.inSyncCount)) return 'blocked'
    const entries = away.flatMap((boot) => group.entryOf(boot) ?? [])
    const claims = [this.#options.taken.claim]
    const result = await this.#store.groups.remove(view, group.index, entries, claims)
    if (result.kind === 'fenced') throw leaseLost(this.#family)
    if (result.kind === 'belowMinimum') return 'blocked'
    this.#store.learn(group, result.known)
    return 'again'
  }

  #fenceBoot(boot: Boot): Promise<boolean> {
    const known = this.#fences.get(boot)
    if (known !== undefined) return known
    const fence = this.#askFence(boot).then((isFenced) => {
      if (!isFenced) this.#fences.delete(boot)
      return isFenced
    })
    this.#fences.set(boot, fence)
    return fence
  }

  async #askFence(boot: Boot): Promise<boolean> {
    const { clock, patienceMs, boots } = this.#store
    // Waited for once, not once for each of its groups.
    const startMs = clock.monotonicMs()
    const isAway = this.#away.has(boot)
    const { id: family, writerEpoch } = this.#family
    if ((this.#failures.get(boot) ?? 0) >= MEMBER_FAILURES_MAX) return false
    for (;;) {
      if (boot.member === null) boots.find(boot.peerId)
      if (boot.member !== null) {
        const request = { call: 'fenceFamily', family, writerEpoch } as const
        let quietMs = 0
        const call = async (): Promise<void> => {
          quietMs = decodeQuiet((await callBoot(boot, request)).data)
        }
        if (await this.#try(call)) {
          this.#lastFenceMs = clock.monotonicMs()
          this.#lastConfirmedMs = Math.max(this.#lastConfirmedMs, this.#lastFenceMs - quietMs)
          this.#away.delete(boot)
          return true
        }
      }
      const isUp = this.#store.options.isUp?.(boot.peerId) ?? true
      const waitMs = isAway ? 0 : isUp ? patienceMs : patienceMs / DOWN_PART
      if (clock.monotonicMs() - startMs >= waitMs) {
        this.#away.add(boot)
        return false
      }
      await this.#sleep(REPLICATION_TICK_MS / 2)
    }
  }

  /** One flush a member for all groups. */
  async #flush(groups: readonly GroupIo[]): Promise<void> {
    const boots = new Set(groups.flatMap(({ targets }) => targets))
    await Promise.all(
      [...boots].map(async (boot) => {
        const { member } = boot
        const error =
          member === null
            ? ErrorCode.PeerLost
            : await new Promise<number>((resolve) => member.flush(resolve))
        if (error !== ErrorCode.Ok) this.#failed(boot)
      })
    )
  }

  #failed(boot: Boot): void {
    this.#fences.delete(boot)
    this.#failures.set(boot, (this.#failures.get(boot) ?? 0) + 1)
  }

  #isWhole(group: GroupIo): boolean {
    return group.targets.every((boot) => this.#fences.has(boot))
  }

  /** False when a member failed: it has to be fenced again, or to leave. */
  async #try(work: () => Promise<void>): Promise<boolean> {
    try {
      await work()
      return true
    } catch (thrown) {
      if (!(thrown instanceof MemberFailed)) throw thrown
      this.#failed(thrown.boot)
      return false
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#store.timers.start(Math.max(0, ms), resolve)
    })
  }
}

const peersIn = ({ known }: GroupIo): string[] => (known === null ? [] : peersOf(known.record))

const leaseLost = (family: FamilyIo): StoreError =>
  new StoreError(ErrorCode.Closed, `family ${family.id}: the writer lease is lost`)
