import { ErrorCode, StoreError } from '../core/errors.ts'
import { GROUPS_DEFAULT_MIN, GROUPS_MAX, METADATA_TRANSACTION_OPS_MAX } from '../core/limits.ts'
import { defaultGroupCount, isGroupCount } from '../placement/groups.ts'
import { membersOf, parseRedundancy, type Redundancy } from '../placement/redundancy.ts'
import type { FailureDomain } from '../core/failure-domains.ts'
import type { MetadataStore } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { firstGroups } from './group-shape.ts'
import type { Keys } from './keys.ts'
import { awaitsPeers } from './pool-splitter.ts'
import { decodeRecord, encodeRecord, type GroupRecord, type PoolRecord } from './records.ts'

export const DEFAULT_POOL = 'default'
const DEFAULT_POOL_NUMBER = 0
const POOLS_MAX = 0xffff
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/

export interface NewPool {
  readonly name: string
  /** `replicated:N` or `erasure:K+M`. */
  readonly redundancy: string
  readonly failureDomain?: FailureDomain
  readonly ring?: string
  readonly groups?: number
  readonly writeMinimum?: number | null
  readonly peers?: readonly string[] | null
}

/** What may change about a pool while it is in use. */
export type PoolChange = Partial<
  Pick<PoolRecord, 'redundancy' | 'failureDomain' | 'ring' | 'writeMinimum' | 'peers' | 'groups'>
>

/**
 * Members in sync below which writes wait: half of the copies rounded up, all data fragments and
 * one more where there is a second parity fragment.
 */
export function writeMinimumOf(pool: PoolRecord): number {
  if (pool.writeMinimum !== null) return pool.writeMinimum
  const redundancy = parseRedundancy(pool.redundancy)
  if (redundancy.kind === 'replicated') return Math.ceil(redundancy.copies / 2)
  return redundancy.parity > 1 ? redundancy.data + 1 : redundancy.data
}

/** The pool that every cluster has, as it begins. */
export const defaultPool = (seed: number, createdAt: string): PoolRecord => ({
  v: 1,
  name: DEFAULT_POOL,
  number: DEFAULT_POOL_NUMBER,
  redundancy: 'replicated:1',
  failureDomain: 'host',
  ring: 'ketama',
  groups: GROUPS_DEFAULT_MIN,
  seed,
  writeMinimum: null,
  peers: null,
  createdAt
})

/**
 * Where there is no default pool yet, everything is at the peer that was there first: it began
 * with embedded metadata, which was moved, or made the cluster right now. A peer that registered
 * before that one made the pool would make it for itself, and nobody would find what is there.
 * @throws StoreError NotFound when it has to be started first
 */
export async function requireNotBeforeFirst(
  store: MetadataStore,
  keys: Keys,
  peerId: string
): Promise<void> {
  if ((await store.get(keys.pool(DEFAULT_POOL))) !== null) return
  const { entries } = await store.range(keys.peers)
  const [first] = entries
    .map(({ key, value }) => decodeRecord('peer', key, value))
    .sort((left, right) => (left.addedAt < right.addedAt ? -1 : 1))
  if (first === undefined || first.peerId === peerId) return
  const text = `peer ${first.peerId} was there first and has not been started since its metadata `
  throw new StoreError(ErrorCode.NotFound, `${text}is in this store: start it before any other`)
}

/** The pools of a cluster. Each change is one transaction. */
export class Pools {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /**
   * The pool that every cluster has. The first peer makes it, with itself as the only member of
   * every group: what an embedded cluster wrote before is in these groups, so that they are
   * recorded before anybody else joins.
   */
  async ensureDefault(groups: number = GROUPS_DEFAULT_MIN): Promise<PoolRecord> {
    const { keys, store, self, random } = this.#cluster
    const known = await store.get(keys.pool(DEFAULT_POOL))
    if (known !== null) return decodeRecord('pool', known.key, known.value)
    const record = { ...defaultPool(random.u32(), this.#cluster.nowText()), groups }
    const members = [self.peerId]
    const inSync = [{ peer: self.peerId, boot: self.bootId }]
    const group: GroupRecord = { v: 1, epoch: 1, members, inSync, syncing: [] }
    const value = encodeRecord('group', group)
    // The pool's own record comes last: a start that was killed in between is done again.
    for (let first = 0; first < groups; first += METADATA_TRANSACTION_OPS_MAX) {
      const end = Math.min(groups, first + METADATA_TRANSACTION_OPS_MAX)
      const success = []
      for (let at = first; at < end; at++) success.push({ put: keys.group(0, at), value })
      const compare = [{ key: keys.pool(DEFAULT_POOL), is: 'absent' as const }]
      await store.transact({ compare, success })
    }
    return (await this.#put(record)) ?? this.get(DEFAULT_POOL)
  }

  /**
   * @throws StoreError InvalidArgument, AlreadyExists; LimitReached when all numbers are used
   */
  async create(pool: NewPool): Promise<PoolRecord> {
    const { keys, store } = this.#cluster
    const record = this.#recordOf(pool)
    return untilSettled(`creating pool ${pool.name}`, async () => {
      if ((await store.get(keys.pool(pool.name))) !== null) {
        throw new StoreError(ErrorCode.AlreadyExists, `there is a pool ${pool.name} already`)
      }
      const used = await this.#cluster.readAll(keys.poolNumber(''))
      const numbers = used.map(({ key }) => Number(key.slice(keys.poolNumber('').length)))
      const number = Math.max(DEFAULT_POOL_NUMBER, ...numbers) + 1
      if (number > POOLS_MAX) {
        const text = `pool numbers are used up to the limit of ${POOLS_MAX}`
        throw new StoreError(ErrorCode.LimitReached, text)
      }
      return this.#put({ ...record, number })
    })
  }

  /** Sorted by name. */
  async list(): Promise<PoolRecord[]> {
    const entries = await this.#cluster.readAll(this.#cluster.keys.pools)
    return entries.map(({ key, value }) => decodeRecord('pool', key, value))
  }

  /** @throws StoreError NotFound */
  async get(name: string): Promise<PoolRecord> {
    const key = this.#cluster.keys.pool(name)
    const entry = NAME.test(name) ? await this.#cluster.store.get(key) : null
    if (entry === null) {
      throw new StoreError(ErrorCode.NotFound, `there is no pool ${JSON.stringify(name)}`)
    }
    return decodeRecord('pool', key, entry.value)
  }

  /**
   * Groups move to what the pool says then, one by one; so they are split (PoolSplitter).
   * @throws StoreError NotFound, InvalidArgument
   */
  async set(name: string, change: PoolChange): Promise<PoolRecord> {
    const { keys, store } = this.#cluster
    const key = keys.pool(name)
    return untilSettled(`changing pool ${name}`, async () => {
      const { entries } = await store.transact({ success: [{ get: key }, { get: keys.restore }] })
      const [entry = null, restore = null] = entries
      if (entry === null) return this.get(name)
      const old = decodeRecord('pool', key, entry.value)
      const { groups, ...plain } = change
      const split = groups === undefined ? {} : this.#splitOf(old, groups)
      const record: PoolRecord = { ...old, ...plain, ...split }
      checkChange(old, record)
      if (groups !== undefined && awaitsPeers(restore)) {
        const text = `pool ${name}: peers have not said yet what they remember of restored metadata`
        throw new StoreError(ErrorCode.Busy, `${text}: groups are split after that`)
      }
      const { succeeded } = await store.transact({
        compare: [
          { key, modRevision: entry.modRevision },
          { key: keys.restore, modRevision: restore?.modRevision ?? 0 }
        ],
        success: [{ put: key, value: encodeRecord('pool', record) }]
      })
      return succeeded ? record : null
    })
  }

  /** What is to be in the record that its groups are split. @throws StoreError */
  #splitOf(old: PoolRecord, to: number): Partial<PoolRecord> {
    const { name, groups, splitting } = old
    const wanted = splitting?.to ?? groups
    if (to === wanted) return {}
    checkGroupCount(to)
    if (to < wanted) {
      const will = splitting === undefined ? 'has' : 'is being split into'
      const text = `pool ${name} ${will} ${wanted} groups: they can be split, not joined to ${to}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    this.#cluster.features.require('split-groups', `splitting the groups of pool ${name}`)
    if (splitting !== undefined) return { splitting: { ...splitting, to } }
    return { groups: 2 * groups, firstGroups: firstGroups(old), splitting: { from: groups, to } }
  }

  #recordOf(pool: NewPool): PoolRecord {
    if (!NAME.test(pool.name)) {
      const rule = 'up to 63 letters, digits, ".", "_" and "-", starting with a letter or digit'
      const text = `pool name ${JSON.stringify(pool.name)} is not made of ${rule}`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    const redundancy = parseRedundancy(pool.redundancy)
    const peers = pool.peers ?? null
    const groups = pool.groups ?? defaultGroupCount(peers?.length ?? 1, membersOf(redundancy))
    const record: PoolRecord = {
      v: 1,
      name: pool.name,
      number: DEFAULT_POOL_NUMBER,
      redundancy: pool.redundancy,
      failureDomain: pool.failureDomain ?? 'host',
      ring: pool.ring ?? 'ketama',
      groups,
      seed: this.#cluster.random.u32(),
      writeMinimum: pool.writeMinimum ?? null,
      peers: peers === null ? null : [...peers],
      createdAt: this.#cluster.nowText()
    }
    checkPool(record, redundancy)
    return record
  }

  /** Null when the name or the number was taken meanwhile. */
  async #put(record: PoolRecord): Promise<PoolRecord | null> {
    const { keys, store } = this.#cluster
    const key = keys.pool(record.name)
    const numberKey = keys.poolNumber(record.number)
    const { succeeded } = await store.transact({
      compare: [
        { key, is: 'absent' },
        { key: numberKey, is: 'absent' }
      ],
      success: [
        { put: key, value: encodeRecord('pool', record) },
        { put: numberKey, value: Buffer.from(record.name) }
      ]
    })
    return succeeded ? record : null
  }
}

function checkGroupCount(groups: number): void {
  if (isGroupCount(groups)) return
  const text = `${groups} groups: a pool has a power of two of them, up to ${GROUPS_MAX}`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

function checkPool(pool: PoolRecord, redundancy: Redundancy): void {
  checkGroupCount(pool.groups)
  const members = membersOf(redundancy)
  const { writeMinimum } = pool
  if (writeMinimum !== null && (writeMinimum < 1 || writeMinimum > members)) {
    const text = `write minimum ${writeMinimum}: ${pool.redundancy} has 1 to ${members} members`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
}

function checkChange(old: PoolRecord, pool: PoolRecord): void {
  const redundancy = parseRedundancy(pool.redundancy)
  const was = parseRedundancy(old.redundancy)
  const same = was.kind === 'replicated' && redundancy.kind === 'replicated'
  if (!same && old.redundancy !== pool.redundancy) {
    const text = `pool ${old.name} is ${old.redundancy}: that cannot become ${pool.redundancy}`
    throw new StoreError(ErrorCode.InvalidArgument, `${text} while it is in use`)
  }
  checkPool(pool, redundancy)
}
