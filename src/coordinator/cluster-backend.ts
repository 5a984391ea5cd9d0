/** The admin API's view of the cluster that a peer is in. */
import type { ClusterBackend } from '../admin/cluster-routes.ts'
import type {
  ClusterPeer,
  ClusterSettings,
  ClusterSettingsChange,
  ClusterStatus,
  PeerChange,
  Pool,
  PoolChange,
  PoolCreate,
  Resync,
  Ring,
  Upgrade
} from '../admin/cluster-schemas.ts'
import type { AcceptLoss, WaitingGroups } from '../admin/recovery-schemas.ts'
import type { WaitingGroup as Waiting } from '../cluster/losses.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { formatDurationExact, parseDuration } from '../core/units.ts'
import { withoutUndefined } from '../core/without-undefined.ts'
import { spokenOf } from '../cluster/features.ts'
import type { UpgradeState } from '../cluster/finalize.ts'
import type { ClusterOperations, PeerSummary, PoolSummary } from '../cluster/operations.ts'
import type { Settings } from '../cluster/settings.ts'
import type { PeerRecord } from '../cluster/records.ts'
import type { PeerReport } from '../replication/peer-report.ts'
import type { NoLink } from '../replication/peer-links.ts'
import { clusterProblems } from './cluster-health.ts'
import { healthOf } from './health.ts'
import type { PeerReports } from './peer-reports.ts'

export interface ClusterBackendParts {
  readonly operations: ClusterOperations
  /** Where the metadata is, in words. */
  readonly metadata: string
  /** A peer with embedded metadata is alone: what needs others is refused. */
  readonly isAlone: boolean
  leaseTrustedMs(): number
  /** Null for a peer that is alone. */
  reports(): PeerReports | null
  noLinkTo(peerId: string): NoLink | null
}

export class PeerClusterBackend implements ClusterBackend {
  readonly #parts: ClusterBackendParts

  constructor(parts: ClusterBackendParts) {
    this.#parts = parts
  }

  async clusterStatus(): Promise<ClusterStatus> {
    const { operations, metadata } = this.#parts
    const [{ peers, reports }, pools, waiting] = await Promise.all([
      this.#reportedPeers(),
      operations.poolSummaries(),
      operations.waitingGroups()
    ])
    const { controller, upgrade } = operations
    const seen = controllerOf(reports)
    const noLinks = new Map(
      peers.map(({ view: { record } }) => [record.peerId, this.#parts.noLinkTo(record.peerId)])
    )
    const facts = { peers, pools, controller: seen, waiting, reports, upgrade, noLinks }
    const problems = clusterProblems(facts)
    return {
      clusterId: operations.clusterId,
      health: healthOf(problems),
      problems,
      controller,
      metadata,
      leaseTrustedMs: this.#parts.leaseTrustedMs(),
      upgrade: upgradeOf(upgrade),
      peers: peers.map((peer) => peerOf(peer, reports)),
      pools: pools.map(poolOf)
    }
  }

  async clusterPeers(): Promise<readonly ClusterPeer[]> {
    const { peers, reports } = await this.#reportedPeers()
    return peers.map((peer) => peerOf(peer, reports))
  }

  /** All peers, with what those tell that are up; whoever syncs is asked first. */
  async #reportedPeers(): Promise<{ peers: PeerSummary[]; reports: Reports }> {
    const { operations } = this.#parts
    const told = await operations.peers()
    const up = told.filter(({ view }) => view.alive !== null)
    const isFirst = ({ view, syncing }: PeerSummary): boolean =>
      syncing > 0 || view.record.peerId === operations.controller
    const asked = [...up.filter(isFirst), ...up.filter((peer) => !isFirst(peer))]
    const ids = asked.map(({ view }) => view.record.peerId)
    const reports: Reports = (await this.#parts.reports()?.of(ids)) ?? new Map()
    return { peers: told.map((peer) => withUsed(peer, reports)), reports }
  }

  async changePeer(id: string, change: PeerChange): Promise<ClusterPeer> {
    const { operations } = this.#parts
    const { peerId } = operations.find(id).record
    const { labels, weight, drained, maintenanceMs } = change
    const record = await operations.changePeer(peerId, {
      ...(labels === undefined ? {} : { labels }),
      ...(weight === undefined ? {} : { weight }),
      ...(drained === undefined ? {} : { drained }),
      ...(maintenanceMs === undefined ? {} : { maintenanceMs })
    })
    return this.#peerAs(record)
  }

  async addPeer(id: string): Promise<ClusterPeer> {
    const { operations } = this.#parts
    return this.#peerAs(await operations.addPeer(operations.find(id).record.peerId))
  }

  async replacePeer(id: string, by: string): Promise<ClusterPeer> {
    const { operations } = this.#parts
    const [old, replacing] = [operations.find(id).record, operations.find(by).record]
    return this.#peerAs(await operations.replacePeer(old.peerId, replacing.peerId))
  }

  async waitingGroups(): Promise<WaitingGroups> {
    const { groups, pendingPeers } = await this.#parts.operations.waitingGroups()
    return { groups: groups.map(waitingOf), pendingPeers: [...pendingPeers] }
  }

  async acceptLoss({ group, peer }: AcceptLoss): Promise<WaitingGroups> {
    const { operations } = this.#parts
    const [pool = '', number = ''] = group?.split('/') ?? []
    const done = await operations.acceptLoss({
      group: group === undefined ? null : { pool, group: Number(number) },
      peer: peer === undefined ? null : operations.find(peer).record.peerId
    })
    return { groups: done.map(waitingOf), pendingPeers: [] }
  }

  async settings(): Promise<ClusterSettings> {
    return settingsOf(await this.#parts.operations.settings())
  }

  async changeSettings({ trash, ...rest }: ClusterSettingsChange): Promise<ClusterSettings> {
    const trashMs = trash === 'off' ? 0 : parseDuration(trash ?? '0')
    const kept = trash === undefined ? {} : { trashMs }
    const change = { ...withoutUndefined(rest), ...kept }
    return settingsOf(await this.#parts.operations.changeSettings(change))
  }

  async finalize(dryRun: boolean): Promise<Upgrade> {
    return upgradeOf(await this.#parts.operations.finalize(dryRun))
  }

  async removePeer(id: string, force: boolean): Promise<void> {
    const { operations } = this.#parts
    await operations.removePeer(operations.find(id).record.peerId, force)
  }

  /** Of a peer that is alone: none, until it needs to tell where its data is. */
  async pools(): Promise<readonly Pool[]> {
    return (await this.#parts.operations.poolSummaries()).map(poolOf)
  }

  async pool(name: string): Promise<Pool> {
    const pools = await this.pools()
    const pool = pools.find((each) => each.name === name)
    if (pool !== undefined) return pool
    throw this.#noPool(name)
  }

  async createPool(pool: PoolCreate): Promise<Pool> {
    this.#refuseAlone(`pool ${pool.name}`)
    const { name, redundancy, force, ...rest } = pool
    const wanted = { name, redundancy, ...withoutUndefined(rest) }
    await this.#parts.operations.createPool(wanted, force)
    return this.pool(name)
  }

  async changePool(name: string, change: PoolChange): Promise<Pool> {
    this.#refuseAlone(`pool ${name}`)
    const { force, ...rest } = change
    await this.#parts.operations.changePool(name, withoutUndefined(rest), force)
    return this.pool(name)
  }

  async ring(name: string): Promise<Ring> {
    if (this.#parts.isAlone) await this.pool(name)
    const { pool, peers, shortage } = await this.#parts.operations.ring(name)
    const { redundancy, failureDomain, groups, seed } = pool
    const fixed = { pool: name, kind: pool.ring, redundancy, failureDomain, groups, seed }
    return { ...fixed, peers: [...peers], shortage }
  }

  /** With a record that was just written: what is followed may not have it yet. */
  async #peerAs(record: PeerRecord): Promise<ClusterPeer> {
    const { peerId } = record
    const peers = await this.#parts.operations.peers()
    const summary = peers.find(({ view }) => view.record.peerId === peerId)
    if (summary === undefined) throw new StoreError(ErrorCode.NotFound, `peer ${peerId} is gone`)
    return peerOf({ ...summary, view: { ...summary.view, record } }, new Map())
  }

  #refuseAlone(what: string): void {
    if (!this.#parts.isAlone) return
    const text = `${what}: this peer has embedded metadata and is alone`
    throw new StoreError(ErrorCode.InvalidArgument, `${text}; ${TO_ETCD}`)
  }

  #noPool(name: string): StoreError {
    const text = `there is no pool ${JSON.stringify(name)}`
    const alone = 'this peer has embedded metadata and keeps all volumes itself'
    const why = this.#parts.isAlone ? `: ${alone}; ${TO_ETCD}` : ''
    return new StoreError(ErrorCode.NotFound, text + why)
  }
}

const TO_ETCD = 'move it to etcd with "torus metadata migrate --to etcd --etcd URL"'

type Reports = ReadonlyMap<string, PeerReport>

const controllerOf = (reports: Reports): PeerReport['controller'] =>
  [...reports.values()].find(({ controller }) => controller !== null)?.controller ?? null

/** What it uses now, not what it last told everybody. */
function withUsed(peer: PeerSummary, reports: Reports): PeerSummary {
  const { alive, record } = peer.view
  const report = reports.get(record.peerId)
  if (alive === null || report === undefined) return peer
  return { ...peer, view: { ...peer.view, alive: { ...alive, usedBytes: report.usedBytes } } }
}

/** With what the controller will give it later. */
function resyncOf(peerId: string, reports: Reports): Resync | null {
  const resync = reports.get(peerId)?.resync
  if (resync === undefined) return null
  const { groupsDone, groupsLeft, bytesCopied, bytesPerSecond, secondsPerGroup } = resync
  const adds = controllerOf(reports)?.addsLeft.find(({ peer }) => peer === peerId)?.groups ?? 0
  const later = adds === 0 ? 0 : secondsPerGroup === null ? null : secondsPerGroup * adds
  const now = groupsLeft === 0 ? 0 : resync.secondsLeft
  return {
    groupsDone,
    groupsLeft: groupsLeft + adds,
    bytesCopied,
    bytesPerSecond,
    secondsLeft: now === null || later === null ? null : now + later
  }
}

function peerOf({ view, inSync, syncing }: PeerSummary, reports: Reports): ClusterPeer {
  const { record, alive } = view
  return {
    peerId: record.peerId,
    up: alive !== null,
    state: stateOf(record),
    replacedBy: record.replacedBy ?? null,
    bootId: record.bootId,
    address: alive?.peerAddress ?? null,
    adminAddresses: alive?.adminAddresses ?? [],
    nbdAddresses: alive?.nbdAddresses ?? [],
    labels: record.labels,
    capacityBytes: record.capacityBytes,
    usedBytes: alive?.usedBytes ?? null,
    weight: record.weight ?? null,
    groupsInSync: inSync,
    groupsSyncing: syncing,
    lastSeenAt: view.lastSeenAt,
    resync: alive === null ? null : resyncOf(record.peerId, reports),
    reclaim: alive === null ? null : (reports.get(record.peerId)?.reclaim ?? null),
    scrub: alive === null ? null : (reports.get(record.peerId)?.scrub ?? null),
    maintenanceUntil: record.maintenanceUntil ?? null,
    addedAt: record.addedAt,
    ...programOf(record)
  }
}

function programOf(record: PeerRecord): Pick<ClusterPeer, 'version' | 'levels'> {
  const { version, min, max } = spokenOf(record)
  return { version, levels: { min, max } }
}

const settingsOf = ({ trashMs, ...rest }: Settings): ClusterSettings => ({
  ...rest,
  trash: trashMs === 0 ? 'off' : formatDurationExact(trashMs)
})

const upgradeOf = ({ features, behind, ...levels }: UpgradeState): Upgrade => ({
  ...levels,
  features: [...features],
  behind: [...behind]
})

const waitingOf = ({
  pool,
  candidates,
  awaited,
  ...rest
}: Waiting): WaitingGroups['groups'][number] => ({
  ...rest,
  pool: pool.name,
  candidates: [...candidates],
  awaited: [...awaited]
})

const stateOf = ({ state }: PeerRecord): ClusterPeer['state'] =>
  state === 'drained' || state === 'pending' ? state : 'active'

const poolOf = ({ pool, ...summary }: PoolSummary): Pool => ({
  name: pool.name,
  number: pool.number,
  redundancy: pool.redundancy,
  failureDomain: pool.failureDomain,
  ring: pool.ring,
  groups: pool.groups,
  peers: pool.peers,
  createdAt: pool.createdAt,
  ...summary
})
