/** How much the metadata store is asked, how it answers, and how long the lease still holds. */
import type { MetricsRegistry } from '../core/metrics.ts'
import type { MeasuredStore } from '../metadata/measured-store.ts'

interface Measured {
  readonly store: Pick<MeasuredStore, 'stats' | 'watchChanges'>
  readonly session: { readonly trustedForMs: number }
}

export function registerMetadataMetrics(registry: MetricsRegistry, measured: Measured): void {
  const { store, session } = measured
  const labels = ['operation']
  registry.counter(
    { name: 'torus_metadata_requests_total', help: 'Calls to the metadata store', labels },
    () => store.stats().map(({ operation, count }) => ({ labels: { operation }, value: count }))
  )
  registry.counter(
    {
      name: 'torus_metadata_request_errors_total',
      help: 'Calls to the metadata store that failed',
      labels
    },
    () => store.stats().map(({ operation, errors }) => ({ labels: { operation }, value: errors }))
  )
  registry.histogram(
    {
      name: 'torus_metadata_request_duration_seconds',
      help: 'Time of a call to the metadata store, repetitions included',
      labels
    },
    () =>
      store.stats().map(({ operation, latency }) => ({
        labels: { operation },
        histogram: latency
      }))
  )
  registry.counter(
    {
      name: 'torus_metadata_watch_changes_total',
      help: 'Changes of the metadata that watches were told of',
      labels: []
    },
    () => [{ labels: {}, value: store.watchChanges }]
  )
  registry.gauge(
    {
      name: 'torus_metadata_lease_trusted_seconds',
      help: 'Time for which the lease of this peer surely holds; 0 when it may be lost',
      labels: []
    },
    () => [{ labels: {}, value: session.trustedForMs / 1000 }]
  )
}
