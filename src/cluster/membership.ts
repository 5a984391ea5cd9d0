import { ErrorCode, StoreError } from '../core/errors.ts'
import { type Follower, type Following, follow } from '../metadata/follow.ts'
import type { Compare, Entry } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { type AliveRecord, decodeRecord, encodeRecord, type PeerRecord } from './records.ts'
import { levelIn } from './features.ts'
import type { Session } from './session.ts'

/** Between attempts to tell a store that does not answer that this process is alive. */
const REGISTER_RETRY_MS = 1000

/** A peer as the metadata has it now. */
export interface PeerView {
  readonly record: PeerRecord
  /** Null while nobody renews its lease. */
  readonly alive: AliveRecord | null
  /** When this process last saw it come or go, monotonic. */
  readonly changedMs: number
  /** When it was last up, as far as it is known; null for never. */
  readonly lastSeenAt: string | null
}

/** What a process tells others about itself: see AliveRecord. */
export interface AliveInfo {
  readonly peerAddress: string | null
  readonly adminAddresses: readonly string[]
  readonly nbdAddresses: readonly string[]
  readonly process?: AliveRecord['process']
  readonly usedBytes: number
}

export interface MembershipOptions {
  readonly alive: AliveInfo
  readonly onTrouble?: (what: string, error: StoreError) => void
  /** This one is not the peer any more: another process started as it, or it was removed. */
  readonly onReplaced?: (error: StoreError) => void
}

/** Who is in the cluster and who is up: registers this process, and follows all others. */
export class Membership {
  readonly #cluster: Cluster
  readonly #session: Session
  readonly #options: MembershipOptions
  readonly #startedAt: string
  readonly #records = new Map<string, PeerRecord>()
  readonly #alive = new Map<string, AliveRecord>()
  readonly #changedMs = new Map<string, number>()
  /** Of those that this process itself saw go. */
  readonly #lostAt = new Map<string, string>()
  readonly #listeners: ((peerId: string) => void)[] = []
  /** Those that are not removed, by id; made when it is asked for. */
  #sorted: PeerRecord[] | null = null
  /** Counts what changed. */
  version = 0
  #own: AliveInfo
  /** The peer's record, as far as it is known. */
  #ownEntry: Entry | null = null
  #replacedBy: StoreError | null = null
  #following: Following[] = []
  #closed = false
  #cancelRetry = (): void => {}

  private constructor(cluster: Cluster, session: Session, options: MembershipOptions) {
    this.#cluster = cluster
    this.#session = session
    this.#options = options
    this.#own = options.alive
    this.#startedAt = cluster.nowText()
  }

  /**
   * Resolves when every peer is known. This process is registered then, or as soon as the store
   * answers.
   * @throws StoreError what does not pass by itself
   */
  static async open(
    cluster: Cluster,
    session: Session,
    options: MembershipOptions
  ): Promise<Membership> {
    const membership = new Membership(cluster, session, options)
    await membership.#registerSoon()
    session.onReplaced(() => membership.#registerAgain())
    membership.#follow()
    await Promise.all(membership.#following.map(({ ready }) => ready))
    return membership
  }

  /** Sorted by id; removed peers are not among them. */
  peers(): PeerView[] {
    this.#sorted ??= [...this.#records.values()]
      .filter(({ state }) => state !== 'removed')
      .sort((left, right) => (left.peerId < right.peerId ? -1 : 1))
    const now = this.#cluster.nowText()
    return this.#sorted.map((record) => this.#viewOf(record, now))
  }

  peer(peerId: string): PeerView | null {
    const record = this.#records.get(peerId)
    return record === undefined ? null : this.#viewOf(record, this.#cluster.nowText())
  }

  #viewOf(record: PeerRecord, now: string): PeerView {
    const { peerId } = record
    const alive = this.#alive.get(peerId) ?? null
    const lost = this.#lostAt.get(peerId) ?? record.lastSeenAt ?? null
    const lastSeenAt = alive === null ? lost : now
    return { record, alive, changedMs: this.#changedMs.get(peerId) ?? 0, lastSeenAt }
  }

  /** This process saw it go: for those that come later. */
  async noteLastSeen(peerId: string): Promise<void> {
    const lastSeenAt = this.#lostAt.get(peerId)
    if (lastSeenAt !== undefined) await this.change(peerId, () => ({ lastSeenAt }))
  }

  /** Where the peer's present boot is reached; null while it is down. */
  addressOf(peerId: string): string | null {
    return this.#alive.get(peerId)?.peerAddress ?? null
  }

  /** May an entry of a group record with this boot id stand for the peer's present boot? */
  isPresentBoot(peerId: string, bootId: string): boolean {
    const alive = this.#alive.get(peerId)
    if (alive === undefined) return false
    if (alive.bootId === bootId) return true
    const record = this.#records.get(peerId)
    return record?.bootId === alive.bootId && record.cleanPredecessor === bootId
  }

  /** The peer is down, may come back, and has all that this entry of a group record stands for. */
  endedCleanly(peerId: string, bootId: string): boolean {
    const record = this.#records.get(peerId)
    if (record === undefined || record.state === 'removed' || this.#alive.has(peerId)) return false
    const { cleanBootId, cleanPredecessor } = record
    // An entry stays as it is over one clean end, and is put right after the next start.
    return cleanBootId === record.bootId && [cleanBootId, cleanPredecessor].includes(bootId)
  }

  /** `listener` is called with a peer's id after anything about it changed. */
  onChange(listener: (peerId: string) => void): void {
    this.#listeners.push(listener)
  }

  /**
   * Tells others what changed about this process: addresses, space. While the store does not
   * answer that is kept, and told when it does.
   * @throws StoreError what does not pass by itself
   */
  async announce(change: Partial<AliveInfo>): Promise<void> {
    this.#own = { ...this.#own, ...change }
    await this.#registerSoon()
  }

  /** Changes a peer's record. @throws StoreError NotFound, Conflict */
  async change(
    peerId: string,
    edit: (record: PeerRecord) => Partial<PeerRecord>
  ): Promise<PeerRecord> {
    const { keys, store } = this.#cluster
    const key = keys.peer(peerId)
    return untilSettled(`peer ${peerId}`, async () => {
      const entry = await store.get(key)
      if (entry === null) throw notFound(peerId)
      const old = decodeRecord('peer', key, entry.value)
      const record: PeerRecord = { ...old, ...edit(old) }
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry.modRevision }],
        success: [{ put: key, value: encodeRecord('peer', record) }]
      })
      return succeeded ? record : null
    })
  }

  /** The shutdown was clean: the next boot takes this one's place in groups. */
  async leaveCleanly(): Promise<void> {
    const { peerId, bootId } = this.#cluster.self
    const lastSeenAt = this.#cluster.nowText()
    await this.change(peerId, () => ({ cleanBootId: bootId, lastSeenAt }))
  }

  close(): void {
    this.#closed = true
    this.#cancelRetry()
    for (const following of this.#following) following.stop()
  }

  async #register(): Promise<void> {
    const { keys, store, self } = this.#cluster
    if (this.#replacedBy !== null && (await this.#cluster.isSame())) throw this.#replacedBy
    const key = keys.alive(self.peerId)
    const { bootId } = self
    const { peerAddress, usedBytes } = this.#own
    const record: AliveRecord = {
      v: 1,
      bootId,
      startedAt: this.#startedAt,
      peerAddress,
      adminAddresses: [...this.#own.adminAddresses],
      nbdAddresses: [...this.#own.nbdAddresses],
      ...(this.#own.process === undefined ? {} : { process: this.#own.process }),
      usedBytes
    }
    const value = encodeRecord('alive', record)
    const lease = this.#session.lease
    // A store that lost everything must stay empty, so that a backup can be put back. In one that
    // was restored what this process knows of it is worth nothing, R31.
    const { succeeded } = await store.transact({
      compare: [
        { key: keys.cluster, modRevision: this.#cluster.recordRevision },
        ...(this.#ownEntry === null ? [] : [ownerOf(this.#ownEntry)])
      ],
      success: [{ put: key, value, lease }]
    })
    if (succeeded) return
    if (await this.#cluster.isSame()) {
      await this.#readOwn()
      return this.#register()
    }
    if ((await store.get(keys.cluster)) === null) {
      throw new StoreError(ErrorCode.NotFound, `the metadata has no cluster below ${keys.prefix}/`)
    }
    const text = `the metadata below ${keys.prefix}/ was restored since this peer started`
    throw new StoreError(ErrorCode.Closed, `${text}: start it again`)
  }

  /** It was changed, by an operator or by another process that is this peer now. */
  async #readOwn(): Promise<void> {
    const { keys, store, self } = this.#cluster
    const entry = await store.get(keys.peer(self.peerId))
    if (entry === null) this.#ownEntry = null
    else this.#noteOwn(entry)
  }

  #noteOwn(entry: Entry): void {
    const { peerId, bootId } = this.#cluster.self
    this.#ownEntry = entry
    const record = decodeRecord('peer', entry.key, entry.value)
    if (record.state === 'removed') {
      const text = `peer ${peerId} was removed from the cluster`
      this.#replacedBy = new StoreError(ErrorCode.Closed, `${text}: it must not go on`)
      return
    }
    if (record.bootId === bootId) return
    const text = `another process started as peer ${peerId}: does a copy of its data directory run?`
    this.#replacedBy = new StoreError(ErrorCode.Closed, `${text} This one must not go on`)
  }

  /** A restored record names an earlier boot, too: that is no other process. */
  async #tellReplaced(): Promise<void> {
    const error = this.#replacedBy
    if (error === null || this.#closed || !(await this.#cluster.isSame())) return
    this.#options.onReplaced?.(error)
  }

  #registerAgain(): void {
    if (this.#closed) return
    this.#registerSoon().catch((thrown: unknown) => {
      if (!(thrown instanceof StoreError)) throw thrown
      this.#options.onTrouble?.('registering as alive', thrown)
    })
  }

  /** Now, or again and again until the store answers: nobody else would find that it is missing. */
  async #registerSoon(): Promise<void> {
    this.#cancelRetry()
    try {
      await this.#register()
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Unavailable) throw thrown
      this.#options.onTrouble?.('registering as alive', thrown)
      if (this.#closed) return
      this.#cancelRetry()
      const { timers } = this.#cluster
      this.#cancelRetry = timers.start(REGISTER_RETRY_MS, () => this.#registerAgain())
    }
  }

  #follow(): void {
    const { keys, store } = this.#cluster
    const onTrouble = (error: StoreError): void => {
      this.#options.onTrouble?.('following the peers', error)
    }
    const peers: Follower = {
      onPut: (entry) => {
        if (entry.key === keys.peer(this.#cluster.self.peerId)) this.#putOwn(entry)
        this.#put(entry, keys.peers, 'peer', this.#records)
      },
      onDelete: (key) => this.#delete(key, keys.peers, this.#records),
      onTrouble
    }
    const alive: Follower = {
      onPut: (entry) => this.#put(entry, keys.allAlive, 'alive', this.#alive),
      onDelete: (key) => this.#delete(key, keys.allAlive, this.#alive),
      onTrouble
    }
    const { timers } = this.#cluster
    const settings: Follower = {
      onPut: (entry) => this.#noteSettings(entry),
      onDelete: () => {},
      onTrouble
    }
    this.#following = [
      follow(store, keys.peers, peers, timers),
      follow(store, keys.allAlive, alive, timers),
      follow(store, keys.settings, settings, timers)
    ]
  }

  #putOwn(entry: Entry): void {
    this.#reading('reading the own record', () => this.#noteOwn(entry))
    this.#tellReplaced().catch((thrown: unknown) => {
      if (!(thrown instanceof StoreError)) throw thrown
      this.#options.onTrouble?.('looking whether another process is this peer', thrown)
    })
  }

  #noteSettings({ key, value }: Entry): void {
    this.#reading('reading the settings', () => {
      this.#cluster.features.note(levelIn(decodeRecord('settings', key, value)))
    })
  }

  #put<K extends 'peer' | 'alive'>(
    entry: Entry,
    prefix: string,
    kind: K,
    into: Map<string, K extends 'peer' ? PeerRecord : AliveRecord>
  ): void {
    const peerId = entry.key.slice(prefix.length)
    this.#reading('reading a peer', () => {
      const record = decodeRecord(kind, entry.key, entry.value)
      into.set(peerId, record as K extends 'peer' ? PeerRecord : AliveRecord)
      if (kind === 'alive') this.#changedMs.set(peerId, this.#cluster.clock.monotonicMs())
      this.#changed(peerId)
    })
  }

  /** A record that cannot be read is as if it had not come. */
  #reading(what: string, work: () => void): void {
    try {
      work()
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      this.#options.onTrouble?.(what, thrown)
    }
  }

  #delete(key: string, prefix: string, from: Map<string, unknown>): void {
    const peerId = key.slice(prefix.length)
    if (from === this.#alive) {
      this.#lostAt.set(peerId, this.#cluster.nowText())
      this.#changedMs.set(peerId, this.#cluster.clock.monotonicMs())
    }
    from.delete(peerId)
    this.#changed(peerId)
  }

  #changed(peerId: string): void {
    this.version++
    this.#sorted = null
    for (const listener of this.#listeners) listener(peerId)
  }
}

const ownerOf = ({ key, modRevision }: Entry): Compare => ({ key, modRevision })

const notFound = (peerId: string): StoreError =>
  new StoreError(ErrorCode.NotFound, `there is no peer ${peerId}`)
