import type { Cluster } from '../cluster/cluster.ts'
import { Controller } from '../cluster/controller.ts'
import { Membership } from '../cluster/membership.ts'
import { ClusterOperations } from '../cluster/operations.ts'
import { Pools } from '../cluster/pools.ts'
import type { Session } from '../cluster/session.ts'
import { systemTimers } from '../core/clock.ts'
import type { LogOutput } from '../core/log.ts'
import { PeerClusterBackend } from './cluster-backend.ts'

const DOWN_AFTER_MS = 10 * 60 * 1000

/** What a peer is in its cluster. */
export interface ClusterParts {
  readonly membership: Membership
  readonly pools: Pools
  readonly controller: Controller
  readonly backend: PeerClusterBackend
}

export async function joinCluster(
  cluster: Cluster,
  session: Session,
  { log }: LogOutput,
  undo: { add(step: () => Promise<void>): void }
): Promise<ClusterParts> {
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
    downAfterMs: DOWN_AFTER_MS,
    log: (level, message, fields) => log[level](fields, message)
  })
  const operations = new ClusterOperations({ cluster, membership, controller, pools })
  const backend = new PeerClusterBackend({
    operations,
    metadata: 'embedded',
    isAlone: true,
    leaseTrustedMs: () => session.trustedUntilMs - cluster.clock.monotonicMs(),
    resync: () => ({ groupsLeft: 0, bytesCopied: 0, bytesPerSecond: 0, secondsLeft: null })
  })
  undo.add(async () => {
    await controller.close()
    membership.close()
  })
  return { membership, pools, controller, backend }
}
