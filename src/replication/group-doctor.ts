import type { KnownGroup } from '../cluster/groups.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { REPLICATION_RETRY_MS, REPLICATION_TICK_MS } from '../core/limits.ts'
import type { Boot } from './boots.ts'
import type { FamilyIo } from './family-io.ts'
import type { GroupIo } from './group-io.ts'
import { fenceOf } from './member.ts'
import type { ReplicatedStore } from './replicated-store.ts'

/**
 * What makes a group usable again: reads its record, sees restarts of members, and takes members
 * out that cannot do their part (R7, R8, R13). One piece of work at a time for a group; the tick of
 * the store calls again while something is amiss.
 */
export class GroupDoctor {
  readonly #store: ReplicatedStore
  /** Records that name new boots of members, until it is known how the old ones ended. */
  readonly #doubts = new Map<GroupIo, KnownGroup>()
  /** Groups that were below their write minimum when last tried. */
  readonly #blocked = new Set<GroupIo>()

  constructor(store: ReplicatedStore) {
    this.#store = store
  }

  wantRecord(group: GroupIo): void {
    if (group.known !== null && !group.isStale) return
    group.isTroubled = true
    this.treat(group)
  }

  /** A record of the group, which may be news. */
  learn(group: GroupIo, known: KnownGroup): void {
    const count = group.countUnder(known)
    // R43: of before it was split.
    if (count < group.count) return
    while (group.count < count) group.pool.split(group)
    const latest = this.#doubts.get(group) ?? group.known
    if (latest !== null && known.modRevision <= latest.modRevision) {
      if (this.#doubts.has(group)) this.treat(group)
      return
    }
    const isPlain = this.#store.isTrusted || group.known === null
    if (isPlain && this.#restarted(group, known).length === 0) {
      this.#doubts.delete(group)
      this.#adopt(group, known)
      return
    }
    this.#doubts.set(group, known)
    group.isReady = false
    group.isTroubled = true
    this.treat(group)
  }

  /** R11: all in sync have to fail by the newest record before a flush does. */
  onFlushFailed(boot: Boot, error: number): void {
    if (error === ErrorCode.PeerLost) return
    const store = this.#store
    const hopeless = new Set<GroupIo>()
    for (const family of store.families()) {
      for (const group of family.dirtyGroups) {
        if (!group.targets.includes(boot)) continue
        store.failBoot(group, boot, error)
        const inSync = group.targets.slice(0, group.inSyncCount)
        if (!inSync.every((each) => group.failed.has(each))) continue
        if (group.flushDoubt === 'answered') {
          hopeless.add(group)
          store.flushes.fail(boot, family, error)
        } else if (group.flushDoubt === 'none') {
          group.flushDoubt = 'asked'
          group.isStale = true
        }
      }
    }
    for (const group of hopeless) group.flushDoubt = 'none'
  }

  /** Is there a newer record than the one in use? */
  isBehind(group: GroupIo): boolean {
    if (this.#doubts.has(group)) return true
    const latest = this.#store.groups.get(group.pool.view.number, group.index)
    return latest !== null && latest.modRevision !== group.known?.modRevision
  }

  /** Does something wait for time to pass? */
  get isWaiting(): boolean {
    return this.#doubts.size > 0
  }

  treat(group: GroupIo): void {
    this.#store.wake()
    if (group.isTreated) return
    group.isTreated = true
    // Later, because whoever saw the trouble is in the middle of something.
    queueMicrotask(() => {
      this.#treat(group)
        .catch((thrown: unknown) => {
          if (!(thrown instanceof StoreError)) throw thrown
          group.retryMs = this.#nowMs + REPLICATION_TICK_MS
          this.#store.trouble(`group ${group.name}`, thrown)
        })
        .finally(() => {
          group.isTreated = false
        })
    })
  }

  /** Members that restarted after a clean end stand where they stood. */
  async findSuccessors(group: GroupIo): Promise<void> {
    for (const boot of [...group.targets]) {
      if (boot.member === null) await this.#isGone(group, boot)
    }
  }

  get #nowMs(): number {
    return this.#store.clock.monotonicMs()
  }

  async #treat(group: GroupIo): Promise<void> {
    if (this.#nowMs < group.retryMs) return
    const doubt = this.#doubts.get(group)
    if (doubt !== undefined) await this.#resolveDoubt(group, doubt)
    else if (group.known === null) await this.#load(group)
    else if (group.isStale || !group.isReady) await this.#refresh(group, group.known)
    else await this.#look(group)
  }

  async #load(group: GroupIo): Promise<void> {
    const { view } = group.pool
    const cached = this.#store.groups.get(view.number, group.index)
    if (cached !== null) {
      const isOld = group.countUnder(cached) < group.count
      const known = isOld ? await this.#store.groups.refresh(view.number, group.index) : cached
      if (known !== null) this.learn(group, known)
      return
    }
    if (group.count < view.groups) {
      await this.#loadSplit(group)
      return
    }
    const family = this.#store.familiesOf(group).find(({ isClosed }) => !isClosed)
    if (family === undefined) return
    const { claim } = family
    try {
      const id = { group: group.index, groups: group.count }
      this.learn(group, await this.#store.groups.ensure(view, id, claim))
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      if (thrown.code !== ErrorCode.Closed) throw thrown
      this.#fenceIfSame(family, claim.modRevision)
    }
  }

  /** R44: the pool is of more groups. One that has no record by now will never have one. */
  async #loadSplit(group: GroupIo): Promise<void> {
    const { count, index, pool } = group
    const known = await this.#store.groups.refresh(pool.view.number, index)
    if (group.known !== null || group.count !== count) return
    if (known === null) pool.split(group)
    else this.learn(group, known)
  }

  async #refresh(group: GroupIo, old: KnownGroup): Promise<void> {
    const known = await this.#store.groups.refresh(group.pool.view.number, group.index)
    if (known !== null) this.learn(group, known)
    if (group.known !== old || this.#doubts.has(group)) return
    // No news: what a member knows, it was told by somebody who is ahead of the store's answer.
    group.retryMs = this.#nowMs + REPLICATION_TICK_MS
    if (!group.isKnown) return
    group.isStale = false
    if (group.flushDoubt === 'asked') group.flushDoubt = 'answered'
    group.isReady = true
    this.#store.reconcile(group)
  }

  /** R31: who stays in the group is told, durably, that another has left. */
  #tell(group: GroupIo): void {
    const { unfenced, known } = group
    if (known === null || !group.isKnown) return
    const id = { pool: group.pool.view.number, group: group.index }
    for (const boot of unfenced) {
      boot.member?.call(fenceOf(id, known)).then(
        () => {
          if (unfenced.delete(boot)) this.#store.flushes.check()
        },
        (thrown: unknown) => {
          if (!(thrown instanceof StoreError)) throw thrown
          if (thrown.code === ErrorCode.StaleGroup) group.isStale = true
          group.isTroubled = true
        }
      )
    }
  }

  /** Looks at the members: back again, restarted, or to be taken out. */
  async #look(group: GroupIo): Promise<void> {
    const store = this.#store
    if (this.#blocked.delete(group) && group.failed.size > 0) {
      // What failed a while ago may work now: there may be space again.
      group.failed.clear()
      store.reconcile(group)
      return
    }
    this.#tell(group)
    const gone: Boot[] = []
    for (const boot of group.targets) {
      if (group.failed.has(boot)) gone.push(boot)
      else if (boot.member === null && (await this.#isGone(group, boot))) gone.push(boot)
    }
    const isWanted = store.hasPending(group) || group.targets.some((b) => store.flushes.waitsFor(b))
    if (gone.length > 0 && isWanted) await this.#remove(group, gone)
    else if (gone.length === 0 && group.targets.every(({ member }) => member !== null)) {
      group.isTroubled = group.unfenced.size > 0
      store.reconcile(group)
      // A read that found no member, for instance, waits still.
      if (store.pendings.select((each) => each.group === group && each.isParked).length > 0) {
        group.isTroubled = true
      }
    }
  }

  async #isGone(group: GroupIo, boot: Boot): Promise<boolean> {
    const store = this.#store
    const present = store.boots.find(boot.peerId)
    if (present === boot) return false
    // A boot that was just listed may have no link yet, or one of the boot before it.
    const listedMs = group.listedMs.get(boot) ?? Number.NEGATIVE_INFINITY
    if (this.#nowMs - listedMs < store.patienceMs) return false
    if (present === null) return this.#nowMs - boot.downSinceMs >= store.patienceMs
    const entry = group.entryOf(boot)
    if (entry === null) return false
    const next = await store.groups.cleanSuccessor(boot.peerId, entry.boot)
    if (next !== present.bootId) return true
    this.#succeed(boot, entry.boot, present)
    return false
  }

  /** `boot` ended cleanly, and `next` stands for it. */
  #succeed(boot: Boot, bootId: string, next: Boot): void {
    const store = this.#store
    store.boots.succeed(boot.peerId, bootId, next)
    // A clean end syncs first.
    boot.cleanRound = boot.dirtyRound
    for (const group of store.allGroups()) {
      if (group.known === null || !group.targets.includes(boot)) continue
      group.adopt(group.known, store.boots, this.#nowMs)
      store.reconcile(group)
    }
  }

  async #remove(group: GroupIo, gone: readonly Boot[]): Promise<void> {
    const store = this.#store
    const { view } = group.pool
    const families = store.familiesOf(group).filter(({ isClosed }) => !isClosed)
    if (families.length === 0) return
    const inSync = group.targets.slice(0, group.inSyncCount)
    const able = inSync.filter((boot) => !gone.includes(boot) && boot.member !== null)
    const goes = able.length > 0 ? gone : gone.filter((boot) => !inSync.includes(boot))
    if (goes.length === 0) {
      this.#block(group)
      return
    }
    const entries = goes.flatMap((boot) => group.entryOf(boot) ?? [])
    const claims = families.map(({ claim }) => claim)
    const result = await store.groups.remove(view, group.index, entries, claims, (left) =>
      left.some(({ peer, boot }) => able.includes(store.boots.of(peer, boot)))
    )
    if (result.kind === 'done') {
      const whys = goes.map((boot) => whyOf(group.failed.get(boot)))
      this.learn(group, result.known)
      for (const [at, { peerId }] of goes.entries()) {
        store.trouble(`${peerId} leaves group ${group.name}: ${whys[at]}`, null)
      }
    } else if (result.kind === 'belowMinimum') {
      this.#block(group)
    } else {
      for (const family of families) {
        if (family.claim.key === result.claim.key) {
          this.#fenceIfSame(family, result.claim.modRevision)
        }
      }
    }
  }

  #block(group: GroupIo): void {
    this.#blocked.add(group)
    group.retryMs = this.#nowMs + REPLICATION_RETRY_MS
  }

  #fenceIfSame(family: FamilyIo, modRevision: number): void {
    // The lease may have been taken anew meanwhile: then it is ours all the same.
    if (family.isRetaken || family.claim.modRevision !== modRevision) return
    this.#store.fence(family)
  }

  /** Members in sync that `known` has under another boot than before, with writes unflushed. */
  #restarted(
    group: GroupIo,
    known: KnownGroup
  ): { readonly peer: string; readonly from: string; readonly to: string }[] {
    if (group.known === null) return []
    const isDirty = [...this.#store.families()].some(({ dirtyGroups }) => dirtyGroups.has(group))
    if (!isDirty) return []
    const { boots } = this.#store
    return known.record.inSync.flatMap(({ peer, boot: to }) => {
      const before = group.known!.record.inSync.find((entry) => entry.peer === peer)
      if (before === undefined || before.boot === to) return []
      return boots.of(peer, before.boot) === boots.of(peer, to)
        ? []
        : [{ peer, from: before.boot, to }]
    })
  }

  async #resolveDoubt(group: GroupIo, known: KnownGroup): Promise<void> {
    const store = this.#store
    if (!store.isTrusted) {
      // Without a writer record members come in sync that a takeover has to look at first.
      group.retryMs = this.#nowMs + REPLICATION_TICK_MS
      return
    }
    for (const { peer, from, to } of this.#restarted(group, known)) {
      const next = await store.groups.cleanSuccessor(peer, from)
      if (next === to) this.#succeed(store.boots.of(peer, from), from, store.boots.of(peer, to))
      else {
        // What was acknowledged and not flushed may be gone with the old boot, R13.
        for (const family of [...store.families()]) {
          if (family.dirtyGroups.has(group)) store.losePower(family)
        }
      }
    }
    if (this.#doubts.get(group) !== known) return
    this.#doubts.delete(group)
    this.#adopt(group, known)
  }

  #adopt(group: GroupIo, known: KnownGroup): void {
    // In doubt until now, and of before it was split.
    if (group.countUnder(known) < group.count) return
    group.adopt(known, this.#store.boots, this.#nowMs)
    group.retryMs = 0
    this.#blocked.delete(group)
    group.isTroubled = true
    this.#tell(group)
    this.#store.reconcile(group)
  }
}

const whyOf = (error: number | undefined): string =>
  error === undefined ? 'no link to it' : errorCodeName(error)
