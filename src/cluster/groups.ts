import { type Follower, type Following, follow } from '../metadata/follow.ts'
import type { Compare, Entry } from '../metadata/store.ts'
import { StoreError } from '../core/errors.ts'
import type { Cluster } from './cluster.ts'
import { decodeRecord, encodeRecord, type GroupRecord } from './records.ts'

/** A group's record and the revision in which it stands. */
export interface KnownGroup {
  readonly record: GroupRecord
  readonly modRevision: number
}

/** What else must hold for a change of a group. */
export type GroupGuard = Compare

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
   * Puts `record` with the next epoch if the group still stands at `from` (null: has no record)
   * and `guards` hold. Null when not.
   */
  async change(
    pool: number,
    group: number,
    from: KnownGroup | null,
    record: Pick<GroupRecord, 'members' | 'inSync' | 'syncing'>,
    guards: readonly Compare[] = []
  ): Promise<KnownGroup | null> {
    const key = this.#cluster.keys.group(pool, group)
    const next: GroupRecord = {
      ...(from?.record ?? { v: 1, epoch: 0 }),
      members: [...record.members],
      inSync: [...record.inSync],
      syncing: [...record.syncing],
      epoch: (from?.record.epoch ?? 0) + 1,
      v: 1
    }
    const { succeeded, revision } = await this.#cluster.store.transact({
      compare: [{ key, modRevision: from?.modRevision ?? 0 }, ...guards],
      success: [{ put: key, value: encodeRecord('group', next) }]
    })
    return succeeded ? { record: next, modRevision: revision } : null
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

const numberOf = (key: string, prefix: string): number => Number(key.slice(prefix.length))

const knownOf = (entry: Entry): KnownGroup => ({
  record: decodeRecord('group', entry.key, entry.value),
  modRevision: entry.modRevision
})
