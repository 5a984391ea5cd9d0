import type { Compare, Entry } from '../metadata/store.ts'
import type { Cluster } from './cluster.ts'
import { firstGroups, groupsUnder } from './group-shape.ts'
import type { GroupRecords, KnownGroup } from './groups.ts'
import { decodeRecord, encodeRecord, type PoolRecord } from './records.ts'

/** Transactions of one step: each makes two of a group. */
const SPLITS_PER_STEP = 64

/**
 * Doubles the groups of pools whose records ask for it (PROTOCOL.md, R41 to R46), one group after
 * the other, in steps of whoever is the controller. Only the pool's record and those of its groups
 * tell how far it came.
 *
 *   pool { groups: 2n, splitting { from: n } }: nobody makes a group of n any more
 *     -> each group of n becomes two of 2n -> none is left: the next doubling, or the end
 */
export class PoolSplitter {
  readonly #cluster: Cluster
  readonly #records: GroupRecords

  constructor(cluster: Cluster, records: GroupRecords) {
    this.#cluster = cluster
    this.#records = records
  }

  /**
   * `known`: the pool's groups as far as they are followed; `guard`: of the controller. Returns
   * whether something was changed. @throws StoreError
   */
  async step(
    pool: PoolRecord,
    known: ReadonlyMap<number, KnownGroup>,
    guard: Compare
  ): Promise<boolean> {
    if (pool.splitting === undefined) return false
    const waiting = [...known].filter(([, { record }]) => isWhole(pool, record))
    let isChanged = false
    for (const [group, from] of waiting.slice(0, SPLITS_PER_STEP)) {
      // Whose copy counts is to be decided first, about all that it has.
      if (from.record.restored !== undefined) continue
      const { number, splitting } = pool
      if (await this.#records.split(number, group, from, splitting.from, [guard])) isChanged = true
    }
    if (waiting.length > 0) return isChanged
    // What is followed may be behind.
    const all = await this.#records.readAll(pool.number)
    if ([...all.values()].some(({ record }) => isWhole(pool, record))) return false
    return this.#finish(pool.name, pool.splitting.from, guard)
  }

  async #finish(name: string, from: number, guard: Compare): Promise<boolean> {
    const { keys, store } = this.#cluster
    const { entries } = await store.transact({
      success: [{ get: keys.pool(name) }, { get: keys.restore }]
    })
    const [entry = null, restore = null] = entries
    if (entry === null || awaitsPeers(restore)) return false
    const record = decodeRecord('pool', entry.key, entry.value)
    if (record.splitting?.from !== from) return false
    const { succeeded } = await store.transact({
      compare: [
        { key: entry.key, modRevision: entry.modRevision },
        { key: keys.restore, modRevision: restore?.modRevision ?? 0 },
        guard
      ],
      success: [{ put: entry.key, value: encodeRecord('pool', doubled(record)) }]
    })
    return succeeded
  }
}

/** How far a pool is with it; null for one that is not being split. */
export function splittingOf(
  pool: PoolRecord,
  known: ReadonlyMap<number, KnownGroup>
): { readonly to: number; readonly left: number } | null {
  if (pool.splitting === undefined) return null
  const left = [...known.values()].filter(({ record }) => isWhole(pool, record)).length
  return { to: pool.splitting.to, left }
}

/** R46: peers may come that remember groups of fewer. */
export function awaitsPeers(restore: Entry | null): boolean {
  if (restore === null) return false
  return decodeRecord('restore', restore.key, restore.value).pendingPeers.length > 0
}

/** Is it to be split yet? */
const isWhole = (pool: PoolRecord, record: KnownGroup['record']): boolean =>
  groupsUnder(record, firstGroups(pool)) < pool.groups

/** What follows on the last group that was split. */
function doubled(pool: PoolRecord): PoolRecord {
  const { splitting, ...rest } = pool
  const { groups } = rest
  const to = splitting?.to ?? groups
  return to > groups ? { ...rest, groups: 2 * groups, splitting: { from: groups, to } } : rest
}
