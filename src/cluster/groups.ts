import { type Follower, type Following, follow } from '../metadata/follow.ts'
import type { Compare, Entry } from '../metadata/store.ts'
import { StoreError } from '../core/errors.ts'
import type { Cluster } from './cluster.ts'
import { splitRecord } from './group-shape.ts'
import { decodeRecord, encodeRecord, type GroupRecord, type RestoredGroup } from './records.ts'

/** A group's record and the revision in which it stands. */
export interface KnownGroup {
  readonly record: GroupRecord
  readonly modRevision: number
}

/** What else must hold for a change of a group. */
export type GroupGuard = Compare

/** No boot has it: of entries that nobody is to be taken for. */
export const NO_BOOT = '0'.repeat(32)

/** What a change of a group says; what it leaves out stays. */
export type GroupChange = Pick<GroupRecord, 'members' | 'inSync' | 'syncing'> & {
  /** null: it is settled. */
  readonly restored?: RestoredGroup | null | undefined
  /** A peer that has nothing of the group which is older than this record. */
  readonly emptied?: string
  /** Of a new record: group-shape.ts. */
  readonly split?: GroupRecord['split']
}

/** All that it wants are in sync, and nobody else is on the way: nobody comes back to it. */
export const isWhole = ({ members, inSync, syncing }: GroupRecord): boolean =>
  syncing.length === 0 && members.every((peer) => inSync.some((entry) => entry.peer === peer))

export const isFresh = ({ fresh = [] }: GroupRecord, peer: string): boolean => fresh.includes(peer)

/** Peers that a record speaks of: what they have was kept in mind by all that was done under it. */
export function peersOf({ members, inSync, syncing, restored }: GroupRecord): string[] {
  const { unproven = [], proven = [], behind = [] } = restored ?? {}
  const entries = [...inSync, ...syncing, ...proven, ...behind]
  return [...members, ...unproven, ...entries.map(({ peer }) => peer)]
}

/**
 * R34: who comes back to a group that did without it. Of one that is new nobody has anything.
 * Without `isMarked` nobody is added: programs that are older would never say what they gave up.
 */
function freshIn(from: GroupRecord | null, next: GroupChange, isMarked: boolean): string[] {
  if (from === null) return []
  const known = peersOf(from)
  const listed = [...next.inSync, ...next.syncing].map(({ peer }) => peer)
  return next.members.filter(
    (peer) =>
      !listed.includes(peer) &&
      peer !== next.emptied &&
      (isFresh(from, peer) || (isMarked && !known.includes(peer)))
  )
}

export interface GroupListener {
  onGroup(group: number, known: KnownGroup): void
  onGone?(group: number): void
  onTrouble(error: StoreError): void
}

/** The records of placement groups. Every change compares the revision and raises the epoch. */
export class GroupRecords {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** Null while nobody needed the group. */
  async read(pool: number, group: number): Promise<KnownGroup | null> {
    const entry = await this.#cluster.store.get(this.#cluster.keys.group(pool, group))
    return entry === null ? null : knownOf(entry)
  }

  /** All records of a pool that there are, by group. */
  async readAll(pool: number): Promise<Map<number, KnownGroup>> {
    const prefix = this.#cluster.keys.groups(pool)
    const entries = await this.#cluster.readAll(prefix)
    return new Map(entries.map((entry) => [numberOf(entry.key, prefix), knownOf(entry)]))
  }

  /**
   * Puts `record` with the next epoch, above `epochFloor`, if the group still stands at `from`
   * (null: has no record) and `guards` hold. Null when not.
   */
  async change(
    pool: number,
    group: number,
    from: KnownGroup | null,
    record: GroupChange,
    guards: readonly Compare[] = [],
    epochFloor: number = 0
  ): Promise<KnownGroup | null> {
    const key = this.#cluster.keys.group(pool, group)
    const { restored: open, fresh: _, ...kept } = from?.record ?? { epoch: 0 }
    const isMarked = this.#cluster.features.has('fresh-members')
    const fresh = freshIn(from?.record ?? null, record, isMarked)
    // What a member refuses everything below of.
    const remembered = (open?.behind ?? []).map(({ epoch }) => epoch)
    const restored = record.restored === undefined ? open : record.restored
    const next: GroupRecord = {
      ...kept,
      members: [...record.members],
      inSync: [...record.inSync],
      syncing: [...record.syncing],
      ...(from !== null || record.split === undefined ? {} : { split: record.split }),
      ...(fresh.length === 0 ? {} : { fresh }),
      ...(restored === undefined || restored === null ? {} : { restored }),
      epoch: Math.max(kept.epoch, epochFloor, ...remembered) + 1,
      v: 1
    }
    const { succeeded, revision } = await this.#cluster.store.transact({
      compare: [{ key, modRevision: from?.modRevision ?? 0 }, ...guards],
      success: [{ put: key, value: encodeRecord('group', next) }]
    })
    return succeeded ? { record: next, modRevision: revision } : null
  }

  /**
   * R41: makes two of a group that is one of `groups`: both have what it had, and nobody else.
   * False when the group, or what the guards say, is another by now.
   */
  async split(
    pool: number,
    group: number,
    from: KnownGroup,
    groups: number,
    guards: readonly Compare[]
  ): Promise<boolean> {
    const { keys, store } = this.#cluster
    const key = keys.group(pool, group)
    const other = keys.group(pool, group + groups)
    const value = encodeRecord('group', splitRecord(from.record, groups))
    const { succeeded } = await store.transact({
      compare: [{ key, modRevision: from.modRevision }, { key: other, is: 'absent' }, ...guards],
      success: [
        { put: other, value },
        { put: key, value }
      ]
    })
    return succeeded
  }

  /** Reports every group of the pool, and each change of one. */
  follow(pool: number, listener: GroupListener): Following {
    const prefix = this.#cluster.keys.groups(pool)
    const follower: Follower = {
      onPut: (entry) => {
        try {
          listener.onGroup(numberOf(entry.key, prefix), knownOf(entry))
        } catch (thrown) {
          if (!(thrown instanceof StoreError)) throw thrown
          listener.onTrouble(thrown)
        }
      },
      onDelete: (key) => listener.onGone?.(numberOf(key, prefix)),
      onTrouble: (error) => listener.onTrouble(error)
    }
    return follow(this.#cluster.store, prefix, follower, this.#cluster.timers)
  }
}

/** For people to look at: who asks while a pool is being read gets what is found then. */
export class SharedReads {
  readonly #records: GroupRecords
  readonly #reading = new Map<number, Promise<Map<number, KnownGroup>>>()

  constructor(records: GroupRecords) {
    this.#records = records
  }

  readAll(pool: number): Promise<Map<number, KnownGroup>> {
    let reading = this.#reading.get(pool)
    if (reading === undefined) {
      reading = this.#records.readAll(pool).finally(() => this.#reading.delete(pool))
      this.#reading.set(pool, reading)
    }
    return reading
  }
}

const numberOf = (key: string, prefix: string): number => Number(key.slice(prefix.length))

const knownOf = (entry: Entry): KnownGroup => ({
  record: decodeRecord('group', entry.key, entry.value),
  modRevision: entry.modRevision
})
