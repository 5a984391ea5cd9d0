import type { FastifyReply, FastifyRequest } from 'fastify'
import type { MetricsRegistry } from '../core/metrics.ts'

/** Counts requests by route, not by URL, so that names of volumes do not become labels. */
export function requestCounter(registry: MetricsRegistry) {
  const counts = new Map<string, { labels: Record<string, string>; value: number }>()
  registry.counter(
    {
      name: 'torus_admin_requests_total',
      help: 'Requests to the admin API',
      labels: ['method', 'route', 'status']
    },
    () => counts.values()
  )
  return (request: FastifyRequest, reply: FastifyReply): void => {
    const { method } = request
    const route = request.routeOptions.url ?? 'unknown'
    const status = String(reply.statusCode)
    const key = `${method} ${route} ${status}`
    const row = counts.get(key) ?? { labels: { method, route, status }, value: 0 }
    row.value++
    counts.set(key, row)
  }
}
