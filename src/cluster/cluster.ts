import { type Clock, type Random, systemTimers, type Timers } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { METADATA_RANGE_KEYS_MAX, TRANSACTION_ATTEMPTS_MAX } from '../core/limits.ts'
import type { Entry, MetadataStore } from '../metadata/store.ts'
import { Keys } from './keys.ts'
import { decodeRecord, encodeRecord, type PeerRecord } from './records.ts'

/** Who this process is, as its superblock says. Ids are 32 hex digits. */
export interface SelfIdentity {
  readonly clusterId: string
  readonly peerId: string
  /** Random, of this run of the process. */
  readonly bootId: string
  /** Raised by one at each start. */
  readonly bootCounter: number
  readonly capacityBytes: number
  /** Added to those that the peer has. */
  readonly labels?: Readonly<Record<string, string>>
}

/** The cluster's records in the metadata, seen by one peer. */
export class Cluster {
  readonly store: MetadataStore
  readonly keys: Keys
  readonly self: SelfIdentity
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  /**
   * Did the boot counter in the metadata precede ours? If not, this disk is a copy or an older
   * state of the one that registered, or the metadata is.
   */
  readonly bootCounterFollows: boolean
  /** Of the cluster's record at the start: another one is of metadata that was restored since. */
  readonly recordRevision: number
  readonly #recordValue: Buffer

  private constructor(
    store: MetadataStore,
    self: SelfIdentity,
    bootCounterFollows: boolean,
    { modRevision, value }: Entry,
    environment: ClusterEnvironment
  ) {
    this.store = store
    this.self = self
    this.bootCounterFollows = bootCounterFollows
    this.recordRevision = modRevision
    this.#recordValue = value
    this.keys = environment.keys ?? new Keys()
    this.clock = environment.clock
    this.random = environment.random
    this.timers = environment.timers ?? systemTimers
  }

  /**
   * Registers `self`, and makes the cluster's record if the metadata has none and nothing else.
   * @throws StoreError InvalidArgument when the metadata belongs to another cluster, or to
   * something else; NotFound when it has none and must not be made. Nothing is changed then
   */
  static async open(
    store: MetadataStore,
    self: SelfIdentity,
    environment: ClusterEnvironment
  ): Promise<Cluster> {
    const keys = environment.keys ?? new Keys()
    const now = new Date(environment.clock.wallMs()).toISOString()
    await requireCluster(store, keys, environment.create ?? true)
    const cluster = { v: 1, clusterId: self.clusterId, createdAt: now } as const
    const { entries } = await store.transact({
      compare: [{ key: keys.cluster, is: 'absent' }],
      success: [
        { put: keys.cluster, value: encodeRecord('cluster', cluster) },
        { get: keys.cluster },
        { get: keys.peer(self.peerId) },
        { get: keys.settings }
      ],
      failure: [{ get: keys.cluster }, { get: keys.peer(self.peerId) }, { get: keys.settings }]
    })
    const known = decodeRecord('cluster', keys.cluster, entries[0]!.value)
    if (known.clusterId !== self.clusterId) {
      const ours = `this data directory is of cluster ${self.clusterId}`
      const theirs = `the metadata below ${keys.prefix}/ of ${known.clusterId}`
      throw new StoreError(ErrorCode.InvalidArgument, `${ours}, ${theirs}`)
    }
    const fresh = { addedAt: now, state: firstStateOf(entries[2] ?? null) }
    const follows = await registerPeer(store, keys, self, entries[1] ?? null, fresh)
    return new Cluster(store, self, follows, entries[0]!, { ...environment, keys })
  }

  /** Is it the metadata in which this process started, and not lost or restored since? */
  async isSame(): Promise<boolean> {
    const entry = await this.store.get(this.keys.cluster)
    return entry?.modRevision === this.recordRevision && entry.value.equals(this.#recordValue)
  }

  nowText(): string {
    return new Date(this.clock.wallMs()).toISOString()
  }

  /** Every entry below `prefix`. Pages are read one after the other, so not as of one revision. */
  async readAll(prefix: string): Promise<Entry[]> {
    const all: Entry[] = []
    for (;;) {
      const after = all.at(-1)?.key
      const limit = METADATA_RANGE_KEYS_MAX
      const page = await this.store.range(
        prefix,
        after === undefined ? { limit } : { limit, after }
      )
      all.push(...page.entries)
      if (!page.more) return all
    }
  }

  async peers(): Promise<PeerRecord[]> {
    const entries = await this.readAll(this.keys.peers)
    return entries.map(({ key, value }) => decodeRecord('peer', key, value))
  }
}

export interface ClusterEnvironment {
  readonly clock: Clock
  readonly random: Random
  readonly timers?: Timers
  readonly keys?: Keys
  /** May metadata that has no cluster become ours? By default it may. */
  readonly create?: boolean
}

async function requireCluster(store: MetadataStore, keys: Keys, create: boolean): Promise<void> {
  if ((await store.get(keys.cluster)) !== null) return
  const [found] = (await store.range(`${keys.prefix}/`, { limit: 1 })).entries
  if (found === undefined && create) return
  const [code, text] =
    found === undefined
      ? [
          ErrorCode.NotFound,
          `there is no cluster below ${keys.prefix}/ although this data directory is of one: is ` +
            'this the right store? If it was lost, see "torus metadata restore"'
        ]
      : [ErrorCode.InvalidArgument, foreignText(keys, found.key)]
  throw new StoreError(code, text)
}

function foreignText(keys: Keys, found: string): string {
  if (found.startsWith(keys.root)) {
    return (
      `the metadata below ${keys.root} is incomplete (${found} but no cluster): a ` +
      'migrate or restore was interrupted, run it again'
    )
  }
  return (
    `keys below ${keys.prefix}/ are not of this cluster (${found}): choose another ` +
    '--etcd-prefix. Nothing was changed'
  )
}

/** Of a peer that registers for the first time, by the cluster's settings. */
function firstStateOf(settings: Entry | null): 'pending' | 'active' {
  if (settings === null) return 'active'
  const { joinPolicy } = decodeRecord('settings', settings.key, settings.value)
  return joinPolicy === 'approve' ? 'pending' : 'active'
}

async function registerPeer(
  store: MetadataStore,
  keys: Keys,
  self: SelfIdentity,
  entry: Entry | null,
  fresh: Pick<PeerRecord, 'addedAt' | 'state'>
): Promise<boolean> {
  const key = keys.peer(self.peerId)
  const old = entry === null ? null : decodeRecord('peer', key, entry.value)
  if (old?.state === 'removed') {
    const text = `peer ${self.peerId} was removed from the cluster`
    throw new StoreError(ErrorCode.Forbidden, `${text}: start with a new data directory`)
  }
  const record: PeerRecord = {
    ...(old ?? fresh),
    v: 1,
    peerId: self.peerId,
    bootCounter: Math.max(self.bootCounter, old?.bootCounter ?? 0),
    bootId: self.bootId,
    capacityBytes: self.capacityBytes,
    labels: { ...old?.labels, ...self.labels },
    cleanPredecessor: cleanPredecessorOf(old, self),
    cleanBootId: null
  }
  const { succeeded } = await store.transact({
    compare: [{ key, modRevision: entry?.modRevision ?? 0 }],
    success: [{ put: key, value: encodeRecord('peer', record) }]
  })
  if (!succeeded) {
    const text = `peer ${self.peerId} is being started twice: its metadata changed meanwhile`
    throw new StoreError(ErrorCode.Conflict, text)
  }
  // The same boot again: the answer to its first registration did not arrive.
  if (old?.bootId === self.bootId) return old.bootCounter === self.bootCounter
  return old === null || old.bootCounter < self.bootCounter
}

/** The boot before this one, if that was the last to write to the disk and ended well. */
function cleanPredecessorOf(old: PeerRecord | null, self: SelfIdentity): string | null {
  if (old === null) return null
  if (old.bootId === self.bootId) return old.cleanPredecessor ?? null
  const follows = old.bootCounter + 1 === self.bootCounter
  return follows && old.cleanBootId === old.bootId ? old.bootId : null
}

/**
 * Runs `attempt` until it returns something: null says that a comparison failed because another
 * was faster. @throws StoreError Conflict after TRANSACTION_ATTEMPTS_MAX attempts
 */
export async function untilSettled<T>(what: string, attempt: () => Promise<T | null>): Promise<T> {
  for (let count = 0; count < TRANSACTION_ATTEMPTS_MAX; count++) {
    const result = await attempt()
    if (result !== null) return result
  }
  const text = `${what}: others changed it ${TRANSACTION_ATTEMPTS_MAX} times meanwhile`
  throw new StoreError(ErrorCode.Conflict, text)
}
