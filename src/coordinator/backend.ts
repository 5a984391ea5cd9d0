/** The admin API's view of a running peer. */
import { hostname } from 'node:os'
import type { AdminBackend, PeerGauges } from '../admin/backend.ts'
import type { ClusterBackend } from '../admin/cluster-routes.ts'
import type { KeyBackend } from '../admin/key-routes.ts'
import type { ImportBackend } from '../admin/import-routes.ts'
import type { LifeBackend } from '../admin/life-routes.ts'
import type { Deleted } from '../admin/life-schemas.ts'
import type {
  CertificateInfo,
  Client,
  HealthProblem,
  OperationName,
  OperationStats,
  Peer,
  Ready,
  Shard,
  ShardStats,
  Status,
  TaskName,
  Volume,
  VolumeChange,
  VolumeCreate,
  VolumeDelete,
  VolumeResize,
  VolumeStats
} from '../admin/schemas.ts'
import { shardStates } from '../admin/schemas.ts'
import type { BranchBackend } from '../admin/branch-routes.ts'
import type { SnapshotBackend } from '../admin/snapshot-routes.ts'
import type { SpaceBackend } from '../admin/space-routes.ts'
import type { StreamBackend } from '../admin/stream-routes.ts'
import type { MemberScrub } from '../admin/scrub-schemas.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { readBackup } from '../cluster/metadata-copy.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { LatencyHistogram } from '../core/histogram.ts'
import { version } from '../core/version.ts'
import { withoutUndefined } from '../core/without-undefined.ts'
import type { ShardPool } from '../handoff/shard-pool.ts'
import { encodeBackup } from '../metadata/backup-format.ts'
import type { NbdServer } from '../nbd/server.ts'
import { membersOf, parseRedundancy } from '../placement/redundancy.ts'
import type { BlockOp, BlockStore } from '../replication/block-store.ts'
import type { SpaceAsker } from '../replication/space-asker.ts'
import { OpFlag, OpKind, ShardOp } from '../shard/op.ts'
import { shardStatNames } from '../shard/stats.ts'
import { RequestKind } from '../volume/request.ts'
import type { VolumeInfo } from '../volume/volume-info.ts'
import { SnapshotSchedules } from '../volume/snapshot-schedules.ts'
import { VolumeSpace } from '../volume/volume-space.ts'
import type { Volumes } from '../volume/volumes.ts'
import type { Credentials } from './credentials.ts'
import type { DataDirectory } from './data-directory.ts'
import { healthOf, healthProblems } from './health.ts'
import { PeerImportBackend } from './import-backend.ts'
import { PeerLifeBackend } from './life-backend.ts'
import { withNewVolume } from './new-volumes.ts'
import { PeerBranchBackend } from './branch-backend.ts'
import { PeerSnapshotBackend } from './snapshot-backend.ts'
import { PeerSpaceBackend } from './space-backend.ts'
import { PeerStreamBackend } from './stream-backend.ts'
import type { Replication } from './replication.ts'
import { bytesOfFamilies } from './volume-usage.ts'

export type Phase = 'starting' | 'serving' | 'stopping'

export interface BackendParts {
  readonly directory: DataDirectory
  readonly pool: ShardPool<BlockOp>
  readonly store: BlockStore
  readonly space: SpaceAsker
  /** Compares with other peers; null for one that is alone. */
  readonly scrub: Replication['scrub'] | null
  readonly volumes: Volumes
  readonly cluster: Cluster
  readonly nbd: NbdServer
  readonly bootId: string
  readonly startedMs: number
  /** Filled while the peer starts. */
  readonly addresses: { nbd: readonly string[]; admin: readonly string[] }
  readonly syncLatency: readonly LatencyHistogram[]
  readonly peers: ClusterBackend
  readonly keys: KeyBackend
  readonly credentials: Credentials
  /** Does this process what only one of a cluster should? */
  readonly isInCharge: () => boolean
  /** Something failed that nobody waits for. */
  readonly onTrouble: (what: string, error: StoreError) => void
  /** Problems of what is not shards or space. */
  problems(): readonly HealthProblem[]
  phase(): Phase
}

const operationOfKind: Readonly<Record<RequestKind, OperationName>> = {
  [RequestKind.Read]: 'read',
  [RequestKind.Write]: 'write',
  [RequestKind.Flush]: 'flush',
  [RequestKind.Trim]: 'trim',
  [RequestKind.WriteZeroes]: 'write_zeroes',
  [RequestKind.BlockStatus]: 'block_status',
  [RequestKind.Cache]: 'cache'
}

const opOfTask: Readonly<Record<TaskName, OpKind>> = {
  scrub: OpKind.Scrub,
  compact: OpKind.Compact,
  checkpoint: OpKind.Checkpoint
}

export class PeerBackend implements AdminBackend {
  readonly #parts: BackendParts
  readonly #life: PeerLifeBackend
  readonly snapshots: SnapshotBackend
  readonly streams: StreamBackend
  readonly spaces: SpaceBackend
  readonly schedules: SnapshotSchedules
  readonly branches: BranchBackend
  readonly imports: ImportBackend
  /** Kept from the last look, so that `gauges` stays synchronous. */
  #volumeCount = 0
  #promisedBytes = 0

  constructor(parts: BackendParts) {
    this.#parts = parts
    this.imports = new PeerImportBackend(parts)
    this.streams = new PeerStreamBackend(parts.volumes)
    this.spaces = spacesOf(parts)
    this.schedules = new SnapshotSchedules({ ...parts, trouble: parts.onTrouble })
    this.snapshots = new PeerSnapshotBackend(parts.volumes, this.schedules)
    this.branches = new PeerBranchBackend(parts.volumes, (name) => this.volume(name))
    this.#life = new PeerLifeBackend(parts, (name) => this.volume(name))
  }

  get cluster(): ClusterBackend {
    return this.#parts.peers
  }

  get life(): LifeBackend {
    return this.#life
  }

  get keys(): KeyBackend {
    return this.#parts.keys
  }

  ready(): Ready {
    const reasons: string[] = []
    const phase = this.#parts.phase()
    if (phase !== 'serving') reasons.push(`the peer is ${phase}`)
    for (const client of this.#parts.pool.clients) {
      if (client.state === 'starting') reasons.push(`shard ${client.shard} is being recovered`)
      if (client.state === 'failed') reasons.push(`shard ${client.shard} failed: ${client.failure}`)
    }
    return { ready: reasons.length === 0, reasons }
  }

  certificates(): readonly CertificateInfo[] {
    return this.#parts.credentials.list()
  }

  async status(): Promise<Status> {
    const peer = await this.peer()
    // Health must be told most of all when the metadata does not answer; it is a problem of it.
    const trashBytes = this.#parts.volumes.isAnswered ? await this.#lookAtVolumes() : 0
    const shards = this.shards()
    const gauges = this.gauges()
    const notes = [...this.#parts.problems(), ...this.#parts.credentials.problems()]
    const problems = healthProblems(peer, shards, notes, trashBytes)
    return {
      health: healthOf(problems),
      problems,
      peer,
      volumeCount: this.#volumeCount,
      promisedBytes: this.#promisedBytes,
      clientCount: gauges.clients,
      arenaBytes: gauges.arenaBytes,
      arenaFreeBytes: gauges.arenaFreeBytes,
      requestsInFlight: gauges.requestsInFlight,
      shards: [...shards],
      volumes: [...this.volumeStats()]
    }
  }

  async peer(): Promise<Peer> {
    const { directory, bootId, startedMs, addresses } = this.#parts
    const { superblock } = directory
    const shards = this.shards()
    const sum = (name: keyof ShardStats): number =>
      shards.reduce((total, { stats }) => total + stats[name], 0)
    return {
      peerId: superblock.peerId,
      clusterId: superblock.clusterId,
      bootId,
      bootCounter: superblock.bootCounter,
      version,
      nodeVersion: process.version,
      pid: process.pid,
      hostname: hostname(),
      startedAt: new Date(startedMs).toISOString(),
      dataDir: directory.path,
      formatVersion: superblock.formatVersion,
      shards: superblock.shards,
      segmentBytes: superblock.segmentBytes,
      capacityBytes: directory.capacityBytes,
      usedBytes: sum('usedBytes'),
      liveBytes: sum('liveBytes'),
      deadBytes: sum('deadBytes'),
      filesystemFreeBytes: directory.filesystemFreeBytes(),
      nbdAddresses: [...addresses.nbd],
      adminAddresses: [...addresses.admin]
    }
  }

  shards(): readonly Shard[] {
    const { pool, syncLatency } = this.#parts
    return pool.clients.map((client) => {
      const stats = Object.fromEntries(
        shardStatNames.map((name, index) => [name, client.stats[index]!])
      ) as ShardStats
      stats.reads += stats.nearReads
      stats.readBytes += stats.nearReadBytes
      return {
        shard: client.shard,
        state: stateOf(client.state, stats),
        reason: client.failure,
        queueDepth: client.inFlightCount,
        restarts: client.restarts,
        syncLatency: syncLatency[client.shard]!.snapshot(),
        stats
      }
    })
  }

  volumeStats(): readonly VolumeStats[] {
    return this.#parts.volumes.counters().map(({ volume, inFlight, operations }) => {
      const known: Partial<Record<OperationName, OperationStats>> = {}
      for (const { kind, count, errors, bytes, latency } of operations) {
        const operation = { count, errors, bytes, latency }
        if (count > 0) known[operationOfKind[kind]] = { ...operation, latency: copyOf(latency) }
      }
      return { volume, inFlight, operations: known }
    })
  }

  gauges(): PeerGauges {
    const { directory, volumes, nbd } = this.#parts
    const { arena } = volumes
    const bytesPerPage = arena.bytes.length / arena.pagesTotal
    return {
      capacityBytes: directory.capacityBytes,
      filesystemFreeBytes: directory.filesystemFreeBytes(),
      arenaBytes: arena.bytes.length,
      arenaFreeBytes: arena.pagesFree * bytesPerPage,
      requestsInFlight: volumes.requestsInFlight,
      clients: nbd.listClients().length,
      volumes: this.#volumeCount,
      promisedBytes: this.#promisedBytes,
      connectionsRefused: nbd.snapshot().connectionsRefused
    }
  }

  async listVolumes(): Promise<readonly Volume[]> {
    const volumes = await this.#parts.volumes.listAll()
    this.#noteVolumes(volumes)
    const used = await bytesOfFamilies(
      this.#parts.pool,
      volumes.map(({ family }) => family)
    )
    return volumes.map((info, at) => volumeOf(info, used[at] ?? null))
  }

  async volume(name: string): Promise<Volume> {
    return await this.#volumeOf(await this.#parts.volumes.show(name))
  }

  async createVolume(request: VolumeCreate): Promise<Volume> {
    const { peers, volumes } = this.#parts
    const made = await withNewVolume(request, peers, (options) => volumes.create(options))
    const volume = await this.#volumeOf(made)
    await this.refreshVolumes()
    return volume
  }

  async renameVolume(name: string, newName: string): Promise<Volume> {
    return await this.#volumeOf(await this.#parts.volumes.rename(name, newName))
  }

  async resizeVolume(name: string, request: VolumeResize): Promise<Volume> {
    const { sizeBytes, shrink, force } = request
    const clients = force ? 'disconnect' : 'refuse'
    const volume = await this.#volumeOf(
      await this.#parts.volumes.resize(name, sizeBytes, { shrink, clients })
    )
    await this.refreshVolumes()
    return volume
  }

  async changeVolume(name: string, change: VolumeChange): Promise<Volume> {
    const { access, ...rest } = change
    const given = withoutUndefined(rest)
    const rules = access === undefined ? {} : { access: withoutUndefined(access) }
    const all = { ...given, ...rules }
    return this.#volumeOf(await this.#parts.volumes.change(name, all))
  }

  async takeVolume(name: string, takeover: boolean): Promise<Volume> {
    await this.#parts.volumes.take(name, { takeover })
    return this.volume(name)
  }

  async deleteVolume(name: string, { force, now }: VolumeDelete): Promise<Deleted> {
    const { volumes } = this.#parts
    const { id } = await volumes.show(name)
    const hidden = now ? null : await volumes.discard(name, { force })
    if (now) await volumes.delete(name, { force })
    await this.refreshVolumes()
    return { id, name, until: hidden?.hidden.until ?? null }
  }

  async metadataBackup(): Promise<Iterable<Buffer>> {
    const { store, keys, clock } = this.#parts.cluster
    return encodeBackup(await readBackup(store, keys, clock.wallMs()))
  }

  listClients(): readonly Client[] {
    return this.#parts.nbd.listClients().map(({ connectedAtMs, ...client }) => ({
      ...client,
      connectedAt: new Date(connectedAtMs).toISOString()
    }))
  }

  async disconnectClient(id: number): Promise<void> {
    if (await this.#parts.nbd.disconnect(id)) return
    throw new StoreError(ErrorCode.NotFound, `no client ${id} is connected`)
  }

  memberScrub(): MemberScrub | null {
    return this.#parts.scrub?.progress ?? null
  }

  startTask(task: TaskName): Promise<void> {
    if (task === 'scrub') this.#parts.scrub?.force()
    return this.#broadcast(task, 0)
  }

  stopTask(task: TaskName): Promise<void> {
    if (task === 'scrub') this.#parts.scrub?.stop()
    return this.#broadcast(task, OpFlag.Stop)
  }

  /** Brings the numbers of `gauges` up to date. */
  async refreshVolumes(): Promise<void> {
    this.#noteVolumes(await this.#parts.volumes.listAll())
  }

  /** How much the trash holds, 0 when that cannot be known now. */
  async #lookAtVolumes(): Promise<number> {
    try {
      await this.refreshVolumes()
      return await this.#life.trashBytes()
    } catch (thrown) {
      if (thrown instanceof StoreError && thrown.code === ErrorCode.Unavailable) return 0
      throw thrown
    }
  }

  async #volumeOf(info: VolumeInfo): Promise<Volume> {
    const [used = null] = await bytesOfFamilies(this.#parts.pool, [info.family])
    return volumeOf(info, used)
  }

  #noteVolumes(volumes: readonly VolumeInfo[]): void {
    this.#volumeCount = volumes.length
    this.#promisedBytes = volumes.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  }

  async #broadcast(task: TaskName, flags: number): Promise<void> {
    const op = new ShardOp()
    op.kind = opOfTask[task]
    op.flags = flags
    const error = await new Promise<number>((resolve) => {
      this.#parts.store.broadcast(op, resolve)
    })
    if (error === ErrorCode.Ok) return
    throw new StoreError(error as ErrorCode, `${task}: a shard refused it; see 'torus status'`)
  }
}

function spacesOf({ cluster, space: asker, ...parts }: BackendParts): PeerSpaceBackend {
  const { volumes, peers, scrub } = parts
  const copiesOf = async (name: string): Promise<number> => {
    const { pool } = await volumes.show(name)
    if (scrub === null) return 1
    return membersOf(parseRedundancy((await peers.pool(pool)).redundancy))
  }
  const space = new VolumeSpace({ cluster, asker })
  return new PeerSpaceBackend({ space, copiesOf, nowText: () => cluster.nowText() })
}

function stateOf(state: string, stats: ShardStats): Shard['state'] {
  if (state === 'failed') return 'failed'
  if (state === 'closed') return 'stopped'
  if (state === 'starting') return 'recovering'
  return shardStates[stats.state] ?? 'failed'
}

function volumeOf(info: VolumeInfo, usedBytes: number | null): Volume {
  const { id: _, labels, access, ...shown } = info
  const { addresses, tlsNames, readOnly, listSnapshots } = access
  const rules = { addresses: [...addresses], tlsNames: [...tlsNames], readOnly, listSnapshots }
  return { ...shown, labels: { ...labels }, access: rules, usedBytes }
}

const copyOf = <T extends { readonly counts: readonly number[] }>(histogram: T) => ({
  ...histogram,
  counts: [...histogram.counts]
})
