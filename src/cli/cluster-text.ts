/** The cluster as people read it; pure. */
import { formatDuration, formatSize } from '../core/units.ts'
import type { ClusterPeer, ClusterStatus, Pool, Ring } from './api-client.ts'
import { UsageError } from './errors.ts'
import type { Output } from './output.ts'

export const peerTableHead = [
  'PEER',
  'STATE',
  'ADDRESS',
  'CAPACITY',
  'USED',
  'IN SYNC',
  'SYNCING',
  'LABELS'
] as const

export const peerRow = (peer: ClusterPeer): string[] => [
  peer.peerId.slice(0, 8),
  stateOf(peer),
  peer.address ?? '-',
  formatSize(peer.capacityBytes),
  peer.usedBytes === null ? '-' : formatSize(peer.usedBytes),
  String(peer.groupsInSync),
  String(peer.groupsSyncing),
  labelsOf(peer)
]

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
  const why = found.length === 0 ? 'no peer' : `${found.length} peers`
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
    ...(peer.maintenanceUntil === null
      ? []
      : [['maintenance', `until ${peer.maintenanceUntil}`] as const]),
    ...(peer.replacedBy === null ? [] : [['replaced', `by ${peer.replacedBy}`] as const]),
    ['added', peer.addedAt]
  ])

export const poolText = (pool: Pool, output: Output): string =>
  output.facts([
    ['pool', pool.name],
    ['redundancy', pool.redundancy],
    ['writes need', `${pool.writeMinimum} in sync`],
    ['apart by', pool.failureDomain],
    ['ring', pool.ring],
    ['groups', `${pool.groups}, ${pool.groupsUsed} in use`],
    ['degraded', `${pool.degraded} groups`],
    ['writes wait', `${pool.belowMinimum} groups`],
    ['unavailable', `${pool.unavailable} groups`],
    ['syncing', `${pool.syncing} groups`],
    ['peers', pool.peers === null ? 'all' : pool.peers.map((id) => id.slice(0, 8)).join(' ')]
  ])

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
  const { peers, pools, resync } = status
  const up = peers.filter((peer) => peer.up).length
  const facts: [string, string][] = [
    ['health', healthText(status, output)],
    ['cluster', status.clusterId],
    ['metadata', status.metadata],
    ['controller', status.controller?.slice(0, 8) ?? 'none'],
    ['peers', `${up} of ${peers.length} up`],
    ['lease', `trusted for ${formatDuration(Math.max(0, status.leaseTrustedMs))}`]
  ]
  if (resync.groupsLeft > 0) facts.push(['resync', resyncText(resync)])
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
  const peerTable = output.table(peerTableHead, peers.map(peerRow), 'lllrrrrl')
  return [output.facts(facts), ...problems, '', poolTable, '', peerTable].join('\n')
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

function resyncText({ groupsLeft, bytesPerSecond, secondsLeft }: ClusterStatus['resync']): string {
  const left = secondsLeft === null ? '' : `, ${formatDuration(secondsLeft * 1000)} left`
  return `${groupsLeft} groups on this peer, ${formatSize(bytesPerSecond)}/s${left}`
}
