import type { Cluster } from '../cluster/cluster.ts'
import { Controller } from '../cluster/controller.ts'
import { type AliveInfo, Membership } from '../cluster/membership.ts'
import { ClusterOperations } from '../cluster/operations.ts'
import { Pools } from '../cluster/pools.ts'
import type { Session } from '../cluster/session.ts'
import { systemTimers } from '../core/clock.ts'
import type { LogOutput } from '../core/log.ts'
import type { Config } from '../core/options.ts'
import { StoreError } from '../core/errors.ts'
import { PeerClusterBackend } from './cluster-backend.ts'
import type { NoLink } from '../replication/peer-links.ts'
import type { PeerReports } from './peer-reports.ts'
import { ownProcess } from '../core/own-process.ts'

/** What a peer is in its cluster. */
export interface ClusterParts {
  readonly membership: Membership
  readonly controller: Controller
  /** Is this the peer that does what one of a cluster has to? */
  isInCharge(): boolean
  readonly backend: PeerClusterBackend
  /** Settles when this process is not the peer any more: another one is, or it was removed. */
  readonly replaced: Promise<StoreError>
  /** Asked at the end: is everything on disk, so that the next start needs no comparison? */
  cleanEnd: () => boolean
  /** What peers tell about themselves; null for one that is alone. */
  reports: PeerReports | null
  /** See PeerLinks. */
  noLinkTo: (peerId: string) => NoLink | null
  /** Bytes of segments here, told to the others now and then. */
  usedBytes: () => number
  /** Tells others what changed about this peer; alone, nobody. */
  announce(change: Partial<AliveInfo>): Promise<void>
}

/** @throws StoreError */
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
  const where = isAlone ? null : ownProcess()
  const alive = {
    ...{ peerAddress: null, adminAddresses: [], nbdAddresses: [], usedBytes: 0 },
    ...(where === null ? {} : { process: where })
  }
  const onTrouble = (what: string, err: Error): void => log.error({ err }, what)
  let onReplaced: (error: StoreError) => void = () => {}
  const replaced = new Promise<StoreError>((resolve) => {
    onReplaced = resolve
  })
  const membership = await Membership.open(cluster, session, { alive, onTrouble, onReplaced })
  const pools = new Pools(cluster)
  const controller = new Controller({
    cluster,
    session,
    membership,
    timers: systemTimers,
    downAfterMs: config.downAfterMs,
    log: (level, message, fields) => log[level](fields, message)
  })
  const backend = new PeerClusterBackend({
    operations: new ClusterOperations({ cluster, membership, controller, pools }),
    metadata: isAlone ? 'embedded' : `etcd ${config.etcd.join(', ')}, ${config.etcdPrefix}`,
    isAlone,
    leaseTrustedMs: () => session.trustedUntilMs - cluster.clock.monotonicMs(),
    reports: () => parts.reports,
    noLinkTo: (peer) => parts.noLinkTo(peer)
  })
  const parts: ClusterParts = {
    membership,
    controller,
    backend,
    replaced,
    cleanEnd: () => false,
    usedBytes: () => 0,
    reports: null,
    noLinkTo: () => null,
    isInCharge: () => isAlone || controller.elected === cluster.self.peerId,
    announce: (change) => membership.announce(change)
  }
  undo.add(async () => {
    await controller.close()
    // A peer that cannot say so is compared at its next start: that only costs time.
    if (parts.cleanEnd()) await membership.leaveCleanly().catch(ignoreStoreError)
    membership.close()
  })
  if (!isAlone) {
    await pools.ensureDefault()
    controller.start()
    undo.add(tellUsed(parts, onTrouble))
  }
  return parts
}

/** How often others are told, and what is too little to tell. */
const TELL_USED_MS = 30_000
const TELL_USED_BYTES = 64 * 1024 * 1024

/** One metadata write in this time at most, and none while nothing much changes. */
function tellUsed(
  parts: ClusterParts,
  onTrouble: (what: string, error: Error) => void
): () => Promise<void> {
  let told = 0
  let cancel = (): void => {}
  const tell = (): void => {
    const usedBytes = parts.usedBytes()
    if (Math.abs(usedBytes - told) >= TELL_USED_BYTES) {
      told = usedBytes
      parts.announce({ usedBytes }).catch((thrown: unknown) => {
        if (!(thrown instanceof StoreError)) throw thrown
        onTrouble('telling others how much is used here', thrown)
      })
    }
    cancel = systemTimers.start(TELL_USED_MS, tell)
  }
  cancel = systemTimers.start(TELL_USED_MS, tell)
  return async () => cancel()
}

function ignoreStoreError(thrown: unknown): void {
  if (!(thrown instanceof StoreError)) throw thrown
}
