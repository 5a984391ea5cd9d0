/** A whole cluster in one thread: peers, metadata, network, volumes with clients. */
import { newSettings } from '../../src/cluster/cluster.ts'
import { Keys } from '../../src/cluster/keys.ts'
import { coveringGroup } from '../../src/cluster/group-shape.ts'
import { DEFAULT_POOL, defaultPool } from '../../src/cluster/pools.ts'
import {
  decodeRecord,
  encodeRecord,
  type GroupMember,
  type GroupRecord,
  type PeerRecord,
  type PoolRecord
} from '../../src/cluster/records.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import type { Compare, Transaction } from '../../src/metadata/store.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { Arenas } from './arenas.ts'
import type { Directory, Host } from './link.ts'
import { Network } from './network.ts'
import { type Boot, CLUSTER_ID, SimPeer } from './peer.ts'
import { StoredRecords } from './stored.ts'
import { SimVolume } from './volume.ts'
import { Process, World } from './world.ts'

/** Number of the pool that all is in. */
const POOL = 0
/**
 * An error by the record of before may be on its way to the client, or the record on its way to the
 * gateway: for as long as a message takes between two slow peers.
 */
const LATE_ERROR_MS = 130
/** Records of before that are kept. */
const BEFORE_MAX = 1000

export interface SimOptions {
  readonly seed: number
  readonly peers: number
  readonly copies: number
  readonly writeMinimum: number
  readonly volumes: number
  readonly groups: number
  /** Members keep their blocks with the real engine; otherwise shards are models. */
  readonly engine: boolean
  /** Volumes are encrypted; with the engine. */
  readonly sealed: boolean
  /** Peers are drained again and again, so that groups move. */
  readonly moves: boolean
  /** Groups are split again and again. */
  readonly splits?: boolean
  /** Volumes have snapshots, go back to them, and are cloned. */
  readonly layers?: boolean
  /** Gateways ask where there is anything at all; with the real engine. */
  readonly finds?: boolean
  /** Members are compared again and again; with the real engine. */
  readonly scrub?: boolean
  /** After so long copies of a peer that is away are made elsewhere. */
  readonly downAfterMs: number
  /** Of sessions; of a few seconds by default. */
  readonly ttlMs?: number | undefined
  /** Of a message in so many one is late by far. */
  readonly lateOneIn: number
}

export class SimCluster implements Directory {
  readonly world: World
  readonly network: Network
  readonly metadataProcess: Process
  readonly keys: Keys = new Keys()
  readonly options: SimOptions
  readonly peers: SimPeer[] = []
  readonly arenas: Arenas = new Arenas()
  readonly volumes: SimVolume[] = []
  /** Whose disk has bits that flipped. */
  readonly flipped: Set<SimPeer> = new Set()
  /** Whose disk went back to an older state, with the one it should have. */
  readonly reverted: Map<SimPeer, ReturnType<SimPeer['disk']['state']>> = new Map()
  metadata!: EmbeddedStore
  /** When a record of a group was last another one. */
  groupsChangedMs = 0
  mayClone = true
  /** No peer starts. */
  isHalted = false
  readonly #tables = new MemoryTables()
  readonly #stored = new StoredRecords(this.#tables)
  /** Clients may see these errors for a while: what was done to the cluster allows them. */
  readonly allowed: Map<number, number> = new Map()
  readonly #records = new Map<number, GroupRecord>()
  /** Records of groups from before, the newest last. */
  readonly #before: { group: number; record: GroupRecord; changedMs: number }[] = []

  constructor(options: SimOptions) {
    this.options = options
    this.world = new World(options.seed)
    this.network = new Network(this.world, options.lateOneIn)
    this.metadataProcess = new Process(this.world, 'metadata')
    for (let i = 0; i < options.peers; i++) this.peers.push(new SimPeer(this, `p${i}`))
  }

  async start(): Promise<void> {
    const { world, options } = this
    this.metadata = await EmbeddedStore.open(this.#tables, {
      clock: world,
      random: world.random,
      timers: false
    })
    this.#expireLeases()
    this.#traceGroups()
    this.metadata.watch(this.keys.family(''), (change) => {
      if (change.kind !== 'events') return
      for (const event of change.events) {
        if (event.kind === 'put') world.log(`family ${event.entry.value.toString()}`)
      }
    })
    await this.#makePool()
    for (const peer of this.peers) peer.start()
    await world.runFor(5000, 'peers start', () =>
      this.peers.every(({ boot }) => boot !== null && boot.writers !== null)
    )
    for (let i = 0; i < options.volumes; i++) {
      const volume = new SimVolume(this, `v${i}`)
      this.volumes.push(volume)
      await volume.create()
    }
  }

  /** As it is now. */
  get pool(): PoolRecord {
    return this.#stored.get('pool', this.keys.pool(DEFAULT_POOL))!
  }

  /** Where the chunk is by the records that there are. */
  groupOfChunk(familyHigh: number, familyLow: number, chunk: number): number {
    const records = this.groups()
    const { pool } = this
    const group = groupOfChunk(familyHigh, familyLow, chunk, pool.groups)
    return coveringGroup(group, pool, (index) => records.get(index) ?? null)
  }

  hostOf(peerId: string): Host | null {
    return this.peers.find((peer) => peer.peerId === peerId)?.boot ?? null
  }

  /**
   * May clients see this error with the faults of this run, of what they asked for at `sinceMs`?
   * `group` is -1 for any.
   */
  mayFail(error: number, group: number, sinceMs: number = this.world.nowMs): boolean {
    if (this.world.nowMs < (this.allowed.get(error) ?? 0)) return true
    const isOf = ({ disk }: SimPeer): boolean => disk.isBroken || disk.freeBytes === 0
    switch (error) {
      case ErrorCode.ChecksumMismatch:
        return this.#hasOnly(group, [...this.flipped], sinceMs)
      case ErrorCode.DiskFailure:
      case ErrorCode.ShardFailed:
        // A member that was full counts as failed until it is tried again.
        if (this.mayFail(ErrorCode.OutOfSpace, group)) return this.peers.some(isOf)
        return this.#hasOnly(group, this.peers.filter(isOf), sinceMs)
      default:
        return false
    }
  }

  /** Is nobody else in sync in the group, or was at some time since shortly before `sinceMs`? */
  #hasOnly(group: number, peers: readonly SimPeer[], sinceMs: number): boolean {
    const ids = new Set(peers.map(({ peerId }) => peerId))
    const present = [...this.groups()].map(([index, record]) => ({ group: index, record }))
    const isLate = this.#before.filter(({ changedMs }) => sinceMs - changedMs < LATE_ERROR_MS)
    const all = [...present, ...isLate].filter(
      (each) => group === -1 || mayHaveBeen(each.group, group)
    )
    return all.some(({ record: { inSync } }) => inSync.every(({ peer }) => ids.has(peer)))
  }

  allow(error: number, forMs: number): void {
    this.allowed.set(error, Math.max(this.allowed.get(error) ?? 0, this.world.nowMs + forMs))
  }

  async #makePool(): Promise<void> {
    const { copies, writeMinimum, groups } = this.options
    const pool = {
      ...defaultPool(this.world.random.u32(), '2026-01-31T12:00:00.000Z'),
      redundancy: `replicated:${copies}`,
      failureDomain: 'peer' as const,
      writeMinimum,
      groups
    }
    const cluster = { v: 1, clusterId: CLUSTER_ID, createdAt: pool.createdAt } as const
    await this.metadata.transact({
      success: [
        { put: this.keys.cluster, value: encodeRecord('cluster', cluster) },
        { put: this.keys.settings, value: newSettings() },
        { put: this.keys.pool(pool.name), value: encodeRecord('pool', pool) }
      ]
    })
  }

  /** Records of groups as they are now. */
  groups(): ReadonlyMap<number, GroupRecord> {
    return this.#stored.groups(this.keys.groups(POOL))
  }

  /** May an entry of a group stand for the boot that runs on that peer now? */
  runs({ peer, boot }: GroupMember): boolean {
    const host = this.hostOf(peer)
    return host?.process.isAlive === true && this.#standsFor(host, boot)
  }

  #standsFor({ peerId, bootId }: Pick<Host, 'peerId' | 'bootId'>, entry: string): boolean {
    if (bootId === entry) return true
    const record = this.peerRecord(peerId)
    return record?.bootId === bootId && record.cleanPredecessor === entry
  }

  /** R13: it comes back with all that it had, and others wait for it. */
  #endedCleanly({ peer, boot }: GroupMember): boolean {
    const record = this.peerRecord(peer)
    if (record === null || this.hostOf(peer) !== null) return false
    return record.cleanBootId === record.bootId && this.#standsFor(record, boot)
  }

  peerRecord(peerId: string): PeerRecord | null {
    return this.#stored.get('peer', this.keys.peer(peerId))
  }

  /** A boot is gone: groups of which it was the last that had all forget what was unflushed. */
  onEnd(gone: Boot): void {
    for (const [group, record] of this.groups()) {
      const isOurs = ({ peer, boot }: GroupMember): boolean =>
        peer === gone.peerId && (boot === gone.predecessor || this.#standsFor(gone, boot))
      if (record.inSync.some(isOurs)) this.#noteLoss(group, record)
    }
  }

  /** Bits flipped on the disk of `peer`: what nobody flushed may have been there only. */
  noteFlips(peer: SimPeer): void {
    this.flipped.add(peer)
    for (const [group, record] of this.groups()) {
      if (record.inSync.some((entry) => entry.peer === peer.peerId)) this.#noteLoss(group, record)
    }
  }

  #noteLoss(group: number, { inSync }: GroupRecord): void {
    const isBad = (id: string): boolean => [...this.flipped].some(({ peerId }) => peerId === id)
    for (const volume of this.volumes) {
      const lives = inSync.some(
        (entry) =>
          (this.runs(entry) || this.#endedCleanly(entry)) &&
          !isBad(entry.peer) &&
          !volume.unproven.has(`${group}/${entry.boot}`)
      )
      if (lives) continue
      this.world.log(`group ${group} lost power for ${volume.record.name}`)
      volume.onPowerLoss(group)
    }
  }

  /** R8: nobody takes a member out but who writes there, the controller, and the member itself. */
  checkChange(boot: Boot, { compare = [], success = [] }: Transaction): void {
    const prefix = this.keys.groups(POOL)
    for (const operation of success) {
      if (!('put' in operation) || !operation.put.startsWith(prefix)) continue
      const old = this.#stored.get('group', operation.put)
      const guard = compare.find(({ key }) => key === operation.put)
      if (old === null || guard === undefined || !('modRevision' in guard)) continue
      if (guard.modRevision !== this.#stored.modRevision(operation.put)) continue
      // Nobody serves it, and those that count are taken from what peers say, R31.
      if (old.restored !== undefined) continue
      const next = decodeRecord('group', operation.put, Buffer.from(operation.value))
      const gone = old.inSync.filter(
        ({ peer }) => peer !== boot.peerId && !next.inSync.some((each) => each.peer === peer)
      )
      if (gone.length === 0 || this.#mayRemove(boot, compare)) continue
      this.world.fail(
        `${boot.place} takes a member out of ${operation.put} and does not write there`
      )
    }
  }

  #mayRemove({ bootId }: Boot, compare: readonly Compare[]): boolean {
    // A transaction that fails by what it compares changes nothing.
    const holds = compare.every(
      (each) => !('modRevision' in each) || this.#stored.modRevision(each.key) === each.modRevision
    )
    if (!holds) return true
    if (this.#stored.get('controller', this.keys.controller)?.bootId === bootId) return true
    return this.volumes.some(
      ({ record }) => this.#stored.get('writer', this.keys.writer(record.family))?.bootId === bootId
    )
  }

  describeGroups(): string {
    return [...this.groups()].map(([group, record]) => this.#describe(group, record)).join('\n')
  }

  #traceGroups(): void {
    const prefix = this.keys.groups(POOL)
    this.metadata.watch(prefix, (change) => {
      if (change.kind !== 'events') return
      for (const event of change.events) {
        if (event.kind !== 'put') continue
        const record = decodeRecord('group', event.entry.key, event.entry.value)
        const group = Number(event.entry.key.slice(prefix.length))
        this.world.log(this.#describe(group, record))
        this.groupsChangedMs = this.world.nowMs
        this.#noteReturns(group, record)
      }
    })
  }

  /** A peer that stays in sync under a new boot has what was on its disk, until a takeover. */
  #noteReturns(group: number, record: GroupRecord): void {
    const old = this.#records.get(group) ?? this.#halved(group, record)
    if (old !== undefined) {
      this.#before.push({ group, record: old, changedMs: this.world.nowMs })
      if (this.#before.length > BEFORE_MAX) this.#before.shift()
    }
    this.#records.set(group, record)
    for (const { peer, boot } of record.inSync) {
      const before = old?.inSync.find((entry) => entry.peer === peer)
      if (before?.boot === boot) continue
      for (const { unproven } of this.volumes) {
        // Who came in sync may have it from one of those, and then has no more.
        const isCopy = old?.inSync.some((entry) => unproven.has(`${group}/${entry.boot}`)) === true
        if (before !== undefined || isCopy) unproven.add(`${group}/${boot}`)
      }
    }
    // Whoever had all was taken out, for one that had died.
    if (old !== undefined && old.inSync.length > record.inSync.length) this.#noteLoss(group, record)
  }

  /** What a group that is new was a part of: what holds for that holds for it. */
  #halved(group: number, { split }: GroupRecord): GroupRecord | undefined {
    if (split === undefined) return undefined
    const whole = group & (split.groups / 2 - 1)
    for (const { unproven } of this.volumes) {
      for (const key of [...unproven]) {
        const [of, boot] = key.split('/')
        if (Number(of) === whole) unproven.add(`${group}/${boot}`)
      }
    }
    return this.#records.get(whole)
  }

  #describe(group: number, { epoch, inSync, syncing, split }: GroupRecord): string {
    const name = (id: string): string =>
      this.peers.find(({ peerId }) => peerId === id)?.name ?? id.slice(0, 4)
    const list = (entries: typeof inSync): string =>
      entries.map(({ peer, boot }) => `${name(peer)}.${boot.slice(0, 4)}`).join(' ')
    const of = split === undefined ? '' : ` of ${split.groups}`
    return `group ${group}${of}: epoch ${epoch} [${list(inSync)}] (${list(syncing)})`
  }

  /** Ends all that runs: nothing of it is looked at any more. */
  close(): void {
    for (const { boot } of this.peers) {
      boot?.process.kill()
      boot?.serving?.store.close()
    }
    this.arenas.releaseAll()
  }

  #expireLeases(): void {
    this.metadataProcess.start(50, () => {
      this.metadata.get('x').then(
        () => this.#expireLeases(),
        () => {}
      )
    })
  }
}

/** Is `group` the one of number `before`, or may be what a part of it became by splits? */
function mayHaveBeen(before: number, group: number): boolean {
  for (let groups = 2 ** 16; groups > before; groups /= 2) {
    if (group % groups === before) return true
  }
  return false
}
