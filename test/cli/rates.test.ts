import { equal, ok } from 'node:assert/strict'
import { test } from 'uvu'
import type { Status } from '../../src/cli/api-client.ts'
import { ratesBetween } from '../../src/cli/rates.ts'
import { LatencyHistogram } from '../../src/core/histogram.ts'
import { FakeBackend, fakeShard } from '../helpers/fake-backend.ts'

const base = await new FakeBackend().status()

function statusWith(reads: number, busyMs: number, latencyMs: number): Status {
  const latency = new LatencyHistogram()
  for (let i = 0; i < reads; i++) latency.recordMs(latencyMs)
  const read = { count: reads, errors: 0, bytes: reads * 4096, latency: latency.snapshot() }
  return {
    ...base,
    shards: [fakeShard(0, { reads, busyMs })],
    volumes: [{ volume: 'demo', inFlight: 1, operations: { read } }]
  }
}

test('rates are what happened between two samples, per second', () => {
  const from = { atMs: 1000, status: statusWith(100, 500, 0.15) }
  const to = { atMs: 3000, status: statusWith(1100, 1500, 0.15) }
  const { volumes, shards, seconds } = ratesBetween(from, to)
  equal(seconds, 2)
  equal(volumes[0]?.read.perSecond, 500)
  equal(volumes[0]?.read.bytesPerSecond, 500 * 4096)
  const p99 = volumes[0]?.read.p99 ?? 0
  ok(p99 > 0.0001 && p99 <= 0.0002)
  equal(volumes[0]?.write.p99, null)
  equal(shards[0]?.readsPerSecond, 500)
  equal(shards[0]?.busy, 0.5)
})

test('a volume or shard that is new counts from nothing, a restarted one as nothing', () => {
  const empty: Status = { ...base, shards: [], volumes: [] }
  const some = { atMs: 1000, status: statusWith(100, 0, 1) }
  equal(ratesBetween({ atMs: 0, status: empty }, some).volumes[0]?.read.perSecond, 100)
  const restarted = { atMs: 2000, status: statusWith(10, 0, 1) }
  equal(ratesBetween(some, restarted).volumes[0]?.read.perSecond, 0)
  equal(ratesBetween(some, restarted).shards[0]?.readsPerSecond, 0)
})

test.run()
