/** What is wrong with a peer, in words, and what to do about it. Pure. */
import type { HealthProblem, Peer, Shard } from '../admin/schemas.ts'
import { formatSize } from '../core/units.ts'

/** Compaction needs room, so writes slow down before the end and stop at it. */
const NEAR_FULL = 0.85
const FULL = 0.95
/** The filesystem below may fill for reasons that are not ours. */
const FILESYSTEM_FREE_BYTES_MIN = 1024 * 1024 * 1024

/** Worst first. */
export function healthProblems(
  peer: Peer,
  shards: readonly Shard[],
  notes: readonly HealthProblem[],
  trashBytes: number
): HealthProblem[] {
  const problems = [...notes, ...shards.flatMap(shardProblems), ...spaceProblems(peer, trashBytes)]
  return problems.sort((a, b) => rank(a) - rank(b))
}

const rank = ({ level }: HealthProblem): number => (level === 'error' ? 0 : 1)

export function healthOf(problems: readonly HealthProblem[]): 'ok' | 'warning' | 'error' {
  if (problems.some(({ level }) => level === 'error')) return 'error'
  return problems.length > 0 ? 'warning' : 'ok'
}

/** Damage that is there, for all we know; or that is gone since, and says something of the disk. */
function damageProblems(shard: number, stats: Shard['stats']): HealthProblem[] {
  const one = (level: HealthProblem['level'], code: string, message: string): HealthProblem[] => [
    { level, code, message: `shard ${shard}: ${message}` }
  ]
  const { checksumErrors, checksumErrorsChecked, scrubErrors, scrubErrorsLast, missingBlocks } =
    stats
  if (missingBlocks > 0) {
    const text = `segment files are missing that had ${missingBlocks} blocks; the log names them`
    const advice = 'Put them back while the peer is stopped, if you can: else what other peers have'
    return one('error', 'missingBlocks', `${text}. ${advice} is made anew, and the rest is lost`)
  }
  if (scrubErrorsLast > 0) {
    const text = `scrub found ${scrubErrorsLast} damaged blocks; the log names them`
    return one('error', 'scrubErrors', `${text}. Replace the disk`)
  }
  if (checksumErrors > checksumErrorsChecked) {
    const text = `${checksumErrors - checksumErrorsChecked} reads failed their checksum`
    return one('error', 'checksumErrors', `${text}; run 'torus scrub' and see the log`)
  }
  if (checksumErrors === 0 && scrubErrors === 0) return []
  const text = `${checksumErrors + scrubErrors} blocks were damaged since the start`
  const advice = 'and are no more by the last scrub: mended, or written anew. Watch the disk'
  return one('warning', 'damageMended', `${text}, ${advice}`)
}

function shardProblems({ shard, state, reason, stats, restarts }: Shard): HealthProblem[] {
  const problems: HealthProblem[] = []
  const add = (level: HealthProblem['level'], code: string, message: string): void => {
    problems.push({ level, code, message: `shard ${shard}: ${message}` })
  }
  if (state === 'failed') {
    add(
      'error',
      'shardFailed',
      `takes no writes: ${reason || 'see the log'}. Check the disk, then restart the peer`
    )
  }
  if (state === 'recovering') add('warning', 'shardRecovering', 'is being recovered; requests wait')
  problems.push(...damageProblems(shard, stats))
  if (stats.damagedBatches > 0) {
    add(
      'error',
      'damagedRecords',
      `recovery skipped ${stats.damagedBatches} damaged batches; run 'torus check' offline`
    )
  }
  if (restarts > 0) {
    add('warning', 'workerRestarts', `its worker was restarted ${restarts} times; see the log`)
  }
  return problems
}

function spaceProblems(peer: Peer, trashBytes: number): HealthProblem[] {
  const { capacityBytes, liveBytes, filesystemFreeBytes } = peer
  const used = capacityBytes === 0 ? 0 : liveBytes / capacityBytes
  const unused = Math.max(0, capacityBytes - peer.usedBytes)
  const problems: HealthProblem[] = []
  const trash =
    trashBytes === 0 ? '' : `empty the trash, which holds ${formatSize(trashBytes)} of it, `
  if (used >= NEAR_FULL) {
    problems.push({
      level: used >= FULL ? 'error' : 'warning',
      code: 'nearFull',
      message:
        `${(used * 100).toFixed(0)} % of ${formatSize(capacityBytes)} hold live data: ${trash}` +
        `delete or trim volumes, or raise --capacity`
    })
  }
  if (filesystemFreeBytes < Math.min(FILESYSTEM_FREE_BYTES_MIN, unused)) {
    problems.push({
      level: 'warning',
      code: 'filesystemFull',
      message:
        `the filesystem of ${peer.dataDir} has only ${formatSize(filesystemFreeBytes)} left ` +
        `although ${formatSize(unused)} of the capacity are unused: make room there`
    })
  }
  return problems
}
