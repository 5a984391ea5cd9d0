import { type HistogramSnapshot, histogramQuantile } from '../core/histogram.ts'
import type { Shard, Status, VolumeStats } from './api-client.ts'

/** Counters of one moment, to be subtracted from a later one. */
export interface Sample {
  readonly atMs: number
  readonly status: Status
}

export interface OperationRate {
  readonly perSecond: number
  readonly bytesPerSecond: number
  /** Seconds; null when nothing happened. */
  readonly p50: number | null
  readonly p99: number | null
}

export interface VolumeRate {
  readonly volume: string
  readonly inFlight: number
  readonly read: OperationRate
  readonly write: OperationRate
  readonly errorsPerSecond: number
}

export interface ShardRate {
  readonly shard: number
  readonly readsPerSecond: number
  readonly writesPerSecond: number
  /** Part of the time that the worker was awake, 0..1. */
  readonly busy: number
  readonly compactionBytesPerSecond: number
  readonly scrubBytesPerSecond: number
}

export interface Rates {
  readonly seconds: number
  readonly volumes: readonly VolumeRate[]
  readonly shards: readonly ShardRate[]
}

/** What happened between two samples. A counter that went back (a restart) counts as nothing. */
export function ratesBetween(from: Sample, to: Sample): Rates {
  const seconds = Math.max((to.atMs - from.atMs) / 1000, 0.001)
  const volumes = to.status.volumes.map((now) => {
    const before = from.status.volumes.find(({ volume }) => volume === now.volume)
    return volumeRate(before, now, seconds)
  })
  const shards = to.status.shards.map((now) => {
    const before = from.status.shards.find(({ shard }) => shard === now.shard)
    return shardRate(before, now, seconds)
  })
  return { seconds, volumes, shards }
}

const risen = (before: number | undefined, now: number): number => Math.max(0, now - (before ?? 0))

type Operation = NonNullable<VolumeStats['operations']['read']>

function operationRate(
  before: Operation | undefined,
  now: Operation | undefined,
  seconds: number
): OperationRate {
  if (now === undefined) return { perSecond: 0, bytesPerSecond: 0, p50: null, p99: null }
  const quantile = (part: number) => quantileSince(before?.latency ?? null, now.latency, part)
  return {
    perSecond: risen(before?.count, now.count) / seconds,
    bytesPerSecond: risen(before?.bytes, now.bytes) / seconds,
    p50: quantile(0.5),
    p99: quantile(0.99)
  }
}

const quantileSince = (
  from: HistogramSnapshot | null,
  to: HistogramSnapshot,
  part: number
): number | null => histogramQuantile(from, to, part)

function volumeRate(
  before: VolumeStats | undefined,
  now: VolumeStats,
  seconds: number
): VolumeRate {
  const errors = (stats: VolumeStats | undefined) =>
    Object.values(stats?.operations ?? {}).reduce((sum, operation) => sum + operation.errors, 0)
  const rate = (name: 'read' | 'write') =>
    operationRate(before?.operations[name], now.operations[name], seconds)
  return {
    volume: now.volume,
    inFlight: now.inFlight,
    read: rate('read'),
    write: rate('write'),
    errorsPerSecond: risen(errors(before), errors(now)) / seconds
  }
}

function shardRate(before: Shard | undefined, now: Shard, seconds: number): ShardRate {
  const rate = (name: keyof Shard['stats']) => risen(before?.stats[name], now.stats[name]) / seconds
  return {
    shard: now.shard,
    readsPerSecond: rate('reads'),
    writesPerSecond: rate('writes'),
    busy: Math.min(1, rate('busyMs') / 1000),
    compactionBytesPerSecond: rate('compactionReadBytes'),
    scrubBytesPerSecond: rate('scrubbedBytes')
  }
}
