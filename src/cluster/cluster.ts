import { type Clock, type Random, systemTimers, type Timers } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { LEVEL_MAX, LEVEL_MIN } from '../core/levels.ts'
import { METADATA_RANGE_KEYS_MAX, TRANSACTION_ATTEMPTS_MAX } from '../core/limits.ts'
import type { Entry, MetadataStore } from '../metadata/store.ts'
import { Features, levelIn, ownSpoken, requireKnownLevel, spokenOf } from './features.ts'
import { Keys } from './keys.ts'
import { decodeRecord, encodeRecord, type PeerRecord, type SettingsRecord } from './records.ts'

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
  /** What all peers understand. */
  readonly features: Features
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
    { follows, level }: Registration,
    { modRevision, value }: Entry,
    environment: ClusterEnvironment
  ) {
    this.store = store
    this.self = self
    this.bootCounterFollows = follows
    this.features = new Features(level)
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
   * something else; NotFound when it has none and must not be made; UnknownVersion when it is at
   * a level that this program does not know. Nothing is changed then
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
        { put: keys.settings, value: newSettings() },
        { get: keys.cluster },
        { get: keys.peer(self.peerId) },
        { get: keys.settings }
      ],
      failure: [{ get: keys.cluster }, { get: keys.peer(self.peerId) }, { get: keys.settings }]
    })
    requireSameCluster(self, entries[0]!, keys, environment.places)
    const found = { peer: entries[1] ?? null, settings: entries[2] ?? null, now }
    const alone = environment.alone ?? false
    const registration = await register({ store, keys, self, alone }, found)
    return new Cluster(store, self, registration, entries[0]!, { ...environment, keys })
  }

  /**
   * Whatever `open` would refuse and can be seen beforehand, and changes nothing.
   * @throws StoreError as `open` does
   */
  static async check(
    store: MetadataStore,
    self: Pick<SelfIdentity, 'clusterId' | 'peerId'>,
    environment: Pick<ClusterEnvironment, 'keys' | 'create' | 'places'>
  ): Promise<void> {
    const keys = environment.keys ?? new Keys()
    await requireCluster(store, keys, environment.create ?? true)
    const read = [keys.cluster, keys.settings, keys.peer(self.peerId)].map((key) => store.get(key))
    const [cluster = null, settings = null, peer = null] = await Promise.all(read)
    if (cluster === null) return
    requireSameCluster(self, cluster, keys, environment.places)
    const known = settings && decodeRecord('settings', keys.settings, settings.value)
    requireKnownLevel(levelIn(known), keys.prefix)
    requireNotRemoved(peer && decodeRecord('peer', keys.peer(self.peerId), peer.value))
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
  /** For messages: the data directory, and where the metadata is. */
  readonly places?: { readonly directory: string; readonly metadata: string }
  /** Nobody else can ever be in this cluster: it is at the newest level at once. */
  readonly alone?: boolean
}

/** Of a cluster that begins: no older version was ever in it. */
export const newSettings = (): Buffer => encodeRecord('settings', { v: 1, level: LEVEL_MAX })

interface Registration {
  /** See `Cluster.bootCounterFollows`. */
  readonly follows: boolean
  readonly level: number
}

/**
 * @throws StoreError NotFound when there is no cluster and none may be made, InvalidArgument when
 * the keys that are there are somebody else's
 */
export async function requireCluster(
  store: MetadataStore,
  keys: Keys,
  create: boolean
): Promise<void> {
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

/** @throws StoreError InvalidArgument */
function requireSameCluster(
  { clusterId }: Pick<SelfIdentity, 'clusterId'>,
  { value }: Entry,
  keys: Keys,
  places: ClusterEnvironment['places']
): void {
  const known = decodeRecord('cluster', keys.cluster, value)
  if (known.clusterId === clusterId) return
  const directory = places === undefined ? 'this data directory' : places.directory
  const metadata = places === undefined ? '' : ` of ${places.metadata}`
  const ours = `${directory} is of cluster ${clusterId}`
  const theirs = `the metadata below ${keys.prefix}/${metadata} is of cluster ${known.clusterId}`
  const advice = 'name the one that belongs to the other, or a new --data-dir. Nothing was changed'
  throw new StoreError(ErrorCode.InvalidArgument, `${ours}, ${theirs}: ${advice}`)
}

/** @throws StoreError Forbidden */
function requireNotRemoved(record: PeerRecord | null): void {
  if (record?.state !== 'removed') return
  const text = `peer ${record.peerId} was removed from the cluster`
  throw new StoreError(ErrorCode.Forbidden, `${text}: start with a new data directory`)
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

interface Registering {
  readonly store: MetadataStore
  readonly keys: Keys
  readonly self: SelfIdentity
  readonly alone: boolean
}

interface Found {
  readonly peer: Entry | null
  readonly settings: Entry | null
  readonly now: string
}

/**
 * Together with `finalizeCluster` this keeps peers out that do not know the cluster's level: who
 * registers compares the settings, and changes `levels` if it may be news to who finalises.
 * @throws StoreError UnknownVersion, Forbidden, Conflict
 */
async function register(context: Registering, first: Found): Promise<Registration> {
  const { store, keys, self, alone } = context
  let found = first
  return untilSettled(`registering peer ${self.peerId}`, async () => {
    const key = keys.settings
    const { peer, settings } = found
    const known = settings === null ? null : decodeRecord('settings', key, settings.value)
    const level = levelIn(known)
    requireKnownLevel(level, keys.prefix)
    const old = peer === null ? null : decodeRecord('peer', keys.peer(self.peerId), peer.value)
    const raise = alone && level < LEVEL_MAX
    const raised = encodeRecord('settings', { v: 1, ...known, level: LEVEL_MAX })
    const { succeeded, entries } = await store.transact({
      compare: [
        { key: keys.peer(self.peerId), modRevision: peer?.modRevision ?? 0 },
        { key, modRevision: settings?.modRevision ?? 0 }
      ],
      success: [
        { put: keys.peer(self.peerId), value: registeredPeer(old, self, known, found.now) },
        ...(isNews(old) ? [{ put: keys.levels, value: Buffer.from(self.peerId) }] : []),
        ...(raise ? [{ put: key, value: raised }] : [])
      ],
      failure: [{ get: keys.peer(self.peerId) }, { get: key }]
    })
    if (succeeded) return { follows: followsOn(old, self), level: raise ? LEVEL_MAX : level }
    const [now = null, settingsNow = null] = entries
    // Operators and gateways change it too, R16: it is another start that must not come between.
    const present = now === null ? null : decodeRecord('peer', keys.peer(self.peerId), now.value)
    if (present?.bootId !== old?.bootId) {
      const text = `peer ${self.peerId} is being started twice: its metadata changed meanwhile`
      throw new StoreError(ErrorCode.Conflict, text)
    }
    found = { ...found, peer: now, settings: settingsNow }
    return null
  })
}

/** The levels of who registers now are not those of its last start. */
function isNews(old: PeerRecord | null): boolean {
  if (old === null) return true
  const { min, max } = spokenOf(old)
  return min !== LEVEL_MIN || max !== LEVEL_MAX
}

/** @throws StoreError Forbidden */
function registeredPeer(
  old: PeerRecord | null,
  self: SelfIdentity,
  settings: SettingsRecord | null,
  now: string
): Buffer {
  requireNotRemoved(old)
  const state = settings?.joinPolicy === 'approve' ? 'pending' : 'active'
  return encodeRecord('peer', {
    ...(old ?? { addedAt: now, state }),
    v: 1,
    peerId: self.peerId,
    bootCounter: Math.max(self.bootCounter, old?.bootCounter ?? 0),
    bootId: self.bootId,
    capacityBytes: self.capacityBytes,
    labels: { ...old?.labels, ...self.labels },
    speaks: ownSpoken,
    cleanPredecessor: cleanPredecessorOf(old, self),
    cleanBootId: null
  })
}

function followsOn(old: PeerRecord | null, self: SelfIdentity): boolean {
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
