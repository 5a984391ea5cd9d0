import { equal, ok, throws } from 'node:assert/strict'
import { test } from 'uvu'
import { createRegistry } from '../../src/admin/metrics.ts'
import { LatencyHistogram } from '../../src/core/histogram.ts'
import { MetricsRegistry } from '../../src/core/metrics.ts'
import { FakeBackend, fakeShard } from '../helpers/fake-backend.ts'

const build = { version: '1.2.3', nodeVersion: 'v20' }
const registryOf = (backend: FakeBackend) =>
  createRegistry(backend, build, { processMetrics: false })

/** Series -> value, of the text that Prometheus reads. */
async function scrape(registry: MetricsRegistry): Promise<Map<string, number>> {
  const lines = (await registry.text()).split('\n').filter((line) => /^[a-z]/.test(line))
  return new Map(lines.map((line) => [line.replace(/ \S+$/, ''), Number(line.split(' ').at(-1))]))
}

test('values of shards come out with the shard as label', async () => {
  const backend = new FakeBackend()
  backend.shardList = [
    fakeShard(0, { reads: 7, busyMs: 1500 }),
    {
      ...fakeShard(1, { appendedLsn: 9, durableLsn: 4 }),
      state: 'failed',
      reason: 'x',
      restarts: 2
    }
  ]
  const series = await scrape(registryOf(backend))
  equal(series.get('torus_shard_reads_total{shard="0"}'), 7)
  equal(series.get('torus_shard_busy_seconds_total{shard="0"}'), 1.5)
  equal(series.get('torus_shard_unsynced_batches{shard="1"}'), 5)
  equal(series.get('torus_shard_restarts_total{shard="1"}'), 2)
  equal(series.get('torus_shard_state{shard="1",state="failed"}'), 1)
  equal(series.get('torus_shard_state{shard="1",state="serving"}'), 0)
})

test('a scrape shows what is true then', async () => {
  const backend = new FakeBackend()
  const registry = registryOf(backend)
  equal((await scrape(registry)).get('torus_ready'), 1)
  backend.readyAnswer = { ready: false, reasons: ['x'] }
  equal((await scrape(registry)).get('torus_ready'), 0)
})

test('a scrape asks for each snapshot once', async () => {
  const backend = new FakeBackend()
  let asked = 0
  const shards = backend.shardList
  backend.shards = () => {
    asked++
    return shards
  }
  await registryOf(backend).text()
  equal(asked, 1)
})

test('a latency histogram is cumulative and agrees with its count', async () => {
  const backend = new FakeBackend()
  const latency = new LatencyHistogram()
  for (const ms of [0.005, 0.3, 0.4, 99_999]) latency.recordMs(ms)
  const read = { count: 4, errors: 0, bytes: 16_384, latency: latency.snapshot() }
  backend.stats = [{ volume: 'a"b\\c\n', inFlight: 0, operations: { read } }]
  const text = await registryOf(backend).text()
  const labels = 'volume="a\\"b\\\\c\\n",operation="read"'
  const name = 'torus_volume_request_duration_seconds'
  for (const [le, count] of [
    ['0.00001', 1],
    ['0.0002', 1],
    ['0.0005', 3],
    ['10', 3],
    ['+Inf', 4]
  ]) {
    ok(text.includes(`${name}_bucket{${labels},le="${le}"} ${count}`), `${le}\n${text}`)
  }
  ok(text.includes(`${name}_count{${labels}} 4`))
  ok(text.includes(`# TYPE ${name} histogram`))
})

test('every metric has help, and its unit or _total at the end as its kind asks', async () => {
  const infos = registryOf(new FakeBackend()).infos()
  ok(infos.length > 50)
  equal(new Set(infos.map(({ name }) => name)).size, infos.length)
  for (const { name, help, type } of infos) {
    ok(help.length > 5, name)
    equal(name.endsWith('_total'), type === 'counter', name)
    ok(!/_(ms|milliseconds|kib|mib|percent)(_|$)/.test(name), name)
  }
})

test('a name against the conventions is refused', () => {
  const registry = new MetricsRegistry({ processMetrics: false })
  const none = () => []
  throws(() => registry.counter({ name: 'torus_reads', help: '', labels: [] }, none))
  throws(() => registry.gauge({ name: 'torus_x_total', help: '', labels: [] }, none))
  throws(() => registry.gauge({ name: 'other_x', help: '', labels: [] }, none))
  throws(() => registry.histogram({ name: 'torus_x_ms', help: '', labels: [] }, none))
})

test('the process shows its own memory and event loop too', async () => {
  const registry = createRegistry(new FakeBackend(), build, { processMetrics: true })
  const text = await registry.text()
  ok(text.includes('process_resident_memory_bytes') && text.includes('nodejs_eventloop_lag'))
})

test.run()
