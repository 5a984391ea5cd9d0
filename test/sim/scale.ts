/**
 * A cluster of very many peers that hold no data: what the metadata and the controller cost.
 *
 * The metadata store, the membership and the controller are the real ones, of one peer; of all
 * others there is what they put into the metadata. Who is listed as syncing is in sync after
 * RESYNC_MS, as an empty group is. Time is simulated, but what takes the main thread is measured:
 * a turn is what runs from one timer or message to the next.
 */
import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { Cluster } from '../../src/cluster/cluster.ts'
import { Controller } from '../../src/cluster/controller.ts'
import { Keys } from '../../src/cluster/keys.ts'
import { Membership } from '../../src/cluster/membership.ts'
import { defaultPool } from '../../src/cluster/pools.ts'
import { decodeRecord, encodeRecord, type GroupRecord } from '../../src/cluster/records.ts'
import { Session } from '../../src/cluster/session.ts'
import { METADATA_TRANSACTION_OPS_MAX, SESSION_TTL_MS } from '../../src/core/limits.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { MetadataStore, Operation } from '../../src/metadata/store.ts'
import { defaultGroupCount } from '../../src/placement/groups.ts'
import { parseRedundancy } from '../../src/placement/redundancy.ts'
import type { RingPeer } from '../../src/placement/ring-description.ts'
import { madeUpPeers } from '../../src/placement/simulation.ts'
import { planTargets } from '../../src/placement/targets.ts'
import { delegateTo } from '../helpers/store-delegate.ts'
import { Process, World } from './world.ts'

const REDUNDANCY = 'replicated:3'
const SPREAD = { weights: [1], hosts: null, racks: 20, zones: 3 }
const CLUSTER_ID = 'c'.repeat(32)
const BOOT = 'b'.repeat(32)
const CREATED = '2026-01-31T12:00:00.000Z'
const CAPACITY = 2 ** 40
const DOWN_AFTER_MS = 60_000
const RESYNC_MS = 1000
/** Of the metadata store. */
const ANSWER_MS = 2
const IDLE_MS = 60_000
/** Of what moves: no cluster takes longer. */
const SETTLED_MS_MAX = 24 * 3600_000

/** What a while cost. */
export interface ScaleStage {
  /** Until nothing was left to do, in simulated time. */
  readonly seconds: number
  /** Transactions that changed something, the controller's and those of who got a copy. */
  readonly writes: number
  readonly writesInBusiestSecond: number
  readonly bytesWritten: number
  /** Of the main thread: in all, and in one piece. */
  readonly busyMs: number
  readonly longestMs: number
}

export interface ScaleFigures {
  readonly peers: number
  readonly groups: number
  /** In the metadata, with every group in use and no volumes. */
  readonly keys: number
  readonly bytes: number
  readonly largestValue: { readonly key: string; readonly bytes: number }
  /** Of leases, by all peers; they are no writes. */
  readonly keepalivesPerSecond: number
  /** From the election to the first look at the groups. */
  readonly start: ScaleStage
  readonly idle: ScaleStage
  /** A peer is away for good: its copies are made elsewhere. */
  readonly loss: ScaleStage
  /** A hundredth more peers. */
  readonly joining: ScaleStage
  readonly memoryBytes: number
}

class ScaleCluster {
  readonly world = new World(1)
  readonly peer = new Process(this.world, 'peer')
  readonly keys = new Keys()
  readonly peers: RingPeer[]
  readonly groups: number
  readonly tables = new MemoryTables()
  store!: MetadataStore
  /** As the peer under test reaches it: what it changes is counted. */
  counted!: MetadataStore
  writes = 0
  bytesWritten = 0
  changedAtMs = 0
  readonly #bySecond = new Map<number, number>()
  busyMs = 0
  longestMs = 0

  constructor(count: number) {
    this.peers = madeUpPeers(0, count, SPREAD)
    this.groups = defaultGroupCount(count, 3)
  }

  async open(): Promise<void> {
    const { world, keys } = this
    const clock = { clock: world, random: world.random, timers: false }
    this.store = await EmbeddedStore.open(this.tables, clock)
    this.counted = delegateTo(this.store, {
      get: (key) => this.#answered(this.store.get(key)),
      range: (prefix, options) => this.#answered(this.store.range(prefix, options)),
      transact: async (transaction) => {
        const result = await this.#answered(this.store.transact(transaction))
        if (result.succeeded) this.#count(transaction.success ?? [])
        return result
      }
    })
    const pool = {
      ...defaultPool(1, CREATED),
      ...{ redundancy: REDUNDANCY, failureDomain: 'rack' as const, groups: this.groups }
    }
    const cluster = { v: 1, clusterId: CLUSTER_ID, createdAt: CREATED } as const
    await this.#put([
      { put: keys.cluster, value: encodeRecord('cluster', cluster) },
      { put: keys.pool(pool.name), value: encodeRecord('pool', pool) },
      ...this.peers.flatMap((peer) => this.#peer(peer)),
      ...this.#groups()
    ])
    this.store.watch(keys.groups(0), (change) => {
      if (change.kind !== 'events') return
      for (const event of change.events) {
        if (event.kind !== 'put') continue
        const record = decodeRecord('group', event.entry.key, event.entry.value)
        const group = Number(event.entry.key.slice(keys.groups(0).length))
        for (const { peer } of record.syncing) {
          world.after(RESYNC_MS, () => void this.#promote(group, peer))
        }
      }
    })
  }

  /** In a turn of its own. */
  async #answered<T>(answer: Promise<T>): Promise<T> {
    await new Promise<void>((resolve) => this.world.after(ANSWER_MS, resolve))
    return answer
  }

  #peer({ id, labels }: RingPeer): Operation[] {
    const { keys } = this
    const record = {
      ...{ v: 1 as const, peerId: id, bootCounter: 1, bootId: BOOT, capacityBytes: CAPACITY },
      ...{ labels, addedAt: CREATED, state: 'active' as const }
    }
    const alive = {
      ...{ v: 1 as const, bootId: BOOT, startedAt: CREATED, peerAddress: '10.0.0.1:4320' },
      ...{ adminAddresses: ['10.0.0.1:4321'], nbdAddresses: ['10.0.0.1:10809'], usedBytes: 0 }
    }
    return [
      { put: keys.peer(id), value: encodeRecord('peer', record) },
      { put: keys.alive(id), value: encodeRecord('alive', alive) }
    ]
  }

  /** Each on the peers where the ring puts it. */
  #groups(): Operation[] {
    const { peers, groups, keys } = this
    const weighted = peers.map((peer) => ({ ...peer, weight: CAPACITY }))
    const shape = { v: 1 as const, kind: 'ketama', failureDomain: 'rack' as const }
    const ring = { ...shape, peers: weighted, groups, seed: 1 }
    const targets = planTargets({ redundancy: parseRedundancy(REDUNDANCY), ring }, null)
    return Array.from({ length: groups }, (_, group): Operation => {
      const members = targets.membersOf(group).filter((peer) => peer !== null)
      const inSync = members.map((peer) => ({ peer, boot: BOOT }))
      const record: GroupRecord = { v: 1, epoch: 1, members, inSync, syncing: [] }
      return { put: keys.group(0, group), value: encodeRecord('group', record) }
    })
  }

  async #put(operations: readonly Operation[]): Promise<void> {
    for (let at = 0; at < operations.length; at += METADATA_TRANSACTION_OPS_MAX) {
      const success = operations.slice(at, at + METADATA_TRANSACTION_OPS_MAX)
      await this.store.transact({ success })
    }
  }

  async join(count: number): Promise<void> {
    const joining = madeUpPeers(this.peers.length, count, SPREAD)
    this.peers.push(...joining)
    await this.#put(joining.flatMap((peer) => this.#peer(peer)))
  }

  async leave(id: string): Promise<void> {
    await this.#put([{ delete: this.keys.alive(id) }])
  }

  async #promote(group: number, peer: string): Promise<void> {
    const key = this.keys.group(0, group)
    for (;;) {
      const entry = await this.store.get(key)
      const record = decodeRecord('group', key, entry!.value)
      const syncing = record.syncing.find((each) => each.peer === peer)
      if (syncing === undefined) return
      const next: GroupRecord = {
        ...record,
        epoch: record.epoch + 1,
        inSync: [...record.inSync, syncing],
        syncing: record.syncing.filter((each) => each !== syncing)
      }
      const { succeeded } = await this.counted.transact({
        compare: [{ key, modRevision: entry!.modRevision }],
        success: [{ put: key, value: encodeRecord('group', next) }]
      })
      if (succeeded) return
    }
  }

  #count(operations: readonly Operation[]): void {
    const puts = operations.filter((each) => 'put' in each)
    if (puts.length === 0 && !operations.some((each) => 'delete' in each)) return
    this.writes++
    this.changedAtMs = this.world.nowMs
    for (const { value } of puts) this.bytesWritten += value.length
    const second = Math.floor(this.world.nowMs / 1000)
    this.#bySecond.set(second, (this.#bySecond.get(second) ?? 0) + 1)
  }

  /** Lets time pass until `isDone`, and tells what it cost. */
  async stage(isDone: () => boolean): Promise<ScaleStage> {
    const { world } = this
    const startMs = world.nowMs
    this.writes = this.bytesWritten = this.busyMs = this.longestMs = 0
    this.#bySecond.clear()
    while (!isDone()) {
      if (world.nowMs - startMs > SETTLED_MS_MAX) throw new Error('the cluster does not settle')
      // Not the time: this process may have to wait for a processor.
      const before = process.cpuUsage()
      strictEqual(await world.runNext(), true, 'something goes on')
      const { user, system } = process.cpuUsage(before)
      const ms = (user + system) / 1000
      this.busyMs += ms
      this.longestMs = Math.max(this.longestMs, ms)
    }
    return {
      seconds: (world.nowMs - startMs) / 1000,
      writes: this.writes,
      writesInBusiestSecond: Math.max(0, ...this.#bySecond.values()),
      bytesWritten: this.bytesWritten,
      busyMs: this.busyMs,
      longestMs: this.longestMs
    }
  }

  /** Every group is whole, on peers that are up, and nobody has much more than others. */
  async check(): Promise<void> {
    const { store, keys, peers } = this
    const up = new Set<string>()
    for (const { id } of peers) if ((await store.get(keys.alive(id))) !== null) up.add(id)
    const loads = new Map<string, number>()
    for (let group = 0; group < this.groups; group++) {
      const key = keys.group(0, group)
      const { inSync, syncing } = decodeRecord('group', key, (await store.get(key))!.value)
      deepStrictEqual([inSync.length, syncing.length], [3, 0], key)
      for (const { peer } of inSync) {
        strictEqual(up.has(peer), true, `${key}: ${peer} is up`)
        loads.set(peer, (loads.get(peer) ?? 0) + 1)
      }
    }
    strictEqual(loads.size, up.size, 'everybody has something')
  }

  async sizes(): Promise<Pick<ScaleFigures, 'keys' | 'bytes' | 'largestValue'>> {
    let keys = 0
    let bytes = 0
    let largestValue = { key: '', bytes: 0 }
    for (let after = this.keys.root; ; ) {
      const { entries, more } = await this.store.range(this.keys.root, { after })
      for (const { key, value } of entries) {
        keys++
        bytes += key.length + value.length
        if (value.length > largestValue.bytes) largestValue = { key, bytes: value.length }
        after = key
      }
      if (!more) return { keys, bytes, largestValue }
    }
  }
}

export async function runScale(count: number): Promise<ScaleFigures> {
  const sim = new ScaleCluster(count)
  const { world, groups } = sim
  await sim.open()
  const own = sim.peers[0]!
  const self = {
    ...{ clusterId: CLUSTER_ID, peerId: own.id, bootId: BOOT, bootCounter: 1 },
    ...{ capacityBytes: CAPACITY, labels: own.labels }
  }
  const clocks = { clock: sim.peer, timers: sim.peer }
  const environment = { ...clocks, random: world.random }
  const alive = { peerAddress: '10.0.0.1:4320', adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
  const open = async () => {
    const cluster = await Cluster.open(sim.counted, self, environment)
    const session = await Session.open(sim.counted, sim.peer, { timers: sim.peer })
    return { cluster, session, membership: await Membership.open(cluster, session, { alive }) }
  }
  const { cluster, session, membership } = await world.until(60_000, 'the peer starts', open())
  const controller = new Controller({
    ...{ cluster, session, membership, timers: sim.peer, downAfterMs: DOWN_AFTER_MS },
    log: () => {}
  })
  controller.start()
  const quietFor = (ms: number) => () => {
    const sinceMs = Math.max(sim.changedAtMs, startMs)
    return controller.report !== null && world.nowMs - sinceMs >= ms
  }
  let startMs = world.nowMs
  const start = await sim.stage(quietFor(2000))
  startMs = world.nowMs
  const idle = await sim.stage(quietFor(IDLE_MS))
  strictEqual(idle.writes, 0, 'nothing is written while nothing changes')
  const sizes = await sim.sizes()
  startMs = world.nowMs
  await sim.leave(sim.peers.at(-1)!.id)
  const loss = await sim.stage(quietFor(DOWN_AFTER_MS + 2000))
  startMs = world.nowMs
  await sim.join(Math.ceil(count / 100))
  const joining = await sim.stage(quietFor(RESYNC_MS + 2000))
  await sim.check()
  await world.until(60_000, 'the peer ends', controller.close())
  membership.close()
  const keepalivesPerSecond = (count * 3000) / SESSION_TTL_MS
  const memoryBytes = process.resourceUsage().maxRSS * 1024
  const costs = { start, idle, loss, joining }
  return { peers: count, groups, ...sizes, keepalivesPerSecond, ...costs, memoryBytes }
}
