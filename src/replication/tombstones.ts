/**
 * R12: how long the tombstones of this peer are kept, because an older copy of what they hide may
 * come back.
 *
 *   a group that lists this peer may not be whole    all of them
 *   else                                             those that others may not have on disk
 *
 * Nobody tells a member that others flushed. So it asks them, now and then, if it was told to trim:
 * it notes the last tombstone of each shard, waits until whatever was under way has come to all
 * members, or these have left, and has every member of its groups flush. If no group changed
 * meanwhile, what was noted is on the disks of all.
 */
import { isWhole } from '../cluster/groups.ts'
import type { GroupMember, GroupRecord } from '../cluster/records.ts'
import type { Timers } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { RESYNC_CALLS_MAX } from '../core/limits.ts'
import { OpKind, type ShardedStore } from './block-store.ts'
import { forEachOf } from './for-each-of.ts'
import type { Member, Members } from './member.ts'

export interface TombstoneParts {
  readonly self: { readonly peerId: string }
  readonly store: ShardedStore
  readonly members: Members
  readonly isPresentBoot: (peerId: string, bootId: string) => boolean
  readonly timers: Timers
  /** Longer than a write may be under way to a member that stays in its group. */
  readonly pauseMs: number
}

export class Tombstones {
  readonly #parts: TombstoneParts
  /** Groups that are not whole, or may not be: others know of a newer record than this peer. */
  readonly #degraded = new Set<string>()
  /** Epochs of the records that are known here. */
  readonly #epochs = new Map<string, number>()
  /** Members in sync of the groups in which this peer is. */
  readonly #groups = new Map<string, readonly GroupMember[]>()
  /** By shard: tombstones up to there are on the disks of all. */
  readonly #released: number[]
  /** How often something above changed. */
  #changes = 0
  #isComplete = false
  #isHolding = true
  #closed = false

  constructor(parts: TombstoneParts) {
    this.#parts = parts
    this.#released = Array.from({ length: parts.store.shardCount }, () => 0)
    this.#wait()
  }

  /** `isBehind`: somebody knows of a newer record. */
  learn(pool: number, group: number, record: GroupRecord, isBehind: boolean): void {
    const key = keyOf(pool, group)
    this.#epochs.set(key, record.epoch)
    const { inSync, syncing } = record
    const isMember = [...inSync, ...syncing].some((entry) => this.#isSelf(entry))
    if (isMember || this.#groups.has(key)) this.#changes++
    if (isMember) this.#groups.set(key, inSync)
    else this.#groups.delete(key)
    if (isBehind || (isMember && !isWhole(record))) this.#degraded.add(key)
    else this.#degraded.delete(key)
    this.#look()
  }

  /**
   * An op or a fence names an epoch of a group. It is not carried out yet: what it trims is kept,
   * until the record says that nobody is missing who may come back without it.
   */
  hear(pool: number, group: number, epoch: number): void {
    const key = keyOf(pool, group)
    if (epoch <= (this.#epochs.get(key) ?? 0)) return
    this.#changes++
    this.#degraded.add(key)
    this.#look()
  }

  /** Are all groups known? */
  set isComplete(isComplete: boolean) {
    this.#isComplete = isComplete
    this.#look()
  }

  close(): void {
    this.#closed = true
  }

  #look(): void {
    const wanted = this.#degraded.size > 0
    if (wanted === this.#isHolding || !this.#isComplete) return
    this.#isHolding = wanted
    this.#tell().catch(expected)
  }

  #wait(): void {
    this.#parts.timers.start(this.#parts.pauseMs, () => {
      if (this.#closed) return
      this.#round()
        .catch(expected)
        .finally(() => this.#wait())
    })
  }

  /** @throws StoreError when it has to be tried again */
  async #round(): Promise<void> {
    const { members, timers, pauseMs } = this.#parts
    const changes = this.#changes
    const last = await this.#tell()
    if (this.#isHolding || last.every((lsn, shard) => lsn <= this.#released[shard]!)) return
    // There may be no link yet.
    for (const { peer } of this.#others()) members.find(peer)
    await new Promise<void>((resolve) => void timers.start(pauseMs, resolve))
    await this.#flushOthers()
    if (this.#changes !== changes || this.#closed) return
    for (const [shard, lsn] of last.entries()) this.#released[shard] = lsn
    await this.#tell()
  }

  /** Tells shards what to keep; each answers with the lsn of its last tombstone. */
  #tell(): Promise<number[]> {
    const { store } = this.#parts
    const answers = this.#released.map(
      (released, shard) =>
        new Promise<number>((resolve, reject) => {
          const op = store.acquireOp()
          op.kind = OpKind.HoldHoles
          op.flags = 0
          op.sequence = this.#isHolding ? 0 : released
          op.onDone = ({ error, resultA, resultB }) => {
            store.releaseOp(op)
            if (error === ErrorCode.Ok) resolve(resultA + resultB * 2 ** 32)
            else reject(new StoreError(error as ErrorCode, `shard ${shard} does not answer`))
          }
          store.submitTo(shard, op)
        })
    )
    store.ring()
    return Promise.all(answers)
  }

  /** @throws StoreError when one of them cannot, or is not the boot that the records name */
  async #flushOthers(): Promise<void> {
    const others = new Set<Member>()
    for (const entry of this.#others()) others.add(this.#memberOf(entry))
    await forEachOf([...others], RESYNC_CALLS_MAX, async (member) => {
      const error = await new Promise<number>((resolve) => member.flush(resolve))
      if (error === ErrorCode.Ok) return
      throw new StoreError(error as ErrorCode, `member ${member.peerId} does not flush`)
    })
  }

  *#others(): Iterable<GroupMember> {
    for (const inSync of this.#groups.values()) {
      for (const entry of inSync) if (!this.#isSelf(entry)) yield entry
    }
  }

  #isSelf({ peer }: GroupMember): boolean {
    return peer === this.#parts.self.peerId
  }

  #memberOf({ peer, boot }: GroupMember): Member {
    const { members, isPresentBoot } = this.#parts
    const member = members.find(peer)
    const isIt = member !== null && (member.bootId === boot || isPresentBoot(peer, boot))
    if (member !== null && isIt) return member
    throw new StoreError(ErrorCode.Unavailable, `member ${peer} cannot be reached`)
  }
}

const keyOf = (pool: number, group: number): string => `${pool}/${group}`

/** It is tried again in the next round; shards that start keep all until they are told. */
function expected(thrown: unknown): void {
  if (!(thrown instanceof StoreError)) throw thrown
}
