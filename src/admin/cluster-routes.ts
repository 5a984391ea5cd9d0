import { z } from 'zod'
import {
  acceptLossSchema,
  type AcceptLoss,
  type WaitingGroups,
  waitingGroupsSchema
} from './recovery-schemas.ts'
import * as schemas from './cluster-schemas.ts'
import { type Route, route } from './route.ts'

/** What the admin API asks of the program about the cluster. Failures are StoreErrors. */
export interface ClusterBackend {
  clusterStatus(): Promise<schemas.ClusterStatus>
  clusterPeers(): Promise<readonly schemas.ClusterPeer[]>
  /** `id` may be the beginning of a peer's id. @throws StoreError NotFound, InvalidArgument */
  changePeer(id: string, change: schemas.PeerChange): Promise<schemas.ClusterPeer>
  /** @throws StoreError NotFound, Busy (up, or the only one with its data, and not `force`) */
  removePeer(id: string, force: boolean): Promise<void>
  /** Lets a pending peer in. @throws StoreError NotFound */
  addPeer(id: string): Promise<schemas.ClusterPeer>
  /** Ids as above. @throws StoreError NotFound, InvalidArgument */
  replacePeer(id: string, by: string): Promise<schemas.ClusterPeer>
  waitingGroups(): Promise<WaitingGroups>
  acceptLoss(accepted: AcceptLoss): Promise<WaitingGroups>
  settings(): Promise<schemas.ClusterSettings>
  changeSettings(change: schemas.ClusterSettingsChange): Promise<schemas.ClusterSettings>
  /** What was so before. @throws StoreError Busy, naming who does not know the level */
  finalize(dryRun: boolean): Promise<schemas.Upgrade>
  pools(): Promise<readonly schemas.Pool[]>
  /** @throws StoreError NotFound */
  pool(name: string): Promise<schemas.Pool>
  /** Of a pool. @throws StoreError NotFound */
  ring(name: string): Promise<schemas.Ring>
  /** @throws StoreError AlreadyExists, InvalidArgument */
  createPool(pool: schemas.PoolCreate): Promise<schemas.Pool>
  /** @throws StoreError NotFound, InvalidArgument */
  changePool(name: string, change: schemas.PoolChange): Promise<schemas.Pool>
}

const byId = z.strictObject({ id: z.string().regex(/^[0-9a-f]{1,32}$/, 'must be hex digits') })
const byName = z.strictObject({ name: z.string().min(1).max(63) })

export const clusterRoutesOf = (backend: ClusterBackend): Route[] => [
  ...wholeRoutesOf(backend),
  ...peerRoutesOf(backend),
  ...poolRoutesOf(backend)
]

const wholeRoutesOf = (backend: ClusterBackend): Route[] => [
  route({
    method: 'GET',
    path: '/v1/cluster',
    operationId: 'getCluster',
    summary: 'Health of the cluster, its peers and pools',
    role: 'viewer',
    answer: schemas.clusterStatusSchema,
    handle: () => backend.clusterStatus()
  }),
  route({
    method: 'GET',
    path: '/v1/cluster/settings',
    operationId: 'getClusterSettings',
    summary: 'Settings of the whole cluster',
    role: 'viewer',
    answer: schemas.settingsSchema,
    handle: () => backend.settings()
  }),
  route({
    method: 'POST',
    path: '/v1/cluster/settings',
    operationId: 'changeClusterSettings',
    summary: 'Change settings of the whole cluster; what is not named stays',
    role: 'admin',
    tell: (body) => body,
    body: schemas.settingsChangeSchema,
    answer: schemas.settingsSchema,
    handle: ({ body }) => backend.changeSettings(body)
  }),
  route({
    method: 'POST',
    path: '/v1/cluster/finalize',
    operationId: 'finalizeCluster',
    summary: 'Switch on what the new version of all peers brings; answers with what was before',
    role: 'admin',
    tell: (body) => body,
    body: schemas.finalizeSchema,
    answer: schemas.upgradeSchema,
    handle: ({ body }) => backend.finalize(body.dryRun)
  }),
  route({
    method: 'GET',
    path: '/v1/cluster/waiting',
    operationId: 'getWaitingGroups',
    summary: 'Groups that wait for an operator to say whose copy counts',
    role: 'viewer',
    answer: waitingGroupsSchema,
    handle: () => backend.waitingGroups()
  }),
  route({
    method: 'POST',
    path: '/v1/cluster/accept-loss',
    operationId: 'acceptLoss',
    summary: 'Make copies that are there the ones that count; answers with the groups it changed',
    role: 'admin',
    tell: (body) => body,
    body: acceptLossSchema,
    answer: waitingGroupsSchema,
    handle: ({ body }) => backend.acceptLoss(body)
  })
]

const peerRoutesOf = (backend: ClusterBackend): Route[] => [
  route({
    method: 'GET',
    path: '/v1/peers',
    operationId: 'listPeers',
    summary: 'All peers of the cluster',
    role: 'viewer',
    answer: schemas.clusterPeerListSchema,
    handle: async () => ({ peers: [...(await backend.clusterPeers())] })
  }),
  route({
    method: 'POST',
    path: '/v1/peers/{id}',
    operationId: 'changePeer',
    summary: 'Labels, weight, drain and maintenance of a peer',
    role: 'operator',
    tell: (body) => body,
    params: byId,
    body: schemas.peerChangeSchema,
    answer: schemas.clusterPeerSchema,
    handle: ({ params, body }) => backend.changePeer(params.id, body)
  }),
  route({
    method: 'POST',
    path: '/v1/peers/{id}/add',
    operationId: 'addPeer',
    summary: 'Let a pending peer into the cluster',
    role: 'admin',
    params: byId,
    answer: schemas.clusterPeerSchema,
    handle: ({ params }) => backend.addPeer(params.id)
  }),
  route({
    method: 'POST',
    path: '/v1/peers/{id}/replace',
    operationId: 'replacePeer',
    summary: 'Another peer takes over all copies of this one, which then holds nothing',
    role: 'admin',
    tell: (body) => body,
    params: byId,
    body: schemas.peerReplaceSchema,
    answer: schemas.clusterPeerSchema,
    handle: ({ params, body }) => backend.replacePeer(params.id, body.by)
  }),
  route({
    method: 'DELETE',
    path: '/v1/peers/{id}',
    operationId: 'removePeer',
    summary: 'Remove a peer for good; `force` accepts the loss of what only it has',
    role: 'admin',
    params: byId,
    query: z.strictObject({ force: z.enum(['true', 'false']).default('false') }),
    status: 204,
    handle: async ({ params, query }) => {
      await backend.removePeer(params.id, query.force === 'true')
      return null
    }
  })
]

const poolRoutesOf = (backend: ClusterBackend): Route[] => [
  route({
    method: 'GET',
    path: '/v1/pools',
    operationId: 'listPools',
    summary: 'All pools, sorted by name',
    role: 'viewer',
    answer: schemas.poolListSchema,
    handle: async () => ({ pools: [...(await backend.pools())] })
  }),
  route({
    method: 'POST',
    path: '/v1/pools',
    operationId: 'createPool',
    summary: 'Create a pool',
    role: 'admin',
    tell: (body) => body,
    body: schemas.poolCreateSchema,
    answer: schemas.poolSchema,
    status: 201,
    handle: ({ body }) => backend.createPool(body)
  }),
  route({
    method: 'GET',
    path: '/v1/pools/{name}',
    operationId: 'getPool',
    summary: 'One pool',
    role: 'viewer',
    params: byName,
    answer: schemas.poolSchema,
    handle: ({ params }) => backend.pool(params.name)
  }),
  route({
    method: 'POST',
    path: '/v1/pools/{name}',
    operationId: 'changePool',
    summary: 'Change a pool while it is in use',
    role: 'admin',
    tell: (body) => body,
    params: byName,
    body: schemas.poolChangeSchema,
    answer: schemas.poolSchema,
    handle: ({ params, body }) => backend.changePool(params.name, body)
  }),
  route({
    method: 'GET',
    path: '/v1/pools/{name}/ring',
    operationId: 'getRing',
    summary: 'The ring of a pool: who should have how much of it, and who has',
    role: 'viewer',
    params: byName,
    answer: schemas.ringSchema,
    handle: ({ params }) => backend.ring(params.name)
  })
]
