/** Snapshots that are taken by themselves. */
import type { Command } from 'commander'
import { formatDuration } from '../../core/units.ts'
import { countArgument, durationArgument } from '../arguments.ts'
import { action, type Context, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'
import type { Schedule } from '../life-api.ts'

interface ScheduleOptions {
  readonly every?: readonly number[]
  readonly keep?: readonly number[]
  readonly off?: boolean
}

export function addSchedule(parent: Command): void {
  const each =
    <T>(parse: (text: string) => T) =>
    (text: string, before: readonly T[] = []): T[] => [...before, parse(text)]
  const command = parent
    .command('schedule')
    .description('have snapshots of a volume taken and deleted by themselves; alone it shows how')
    .argument('<volume>', 'its name')
    .option(
      '--every <time>',
      'take one in each such time, as of UTC: 1h, 1d',
      each(durationArgument)
    )
    .option(
      '--keep <count>',
      'of the last so many; for each --every one --keep',
      each(countArgument)
    )
    .option('--off', 'take no more; those there are stay')
    .action(
      action<[string], ScheduleOptions>((context, [name], options) => run(context, name, options))
    )
  withExamples(
    command,
    'torus snapshot schedule demo --every 1h --keep 24 --every 1d --keep 7',
    'torus snapshot schedule demo',
    'torus snapshot schedule demo --off'
  )
}

async function run(
  { api, output }: Context,
  name: string,
  { every = [], keep = [], off = false }: ScheduleOptions
): Promise<void> {
  if (off) {
    if (every.length + keep.length > 0) throw new UsageError('--off goes with no --every or --keep')
    await api.life.removeSchedule(name)
    output.result({ volume: name, rules: [] }, () => `no more snapshots of ${name} by themselves`)
    return
  }
  if (every.length !== keep.length) {
    throw new UsageError(`--every ${every.length} times, --keep ${keep.length}: they go in pairs`)
  }
  const rules = every.map((everyMs, at) => ({ everyMs, keep: keep[at]! }))
  const schedule =
    rules.length === 0 ? await api.life.schedule(name) : await api.life.setSchedule(name, { rules })
  output.result(schedule, () => textOf(schedule))
}

function textOf({ volume, rules, nextAt, doneUntil, snapshots }: Schedule): string {
  if (rules.length === 0) return `volume ${volume} has no schedule`
  const lines = rules.map(
    ({ everyMs, keep }) => `every ${formatDuration(everyMs)}, the last ${keep} stay`
  )
  const next = `next at ${nextAt}; all that was due until ${doneUntil} is done`
  return [...lines, next, `${snapshots} snapshots there are its own`].join('\n')
}
