/**
 * What the admin API asks of the program behind it. The coordinator implements it; tests give a
 * fake. Everything that crosses is plain data as src/admin/schemas.ts describes it.
 *
 * Configuration, logs, metrics text and the progress of background tasks are not here: the admin
 * server is given the first two and derives the others from `status` and `shards`.
 * Failures are thrown as StoreError and become HTTP statuses.
 */
import type { BranchBackend } from './branch-routes.ts'
import type { SnapshotBackend } from './snapshot-routes.ts'
import type { SpaceBackend } from './space-routes.ts'
import type { StreamBackend } from './stream-routes.ts'
import type { MemberScrub } from './scrub-schemas.ts'
import type { ClusterBackend } from './cluster-routes.ts'
import type { KeyBackend } from './key-routes.ts'
import type { ImportBackend } from './import-routes.ts'
import type { LifeBackend } from './life-routes.ts'
import type { Deleted } from './life-schemas.ts'
import type {
  CertificateInfo,
  Client,
  Peer,
  Ready,
  Shard,
  Status,
  TaskName,
  Volume,
  VolumeChange,
  VolumeCreate,
  VolumeDelete,
  VolumeResize,
  VolumeStats
} from './schemas.ts'

export interface AdminBackend {
  readonly cluster: ClusterBackend
  readonly keys: KeyBackend
  readonly life: LifeBackend
  readonly imports: ImportBackend
  readonly snapshots: SnapshotBackend
  readonly streams: StreamBackend
  readonly branches: BranchBackend
  readonly spaces: SpaceBackend
  /** May this peer serve clients now; `reasons` tells in words what is missing. Never throws. */
  ready(): Ready
  status(): Promise<Status>
  peer(): Promise<Peer>
  /** That this peer uses, as their files have them now. Cheap. */
  certificates(): readonly CertificateInfo[]
  /** Cheap: reads counters in shared memory. Called at each scrape, poll and progress line. */
  shards(): readonly Shard[]
  /** Cheap, as `shards`. Volumes that were opened since start. */
  volumeStats(): readonly VolumeStats[]
  /** Cheap: what metrics need beside shards and volumes. */
  gauges(): PeerGauges

  /** Sorted by name. */
  listVolumes(): Promise<readonly Volume[]>
  /** @throws StoreError NotFound */
  volume(name: string): Promise<Volume>
  /** @throws StoreError AlreadyExists, InvalidArgument (name, size, unknown type) */
  createVolume(request: VolumeCreate): Promise<Volume>
  /** @throws StoreError NotFound, AlreadyExists, InvalidArgument, Busy */
  renameVolume(name: string, newName: string): Promise<Volume>
  /** @throws StoreError NotFound, InvalidArgument (smaller and not `shrink`), Busy (open) */
  resizeVolume(name: string, request: VolumeResize): Promise<Volume>
  /** What `request` does not name stays. @throws StoreError NotFound, InvalidArgument */
  changeVolume(name: string, request: VolumeChange): Promise<Volume>
  /** @throws StoreError NotFound, Busy (another peer serves it and not `takeover`) */
  takeVolume(name: string, takeover: boolean): Promise<Volume>
  /** @throws StoreError NotFound, Busy (clients and not `force`) */
  deleteVolume(name: string, request: VolumeDelete): Promise<Deleted>

  /** All metadata as of one moment, as a file that `torus metadata restore` takes. */
  metadataBackup(): Promise<Iterable<Buffer>>

  listClients(): readonly Client[]
  /** Closes the connection. @throws StoreError NotFound */
  disconnectClient(id: number): Promise<void>

  /** Starts it on every shard; one that runs already goes on. Returns once started. */
  /** The scrub across members; null for a peer that is alone. */
  memberScrub(): MemberScrub | null
  startTask(task: TaskName): Promise<void>
  /** Stops it on every shard; nothing happens when it does not run. */
  stopTask(task: TaskName): Promise<void>
}

export interface PeerGauges {
  readonly capacityBytes: number
  readonly filesystemFreeBytes: number
  readonly arenaBytes: number
  readonly arenaFreeBytes: number
  readonly requestsInFlight: number
  readonly clients: number
  readonly volumes: number
  readonly promisedBytes: number
  /** Connections refused or cut because a limit was reached, since start. */
  readonly connectionsRefused: number
}
