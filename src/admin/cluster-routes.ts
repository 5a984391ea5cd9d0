import { z } from 'zod'
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
  pools(): Promise<readonly schemas.Pool[]>
  /** @throws StoreError NotFound */
  pool(name: string): Promise<schemas.Pool>
  /** @throws StoreError AlreadyExists, InvalidArgument */
  createPool(pool: schemas.PoolCreate): Promise<schemas.Pool>
  /** @throws StoreError NotFound, InvalidArgument */
  changePool(name: string, change: schemas.PoolChange): Promise<schemas.Pool>
}

const byId = z.strictObject({ id: z.string().regex(/^[0-9a-f]{1,32}$/, 'must be hex digits') })
const byName = z.strictObject({ name: z.string().min(1).max(63) })

export const clusterRoutesOf = (backend: ClusterBackend): Route[] => [
  route({
    method: 'GET',
    path: '/v1/cluster',
    operationId: 'getCluster',
    summary: 'Health of the cluster, its peers and pools',
    answer: schemas.clusterStatusSchema,
    handle: () => backend.clusterStatus()
  }),
  route({
    method: 'GET',
    path: '/v1/peers',
    operationId: 'listPeers',
    summary: 'All peers of the cluster',
    answer: schemas.clusterPeerListSchema,
    handle: async () => ({ peers: [...(await backend.clusterPeers())] })
  }),
  route({
    method: 'POST',
    path: '/v1/peers/{id}',
    operationId: 'changePeer',
    summary: 'Labels, weight, drain and maintenance of a peer',
    params: byId,
    body: schemas.peerChangeSchema,
    answer: schemas.clusterPeerSchema,
    handle: ({ params, body }) => backend.changePeer(params.id, body)
  }),
  route({
    method: 'DELETE',
    path: '/v1/peers/{id}',
    operationId: 'removePeer',
    summary: 'Remove a peer for good; `force` accepts the loss of what only it has',
    params: byId,
    query: z.strictObject({ force: z.enum(['true', 'false']).default('false') }),
    status: 204,
    handle: async ({ params, query }) => {
      await backend.removePeer(params.id, query.force === 'true')
      return null
    }
  }),
  route({
    method: 'GET',
    path: '/v1/pools',
    operationId: 'listPools',
    summary: 'All pools, sorted by name',
    answer: schemas.poolListSchema,
    handle: async () => ({ pools: [...(await backend.pools())] })
  }),
  route({
    method: 'POST',
    path: '/v1/pools',
    operationId: 'createPool',
    summary: 'Create a pool',
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
    params: byName,
    answer: schemas.poolSchema,
    handle: ({ params }) => backend.pool(params.name)
  }),
  route({
    method: 'POST',
    path: '/v1/pools/{name}',
    operationId: 'changePool',
    summary: 'Change a pool while it is in use',
    params: byName,
    body: schemas.poolChangeSchema,
    answer: schemas.poolSchema,
    handle: ({ params, body }) => backend.changePool(params.name, body)
  })
]
