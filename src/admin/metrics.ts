/** Which metrics a peer has, and where each value comes from. Read only when scraped. */
import type { MemberScrub } from './scrub-schemas.ts'
import { type Labels, MetricsRegistry, type Sample } from '../core/metrics.ts'
import type { AuditCounts } from './audit-log.ts'
import type { AdminBackend, PeerGauges } from './backend.ts'
import { type OperationStats, type Shard, type ShardStats, shardStates } from './schemas.ts'

type ShardRow = readonly [name: string, help: string, value: (shard: Shard) => number]

const stat =
  (name: keyof ShardStats) =>
  (shard: Shard): number =>
    shard.stats[name]

const seconds =
  (name: keyof ShardStats) =>
  (shard: Shard): number =>
    shard.stats[name] / 1000

const shardGauges: readonly ShardRow[] = [
  ['capacity_bytes', 'Bytes that the shard may use', stat('capacityBytes')],
  ['used_bytes', 'Bytes of segment files', stat('usedBytes')],
  ['live_bytes', 'Payload bytes that the index refers to', stat('liveBytes')],
  ['dead_bytes', 'Payload bytes that compaction can reclaim', stat('deadBytes')],
  ['segments', 'Segment files in use', stat('segments')],
  ['segments_free', 'Recycled segment files that wait for use', stat('segmentsFree')],
  ['index_entries', 'Entries of the extent index', stat('indexEntries')],
  ['index_memory_bytes', 'Memory of the extent index', stat('indexBytes')],
  ['tag_memory_bytes', 'Memory of the tags of sealed blocks', stat('tagBytes')],
  [
    'unsynced_batches',
    'Batches appended and not yet known durable',
    (shard) => Math.max(0, shard.stats.appendedLsn - shard.stats.durableLsn)
  ],
  [
    'checkpoint_lag_batches',
    'Batches since the last index checkpoint, which a restart replays',
    (shard) => Math.max(0, shard.stats.appendedLsn - shard.stats.checkpointLsn)
  ],
  ['recovery_records', 'Records replayed by the last recovery', stat('recoveryRecords')],
  ['recovery_seconds', 'Duration of the last recovery', seconds('recoveryMs')],
  ['queue_depth', 'Operations given to the shard and not answered', (shard) => shard.queueDepth],
  ['scrub_active', '1 while a scrub runs', stat('scrubActive')],
  ['scrub_size_bytes', 'Bytes that the current scrub round reads', stat('scrubBytesTotal')],
  ['scrub_done_bytes', 'Bytes that the current scrub round has read', stat('scrubBytesDone')],
  ['scrub_damaged_blocks', 'Damaged blocks of the last scrub round', stat('scrubErrorsLast')],
  ['missing_blocks', 'Blocks whose segment file is not there', stat('missingBlocks')],
  ['compaction_active', '1 while compaction runs', stat('compactionActive')],
  ['compaction_size_bytes', 'Bytes to compact in this run', stat('compactionBytesTotal')],
  ['compaction_done_bytes', 'Bytes compacted in this run', stat('compactionBytesDone')]
]

const shardCounters: readonly ShardRow[] = [
  ['reads_total', 'Read operations of the shard', stat('reads')],
  ['read_bytes_total', 'Bytes read for clients', stat('readBytes')],
  ['near_reads_total', 'Of these, read without the worker', stat('nearReads')],
  ['writes_total', 'Write operations of the shard', stat('writes')],
  ['written_bytes_total', 'Bytes written for clients', stat('writeBytes')],
  ['trims_total', 'Trim and write-zeroes operations of the shard', stat('trims')],
  ['batches_total', 'Batches appended', stat('batches')],
  ['header_bytes_total', 'Bytes appended as batch headers', stat('headerBytes')],
  ['checksum_errors_total', 'Blocks whose checksum did not match', stat('checksumErrors')],
  ['seal_errors_total', 'Sealed blocks that were whole and did not open', stat('sealErrors')],
  ['damaged_batches_total', 'Batches found damaged', stat('damagedBatches')],
  ['compacted_segments_total', 'Segments rewritten and freed', stat('compactedSegments')],
  ['compaction_read_bytes_total', 'Bytes read by compaction', stat('compactionReadBytes')],
  ['compaction_written_bytes_total', 'Bytes written by compaction', stat('compactionWrittenBytes')],
  ['scrubbed_bytes_total', 'Bytes read and verified by scrub', stat('scrubbedBytes')],
  ['scrub_errors_total', 'Blocks that scrub found damaged', stat('scrubErrors')],
  ['scrub_rounds_total', 'Scrub rounds completed', stat('scrubRounds')],
  ['given_back_bytes_total', 'Bytes that other peers have instead', stat('givenBackBytes')],
  ['checkpoints_total', 'Index checkpoints written', stat('checkpoints')],
  ['checkpoint_bytes_total', 'Bytes of index checkpoints written', stat('checkpointBytes')],
  ['syncs_total', 'Calls of fdatasync', stat('syncs')],
  ['sync_failures_total', 'Calls of fdatasync that failed', stat('syncFailures')],
  ['busy_seconds_total', 'Time that the worker was not asleep', seconds('busyMs')],
  ['restarts_total', 'Times the worker died and was started again', (shard) => shard.restarts]
]

type PeerRow = readonly [name: string, help: string, key: keyof PeerGauges]

const peerGauges: readonly PeerRow[] = [
  ['capacity_bytes', 'Bytes that all shards together may use', 'capacityBytes'],
  ['promised_bytes', 'Sum of the sizes of all volumes', 'promisedBytes'],
  ['filesystem_free_bytes', 'Free bytes below the data directory', 'filesystemFreeBytes'],
  ['arena_bytes', 'Shared memory for payloads in flight', 'arenaBytes'],
  ['arena_free_bytes', 'Part of the arena that is free', 'arenaFreeBytes'],
  ['requests_in_flight', 'Client requests not yet answered', 'requestsInFlight'],
  ['clients', 'Client connections', 'clients'],
  ['volumes', 'Volumes', 'volumes']
]

export interface BuildInfo {
  readonly version: string
  readonly nodeVersion: string
}

/** All metrics of a peer but those of the admin server itself. */
export function createRegistry(
  backend: AdminBackend,
  build: BuildInfo,
  options: { processMetrics: boolean } = { processMetrics: true }
): MetricsRegistry {
  const registry = new MetricsRegistry(options)
  const source: MetricsSource = {
    ready: oncePerScrape(() => backend.ready()),
    gauges: oncePerScrape(() => backend.gauges()),
    shards: oncePerScrape(() => backend.shards()),
    volumeStats: oncePerScrape(() => backend.volumeStats())
  }
  registerPeer(registry, source, build)
  registerShards(registry, source)
  registerScrub(registry, backend)
  registerVolumes(registry, source)
  return registry
}

type MetricsSource = Pick<AdminBackend, 'ready' | 'gauges' | 'shards' | 'volumeStats'>

/** A scrape collects all metrics in one turn: they share a snapshot, and so agree. */
function oncePerScrape<T>(read: () => T): () => T {
  let kept: { readonly value: T } | null = null
  return () => {
    if (kept === null) {
      kept = { value: read() }
      queueMicrotask(() => {
        kept = null
      })
    }
    return kept.value
  }
}

const one = (value: number, labels: Labels = {}): Sample[] => [{ labels, value }]

function registerPeer(registry: MetricsRegistry, backend: MetricsSource, build: BuildInfo): void {
  registry.gauge(
    { name: 'torus_build_info', help: 'Always 1', labels: ['version', 'node_version'] },
    () => one(1, { version: build.version, node_version: build.nodeVersion })
  )
  registry.gauge({ name: 'torus_ready', help: '1 when clients are served', labels: [] }, () =>
    one(backend.ready().ready ? 1 : 0)
  )
  for (const [name, help, key] of peerGauges) {
    registry.gauge({ name: `torus_${name}`, help, labels: [] }, () => one(backend.gauges()[key]))
  }
  registry.counter(
    {
      name: 'torus_connections_refused_total',
      help: 'Client connections refused or cut at a limit',
      labels: []
    },
    () => one(backend.gauges().connectionsRefused)
  )
}

function registerShards(registry: MetricsRegistry, backend: MetricsSource): void {
  const samples = (value: (shard: Shard) => number) => () =>
    backend.shards().map((shard) => ({ labels: { shard: shard.shard }, value: value(shard) }))
  for (const [name, help, value] of shardGauges) {
    registry.gauge({ name: `torus_shard_${name}`, help, labels: ['shard'] }, samples(value))
  }
  for (const [name, help, value] of shardCounters) {
    registry.counter({ name: `torus_shard_${name}`, help, labels: ['shard'] }, samples(value))
  }
  registry.gauge(
    { name: 'torus_shard_state', help: '1 for the state it is in', labels: ['shard', 'state'] },
    () =>
      backend.shards().flatMap((shard) =>
        shardStates.map((state) => ({
          labels: { shard: shard.shard, state },
          value: shard.state === state ? 1 : 0
        }))
      )
  )
  registry.histogram(
    {
      name: 'torus_shard_sync_duration_seconds',
      help: 'Duration of fdatasync',
      labels: ['shard']
    },
    () =>
      backend
        .shards()
        .flatMap(({ shard, syncLatency }) =>
          syncLatency === null ? [] : [{ labels: { shard }, histogram: syncLatency }]
        )
  )
}

/** Of tokens and the audit log. */
export function registerSecurityMetrics(
  registry: MetricsRegistry,
  parts: {
    readonly tokens: { readonly count: number }
    readonly audit: { counts(): AuditCounts }
  },
  refusals: Readonly<Record<string, number>>
): void {
  registry.gauge(
    { name: 'torus_tokens', help: 'Tokens that exist, expired ones too', labels: [] },
    () => one(parts.tokens.count)
  )
  registry.counter(
    {
      name: 'torus_admin_refusals_total',
      help: 'Requests refused: no token, a wrong one, too many wrong ones, not for this role',
      labels: ['reason']
    },
    () => Object.entries(refusals).map(([reason, value]) => ({ labels: { reason }, value }))
  )
  registry.counter(
    { name: 'torus_audit_entries_total', help: 'Entries written to the audit log', labels: [] },
    () => one(parts.audit.counts().written)
  )
  registry.counter(
    {
      name: 'torus_audit_lost_total',
      help: 'Entries that the disk did not take in time: the audit log has a hole',
      labels: []
    },
    () => one(parts.audit.counts().lost)
  )
}

const volumeLabels = ['volume', 'operation']

function registerVolumes(registry: MetricsRegistry, backend: MetricsSource): void {
  const operations = function* (): Iterable<{ labels: Labels; stats: OperationStats }> {
    for (const { volume, operations } of backend.volumeStats()) {
      for (const [operation, stats] of Object.entries(operations)) {
        yield { labels: { volume, operation }, stats }
      }
    }
  }
  const counter = (name: string, help: string, value: (stats: OperationStats) => number) =>
    registry.counter({ name, help, labels: volumeLabels }, () =>
      [...operations()].map(({ labels, stats }) => ({ labels, value: value(stats) }))
    )
  counter('torus_volume_requests_total', 'Client requests completed', ({ count }) => count)
  counter('torus_volume_request_errors_total', 'Client requests that failed', (s) => s.errors)
  counter('torus_volume_request_bytes_total', 'Bytes of client requests', ({ bytes }) => bytes)
  registry.histogram(
    {
      name: 'torus_volume_request_duration_seconds',
      help: 'Time from request to reply',
      labels: volumeLabels
    },
    () => [...operations()].map(({ labels, stats }) => ({ labels, histogram: stats.latency }))
  )
  registry.gauge(
    {
      name: 'torus_volume_requests_in_flight',
      help: 'Client requests of the volume not yet answered',
      labels: ['volume']
    },
    () =>
      backend.volumeStats().map(({ volume, inFlight }) => ({ labels: { volume }, value: inFlight }))
  )
}

const scrubMetrics = [
  ['compared_groups_total', 'Groups compared with other members', 'groupsCompared'],
  ['member_differences_total', 'Blocks that members in sync had differently', 'differences'],
  ['member_differences_repaired_total', 'Of these, blocks made equal', 'repaired'],
  ['mended_blocks_total', 'Damaged blocks here repaired from others', 'mended']
] as const

/** Of a peer of a cluster. */
function registerScrub(registry: MetricsRegistry, backend: AdminBackend): void {
  const samples = (key: keyof MemberScrub) => (): Sample[] => {
    const scrub = backend.memberScrub()
    return scrub === null ? [] : one(scrub[key])
  }
  for (const [name, help, key] of scrubMetrics) {
    registry.counter({ name: `torus_scrub_${name}`, help, labels: [] }, samples(key))
  }
  const help = 'Damaged blocks here that nobody else has now'
  registry.gauge({ name: 'torus_scrub_damaged_blocks', help, labels: [] }, samples('damaged'))
}
