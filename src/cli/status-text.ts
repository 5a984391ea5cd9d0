/** Status, peer and shards as people read them; pure, so that tests need no terminal. */
import { formatDuration, formatSize } from '../core/units.ts'
import type { Peer, Shard, Status } from './api-client.ts'
import type { Output } from './output.ts'

const percent = (part: number, whole: number): string =>
  whole > 0 ? `${Math.round((part / whole) * 100)} %` : '-'

export function statusText(status: Status, output: Output): string {
  const { peer } = status
  const facts: [string, string][] = [
    ['health', healthText(status, output)],
    ['peer', `${peer.peerId.slice(0, 8)} on ${peer.hostname}, Torus ${peer.version}`],
    ['running for', formatDuration(Math.max(0, Date.now() - Date.parse(peer.startedAt)))],
    ['capacity', spaceText(status)],
    ['volumes', volumesText(status)],
    ['clients', `${status.clientCount}, ${status.requestsInFlight} requests in flight`],
    ['arena', arenaText(status)]
  ]
  const problems = status.problems.map(({ level, message }) =>
    level === 'error' ? output.colors.red(`! ${message}`) : output.colors.yellow(`! ${message}`)
  )
  return [output.facts(facts), ...problems, '', shardTable(status.shards, output)].join('\n')
}

function healthText({ health }: Status, { colors }: Output): string {
  if (health === 'ok') return colors.green('ok')
  return health === 'warning' ? colors.yellow('warning') : colors.red('error')
}

export function spaceText({ peer }: Status): string {
  const { capacityBytes, usedBytes, liveBytes, deadBytes } = peer
  return (
    `${formatSize(capacityBytes)}, ${formatSize(usedBytes)} used ` +
    `(${percent(usedBytes, capacityBytes)}): ${formatSize(liveBytes)} live, ` +
    `${formatSize(deadBytes)} dead`
  )
}

const volumesText = ({ volumeCount, promisedBytes, peer }: Status): string =>
  `${volumeCount}, ${formatSize(promisedBytes)} promised ` +
  `(${percent(promisedBytes, peer.capacityBytes)} of the capacity)`

const arenaText = ({ arenaBytes, arenaFreeBytes }: Status): string =>
  `${formatSize(arenaBytes)}, ${percent(arenaBytes - arenaFreeBytes, arenaBytes)} in use`

const shardTable = (shards: readonly Shard[], output: Output): string =>
  output.table(
    ['SHARD', 'STATE', 'USED', 'LIVE', 'DEAD', 'SEGMENTS', 'INDEX', 'QUEUE', 'COMPACTION', 'SCRUB'],
    shards.map(({ shard, state, stats, queueDepth, reason }) => [
      String(shard),
      reason === '' ? state : `${state}: ${reason}`,
      formatSize(stats.usedBytes),
      formatSize(stats.liveBytes),
      formatSize(stats.deadBytes),
      String(stats.segments),
      formatSize(stats.indexBytes),
      String(queueDepth),
      taskText(stats.compactionActive, stats.compactionBytesDone, stats.compactionBytesTotal),
      taskText(stats.scrubActive, stats.scrubBytesDone, stats.scrubBytesTotal)
    ]),
    'rlrrrrrrll'
  )

const taskText = (active: number, done: number, total: number): string =>
  active > 0 ? percent(done, total) : 'idle'

export const peerText = (peer: Peer, output: Output): string =>
  output.facts([
    ['peer', peer.peerId],
    ['cluster', peer.clusterId],
    ['boot', `${peer.bootId}, start number ${peer.bootCounter}`],
    ['version', `${peer.version}, on Node ${peer.nodeVersion}`],
    ['process', `${peer.pid} on ${peer.hostname}, since ${peer.startedAt}`],
    ['data', `${peer.dataDir}, format ${peer.formatVersion}`],
    ['shards', `${peer.shards}, segments of ${formatSize(peer.segmentBytes)}`],
    ['capacity', formatSize(peer.capacityBytes)],
    ['used', `${formatSize(peer.usedBytes)} (${percent(peer.usedBytes, peer.capacityBytes)})`],
    ['live', formatSize(peer.liveBytes)],
    ['dead', formatSize(peer.deadBytes)],
    ['filesystem', `${formatSize(peer.filesystemFreeBytes)} free`],
    ['NBD', peer.nbdAddresses.join('  ') || 'none'],
    ['admin', peer.adminAddresses.join('  ') || 'none']
  ])
