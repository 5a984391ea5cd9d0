/** The admin API, line by line. */
import { Readable } from 'node:stream'
import { z } from 'zod'
import type { Tokens } from '../cluster/tokens.ts'
import type { MetricsRegistry } from '../core/metrics.ts'
import { maySee } from './access.ts'
import type { AuditLog } from './audit-log.ts'
import type { AdminBackend } from './backend.ts'
import { branchRoutesOf } from './branch-routes.ts'
import { clusterRoutesOf } from './cluster-routes.ts'
import { keyRoutesOf } from './key-routes.ts'
import { importRoutesOf } from './import-routes.ts'
import { lifeRoutesOf } from './life-routes.ts'
import { RawAnswer, type Route, route, WithStatus } from './route.ts'
import * as schemas from './schemas.ts'
import { snapshotRoutesOf } from './snapshot-routes.ts'
import { spaceRoutesOf } from './space-routes.ts'
import { streamRoutesOf } from './stream-routes.ts'
import { securityRoutesOf } from './security-routes.ts'
import type { Tasks } from './tasks.ts'
import { volumeChangesOf, volumeRoutesOf } from './volume-routes.ts'

export interface RouteContext {
  readonly backend: AdminBackend
  readonly tasks: Tasks
  readonly tokens: Tokens
  readonly audit: AuditLog
  readonly registry: MetricsRegistry
  configEntries(): readonly z.infer<typeof schemas.configEntrySchema>[]
  debugBundle(): Promise<RawAnswer>
  openApi(): unknown
}

const byTask = z.strictObject({ task: z.enum(schemas.taskNames) })
const byId = z.strictObject({ id: z.coerce.number().int().nonnegative() })

export const routesOf = (context: RouteContext): readonly Route[] => [
  ...peerRoutes(context),
  ...clusterRoutesOf(context.backend.cluster),
  ...volumeRoutesOf(context.backend),
  ...volumeChangesOf(context.backend),
  ...keyRoutesOf(context.backend.keys),
  ...lifeRoutesOf(context.backend.life),
  ...importRoutesOf(context.backend.imports),
  ...snapshotRoutesOf(context.backend.snapshots),
  ...streamRoutesOf(context.backend.streams),
  ...branchRoutesOf(context.backend.branches),
  ...spaceRoutesOf(context.backend.spaces),
  ...clientRoutes(context),
  ...taskRoutes(context),
  ...securityRoutesOf(context),
  ...observationRoutes(context)
]

const peerRoutes = ({ backend, configEntries }: RouteContext): Route[] => [
  route({
    method: 'GET',
    path: '/v1/status',
    operationId: 'getStatus',
    summary: 'Health, space, shards and counters of this peer',
    role: 'viewer',
    answer: schemas.statusSchema,
    handle: () => backend.status()
  }),
  route({
    method: 'GET',
    path: '/v1/peer',
    operationId: 'getPeer',
    summary: 'Identity, addresses and capacity of this peer',
    role: 'viewer',
    volumeUse: 'any',
    answer: schemas.peerSchema,
    handle: () => backend.peer()
  }),
  route({
    method: 'GET',
    path: '/v1/certificates',
    operationId: 'listCertificates',
    summary: 'Certificates that this peer uses, their names and when they expire',
    role: 'viewer',
    answer: schemas.certificateListSchema,
    handle: async () => ({ certificates: [...backend.certificates()] })
  }),
  route({
    method: 'GET',
    path: '/v1/shards',
    operationId: 'listShards',
    summary: 'State and counters of every shard',
    role: 'viewer',
    answer: schemas.shardListSchema,
    handle: async () => ({ shards: [...backend.shards()] })
  }),
  route({
    method: 'GET',
    path: '/v1/config',
    operationId: 'getConfig',
    summary: 'Effective configuration and where each value came from',
    role: 'operator',
    answer: schemas.configSchema,
    handle: async () => ({ entries: [...configEntries()] })
  })
]

const clientRoutes = ({ backend }: RouteContext): Route[] => [
  route({
    method: 'GET',
    path: '/v1/clients',
    operationId: 'listClients',
    summary: 'Client connections',
    role: 'viewer',
    volumeUse: 'any',
    answer: schemas.clientListSchema,
    handle: async ({ visitor }) => ({
      clients: backend.listClients().filter(({ volume }) => maySee(visitor.rights, volume))
    })
  }),
  route({
    method: 'DELETE',
    path: '/v1/clients/{id}',
    operationId: 'disconnectClient',
    summary: 'Close a client connection',
    role: 'operator',
    params: byId,
    status: 204,
    handle: async ({ params }) => {
      await backend.disconnectClient(params.id)
      return null
    }
  })
]

const taskRoutes = ({ backend, tasks }: RouteContext): Route[] => [
  route({
    method: 'GET',
    path: '/v1/tasks/{task}',
    operationId: 'getTask',
    summary: 'Progress of a background task',
    role: 'viewer',
    params: byTask,
    answer: schemas.taskSchema,
    handle: async ({ params }) =>
      tasks.progress(params.task, backend.shards(), backend.memberScrub())
  }),
  route({
    method: 'POST',
    path: '/v1/tasks/{task}/start',
    operationId: 'startTask',
    summary: 'Start a background task on every shard',
    role: 'operator',
    params: byTask,
    answer: schemas.taskSchema,
    status: 202,
    handle: async ({ params }) => {
      tasks.started(params.task, backend.shards())
      await backend.startTask(params.task)
      return tasks.progress(params.task, backend.shards(), backend.memberScrub())
    }
  }),
  route({
    method: 'POST',
    path: '/v1/tasks/{task}/stop',
    operationId: 'stopTask',
    summary: 'Stop a background task on every shard',
    role: 'operator',
    params: byTask,
    answer: schemas.taskSchema,
    handle: async ({ params }) => {
      await backend.stopTask(params.task)
      tasks.stopped(params.task)
      return tasks.progress(params.task, backend.shards(), backend.memberScrub())
    }
  })
]

const observationRoutes = (context: RouteContext): Route[] => [
  route({
    method: 'GET',
    path: '/v1/metadata/backup',
    operationId: 'getMetadataBackup',
    summary: 'All metadata as of one moment, for `torus metadata restore`',
    role: 'admin',
    audited: true,
    contentType: 'application/octet-stream',
    handle: async () => {
      const parts = await context.backend.metadataBackup()
      const type = 'application/octet-stream'
      return new RawAnswer(type, Readable.from(parts), 'torus-metadata.backup')
    }
  }),
  route({
    method: 'GET',
    path: '/v1/debug/bundle',
    operationId: 'getDebugBundle',
    summary: 'Logs, configuration, metrics and state for a bug report, without secrets (.tar.gz)',
    role: 'admin',
    audited: true,
    contentType: 'application/gzip',
    handle: () => context.debugBundle()
  }),
  route({
    method: 'GET',
    path: '/metrics',
    operationId: 'getMetrics',
    summary: 'Metrics in the Prometheus text format',
    role: 'viewer',
    contentType: 'text/plain',
    handle: async () => new RawAnswer(context.registry.contentType, await context.registry.text())
  }),
  route({
    method: 'GET',
    path: '/healthz',
    operationId: 'getHealth',
    summary: 'Answers as long as the process does',
    role: 'anyone',
    answer: z.object({ status: z.literal('ok') }),
    handle: async () => ({ status: 'ok' as const })
  }),
  route({
    method: 'GET',
    path: '/readyz',
    operationId: 'getReady',
    summary: 'Whether clients are served; status 503 with the reasons while not',
    role: 'anyone',
    answer: schemas.readySchema,
    handle: async () => {
      const ready = context.backend.ready()
      return new WithStatus(ready.ready ? 200 : 503, ready)
    }
  }),
  route({
    method: 'GET',
    path: '/openapi.json',
    operationId: 'getOpenApi',
    summary: 'This description',
    role: 'viewer',
    volumeUse: 'any',
    answer: z.unknown(),
    handle: async () => context.openApi()
  })
]
