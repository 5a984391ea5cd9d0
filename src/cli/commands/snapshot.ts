import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import { action, type Context, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'
import type { Snapshot } from '../life-api.ts'
import type { Output } from '../output.ts'
import { sizeOr, snapshotSpaceFacts, snapshotSpaces, spaceOf } from '../space-text.ts'
import type { SnapshotSpace } from '../stream-api.ts'
import { addSchedule } from './snapshot-schedule.ts'

export function addSnapshotCommands(program: Command): void {
  const snapshot = program.command('snapshot').description('what volumes were at one moment')
  withExamples(snapshot, 'torus snapshot create demo@monday', 'torus snapshot list demo')
  addCreate(snapshot)
  addList(snapshot)
  addShow(snapshot)
  addRename(snapshot)
  addProtect(snapshot)
  addRestore(snapshot)
  addDelete(snapshot)
  addSchedule(snapshot)
}

/** 'volume@snapshot'. @throws UsageError */
export function snapshotNameOf(name: string): [volume: string, snapshot: string] {
  const at = name.indexOf('@')
  if (at > 0 && at < name.length - 1) return [name.slice(0, at), name.slice(at + 1)]
  throw new UsageError(`"${name}" is not VOLUME@SNAPSHOT`)
}

const fullName = ({ volume, name }: Snapshot): string => `${volume}@${name}`

function addCreate(parent: Command): void {
  const command = parent
    .command('create')
    .description('take a snapshot while clients go on; it costs nothing until they write')
    .argument('<volume@snapshot>', 'the volume, and a name for it')
    .option('--description <text>', 'a note for people')
    .action(
      action<[string], { description?: string }>(
        async ({ api, output }, [given], { description = '' }) => {
          const [volume, name] = snapshotNameOf(given)
          const made = await api.life.createSnapshot(volume, { name, description, labels: {} })
          output.result(made, () => `took ${fullName(made)}; NBD clients open it by that name`)
        }
      )
    )
  withExamples(command, 'torus snapshot create demo@monday --description "before the upgrade"')
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('snapshots of a volume, or of all, oldest first')
    .argument('[volume]', 'its name')
    .action(
      action<[string | undefined], object>(async ({ api, output }, [volume]) => {
        const volumes =
          volume === undefined ? (await api.volumes()).map(({ name }) => name) : [volume]
        const lists = await Promise.all(volumes.map((name) => api.life.snapshots(name)))
        // Counting takes a while where volumes are large: of one at a time.
        const space = volume === undefined ? null : await spaceOf(api, volume)
        const spaces = snapshotSpaces(space)
        const all = lists.flat().map((each) => ({ ...each, space: spaces.get(each.id) ?? null }))
        output.result(all, () => {
          if (all.length === 0) return 'no snapshots'
          const sizes = space === null ? [] : ['ALLOCATED', 'DELETE FREES']
          const head = ['NAME', 'SIZE', ...sizes, 'TAKEN', 'DESCRIPTION']
          const align = space === null ? 'lrll' : 'lrrrll'
          const rows = all.map((each) => rowOf(each, space !== null))
          const table = output.table(head, rows, align)
          const why = space?.why ?? null
          return why === null
            ? table
            : `${table}\nfigures of ${space?.countedAt ?? 'never'}: ${why}`
        })
      })
    )
  withExamples(command, 'torus snapshot list', 'torus snapshot list demo --json')
}

const rowOf = (
  snapshot: Snapshot & { readonly space: SnapshotSpace | null },
  isCounted: boolean
): string[] => [
  fullName(snapshot),
  formatSize(snapshot.sizeBytes),
  ...(isCounted
    ? [sizeOr(snapshot.space?.allocatedBytes), sizeOr(snapshot.space?.exclusiveBytes)]
    : []),
  snapshot.createdAt.slice(0, 16).replace('T', ' '),
  `${snapshot.protected ? '(protected) ' : ''}${snapshot.description}`
]

function addShow(parent: Command): void {
  const command = parent
    .command('show')
    .description('one snapshot')
    .argument('<volume@snapshot>', 'its name')
    .action(
      action<[string], object>(async ({ api, output }, [given]) => {
        const snapshot = await api.life.snapshot(...snapshotNameOf(given))
        const space = await spaceOf(api, snapshot.volume)
        const own = snapshotSpaces(space).get(snapshot.id)
        output.result({ ...snapshot, space: own ?? null }, () =>
          factsOf(snapshot, snapshotSpaceFacts(space, own), output)
        )
      })
    )
  withExamples(command, 'torus snapshot show demo@monday')
}

const factsOf = (snapshot: Snapshot, space: [string, string][], output: Output): string =>
  output.facts([
    ['name', fullName(snapshot)],
    ['size', `${formatSize(snapshot.sizeBytes)} (${snapshot.sizeBytes} bytes)`],
    ...space,
    ['taken', snapshot.createdAt],
    ['protected', snapshot.protected ? 'yes' : 'no'],
    ['id', snapshot.id],
    ...(snapshot.description === '' ? [] : [['description', snapshot.description] as const])
  ])

function addRename(parent: Command): void {
  const command = parent
    .command('rename')
    .description('give a snapshot another name')
    .argument('<volume@snapshot>', 'its name')
    .argument('<new-name>', 'the new one, without the volume')
    .action(
      action<[string, string], object>(async ({ api, output }, [given, newName]) => {
        const [volume, name] = snapshotNameOf(given)
        requireAlone(volume, newName)
        const snapshot = await api.life.changeSnapshot(volume, name, { newName })
        output.result(snapshot, () => `renamed ${given} to ${fullName(snapshot)}`)
      })
    )
  withExamples(command, 'torus snapshot rename demo@monday last-week')
}

/** @throws UsageError */
function requireAlone(volume: string, newName: string): void {
  const at = newName.indexOf('@')
  if (at < 0) return
  const alone = newName.slice(at + 1)
  const stays = newName.slice(0, at) === volume ? '' : `; a snapshot stays with ${volume}`
  const example = alone === '' || alone.includes('@') ? '' : `, "${alone}"`
  throw new UsageError(`"${newName}": give the new name without the volume${example}${stays}`)
}

function addProtect(parent: Command): void {
  for (const [verb, isProtected] of [['protect', true] as const, ['unprotect', false] as const]) {
    const command = parent
      .command(verb)
      .description(isProtected ? 'refuse to delete a snapshot' : 'let a snapshot be deleted again')
      .argument('<volume@snapshot>', 'its name')
      .action(
        action<[string], object>(async ({ api, output }, [given]) => {
          const change = { protected: isProtected }
          const snapshot = await api.life.changeSnapshot(...snapshotNameOf(given), change)
          output.result(snapshot, () => `${verb}ed ${fullName(snapshot)}`)
        })
      )
    withExamples(command, `torus snapshot ${verb} demo@monday`)
  }
}

function addRestore(parent: Command): void {
  const command = parent
    .command('restore')
    .description('make the volume what a snapshot shows; its other snapshots stay')
    .argument('<volume@snapshot>', 'its name')
    .option('--force', 'disconnect the clients of the volume first')
    .action(
      action<[string], { force?: boolean }>(
        async ({ api, output, confirm }, [given], { force = false }) => {
          const [volume, name] = snapshotNameOf(given)
          await confirm(`What was written to ${volume} since ${given} goes, but for its snapshots.`)
          const restored = await api.life.restoreSnapshot(volume, name, force)
          output.result(restored, () => `${volume} is what ${given} shows`)
        }
      )
    )
  withExamples(command, 'torus snapshot restore demo@monday --yes')
}

function addDelete(parent: Command): void {
  const command = parent
    .command('delete')
    .alias('rm')
    .description('delete a snapshot; nobody may have it open')
    .argument('<volume@snapshot>', 'its name')
    .action(action<[string], object>((context, [given]) => remove(context, given)))
  withExamples(command, 'torus snapshot delete demo@monday --yes')
}

async function remove({ api, output, confirm }: Context, given: string): Promise<void> {
  const [volume, name] = snapshotNameOf(given)
  await confirm(`Snapshot ${given} goes for good.`)
  await api.life.deleteSnapshot(volume, name)
  output.result({ deleted: given }, () => `deleted ${given}`)
}
