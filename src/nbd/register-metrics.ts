/** The counters of the NBD server as metrics. Volumes have their own, by operation and volume. */
import type { MetricsRegistry } from '../core/metrics.ts'
import type { NbdSnapshot } from './metrics.ts'

type Row = readonly [name: string, help: string, value: (snapshot: NbdSnapshot) => number]

const counters: readonly Row[] = [
  ['connections_total', 'NBD connections accepted or refused', (nbd) => nbd.connectionsTotal],
  [
    'tls_connections_total',
    'NBD connections that were upgraded to TLS',
    (nbd) => nbd.connectionsTls
  ],
  [
    'handshake_failures_total',
    'NBD connections that ended with an error before they attached',
    (nbd) => nbd.handshakeFailures
  ],
  [
    'protocol_errors_total',
    'NBD clients disconnected because they broke the protocol',
    (nbd) => nbd.protocolErrors
  ],
  [
    'stalled_disconnects_total',
    'NBD clients disconnected because they held memory that others waited for',
    (nbd) => nbd.stalledDisconnects
  ],
  [
    'memory_waits_total',
    'Times that an NBD client got less memory than it asked for, or had to wait',
    (nbd) => nbd.memoryWaits
  ]
]

const gauges: readonly Row[] = [
  ['connections', 'Open NBD connections', (nbd) => nbd.connectionsOpen],
  ['requests_in_flight', 'NBD commands read and not answered', (nbd) => nbd.requestsInFlight],
  ['reply_buffers', 'Reply buffers in use', (nbd) => nbd.replyBuffersInUse]
]

export function registerNbdMetrics(registry: MetricsRegistry, snapshot: () => NbdSnapshot): void {
  for (const [name, help, value] of counters) {
    registry.counter({ name: `torus_nbd_${name}`, help, labels: [] }, () => [
      { labels: {}, value: value(snapshot()) }
    ])
  }
  for (const [name, help, value] of gauges) {
    registry.gauge({ name: `torus_nbd_${name}`, help, labels: [] }, () => [
      { labels: {}, value: value(snapshot()) }
    ])
  }
  const labels = ['operation']
  registry.counter(
    { name: 'torus_nbd_request_errors_total', help: 'NBD commands answered with an error', labels },
    () => snapshot().operations.map(({ operation, errors }) => sample(operation, errors))
  )
  registry.counter(
    { name: 'torus_nbd_request_bytes_total', help: 'Bytes of NBD commands that succeeded', labels },
    () => snapshot().operations.map(({ operation, bytes }) => sample(operation, bytes))
  )
  const help = 'Time from the reading of an NBD command to its reply'
  registry.histogram({ name: 'torus_nbd_request_duration_seconds', help, labels }, () =>
    snapshot().operations.map(({ operation, latency }) => ({
      labels: { operation },
      histogram: latency
    }))
  )
}

const sample = (operation: string, value: number) => ({ labels: { operation }, value })
