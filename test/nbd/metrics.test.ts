import { match, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { MetricsRegistry } from '../../src/core/metrics.ts'
import * as p from '../../src/nbd/protocol.ts'
import { registerNbdMetrics } from '../../src/nbd/register-metrics.ts'
import { pattern, serving } from '../helpers/nbd-serving.ts'

const test = suite('nbd metrics')

test('what clients did can be scraped', () =>
  serving(async ({ connect, server }) => {
    const registry = new MetricsRegistry({ processMetrics: false })
    registerNbdMetrics(registry, () => server.snapshot())
    const client = await connect()
    await client.attach('demo')
    await client.writeRange(0, pattern(5000))
    await client.errorOf({ type: p.NBD_CMD_TRIM, length: 0 })
    const text = await registry.text()
    for (const line of [
      'torus_nbd_connections 1',
      'torus_nbd_connections_total 1',
      'torus_nbd_requests_in_flight 0',
      'torus_nbd_request_bytes_total{operation="write"} 5000',
      'torus_nbd_request_errors_total{operation="trim"} 1',
      'torus_nbd_request_errors_total{operation="write"} 0',
      'torus_nbd_request_duration_seconds_count{operation="write"} 1'
    ]) {
      strictEqual(text.includes(`${line}\n`), true, line)
    }
    match(text, /torus_nbd_request_duration_seconds_bucket\{operation="read",le="\+Inf"\} 0/)
  }))

test.run()
