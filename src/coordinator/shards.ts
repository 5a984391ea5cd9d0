import { extname } from 'node:path'
import { StoreError } from '../core/errors.ts'
import { LatencyHistogram } from '../core/histogram.ts'
import type { LogOutput } from '../core/log.ts'
import type { Config } from '../core/options.ts'
import type { SharedArena } from '../handoff/arena.ts'
import { ShardPool } from '../handoff/shard-pool.ts'
import type { BlockOp } from '../replication/block-store.ts'
import type { NearReads } from '../replication/near-reads.ts'
import type { KeyRing } from '../seal/keyring.ts'
import { resolveShardConfig } from '../shard/shard-config.ts'
import type { ShardWorkerConfig } from '../../workers/shard.ts'
import type { DataDirectory } from './data-directory.ts'

/** Found in sources and in dist/. */
const shardWorker = new URL(`../../workers/shard${extname(import.meta.url)}`, import.meta.url)

/** What workers and the main thread share. */
interface SharedParts {
  readonly arena: SharedArena
  readonly near: NearReads
  readonly keys: KeyRing
  /** Of a cluster: what tombstones hide here may come back from others. */
  readonly holdHoles: boolean
}

export function startShards(
  config: Config,
  directory: DataDirectory,
  { arena, near, keys, holdHoles }: SharedParts,
  { log }: LogOutput,
  undo: { add(step: () => Promise<void>): void }
): { pool: ShardPool<BlockOp>; syncLatency: readonly LatencyHistogram[] } {
  const { clusterId, peerId, shards, segmentBytes } = directory.superblock
  const syncLatency = Array.from({ length: shards }, () => new LatencyHistogram())
  const pool = new ShardPool<BlockOp>({
    shards,
    worker: shardWorker,
    arena,
    configOf: (shard): ShardWorkerConfig => {
      keys.handAgain(shard)
      return {
        directory: directory.shardPath(shard),
        places: near.places[shard]!,
        maps: near.maps.shared,
        sealMaps: near.maps.sealsShared,
        keys: keys.mailboxes[shard]!.shared,
        shard: resolveShardConfig({
          shard,
          shards,
          clusterId,
          peerId,
          segmentBytes,
          capacityBytes: Math.floor(directory.capacityBytes / shards),
          scrubPeriodMs: config.scrubPeriodMs,
          holdHoles
        })
      }
    },
    log: ({ log: level, shard, message, fields }) => log[level]({ shard, ...fields }, message),
    closeTimeoutMs: config.shutdownMs,
    onSync: (shard, durationMs) => syncLatency[shard]!.recordMs(durationMs)
  })
  undo.add(() => pool.close())
  return { pool, syncLatency }
}

/** @throws StoreError when no shard can be served; with some of them the peer goes on */
export async function shardsServe(pool: ShardPool<BlockOp>): Promise<void> {
  await pool.start()
  const failed = pool.clients.find((client) => client.state === 'failed')
  if (failed !== undefined && pool.clients.every((client) => client.state === 'failed')) {
    throw new StoreError(failed.failureCode, `shard ${failed.shard}: ${failed.failure}`)
  }
}
