import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import type { ApiClient, Task, TaskName } from '../api-client.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError } from '../errors.ts'
import { programName } from '../programs.ts'

interface TaskOptions {
  readonly stop?: boolean
  readonly status?: boolean
  readonly wait: boolean
}

const POLL_MS = 200
/** A shard takes its order between two batches: before this, idle need not mean done. */
const BEGIN_MS = 1000

const summaries: Readonly<Record<TaskName, string>> = {
  scrub: 'read and verify everything now; exit code 1 when damage was found',
  compact: 'reclaim the space of dead blocks now',
  checkpoint: 'write the index checkpoints now, which makes the next start fast'
}

export function addTaskCommands(program: Command): void {
  for (const task of ['scrub', 'compact', 'checkpoint'] as const) {
    const command = program
      .command(task)
      .description(summaries[task])
      .option('--no-wait', 'start it and return')
      .option('--stop', 'stop one that runs')
      .option('--status', 'show how far one is')
      .action(action<[], TaskOptions>((context, _, options) => runTask(task, context, options)))
    withExamples(command, `torus ${task}`, `torus ${task} --no-wait`, `torus ${task} --stop`)
  }
}

async function runTask(task: TaskName, context: Context, options: TaskOptions): Promise<void> {
  const { api, output } = context
  if (options.stop === true) {
    const stopped = await api.stopTask(task)
    output.result(stopped, () => `${task} stopped`)
    return
  }
  if (options.status === true) {
    const now = await api.task(task)
    output.result(now, () => (now.active ? `${task} runs, ${progressText(now)}` : `${task} idle`))
    return
  }
  const before = await api.task(task)
  const started = await api.startTask(task)
  if (!options.wait) {
    output.result(started, () => `${task} started; see "${programName()} ${task} --status"`)
    return
  }
  const after = await untilDone(task, api, started, context)
  const errors = after.errors - before.errors
  output.result(after, () => `${task} done${task === 'scrub' ? scrubText(before, after) : ''}`)
  if (errors > 0) {
    const message = `scrub found ${errors} damaged blocks; the log of the peer names them`
    throw new CommandError('ChecksumMismatch', message)
  }
}

function scrubText(before: Task, after: Task): string {
  const damaged = `, ${after.errors - before.errors} damaged blocks`
  if (after.members === null) return damaged
  const since = (key: 'groupsCompared' | 'differences' | 'mended'): number =>
    after.members![key] - (before.members?.[key] ?? 0)
  const compared = `${since('groupsCompared')} groups compared with other members`
  const differences = `${since('differences')} blocks differed`
  return `${damaged}, ${since('mended')} repaired; ${compared}, ${differences}`
}

const progressText = ({ bytesDone, bytesTotal, shards }: Task): string =>
  bytesTotal > 0
    ? `${formatSize(bytesDone)} of ${formatSize(bytesTotal)}`
    : `${shards.filter(({ active }) => !active).length} of ${shards.length} shards done`

async function untilDone(
  task: TaskName,
  api: ApiClient,
  started: Task,
  { output }: Context
): Promise<Task> {
  const progress = output.progress(task, (value) => formatSize(value))
  const beginMs = performance.now()
  let seenActive = started.active
  let now = started
  try {
    while (now.active || (!seenActive && performance.now() - beginMs < BEGIN_MS)) {
      if (now.bytesTotal > 0) progress.update(now.bytesDone, now.bytesTotal)
      if (!now.active && now.completed > started.completed) break
      await sleep(POLL_MS)
      now = await api.task(task)
      seenActive ||= now.active
    }
  } finally {
    progress.stop()
  }
  return now
}
