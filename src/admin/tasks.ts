import type { MemberScrub } from './scrub-schemas.ts'
import type { Shard, Task, TaskName } from './schemas.ts'

/**
 * Progress of background tasks, read off the counters of the shards. Checkpoints have no progress
 * counter: one is over on a shard when another was written since it was asked for, or when the
 * last one has all that was appended then.
 */
export class Tasks {
  readonly #checkpointsAsked = new Map<number, { lsn: number; checkpoints: number }>()

  started(task: TaskName, shards: readonly Shard[]): void {
    if (task !== 'checkpoint') return
    for (const { shard, stats } of shards) {
      const { appendedLsn: lsn, checkpoints } = stats
      this.#checkpointsAsked.set(shard, { lsn, checkpoints })
    }
  }

  stopped(task: TaskName): void {
    if (task === 'checkpoint') this.#checkpointsAsked.clear()
  }

  progress(task: TaskName, shards: readonly Shard[], scrub: MemberScrub | null): Task {
    const members = task === 'scrub' ? scrub : null
    const parts = shards.map((shard) => ({ shard: shard.shard, ...this.#ofShard(task, shard) }))
    const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
    return {
      task,
      active: parts.some(({ active }) => active) || (members?.groupsLeft ?? 0) > 0,
      bytesTotal: sum(parts.map(({ bytesTotal }) => bytesTotal)),
      bytesDone: sum(parts.map(({ bytesDone }) => bytesDone)),
      errors: task === 'scrub' ? sum(shards.map(({ stats }) => stats.scrubErrors)) : 0,
      completed: sum(shards.map(({ stats }) => stats[completedStat[task]])),
      shards: parts,
      members
    }
  }

  #ofShard(task: TaskName, { shard, state, stats }: Shard): Omit<Task['shards'][number], 'shard'> {
    if (task === 'scrub') {
      const { scrubBytesTotal, scrubBytesDone } = stats
      const active = stats.scrubActive > 0
      return { active, bytesTotal: scrubBytesTotal, bytesDone: scrubBytesDone }
    }
    if (task === 'compact') {
      const { compactionBytesTotal, compactionBytesDone } = stats
      const active = stats.compactionActive > 0
      return { active, bytesTotal: compactionBytesTotal, bytesDone: compactionBytesDone }
    }
    const asked = this.#checkpointsAsked.get(shard)
    const active =
      asked !== undefined &&
      state === 'serving' &&
      stats.checkpoints === asked.checkpoints &&
      stats.checkpointLsn < asked.lsn
    return { active, bytesTotal: 0, bytesDone: 0 }
  }
}

const completedStat = {
  scrub: 'scrubRounds',
  compact: 'compactedSegments',
  checkpoint: 'checkpoints'
} as const
