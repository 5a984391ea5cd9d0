/** Deleting volumes, and bringing them back. */
import type { Command } from 'commander'
import { formatSize, plural } from '../../core/units.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import type { Trashed } from '../life-api.ts'
import { programName } from '../programs.ts'

interface DeleteOptions {
  readonly force?: boolean
  readonly now?: boolean
}

export function addDelete(parent: Command): void {
  const command = parent
    .command('delete')
    .alias('rm')
    .description('put a volume into the trash, from which it can be restored for a while')
    .argument('<volume>', 'its name')
    .option('--force', 'disconnect its clients first')
    .option('--now', 'delete it and all its data for good')
    .action(
      action<[string], DeleteOptions>((context, [name], options) => remove(context, name, options))
    )
  withExamples(command, 'torus volume delete demo', 'torus volume delete demo --now --force --yes')
}

async function remove(
  { api, output, confirm }: Context,
  name: string,
  { force = false, now = false }: DeleteOptions
): Promise<void> {
  const volume = await api.volume(name)
  if (volume.clients > 0 && !force) {
    const message = `volume ${name} has ${plural(volume.clients, 'client')}`
    const see = `see "${programName()} client list"`
    throw new CommandError('Busy', `${message}, ${see}; --force disconnects them`)
  }
  const size = formatSize(volume.sizeBytes)
  const goes = now ? 'and all its data go for good' : 'goes into the trash'
  await confirm(`Volume ${name} (${size}) ${goes}.`)
  const { id, until } = await api.deleteVolume(name, { force, now })
  output.result({ deleted: name, id, until }, () =>
    until === null
      ? `deleted ${name}`
      : `deleted ${name}; until ${timeText(until)} ` +
        `"${programName()} volume trash restore ${name}" brings it back`
  )
}

export function addTrash(parent: Command): void {
  const trash = parent.command('trash').description('deleted volumes that can be restored')
  withExamples(trash, 'torus volume trash list', 'torus volume trash restore demo')
  addList(trash)
  addRestore(trash)
  addEmpty(trash)
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('what is there, and until when')
    .action(
      action(async ({ api, output }) => {
        const volumes = await api.life.trash()
        output.result(volumes, () =>
          volumes.length === 0
            ? 'the trash is empty'
            : output.table(
                ['NAME', 'SIZE', 'USED', 'DELETED', 'KEPT UNTIL', 'ID'],
                volumes.map(rowOf),
                'lrrlll'
              )
        )
      })
    )
  withExamples(command, 'torus volume trash list')
}

const rowOf = (volume: Trashed): string[] => [
  volume.name,
  formatSize(volume.sizeBytes),
  volume.usedBytes === null ? '-' : formatSize(volume.usedBytes),
  timeText(volume.deletedAt),
  volume.protectedSnapshots > 0 ? 'emptied by --force' : timeText(volume.until),
  volume.id
]

const timeText = (time: string): string => time.slice(0, 16).replace('T', ' ')

function addRestore(parent: Command): void {
  const command = parent
    .command('restore')
    .description('bring a deleted volume back')
    .argument('<entry>', 'its name, or its id where several had that name')
    .option('--as <name>', 'another name than it had')
    .action(
      action<[string], { as?: string }>(async ({ api, output }, [entry], { as: name }) => {
        const volume = await api.life.restore(entry, name)
        const locked = volume.encryption === null ? '' : `; "volume unlock ${volume.name}" opens it`
        output.result(volume, () => `restored ${volume.name}${locked}`)
      })
    )
  withExamples(
    command,
    'torus volume trash restore demo',
    'torus volume trash restore demo --as old'
  )
}

function addEmpty(parent: Command): void {
  const command = parent
    .command('empty')
    .description('delete volumes of the trash for good: their space comes back')
    .argument('[entry]', 'name or id of one of them')
    .option('--all', 'all of them, but for those with protected snapshots')
    .option('--force', 'also those with protected snapshots')
    .action(
      action<[string | undefined], { all?: boolean; force?: boolean }>(
        async ({ api, output, confirm }, [entry], { all = false, force = false }) => {
          if ((entry === undefined) === !all) throw new UsageError('name one volume, or say --all')
          const what = entry === undefined ? 'All volumes in the trash' : `Volume ${entry}`
          await confirm(`${what} and all data go for good.`)
          const { volumes, kept } = await api.life.emptyTrash(entry, force)
          const left = kept === 0 ? '' : `; ${kept} with protected snapshots stay: see --force`
          const text = `deleted ${volumes} volume${volumes === 1 ? '' : 's'}${left}`
          output.result({ volumes, kept }, () => text)
        }
      )
    )
  withExamples(command, 'torus volume trash empty demo', 'torus volume trash empty --all --yes')
}
