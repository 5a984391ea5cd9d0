/**
 * A peer of a cluster: its shards as a member of groups, its links to the others, and the store
 * through which its volumes reach all of them.
 */
import type { Cluster } from '../cluster/cluster.ts'
import { GroupTable } from '../cluster/group-table.ts'
import { GroupRecords } from '../cluster/groups.ts'
import type { Membership } from '../cluster/membership.ts'
import { DEFAULT_POOL } from '../cluster/pools.ts'
import { PoolViews } from '../cluster/pool-views.ts'
import type { Session } from '../cluster/session.ts'
import { Writers } from '../cluster/writers.ts'
import { systemClock, systemTimers } from '../core/clock.ts'
import { formatAddress } from '../core/addresses.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { LogOutput } from '../core/log.ts'
import type { Config } from '../core/options.ts'
import type { SharedArena } from '../handoff/arena.ts'
import type { BlockStore, ShardedStore } from '../replication/block-store.ts'
import { FenceFile } from '../replication/fence-file.ts'
import { Fences } from '../replication/fences.ts'
import type { GroupScrub } from '../replication/group-scrub.ts'
import { LocalMember } from '../replication/local-member.ts'
import type { Member, Members } from '../replication/member.ts'
import type { PeerAddress } from '../replication/peer-dial.ts'
import { type NoLink, PeerLinks } from '../replication/peer-links.ts'
import type { PeerReport } from '../replication/peer-report.ts'
import { PeerSecurity } from '../replication/peer-security.ts'
import { PeerServer } from '../replication/peer-server.ts'
import type { ReclaimProgress } from '../replication/reclaimer.ts'
import { ReplicatedStore } from '../replication/replicated-store.ts'
import { MemberSpaceAsker, type SpaceAsker } from '../replication/space-asker.ts'
import { ReplicatedWriters } from '../replication/replicated-writers.ts'
import type { ResyncProgress } from '../replication/resync-progress.ts'
import { ShardMemberService } from '../replication/shard-member-service.ts'
import type { WriterGate } from '../volume/writer-gate.ts'
import { acceptingSecrets } from './own-secrets.ts'
import type { DataDirectory } from './data-directory.ts'
import { GroupsHere, type GroupsHereParts } from './groups-here.ts'

export interface Replication {
  readonly store: BlockStore
  readonly gate: WriterGate
  /** The shards serve: other peers may come. Resolves when they can. @throws StoreError */
  serve(): Promise<void>
  readonly members: Members
  readonly space: SpaceAsker
  /** See PeerLinks. */
  readonly noLinkTo: (peerId: string) => NoLink | null
  resync(): ResyncProgress
  reclaim(): ReclaimProgress
  /** Null for a peer that talks to no others. */
  readonly security: PeerSecurity | null
  /** Across members; the shards' own is theirs. */
  readonly scrub: Pick<GroupScrub, 'progress' | 'force' | 'stop'>
  /** Requests that wait for members are answered with Closed: the peer stops. */
  giveUp(): void
  /** Others that ask how this peer is are told so. */
  onReport(report: () => PeerReport): void
}

export interface ReplicationParts {
  readonly config: Config
  readonly directory: DataDirectory
  readonly bootId: string
  readonly cluster: Cluster
  readonly session: Session
  readonly membership: Membership
  readonly local: ShardedStore
  readonly arena: SharedArena
  /** R12, for workers that start anew. */
  readonly output: LogOutput
  readonly onGroup: GroupsHereParts['onGroup']
  readonly undo: { add(step: () => Promise<void> | void): void }
}

/** Finds this process's own member beside those over links. */
class AllMembers implements Members {
  readonly #local: LocalMember
  readonly #links: PeerLinks | null

  constructor(local: LocalMember, links: PeerLinks | null) {
    this.#local = local
    this.#links = links
  }

  find(peerId: string): Member | null {
    return peerId === this.#local.peerId ? this.#local : (this.#links?.find(peerId) ?? null)
  }

  onChange(listener: (peerId: string) => void): void {
    this.#links?.onChange(listener)
  }
}

const clocks = { clock: systemClock, timers: systemTimers }

/** @throws StoreError: fences that cannot be read, certificates or a secret that cannot be used */
export async function prepareReplication(parts: ReplicationParts): Promise<Replication> {
  const { config, directory, bootId, cluster, session, membership, arena, local, undo } = parts
  const { log } = parts.output
  const { clusterId, peerId } = directory.superblock
  const identity = { clusterId, peerId, bootId }
  const trouble = (what: string, error: StoreError | null): void => {
    log.warn(error === null ? {} : { reason: error.message }, what)
  }
  const fences = await Fences.open(new FenceFile(directory.path, { clusterId, peerId }))
  const service = new ShardMemberService(local, arena, fences)
  const pools = new PoolViews(cluster, membership, (error) => trouble('following pools', error))
  undo.add(() => pools.close())
  await pools.ready
  const security = await securityOf(config, cluster, membership)
  const server = security === null ? null : serverOf(parts, service, security)
  const links = security === null ? null : linksOf(parts, security)
  const members = new AllMembers(new LocalMember({ peerId, bootId }, service), links)
  const groups = new GroupTable(cluster, (error) => trouble('following groups', error))
  const store = new ReplicatedStore({
    members,
    groups,
    arena,
    ...clocks,
    local,
    trustedForMs: () => session.trustedForMs,
    onTrouble: trouble,
    isUp: (peer) => membership.addressOf(peer) !== null
  })
  const writers = new ReplicatedWriters({
    store,
    cluster,
    writers: new Writers(cluster, session),
    poolOf: async (volume) => {
      requireMember(membership, peerId)
      return pools.find(volume.pool ?? DEFAULT_POOL)
    }
  })
  service.onFence = (family, writerEpoch) => writers.noteFence(family, writerEpoch)
  undo.add(() => {
    writers.close()
    store.close()
    groups.close()
    links?.close()
  })
  const here = new GroupsHere({
    self: identity,
    cluster,
    pools,
    membership,
    records: new GroupRecords(cluster),
    service,
    local,
    arena,
    members,
    resyncBytesPerSecond: config.resyncBytes,
    scrubPeriodMs: config.scrubPeriodMs,
    onGroup: parts.onGroup,
    log: (level, message, fields) => log[level](fields, message)
  })
  undo.add(() => here.close())
  return {
    store,
    gate: writers,
    ...{ members, space: new MemberSpaceAsker({ cluster, members, groups, pools, membership }) },
    ...{ giveUp: () => store.giveUp(), noLinkTo: (peer) => links?.noLinkTo(peer) ?? null },
    resync: () => here.progress,
    reclaim: () => here.reclaimed,
    security,
    scrub: here.scrub,
    onReport: (report) => {
      service.report = report
    },
    serve: async () => {
      await here.settleAtStart()
      if (server !== null && config.peerListen !== null) {
        const at = await server.listen(config.peerListen)
        await membership.announce({ peerAddress: formatAddress(at) })
      }
      here.start()
    }
  }
}

/** @throws StoreError Forbidden while nobody let this peer into the cluster */
function requireMember(membership: Membership, peerId: string): void {
  if (membership.peer(peerId)?.record.state !== 'pending') return
  const text = 'this peer waits to be let into the cluster'
  throw new StoreError(ErrorCode.Forbidden, `${text}: torus peer add ${peerId.slice(0, 8)}`)
}

/** Null for a peer that has nobody to talk to. */
async function securityOf(
  config: Config,
  cluster: Cluster,
  membership: Membership
): Promise<PeerSecurity | null> {
  const { clusterSecretFile: secretFile, peerTlsCa: tlsCa, peerTlsCert: tlsCert } = config
  const isGiven = secretFile !== null || tlsCa !== null || config.peerListen !== null
  if (!isGiven) return null
  const namesOf = (id: string): string[] => {
    const { host, 'tls-name': name } = membership.peer(id)?.record.labels ?? {}
    return [host, name].filter((each) => each !== undefined)
  }
  const files = { secretFile, tlsCa, tlsCert, tlsKey: config.peerTlsKey }
  return PeerSecurity.load(files, namesOf, acceptingSecrets(cluster, secretFile))
}

function linksOf(parts: ReplicationParts, security: PeerSecurity): PeerLinks {
  const { directory, bootId, membership, arena } = parts
  const { clusterId, peerId } = directory.superblock
  const links = new PeerLinks({
    identity: { clusterId, peerId, bootId },
    addressOf: (id) => addressOf(membership, id),
    arena,
    security,
    log: (level, message, fields) => parts.output.log[level](fields, message)
  })
  membership.onChange((id) => links.refresh(id))
  return links
}

function addressOf(membership: Membership, peerId: string): PeerAddress | null {
  const alive = membership.peer(peerId)?.alive ?? null
  if (alive === null || alive.peerAddress === null) return null
  const match = /^\[?(.*?)\]?:(\d+)$/.exec(alive.peerAddress)
  if (match === null) return null
  return { host: match[1]!, port: Number(match[2]), bootId: alive.bootId }
}

/** It sets pages of the arena aside, so it is made before others take them. */
function serverOf(
  parts: ReplicationParts,
  service: ShardMemberService,
  security: PeerSecurity
): PeerServer {
  const { directory, bootId, arena, local, membership, output, undo } = parts
  const { clusterId, peerId } = directory.superblock
  const refusal = (id: string): string | null => {
    const state = membership.peer(id)?.record.state
    const short = id.slice(0, 8)
    if (state === 'pending') return `peer ${short} waits to be let into the cluster`
    return state === 'removed' ? `peer ${short} was removed from the cluster` : null
  }
  membership.onChange((id) => {
    if (refusal(id) !== null) server.disconnect(id)
  })
  const server = new PeerServer({
    identity: { clusterId, peerId, bootId },
    service,
    arena,
    security,
    freeBytes: () => local.freeBytes,
    refusal,
    log: (level, message, fields) => output.log[level](fields, message)
  })
  undo.add(() => server.close())
  return server
}
