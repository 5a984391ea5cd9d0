/** What is wrong with a cluster, in words, and what to do about it. Pure. */
import type { ClusterProblem } from '../admin/cluster-schemas.ts'
import { formatSize } from '../core/units.ts'
import type { ControllerReport } from '../cluster/controller.ts'
import type { UpgradeState } from '../cluster/finalize.ts'
import type { WaitingGroups } from '../cluster/losses.ts'
import type { PeerView } from '../cluster/membership.ts'
import type { PeerSummary, PoolSummary } from '../cluster/operations.ts'
import type { PoolRecord } from '../cluster/records.ts'
import { needText, shortageOf } from '../cluster/redundancy-checks.ts'
import type { PeerReport } from '../replication/peer-report.ts'
import type { NoLink } from '../replication/peer-links.ts'
import { parseRedundancy } from '../placement/redundancy.ts'

const NEAR_FULL = 0.85
const AWAITED_SHOWN = 4
/** A start takes less, and so does the lease of a peer that died. */
const NO_LINK_MS = 15_000

export interface ClusterFacts {
  /** What peers told about themselves. */
  readonly reports?: ReadonlyMap<string, Pick<PeerReport, 'scrub'>>
  /** Peers that the one that answers cannot reach. */
  readonly noLinks?: ReadonlyMap<string, NoLink | null>
  readonly peers: readonly PeerSummary[]
  readonly pools: readonly PoolSummary[]
  /** What the controller sees; null when it did not tell. */
  readonly controller: ControllerReport | null
  readonly waiting: WaitingGroups
  readonly upgrade: UpgradeState
}

/** Worst first. */
export function clusterProblems(facts: ClusterFacts): ClusterProblem[] {
  const problems = [
    ...pausedProblems(facts),
    ...waitingProblems(facts.waiting),
    ...facts.pools.flatMap((pool) => poolProblems(pool, facts)),
    ...facts.peers.flatMap(peerProblems),
    ...facts.peers.flatMap((peer) => linkProblems(peer, facts)),
    ...facts.peers.flatMap(({ view }) => scrubProblems(view.record.peerId, facts)),
    ...upgradeProblems(facts.upgrade)
  ]
  return problems.sort((a, b) => rank(a) - rank(b))
}

const rank = ({ level }: ClusterProblem): number => (level === 'error' ? 0 : 1)

const problem = (
  level: ClusterProblem['level'],
  code: string,
  message: string
): ClusterProblem => ({ level, code, message })

function pausedProblems({ controller }: ClusterFacts): ClusterProblem[] {
  const paused = controller?.paused ?? ''
  return paused === '' ? [] : [problem('error', 'manyPeersAway', paused)]
}

/** Who can be waited for comes before what only an operator can end. */
function waitingProblems({ groups, pendingPeers }: WaitingGroups): ClusterProblem[] {
  const problems: ClusterProblem[] = []
  const [first] = groups
  if (first !== undefined) {
    const awaited = [...new Set(groups.flatMap((group) => group.awaited))].map(shortOf)
    const text = `${groups.length} groups wait for a decision; ${first.pool.name}/${first.group}: `
    const start = awaited.length > 0 ? `start ${awaited.join(', ')}, or accept` : 'accept'
    const advice = `${start} what is lost with "torus cluster accept-loss"`
    problems.push(problem('error', 'waitingGroups', `${text}${first.why}: ${advice}`))
  }
  if (pendingPeers.length > 0) {
    const text = 'the metadata was restored, and no new group can be used before these peers start'
    const advice = 'if they are gone for good, "torus cluster accept-loss"'
    const message = `${text}: ${pendingPeers.map(shortOf).join(', ')}; ${advice}`
    problems.push(problem('warning', 'restorePending', message))
  }
  return problems
}

/** Between the start of the first peer with a new version and `cluster finalize`. */
function upgradeProblems({ level, target, features, behind }: UpgradeState): ClusterProblem[] {
  if (level === target) return []
  const text = `the cluster is at feature level ${level}, and ${target} (${features.join(', ')}) is`
  const [first] = behind
  if (first === undefined) {
    const advice = 'switch it on with "torus cluster finalize"; no older version can start then'
    return [problem('warning', 'notFinalised', `${text} known to every peer: ${advice}`)]
  }
  const more = behind.length > 1 ? ` and ${behind.length - 1} more` : ''
  const advice = 'start them with the new version'
  return [problem('warning', 'upgrading', `${text} not known to ${first}${more}: ${advice}`)]
}

const shortOf = (peer: string): string => peer.slice(0, 8)

function poolProblems(summary: PoolSummary, { peers, controller }: ClusterFacts): ClusterProblem[] {
  const { pool, degraded, belowMinimum, unavailable, awaited } = summary
  const problems: ClusterProblem[] = []
  if (unavailable > 0) {
    const text = `pool ${pool.name}: ${unavailable} groups have no copy that is up`
    problems.push(problem('error', 'unavailable', `${text}: ${awaitedText(awaited)}`))
  }
  if (belowMinimum > unavailable) {
    const text = `pool ${pool.name}: writes to ${belowMinimum} groups wait for more copies`
    problems.push(problem('error', 'belowWriteMinimum', `${text}: start the peers that are down`))
  }
  if (degraded > 0) {
    const text = `pool ${pool.name}: ${degraded} of ${summary.groupsUsed} groups have fewer copies`
    const advice = degradedAdvice(
      pool,
      peers.map(({ view }) => view)
    )
    problems.push(problem('warning', 'degraded', `${text} than ${pool.redundancy}: ${advice}`))
  }
  const shortages = degraded > 0 ? [] : (controller?.shortages ?? [])
  for (const { text } of shortages.filter(({ pool: of }) => of === pool.name)) {
    problems.push(problem('warning', 'shortage', `pool ${pool.name}: ${text}`))
  }
  const redundancy = parseRedundancy(pool.redundancy)
  const isSingle = redundancy.kind === 'replicated' && redundancy.copies === 1
  if (isSingle && peers.length > 1) {
    const text = `pool ${pool.name} keeps one copy of everything although there are more peers`
    const advice = `torus pool set ${pool.name} --redundancy replicated:2`
    problems.push(problem('warning', 'oneCopy', `${text}: ${advice}`))
  }
  return problems
}

/** Copies are made only where there is a failure domain for each. */
function degradedAdvice(pool: PoolRecord, peers: readonly PeerView[]): string {
  const up = peers.filter(({ alive }) => alive !== null)
  const shortage = shortageOf(pool, up)
  const never = shortageOf(pool, peers)
  if (never !== null) return `they cannot be made: ${needText(pool, never)}`
  if (shortage !== null) return `start who is down: nobody else can take them (${shortage})`
  if (up.length === peers.length) return 'they are being made'
  return 'start who is down; after --down-after the copies are made anew on others'
}

/** Others may be up that have less (R13): it is for an operator to say that this counts. */
function awaitedText(awaited: readonly string[]): string {
  if (awaited.length === 0) return 'start the peers that are down'
  const names = awaited.slice(0, AWAITED_SHOWN).map(shortOf).join(', ')
  const more = awaited.length > AWAITED_SHOWN ? ` and ${awaited.length - AWAITED_SHOWN} more` : ''
  const lost = '"torus peer remove PEER --force", then "torus cluster accept-loss"'
  return `start ${names}${more}; if they are gone for good, ${lost}`
}

function peerProblems({ view, inSync }: PeerSummary): ClusterProblem[] {
  const { record, alive } = view
  const id = record.peerId.slice(0, 8)
  const name = `peer ${id}`
  if (record.state === 'pending') {
    const advice = `let it in with "torus peer add ${id}", or remove it`
    return [problem('warning', 'pendingPeer', `${name} waits to be let in: ${advice}`)]
  }
  if (alive === null) {
    if (inSync === 0 && record.state === 'drained') return []
    const advice = 'start it, or remove it with "torus peer remove" if it is gone for good'
    return [problem('warning', 'peerDown', `${name} is down: ${advice}`)]
  }
  const part = record.capacityBytes === 0 ? 0 : alive.usedBytes / record.capacityBytes
  if (part < NEAR_FULL) return []
  const text = `${name} is ${(part * 100).toFixed(0)} % full of ${formatSize(record.capacityBytes)}`
  return [problem('warning', 'nearFull', `${text}: add peers, or delete and trim volumes`)]
}

/** Up by its lease, and yet of no use to this peer. */
function linkProblems({ view }: PeerSummary, { noLinks }: ClusterFacts): ClusterProblem[] {
  const { record, alive } = view
  const noLink = noLinks?.get(record.peerId) ?? null
  const isUsed = alive !== null && record.state !== 'pending'
  if (!isUsed || noLink === null || noLink.forMs < NO_LINK_MS) return []
  const seconds = Math.round(noLink.forMs / 1000)
  const name = `peer ${record.peerId.slice(0, 8)} (${alive.peerAddress ?? 'no address'})`
  const text = `${name} is up, but this one has had no connection to it for ${seconds} s`
  const effect = 'its copies get no writes, and volumes that it serves may wait'
  return [problem('error', 'noConnection', `${text}: ${noLink.why}; ${effect}`)]
}

function scrubProblems(peerId: string, { reports }: ClusterFacts): ClusterProblem[] {
  const scrub = reports?.get(peerId)?.scrub
  if (scrub === undefined) return []
  const name = `peer ${peerId.slice(0, 8)}`
  const problems: ClusterProblem[] = []
  if (scrub.differences > 0) {
    const { differences, repaired } = scrub
    const text = `${name} found ${differences} blocks that members in sync had differently`
    const level = repaired < differences ? 'error' : 'warning'
    const advice = 'its log names them, and who was wrong: check that disk'
    problems.push(problem(level, 'membersDiffered', `${text}, ${repaired} repaired: ${advice}`))
  }
  if (scrub.damaged > 0) {
    const text = `${name} has ${scrub.damaged} damaged blocks that nobody else has now`
    const advice = 'start who is down; its log names them'
    problems.push(problem('error', 'damagedBlocks', `${text}: ${advice}`))
  }
  if (scrub.mended > 0) {
    const text = `${name} had ${scrub.mended} damaged blocks, repaired from others`
    problems.push(problem('warning', 'repairedBlocks', `${text}: its disk may be failing`))
  }
  return problems
}
