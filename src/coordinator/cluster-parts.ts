import type { Cluster } from '../cluster/cluster.ts'
import { Controller } from '../cluster/controller.ts'
import { Membership } from '../cluster/membership.ts'
import { ClusterOperations } from '../cluster/operations.ts'
import { DEFAULT_POOL, Pools } from '../cluster/pools.ts'
import type { Session } from '../cluster/session.ts'
import { systemTimers } from '../core/clock.ts'
import type { LogOutput } from '../core/log.ts'
import type { Config } from '../core/options.ts'
import { PeerClusterBackend } from './cluster-backend.ts'

/** What a peer is in its cluster. */
export interface ClusterParts {
  readonly membership: Membership
  readonly pools: Pools
  readonly controller: Controller
  readonly backend: PeerClusterBackend
}

/** @throws StoreError NotFound when the first peer has not made the default pool yet */
export async function joinCluster(given: {
  readonly config: Config
  readonly cluster: Cluster
  readonly session: Session
  readonly output: LogOutput
  readonly undo: { add(step: () => Promise<void>): void }
}): Promise<ClusterParts> {
  const { config, cluster, session, undo } = given
  const { log } = given.output
  const isAlone = config.etcd.length === 0
  const alive = { peerAddress: null, adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
  const onTrouble = (what: string, err: Error): void => log.error({ err }, what)
  const membership = await Membership.open(cluster, session, { alive, onTrouble })
  const pools = new Pools(cluster)
  const controller = new Controller({
    cluster,
    session,
    membership,
    pools,
    timers: systemTimers,
    downAfterMs: config.downAfterMs,
    log: (level, message, fields) => log[level](fields, message)
  })
  undo.add(async () => {
    await controller.close()
    membership.close()
  })
  if (!isAlone) {
    await ensureDefaultPool(pools, config.join)
    controller.start()
  }
  const backend = new PeerClusterBackend({
    operations: new ClusterOperations({ cluster, membership, controller, pools }),
    metadata: isAlone ? 'embedded' : `etcd ${config.etcd.join(', ')}, ${config.etcdPrefix}`,
    isAlone,
    leaseTrustedMs: () => session.trustedUntilMs - cluster.clock.monotonicMs(),
    resync: () => ({ groupsLeft: 0, bytesCopied: 0, bytesPerSecond: 0, secondsLeft: null })
  })
  return { membership, pools, controller, backend }
}

/**
 * What an embedded cluster wrote before is in groups of its peer. So the peer that moves it to
 * etcd makes the pool, with itself as the only member, before others may.
 */
async function ensureDefaultPool(pools: Pools, isJoining: boolean): Promise<void> {
  if (!isJoining) await pools.ensureDefault()
  else await pools.get(DEFAULT_POOL)
}
