/**
 * The one place that builds a peer and connects its parts: data directory -> metadata -> shards ->
 * volumes -> NBD and the admin API, and takes it down in the opposite order.
 */
import { Bases } from './cluster/bases.ts'
import { randomId128 } from './cluster/ids.ts'
import { splitSnapshotName } from './cluster/snapshots.ts'
import { startAdminServer } from './coordinator/admin.ts'
import { PeerBackend, type Phase } from './coordinator/backend.ts'
import { type ClusterParts, joinCluster } from './coordinator/cluster-parts.ts'
import { clusterToJoin } from './coordinator/join.ts'
import {
  prepareReplication,
  type Replication,
  type ReplicationParts
} from './coordinator/replication.ts'
import { prepareUnlocking } from './coordinator/unlocking.ts'
import { adminTlsOf, startCredentials, tlsFilesOf } from './coordinator/credential-users.ts'
import { type DataDirectory, openDataDirectory } from './coordinator/data-directory.ts'
import { openMetadata } from './coordinator/metadata.ts'
import { newPasswordHasher } from './coordinator/password-hashing.ts'
import { PeerReports } from './coordinator/peer-reports.ts'
import { nbdWitness, openSecurity, ownWitness, type Security } from './coordinator/security.ts'
import { keepSchedules } from './coordinator/schedule-keeper.ts'
import { keepTrash } from './coordinator/trash-keeper.ts'
import { CUT_OFF_MS, endure, Undo } from './coordinator/undo.ts'
import { shardsServe, startShards } from './coordinator/shards.ts'
import { systemClock, systemRandom } from './core/clock.ts'
import { formatAddress } from './core/addresses.ts'
import type { ResolvedConfig } from './core/config.ts'
import type { StoreError } from './core/errors.ts'
import type { LatencyHistogram } from './core/histogram.ts'
import type { Log, LogOutput } from './core/log.ts'
import type { Config } from './core/options.ts'
import { requireValidNow } from './core/tls-files.ts'
import { SharedArena } from './handoff/arena.ts'
import type { ShardPool } from './handoff/shard-pool.ts'
import { NbdServer } from './nbd/server.ts'
import { TlsContext } from './nbd/tls-context.ts'
import { BaseTeacher } from './replication/base-teacher.ts'
import { BlockOp, type BlockStore, OpKind } from './replication/block-store.ts'
import { LocalStore } from './replication/local-store.ts'
import { NearReads } from './replication/near-reads.ts'
import { SealedMembersStore } from './replication/sealed-members.ts'
import { type FamilyKeys, SealedStore } from './replication/sealed-store.ts'
import { ShardQuestions } from './replication/shard-questions.ts'
import { LocalChunkFinder } from './replication/chunk-finder.ts'
import { LocalSpaceAsker, type SpaceAsker } from './replication/space-asker.ts'
import { SpaceCounts } from './replication/space-counts.ts'
import { aead } from './seal/aead.ts'
import { KeyRing } from './seal/keyring.ts'
import { shardStatIndex } from './shard/stats.ts'
import { loadPlugin } from './volume/plugins.ts'
import { VolumeTypes } from './volume/volume-types.ts'
import type { VolumeKeyring } from './volume/volume-keyring.ts'
import type { VolumesOptions } from './volume/volume-options.ts'
import { Volumes } from './volume/volumes.ts'

export interface RunningPeer {
  readonly backend: PeerBackend
  readonly volumes: Volumes
  readonly dataDir: string
  /** NBD URIs without an export name: `nbd://127.0.0.1:10809`, `nbd+unix://?socket=/path`. */
  readonly nbdAddresses: readonly string[]
  /** As `--admin` takes them. */
  readonly adminAddresses: readonly string[]
  /** Settles when it must not go on: it is to be stopped then. */
  readonly failed: Promise<StoreError>
  /** Reads certificates and secrets again (SIGHUP). @throws StoreError; the old ones stay then */
  reload(): Promise<void>
  /** Finishes what is in flight, makes everything durable and lets the data directory go. */
  stop(): Promise<void>
}

/**
 * Starts a peer on its data directory, which is made if it is new. Resolves when clients are
 * served. `signal` ends the waiting for an etcd that does not answer.
 * @throws StoreError for what the operator can mend; nothing is left running then
 */
export async function startPeer(
  resolved: ResolvedConfig,
  output: LogOutput,
  types: VolumeTypes = new VolumeTypes(),
  signal: AbortSignal = new AbortController().signal
): Promise<RunningPeer> {
  const undo = new Undo()
  try {
    return await start(resolved, output, types, undo, signal)
  } catch (thrown) {
    await undo.run().catch((later: unknown) => {
      output.log.error({ err: later }, 'stopping after a failed start failed too')
    })
    throw thrown
  }
}

async function start(
  resolved: ResolvedConfig,
  output: LogOutput,
  types: VolumeTypes,
  undo: Undo,
  signal: AbortSignal
): Promise<RunningPeer> {
  const { config, warnings } = resolved
  const { log } = output
  const startedMs = systemClock.wallMs()
  for (const warning of warnings) log.warn(warning)
  const directory = await ownDirectory(config, undo)
  const bootId = randomId128(systemRandom)
  await loadPlugins(config, types, output)

  const metadata = await openMetadata({ config, directory, bootId, output, signal })
  undo.add(() => metadata.close())
  const { cluster, session } = metadata
  const security = await openSecurity({ cluster, dataDir: directory.path, log, undo })
  const parts = await joinCluster({ config, cluster, session, output, undo })
  const onGroup = metadata.copies.noteGroup.bind(metadata.copies)
  const peer = { config, directory, bootId, cluster, session, output, undo, onGroup }
  const storage = await openStorage({ ...peer, membership: parts.membership })
  const { pool, store, space, replication, syncLatency } = storage
  connect(parts, storage)
  const given = { ...peer, ring: storage.keys, hash: newPasswordHasher(), log }
  const unlocking = prepareUnlocking({ ...given, ...security })
  undo.add(() => unlocking.close())
  const opened = { ...peer, storage, types, keyring: unlocking.keyring, log }
  const volumes: Volumes = openVolumes(opened, () => nbd)
  undo.add(() => unlocking.stop())
  const nbd = createNbd(config, volumes, output, security)
  const credentials = await startCredentials({ config, nbd, metadata, replication, log, undo })
  let phase: Phase = 'starting'
  const addresses: Record<'nbd' | 'admin', string[]> = { nbd: [], admin: [] }
  const backend = new PeerBackend({
    directory,
    pool,
    ...{ store, space },
    scrub: replication?.scrub ?? null,
    volumes,
    cluster,
    nbd,
    ...{ bootId, startedMs, addresses, syncLatency },
    peers: parts.backend,
    isInCharge: parts.isInCharge,
    onTrouble: (what, err) => log.warn({ err }, what),
    keys: unlocking.backend(volumes),
    credentials,
    problems: () => metadata.problems(),
    phase: () => phase
  })
  await backend.refreshVolumes()
  // Before the shards are there: a long recovery is watched through /readyz and `torus status`.
  const shown = { resolved, directory, output, backend, security, credentials, nbd, metadata, undo }
  addresses.admin.push(...(await startAdminServer(shown)).addresses)

  await shardsServe(pool)
  await replication?.serve()
  void unlocking.start()
  undo.add(await resumeVolumes(volumes, backend, log, { ...parts, ...security }))
  await createInitialVolumes(config, volumes, backend, output)
  undo.add(() => closeNbd(nbd, config, replication))
  addresses.nbd.push(...(await listenNbd(config, nbd)))
  phase = 'serving'
  await parts.announce({ nbdAddresses: addresses.nbd, adminAddresses: addresses.admin })
  log.info({ dataDir: directory.path, shards: pool.clients.length, nbd: addresses.nbd }, 'serving')
  return {
    backend,
    volumes,
    dataDir: directory.path,
    ...{ nbdAddresses: addresses.nbd, adminAddresses: addresses.admin },
    failed: parts.replaced,
    reload: () => credentials.reload(),
    stop: once(() => {
      phase = 'stopping'
      return undo.run()
    })
  }
}

/** What earlier runs left undone, and what is to be done now and then. */
async function resumeVolumes(
  volumes: Volumes,
  { schedules }: PeerBackend,
  log: Log,
  { isInCharge, audit }: ClusterParts & Security
): Promise<() => Promise<void>> {
  await volumes.resume()
  const given = { log, clock: systemClock, isInCharge, onDeed: ownWitness(audit) }
  const ends = [keepTrash(volumes.trash, given), keepSchedules(schedules, given)]
  return async () => void (await Promise.all(ends.map((end) => end())))
}

/** However often it is asked for, it happens once. */
function once(work: () => Promise<void>): () => Promise<void> {
  let result: Promise<void> | null = null
  return () => {
    result ??= work()
    return result
  }
}

function openVolumes(
  given: Pick<VolumesOptions, 'cluster' | 'session'> & {
    readonly storage: Storage
    readonly types: VolumeTypes
    readonly keyring: VolumeKeyring
    readonly log: Log
    readonly config: Config
    readonly undo: Undo
  },
  nbd: () => NbdServer
): Volumes {
  const { storage, log, config, undo, ...rest } = given
  const { arena, bases, store, replication } = storage
  const volumes = new Volumes({
    ...rest,
    ...{ arena, bases, store },
    sealed: sealedStore(storage, rest.keyring.families, log),
    ...(replication === null ? {} : { gate: replication.gate }),
    disconnect: (volume) => disconnectVolume(nbd(), volume),
    onChange: () => {
      nbd()
        .enforceAccess()
        .catch((err: unknown) => log.error({ err }, 'rules of access were not enforced'))
    },
    onTrouble: (what, err) => log.error({ err }, what)
  })
  const giveUp = (): void => replication?.giveUp()
  undo.add(() => endure(() => volumes.close(), config.shutdownMs, giveUp))
  return volumes
}

/** Clients that wait for members are cut off; what they asked for is answered to nobody then. */
function closeNbd(
  nbd: NbdServer,
  { shutdownMs }: Config,
  replication: Replication | null
): Promise<void> {
  const giveUp = (): void => replication?.giveUp()
  return endure(() => nbd.close(shutdownMs), shutdownMs + CUT_OFF_MS, giveUp)
}

/** The store as encrypted volumes see it. */
function sealedStore(storage: Storage, families: FamilyKeys, log: Log): BlockStore {
  const { store, arena, keys, replication } = storage
  if (!aead.isNative) {
    log.warn('sodium-native cannot be loaded here: encrypted volumes are much slower')
  }
  if (replication === null) return new SealedStore(store, families)
  const onBroken = (what: string): void => log.error({ what }, 'a sealed block does not open')
  return new SealedMembersStore({ store, arena, families, keys, onBroken })
}

interface Storage {
  readonly arena: SharedArena
  readonly bases: Bases
  readonly keys: KeyRing
  readonly pool: ShardPool<BlockOp>
  readonly syncLatency: readonly LatencyHistogram[]
  /** Where volumes have their blocks. */
  readonly store: BlockStore
  /** Counts what volumes take. */
  readonly space: SpaceAsker
  /** Null for a peer that is alone. */
  readonly replication: Replication | null
}

/** What the cluster's side asks of the storage. */
function connect(parts: ClusterParts, { pool, replication }: Storage): void {
  const { clients } = pool
  const used = shardStatIndex.usedBytes
  parts.usedBytes = () => clients.reduce((sum, { stats }) => sum + stats[used]!, 0)
  parts.cleanEnd = () => clients.every(({ state }) => state === 'closed')
  if (replication === null) return
  parts.reports = new PeerReports(replication.members)
  parts.noLinkTo = replication.noLinkTo
  replication.onReport(() => ({
    usedBytes: parts.usedBytes(),
    resync: replication.resync(),
    reclaim: replication.reclaim(),
    scrub: replication.scrub.progress,
    controller: parts.controller.report
  }))
}

async function openStorage(
  given: Omit<ReplicationParts, 'arena' | 'local'> & { readonly undo: Undo }
): Promise<Storage> {
  const { config, directory, output, undo } = given
  const arena = new SharedArena(config.arenaBytes)
  const { shards, segmentBytes } = directory.superblock
  const keys = new KeyRing(shards)
  const near = new NearReads({ shards, segmentBytes, memory: arena.bytes, keys })
  undo.add(() => keys.close())
  const shared = { arena, near, keys, holdHoles: config.etcd.length > 0 }
  const { pool, syncLatency } = startShards(config, directory, shared, output, undo)
  const local = new LocalStore(pool, near)
  const bases = new Bases(given.cluster)
  local.teacher = new BaseTeacher(local, bases)
  bases.start()
  undo.add(() => bases.close())
  keys.tell = (done) => {
    const barrier = new BlockOp()
    barrier.kind = OpKind.Barrier
    local.broadcast(barrier, done)
  }
  if (config.etcd.length === 0) {
    const questions = new ShardQuestions(local, arena)
    const space = new LocalSpaceAsker(new SpaceCounts(questions))
    local.finder = new LocalChunkFinder(questions)
    const known = { arena, bases, keys, pool, syncLatency }
    return { ...known, store: local, space, replication: null }
  }
  const replication = await prepareReplication({ ...given, arena, local })
  const { store, space } = replication
  return { arena, bases, keys, pool, syncLatency, store, space, replication }
}

async function ownDirectory(config: Config, undo: Undo): Promise<DataDirectory> {
  // What cannot be used is named before anything is made or locked.
  await checkTlsFiles(config)
  const clusterId = await clusterToJoin(config)
  const directory = openDataDirectory({ ...config, clusterId }, systemClock, systemRandom)
  undo.add(() => directory.release())
  return directory
}

async function loadPlugins(config: Config, types: VolumeTypes, { log }: LogOutput): Promise<void> {
  for (const plugin of config.plugins) {
    const { name, volumeTypes } = await loadPlugin(plugin, types)
    log.info({ plugin: name, volumeTypes: volumeTypes.map((type) => type.name) }, 'plugin loaded')
  }
}

/** A certificate that cannot be used is named before anything is made or locked. */
async function checkTlsFiles(config: Config): Promise<void> {
  const files = tlsFilesOf(config)
  if (files !== null) await new TlsContext(files).load()
  await adminTlsOf(config)?.load()
  const { peerTlsCa: ca, peerTlsCert: cert } = config
  if (ca === null || cert === null) return
  await requireValidNow('peer', { cert, ca }, systemClock.wallMs())
}

function createNbd(
  config: Config,
  source: Volumes,
  { log }: LogOutput,
  { audit }: Security
): NbdServer {
  const tls = tlsFilesOf(config)
  return new NbdServer({
    source,
    ...(config.nbdDefaultExport === null ? {} : { defaultExport: config.nbdDefaultExport }),
    ...(tls === null ? {} : { tls }),
    onUse: nbdWitness(audit),
    log: (level, message, fields) => log[level](fields, message)
  })
}

async function listenNbd(config: Config, nbd: NbdServer): Promise<string[]> {
  const scheme = config.nbdTls === 'off' ? 'nbd' : 'nbds'
  const addresses: string[] = []
  if (config.nbdListen !== null) {
    const at = await nbd.listen(config.nbdListen)
    if ('host' in at) addresses.push(`${scheme}://${formatAddress(at)}`)
  }
  if (config.nbdSocket !== null) {
    await nbd.listen({ path: config.nbdSocket, mode: config.nbdSocketMode })
    addresses.push(`${scheme}+unix://?socket=${encodeURI(config.nbdSocket)}`)
  }
  return addresses
}

async function disconnectVolume(nbd: NbdServer, volume: string): Promise<void> {
  for (const client of nbd.listClients()) {
    // Those of its snapshots too.
    const name = splitSnapshotName(client.volume)?.volume ?? client.volume
    if (name === volume) nbd.disconnect(client.id)
  }
}

async function createInitialVolumes(
  config: Config,
  volumes: Volumes,
  backend: PeerBackend,
  { log }: LogOutput
): Promise<void> {
  const existing = new Set((await volumes.listAll()).map(({ name }) => name))
  for (const { name, sizeBytes } of config.volumes) {
    if (existing.has(name)) continue
    await volumes.create({ name, sizeBytes })
    log.info({ volume: name, sizeBytes }, 'volume created')
  }
  await backend.refreshVolumes()
}
