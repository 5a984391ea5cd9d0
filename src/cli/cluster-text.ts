/** The cluster as people read it; pure. */
import { formatDuration, formatSize, plural } from '../core/units.ts'
import type { ClusterPeer, ClusterStatus, Pool, Ring } from './api-client.ts'
import { UsageError } from './errors.ts'
import type { Output } from './output.ts'

export function peerTable(peers: readonly ClusterPeer[], output: Output): string {
  const now = Date.now()
  const head = ['PEER', 'STATE', 'ADDRESS', 'CAPACITY', 'USED', 'IN SYNC', 'SYNCING', 'LAST SEEN']
  const rows = peers.map((peer) => [
    peer.peerId.slice(0, 8),
    stateOf(peer),
    peer.address ?? '-',
    formatSize(peer.capacityBytes),
    peer.usedBytes === null ? '-' : formatSize(peer.usedBytes),
    String(peer.groupsInSync),
    String(peer.groupsSyncing),
    lastSeenOf(peer, now),
    rateOf(peer),
    labelsOf(peer)
  ])
  return output.table([...head, 'RESYNC', 'LABELS'], rows, 'lllrrrrlll')
}

function lastSeenOf({ up, lastSeenAt }: ClusterPeer, now: number): string {
  if (up) return 'now'
  if (lastSeenAt === null) return 'unknown'
  const seconds = Math.max(0, Math.round((now - Date.parse(lastSeenAt)) / 1000))
  return `${coarse(seconds)} ago`
}

/** Two units at most: nobody counts the seconds of a day. */
function coarse(seconds: number): string {
  const unit = seconds >= 86_400 ? 3600 : seconds >= 3600 ? 60 : 1
  return formatDuration(Math.round(seconds / unit) * unit * 1000)
}

/** Rate and time left of what it catches up with or takes over. */
function rateOf({ resync }: ClusterPeer): string {
  if (resync === null || resync.groupsLeft === 0) return '-'
  const left = resync.secondsLeft === null ? '' : `, ${coarse(Math.ceil(resync.secondsLeft))} left`
  return `${formatSize(Math.round(resync.bytesPerSecond))}/s${left}`
}

function stateOf({ up, state, replacedBy, maintenanceUntil }: ClusterPeer): string {
  const word = up ? 'up' : 'down'
  if (state === 'pending') return `${word}, pending`
  if (state === 'drained') return `${word}, ${replacedBy === null ? 'drained' : 'replaced'}`
  return maintenanceUntil === null ? word : `${word}, maintenance`
}

const labelsOf = ({ labels }: ClusterPeer): string =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(' ')

/** @throws UsageError when not exactly one begins so */
export function onlyOne(peers: readonly ClusterPeer[], id: string): ClusterPeer {
  const found = peers.filter(({ peerId }) => peerId.startsWith(id))
  if (found.length === 1) return found[0]!
  const why = found.length === 0 ? 'no peer' : plural(found.length, 'peer')
  throw new UsageError(`${why} with an id that begins with "${id}": see "torus peer list"`)
}

export const clusterPeerText = (peer: ClusterPeer, output: Output): string =>
  output.facts([
    ['peer', peer.peerId],
    ['state', stateOf(peer)],
    ['boot', peer.bootId],
    ['address', peer.address ?? 'none'],
    ['NBD', peer.nbdAddresses.join('  ') || 'none'],
    ['admin', peer.adminAddresses.join('  ') || 'none'],
    ['labels', labelsOf(peer) || 'none'],
    ['capacity', formatSize(peer.capacityBytes)],
    ['used', peer.usedBytes === null ? 'unknown' : formatSize(peer.usedBytes)],
    ['weight', peer.weight === null ? 'by capacity' : String(peer.weight)],
    ['groups', `${peer.groupsInSync} in sync, ${peer.groupsSyncing} syncing`],
    ['resync', resyncText(peer)],
    ['given back', reclaimText(peer)],
    ['compared', scrubText(peer)],
    ['last seen', peer.up ? 'now' : (peer.lastSeenAt ?? 'unknown')],
    ...(peer.maintenanceUntil === null
      ? []
      : [['maintenance', `until ${peer.maintenanceUntil}`] as const]),
    ...(peer.replacedBy === null ? [] : [['replaced', `by ${peer.replacedBy}`] as const]),
    ['version', `${peer.version}, feature levels ${peer.levels.min} to ${peer.levels.max}`],
    ['added', peer.addedAt]
  ])

export const poolText = (pool: Pool, output: Output): string =>
  output.facts([
    ['pool', pool.name],
    ['redundancy', pool.redundancy],
    ['writes need', `${pool.writeMinimum} in sync`],
    ['apart by', pool.failureDomain],
    ['ring', pool.ring],
    ['groups', `${pool.groups}, ${pool.groupsUsed} in use${splitText(pool)}`],
    ['degraded', `${pool.degraded} groups`],
    ['writes wait', `${pool.belowMinimum} groups`],
    ['unavailable', `${pool.unavailable} groups`],
    ['syncing', `${pool.syncing} groups`],
    ['peers', pool.peers === null ? 'all' : pool.peers.map((id) => id.slice(0, 8)).join(' ')]
  ])

const splitText = ({ splitting }: Pool): string =>
  splitting === null ? '' : `; ${splitting.left} to be split, until there are ${splitting.to}`

export function ringText(ring: Ring, output: Output): string {
  const facts = output.facts([
    ['pool', ring.pool],
    ['kind', ring.kind],
    ['redundancy', `${ring.redundancy}, apart by ${ring.failureDomain}`],
    ['groups', String(ring.groups)]
  ])
  const rows = ring.peers.map(({ peerId, weight, share, target, members }) => [
    peerId.slice(0, 8),
    formatWeight(weight),
    `${(share * 100).toFixed(1)} %`,
    String(target),
    String(members)
  ])
  const head = ['PEER', 'WEIGHT', 'SHARE', 'SHOULD HAVE', 'HAS']
  const shortage = ring.shortage === null ? [] : [output.colors.yellow(`! ${ring.shortage}`)]
  return [facts, ...shortage, '', output.table(head, rows, 'lrrrr')].join('\n')
}

/** Most are capacities. */
const formatWeight = (weight: number): string =>
  weight >= 1024 * 1024 ? formatSize(weight) : String(weight)

export function clusterText(status: ClusterStatus, output: Output): string {
  const { peers, pools } = status
  const up = peers.filter((peer) => peer.up).length
  const facts: [string, string][] = [
    ['health', healthText(status, output)],
    ['cluster', status.clusterId],
    ['metadata', status.metadata],
    ['controller', status.controller?.slice(0, 8) ?? 'none'],
    ['peers', `${up} of ${peers.length} up`],
    ['fullest', fullestOf(peers)],
    ['lease', `trusted for ${formatDuration(Math.max(0, status.leaseTrustedMs))}`],
    ['features', levelText(status.upgrade)]
  ]
  const problems = status.problems.map(({ level, message }) =>
    level === 'error' ? output.colors.red(`! ${message}`) : output.colors.yellow(`! ${message}`)
  )
  const poolTable = output.table(
    ['POOL', 'REDUNDANCY', 'GROUPS', 'IN FULL', 'PROGRESS'],
    pools.map((pool) => [
      pool.name,
      pool.redundancy,
      String(pool.groupsUsed),
      String(pool.groupsUsed - pool.degraded),
      barOf(pool.groupsUsed - pool.degraded, pool.groupsUsed)
    ]),
    'llrrl'
  )
  const work = peers.flatMap(backgroundTexts).map((text) => output.colors.dim(`  ${text}`))
  const parts = [poolTable, ...resyncTables(peers, output), peerTable(peers, output)]
  return [[output.facts(facts), ...problems, ...work].join('\n'), ...parts].join('\n\n')
}

const levelText = ({ level, target }: ClusterStatus['upgrade']): string =>
  level === target ? `level ${level}` : `level ${level}, ${target} is not switched on`

/** Of those that are up: what the others use is not known. */
function fullestOf(peers: readonly ClusterPeer[]): string {
  const partOf = ({ usedBytes, capacityBytes }: ClusterPeer): number =>
    usedBytes === null || capacityBytes === 0 ? 0 : usedBytes / capacityBytes
  const [fullest] = peers
    .filter(({ usedBytes }) => usedBytes !== null)
    .sort((one, other) => partOf(other) - partOf(one))
  if (fullest === undefined) return 'unknown'
  const part = `${(partOf(fullest) * 100).toFixed(0)} % of ${formatSize(fullest.capacityBytes)}`
  return `peer ${fullest.peerId.slice(0, 8)}, ${part}`
}

/** None while nothing is brought up to date. */
function resyncTables(peers: readonly ClusterPeer[], output: Output): string[] {
  const rows = peers.flatMap((peer) => {
    const { resync, up, groupsSyncing } = peer
    if (resync === null && (groupsSyncing === 0 || !up)) return []
    if (resync?.groupsLeft === 0) return []
    const { groupsDone = 0, groupsLeft = groupsSyncing, bytesCopied = 0 } = resync ?? {}
    const bar = resync === null ? '-' : barOf(groupsDone, groupsDone + groupsLeft)
    const copied = resync === null ? '-' : formatSize(bytesCopied)
    const id = peer.peerId.slice(0, 8)
    return [[id, String(groupsDone), String(groupsLeft), copied, rateOf(peer), bar]]
  })
  if (rows.length === 0) return []
  const head = ['RESYNC', 'GROUPS DONE', 'LEFT', 'COPIED', 'RATE', 'PROGRESS']
  return [output.table(head, rows, 'lrrrll')]
}

function healthText({ health }: ClusterStatus, { colors }: Output): string {
  if (health === 'ok') return colors.green('ok')
  return health === 'warning' ? colors.yellow('warning') : colors.red('error')
}

const BAR_CELLS = 20

/** `full` of `all`, as a bar. */
function barOf(full: number, all: number): string {
  if (all === 0) return '-'
  const cells = Math.floor((full / all) * BAR_CELLS)
  const percent = Math.floor((full / all) * 100)
  return `${'█'.repeat(cells)}${'░'.repeat(BAR_CELLS - cells)} ${percent} %`
}

function resyncText(peer: ClusterPeer): string {
  const { resync } = peer
  if (resync === null) return 'unknown'
  if (resync.groupsLeft === 0) return 'nothing to do'
  return `${resync.groupsLeft} groups left, ${rateOf(peer)}`
}

function reclaimText({ reclaim }: ClusterPeer): string {
  if (reclaim === null) return 'unknown'
  const { groupsLeft, bytesGivenBack } = reclaim
  const left = groupsLeft === 0 ? '' : `, ${groupsLeft} groups left`
  return `${formatSize(bytesGivenBack)} of groups that others have${left}`
}

function scrubText({ scrub }: ClusterPeer): string {
  if (scrub === null) return 'unknown'
  const { groups, groupsLeft, groupsCompared, differences, repaired, mended, damaged } = scrub
  const parts = [`${groupsCompared} groups with other members, of ${groups}`]
  if (groupsLeft > 0) parts.push(`${groupsLeft} left`)
  if (differences > 0) parts.push(`${plural(differences, 'block')} differed, ${repaired} repaired`)
  if (mended > 0) parts.push(`${mended} damaged blocks repaired`)
  if (damaged > 0) parts.push(`${damaged} damaged blocks wait`)
  return parts.join(', ')
}

/** What a peer does beside its clients' work and resyncs. */
function backgroundTexts({ peerId, reclaim, scrub }: ClusterPeer): string[] {
  const name = `peer ${peerId.slice(0, 8)}`
  const texts: string[] = []
  if (reclaim !== null && reclaim.groupsLeft > 0) {
    const { groupsLeft, bytesGivenBack } = reclaim
    const so = `${formatSize(bytesGivenBack)} so far`
    texts.push(`${name} gives back its copies of ${groupsLeft} groups that others have, ${so}`)
  }
  if (scrub !== null && scrub.groupsLeft > 0) {
    const { groups, groupsLeft } = scrub
    texts.push(`${name} compares its groups with other members, ${groupsLeft} of ${groups} left`)
  }
  return texts
}
