/** A ClusterBackend over nothing: two peers and one pool that tests change. */
import type { ClusterBackend } from '../../src/admin/cluster-routes.ts'
import type {
  ClusterPeer,
  ClusterSettings,
  ClusterSettingsChange,
  ClusterStatus,
  PeerChange,
  Pool,
  PoolChange,
  PoolCreate,
  Ring,
  Upgrade
} from '../../src/admin/cluster-schemas.ts'
import type { WaitingGroups } from '../../src/admin/recovery-schemas.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'

const GIB = 1024 ** 3
const ADDED = '2026-01-31T12:00:00.000Z'

const peerOf = (id: string, up: boolean): ClusterPeer => ({
  peerId: id.repeat(32),
  up,
  state: 'active',
  replacedBy: null,
  bootId: 'e'.repeat(32),
  address: up ? '127.0.0.1:40001' : null,
  adminAddresses: [],
  nbdAddresses: [],
  labels: { host: id },
  capacityBytes: 10 * GIB,
  usedBytes: up ? GIB : null,
  weight: null,
  groupsInSync: 256,
  groupsSyncing: 0,
  lastSeenAt: up ? new Date().toISOString() : ADDED,
  resync: null,
  reclaim: null,
  scrub: null,
  maintenanceUntil: null,
  addedAt: ADDED,
  version: '1.0.0',
  levels: { min: 1, max: 2 }
})

const poolOf = (name: string, redundancy: string): Pool => ({
  name,
  number: 0,
  redundancy,
  failureDomain: 'host',
  ring: 'ketama',
  groups: 256,
  splitting: null,
  writeMinimum: 1,
  peers: null,
  createdAt: ADDED,
  groupsUsed: 256,
  degraded: 64,
  belowMinimum: 0,
  unavailable: 0,
  syncing: 0
})

export class FakeCluster implements ClusterBackend {
  readonly peerList: ClusterPeer[] = [peerOf('a', true), peerOf('b', false)]
  readonly poolList: Pool[] = [poolOf('default', 'replicated:2')]

  waiting: WaitingGroups = { groups: [], pendingPeers: [] }
  waitingGroups(): Promise<WaitingGroups> {
    return Promise.resolve(this.waiting)
  }
  acceptLoss(): Promise<WaitingGroups> {
    const accepted = this.waiting
    this.waiting = { groups: [], pendingPeers: [] }
    return Promise.resolve(accepted)
  }

  joinPolicy: ClusterSettings['joinPolicy'] = 'open'
  trash = '1d'
  upgrade: Upgrade = { level: 1, target: 2, features: ['sealed-blocks'], behind: [] }

  async finalize(dryRun: boolean): Promise<Upgrade> {
    const before = this.upgrade
    if (before.behind.length > 0) throw new StoreError(ErrorCode.Busy, before.behind.join())
    if (!dryRun) this.upgrade = { ...before, level: 2, features: [] }
    return before
  }

  async clusterStatus(): Promise<ClusterStatus> {
    return {
      clusterId: 'c'.repeat(32),
      health: 'warning',
      problems: [{ level: 'warning', code: 'peerDown', message: 'peer bbbbbbbb is down' }],
      controller: 'a'.repeat(32),
      metadata: 'embedded',
      leaseTrustedMs: 9000,
      upgrade: this.upgrade,
      peers: this.peerList,
      pools: this.poolList
    }
  }

  async clusterPeers(): Promise<readonly ClusterPeer[]> {
    return this.peerList
  }

  async changePeer(id: string, change: PeerChange): Promise<ClusterPeer> {
    const at = this.#find(id)
    const { labels, weight, drained } = change
    const old = this.peerList[at]!
    this.peerList[at] = {
      ...old,
      labels: { ...old.labels, ...labels },
      weight: weight === undefined ? old.weight : weight,
      state: drained === undefined ? old.state : drained ? 'drained' : 'active'
    }
    return this.peerList[at]
  }

  async removePeer(id: string, force: boolean): Promise<void> {
    const at = this.#find(id)
    if (this.peerList[at]!.up && !force) {
      throw new StoreError(ErrorCode.Busy, `peer ${id} is up: drain it first`)
    }
    this.peerList.splice(at, 1)
  }

  async addPeer(id: string): Promise<ClusterPeer> {
    const at = this.#find(id)
    this.peerList[at] = { ...this.peerList[at]!, state: 'active' }
    return this.peerList[at]
  }

  async replacePeer(id: string, by: string): Promise<ClusterPeer> {
    const at = this.#find(id)
    const replacedBy = this.peerList[this.#find(by)]!.peerId
    this.peerList[at] = { ...this.peerList[at]!, state: 'drained', replacedBy }
    return this.peerList[at]
  }

  async settings(): Promise<ClusterSettings> {
    return { joinPolicy: this.joinPolicy, trash: this.trash }
  }

  async changeSettings({ joinPolicy, trash }: ClusterSettingsChange): Promise<ClusterSettings> {
    this.joinPolicy = joinPolicy ?? this.joinPolicy
    this.trash = trash ?? this.trash
    return this.settings()
  }

  async ring(name: string): Promise<Ring> {
    const { redundancy, failureDomain, groups, ring } = await this.pool(name)
    const peers = this.peerList.map(({ peerId }, at) => ({
      peerId,
      weight: 1,
      share: 0.5,
      target: 256,
      members: at === 0 ? 256 : 192
    }))
    const fixed = { pool: name, kind: ring, redundancy, failureDomain, groups, seed: 1 }
    return { ...fixed, peers, shortage: null }
  }

  async pools(): Promise<readonly Pool[]> {
    return this.poolList
  }

  async pool(name: string): Promise<Pool> {
    const pool = this.poolList.find((each) => each.name === name)
    if (pool === undefined) throw new StoreError(ErrorCode.NotFound, `there is no pool "${name}"`)
    return pool
  }

  async createPool({ name, redundancy }: PoolCreate): Promise<Pool> {
    const pool = poolOf(name, redundancy)
    this.poolList.push(pool)
    return pool
  }

  async changePool(name: string, change: PoolChange): Promise<Pool> {
    const pool = await this.pool(name)
    const redundancy = change.redundancy ?? pool.redundancy
    const peers = change.peers === undefined ? pool.peers : change.peers
    const changed = { ...pool, redundancy, peers, ring: change.ring ?? pool.ring }
    this.poolList[this.poolList.indexOf(pool)] = changed
    return changed
  }

  #find(id: string): number {
    const at = this.peerList.findIndex(({ peerId }) => peerId.startsWith(id))
    if (at < 0) throw new StoreError(ErrorCode.NotFound, `there is no peer "${id}"`)
    return at
  }
}
