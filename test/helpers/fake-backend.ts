/** An AdminBackend over nothing: volumes in a Map, counters that tests set. */
import type { AdminBackend, PeerGauges } from '../../src/admin/backend.ts'
import type {
  CertificateInfo,
  Client,
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
} from '../../src/admin/schemas.ts'
import { shardStatsSchema } from '../../src/admin/schemas.ts'
import type { Deleted } from '../../src/admin/life-schemas.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { LatencyHistogram } from '../../src/core/histogram.ts'
import { FakeCluster } from './fake-cluster.ts'
import { FakeKeys } from './fake-keys.ts'
import { FakeImports } from './fake-imports.ts'
import { FakeLife } from './fake-life.ts'
import { FakeBranches } from './fake-branches.ts'
import { FakeSnapshots } from './fake-snapshots.ts'
import { FakeSpaces } from './fake-spaces.ts'
import { FakeStreams } from './fake-streams.ts'

const GIB = 1024 ** 3

export function fakeShard(shard: number, stats: Partial<ShardStats> = {}): Shard {
  const zeroes = Object.fromEntries(Object.keys(shardStatsSchema.shape).map((name) => [name, 0]))
  return {
    shard,
    state: 'serving',
    reason: '',
    queueDepth: 0,
    restarts: 0,
    syncLatency: new LatencyHistogram().snapshot(),
    stats: { ...(zeroes as ShardStats), state: 1, capacityBytes: 10 * GIB, ...stats }
  }
}

export class FakeBackend implements AdminBackend {
  readonly cluster: FakeCluster = new FakeCluster()
  readonly keys: FakeKeys = new FakeKeys()
  readonly life: FakeLife = new FakeLife()
  readonly imports: FakeImports = new FakeImports()
  readonly snapshots: FakeSnapshots = new FakeSnapshots()
  readonly streams: FakeStreams = new FakeStreams()
  readonly branches: FakeBranches = new FakeBranches((name) => this.volume(name))
  readonly spaces: FakeSpaces = new FakeSpaces(this.snapshots)
  readonly volumesByName = new Map<string, Volume>()
  readonly clients: Client[] = []
  /** Calls worth checking, in order: 'start scrub', 'disconnect 3', … */
  readonly calls: string[] = []
  shardList: Shard[] = [fakeShard(0), fakeShard(1)]
  stats: VolumeStats[] = []
  nbdAddresses = ['nbd://127.0.0.1:10809', 'nbd+unix:///demo?socket=/run/nbd.sock']
  readyAnswer: Ready = { ready: true, reasons: [] }
  /** When set, every call that may fail throws it. */
  failure: Error | null = null
  /** Called after a task was started; tests move its progress on. */
  onStart: (task: TaskName) => void = () => {}

  ready(): Ready {
    return this.readyAnswer
  }

  async peer(): Promise<Peer> {
    this.#mayFail()
    return {
      peerId: 'a'.repeat(32),
      clusterId: 'b'.repeat(32),
      bootId: 'c'.repeat(32),
      bootCounter: 3,
      version: '0.1.0',
      nodeVersion: process.version,
      pid: process.pid,
      hostname: 'test',
      startedAt: '2026-01-31T12:00:00.000Z',
      dataDir: '/var/lib/torus',
      formatVersion: 1,
      shards: this.shardList.length,
      segmentBytes: 128 * 1024 ** 2,
      capacityBytes: 20 * GIB,
      usedBytes: 5 * GIB,
      liveBytes: 4 * GIB,
      deadBytes: 1 * GIB,
      filesystemFreeBytes: 50 * GIB,
      nbdAddresses: [...this.nbdAddresses],
      adminAddresses: ['http://127.0.0.1:4321']
    }
  }

  async status(): Promise<Status> {
    this.#mayFail()
    const failed = this.shardList.filter(({ state }) => state === 'failed')
    return {
      health: failed.length > 0 ? 'error' : 'ok',
      problems: failed.map(({ shard, reason }) => ({
        level: 'error',
        code: 'shardFailed',
        message: `shard ${shard} failed: ${reason}`
      })),
      peer: await this.peer(),
      volumeCount: this.volumesByName.size,
      promisedBytes: this.#promised(),
      clientCount: this.clients.length,
      arenaBytes: 64 * 1024 ** 2,
      arenaFreeBytes: 60 * 1024 ** 2,
      requestsInFlight: 4,
      shards: this.shardList,
      volumes: this.stats
    }
  }

  certificates(): readonly CertificateInfo[] {
    return []
  }

  shards(): readonly Shard[] {
    return this.shardList
  }

  volumeStats(): readonly VolumeStats[] {
    return this.stats
  }

  gauges(): PeerGauges {
    return {
      capacityBytes: 20 * GIB,
      filesystemFreeBytes: 50 * GIB,
      arenaBytes: 64 * 1024 ** 2,
      arenaFreeBytes: 60 * 1024 ** 2,
      requestsInFlight: 4,
      clients: this.clients.length,
      volumes: this.volumesByName.size,
      promisedBytes: this.#promised(),
      connectionsRefused: 0
    }
  }

  async listVolumes(): Promise<readonly Volume[]> {
    this.#mayFail()
    return [...this.volumesByName.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  async volume(name: string): Promise<Volume> {
    this.#mayFail()
    const volume = this.volumesByName.get(name)
    if (volume === undefined) throw new StoreError(ErrorCode.NotFound, `no volume "${name}"`)
    return volume
  }

  async createVolume(request: VolumeCreate): Promise<Volume> {
    this.#mayFail()
    this.#mustBeFree(request.name)
    const { encrypt, ...rest } = request
    const volume: Volume = {
      ...rest,
      encryption: encrypt === undefined ? null : 'xchacha20-poly1305',
      pool: request.pool ?? 'default',
      family: '0123456789abcdef',
      readOnly: false,
      labels: {},
      limits: { iops: null, iopsBurst: null, bandwidth: null },
      unavailableMs: null,
      access: { addresses: [], tlsNames: [], readOnly: false, listSnapshots: false },
      createdAt: '2026-01-31T12:00:00.000Z',
      clients: 0,
      usedBytes: null
    }
    this.volumesByName.set(volume.name, volume)
    return volume
  }

  async renameVolume(name: string, newName: string): Promise<Volume> {
    const volume = await this.volume(name)
    this.#mustBeFree(newName)
    this.volumesByName.delete(name)
    const renamed = { ...volume, name: newName }
    this.volumesByName.set(newName, renamed)
    return renamed
  }

  async resizeVolume(name: string, { sizeBytes, shrink, force }: VolumeResize): Promise<Volume> {
    const volume = await this.volume(name)
    if (sizeBytes < volume.sizeBytes && !shrink) {
      throw new StoreError(ErrorCode.InvalidArgument, `volume "${name}" would shrink`)
    }
    this.calls.push(`resize ${name}${force ? ' by force' : ''}`)
    const resized = { ...volume, sizeBytes }
    this.volumesByName.set(name, resized)
    return resized
  }

  async changeVolume(name: string, change: VolumeChange): Promise<Volume> {
    const volume = await this.volume(name)
    const { unavailableMs = null, readOnly = false, description = '', labels = {} } = change
    const { limits = {} } = change
    this.calls.push(`change ${name} ${JSON.stringify(labels)} ${JSON.stringify(limits)}`)
    const changed = { ...volume, unavailableMs, readOnly, description }
    this.volumesByName.set(name, changed)
    return changed
  }

  async takeVolume(name: string, takeover: boolean): Promise<Volume> {
    this.calls.push(`take ${name}${takeover ? ' over' : ''}`)
    return this.volume(name)
  }

  async deleteVolume(name: string, { force, now }: VolumeDelete): Promise<Deleted> {
    const volume = await this.volume(name)
    if (volume.clients > 0 && !force) {
      throw new StoreError(ErrorCode.Busy, `volume "${name}" has ${volume.clients} clients`)
    }
    this.volumesByName.delete(name)
    if (!now) this.life.volumes.push({ ...volume, id: `${this.life.volumes.length}` })
    return { id: '0', name, until: now ? null : '2026-02-01T12:00:00.000Z' }
  }

  listClients(): readonly Client[] {
    return this.clients
  }

  async disconnectClient(id: number): Promise<void> {
    this.#mayFail()
    const at = this.clients.findIndex((client) => client.id === id)
    if (at < 0) throw new StoreError(ErrorCode.NotFound, `no client ${id}`)
    this.clients.splice(at, 1)
    this.calls.push(`disconnect ${id}`)
  }

  memberScrub(): null {
    return null
  }

  async startTask(task: TaskName): Promise<void> {
    this.#mayFail()
    this.calls.push(`start ${task}`)
    this.onStart(task)
  }

  async stopTask(task: TaskName): Promise<void> {
    this.#mayFail()
    this.calls.push(`stop ${task}`)
  }

  async metadataBackup(): Promise<Iterable<Buffer>> {
    this.#mayFail()
    return [Buffer.from('meta'), Buffer.from('data')]
  }

  /** Gives a volume some traffic, for metrics and `top`. */
  addTraffic(volume: string, count: number): void {
    const latency = new LatencyHistogram()
    for (let i = 0; i < count; i++) latency.recordMs(0.15)
    const operation = { count, errors: 1, bytes: count * 4096, latency: latency.snapshot() }
    this.stats = [{ volume, inFlight: 2, operations: { read: operation, write: operation } }]
  }

  #promised(): number {
    return [...this.volumesByName.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  }

  #mustBeFree(name: string): void {
    if (!this.volumesByName.has(name)) return
    throw new StoreError(ErrorCode.AlreadyExists, `volume "${name}" exists`)
  }

  #mayFail(): void {
    if (this.failure !== null) throw this.failure
  }
}

export function fakeClient(id: number, volume: string): Client {
  return {
    id,
    protocol: 'nbd',
    address: '127.0.0.1:50000',
    tls: false,
    volume,
    connectedAt: '2026-01-31T12:00:00.000Z',
    inFlight: 1,
    reads: 10,
    writes: 20,
    readBytes: 40_960,
    writtenBytes: 81_920
  }
}
