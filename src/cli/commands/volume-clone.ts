/** Volumes that begin on snapshots. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError } from '../errors.ts'
import type { Child, VolumeBase } from '../life-api.ts'
import { programName } from '../programs.ts'
import { snapshotNameOf } from './snapshot.ts'

const POLL_MS = 500
/** A peer that restarts is back within this. */
const AWAY_MS = 30_000

export function addClone(parent: Command): void {
  const command = parent
    .command('clone')
    .description('make a volume that begins as what a snapshot shows; nothing is copied')
    .argument('<volume@snapshot>', 'what it begins as')
    .argument('<name>', 'of the new volume')
    .option('--description <text>', 'a note for people')
    .action(
      action<[string, string], { description?: string }>(
        async ({ api, output }, [given, name], { description = '' }) => {
          const made = await api.life.clone(...snapshotNameOf(given), {
            name,
            description,
            labels: {}
          })
          const keys = made.encryption === null ? '' : '; the same secrets unlock it'
          output.result(made, () => `cloned ${given} as ${name}${keys}`)
        }
      )
    )
  withExamples(command, 'torus volume clone demo@monday demo-test')
}

export function addChildren(parent: Command): void {
  const command = parent
    .command('children')
    .description('clones that stand on a snapshot, or on any of a volume')
    .argument('<volume[@snapshot]>', 'its name')
    .action(
      action<[string], object>(async ({ api, output }, [given]) => {
        const [volume, snapshot] = given.includes('@') ? snapshotNameOf(given) : [given, null]
        const all = await api.life.children(volume, snapshot)
        output.result(all, () =>
          all.length === 0
            ? `nothing stands on ${given}`
            : output.table(
                ['NAME', 'SNAPSHOT', 'CREATED', 'STATE'],
                all.map((child) => rowOf(volume, child)),
                'llll'
              )
        )
      })
    )
  withExamples(command, 'torus volume children demo@monday', 'torus volume children demo --json')
}

const rowOf = (volume: string, child: Child): string[] => [
  child.name,
  `${volume}@${child.snapshot}`,
  child.createdAt.slice(0, 16).replace('T', ' '),
  child.inTrash ? `in the trash, ${child.id}` : child.isFlattening ? 'being flattened' : ''
]

interface FlattenOptions {
  readonly wait: boolean
  readonly status?: boolean
}

export function addFlatten(parent: Command): void {
  const command = parent
    .command('flatten')
    .description('give a clone all that it reads from its snapshot, so that it stands on no other')
    .argument('<volume>', 'its name')
    .option('--no-wait', 'start it and return; it goes on, also after a restart')
    .option('--status', 'tell how far it is')
    .action(
      action<[string], FlattenOptions>((context, [name], options) =>
        flatten(context, name, options)
      )
    )
  withExamples(command, 'torus volume flatten demo-test', 'torus volume flatten demo-test --status')
}

async function flatten(
  context: Context,
  name: string,
  { wait, status = false }: FlattenOptions
): Promise<void> {
  const { api, output } = context
  const now = status ? await api.life.base(name) : await api.life.flatten(name)
  if (status || !wait) {
    output.result(now, () => textOf(name, now))
    return
  }
  const progress = output.progress('flatten', (value) => formatSize(value))
  let last = now
  try {
    while (last.flatten !== null) {
      progress.update(last.flatten.doneBytes, last.flatten.totalBytes)
      await sleep(POLL_MS)
      last = await baseOf(context, name)
    }
  } finally {
    progress.stop()
  }
  output.result(last, () => textOf(name, last))
}

/** A peer that restarts is asked again. @throws CommandError that tells what goes on without us */
async function baseOf({ api }: Context, name: string): Promise<VolumeBase> {
  for (const sinceMs = performance.now(); ; await sleep(POLL_MS)) {
    try {
      return await api.life.base(name)
    } catch (thrown) {
      if (!(thrown instanceof CommandError) || thrown.code !== 'Unavailable') throw thrown
      if (performance.now() - sinceMs < AWAY_MS) continue
      const goesOn = `${name} is flattened further as soon as a peer serves it`
      const ask = `"${programName()} volume flatten ${name} --status" tells how far it is`
      throw new CommandError(thrown.code, `${goesOn}: ${ask} (${thrown.message})`)
    }
  }
}

function textOf(name: string, { base, flatten }: VolumeBase): string {
  if (base === null) return `${name} stands on no other volume`
  const on = `${base.volume}@${base.snapshot}`
  if (flatten === null) {
    return `${name} stands on ${on}; "${programName()} volume flatten ${name}" ends that`
  }
  const { doneBytes, totalBytes, startedAt, running } = flatten
  const done = `${formatSize(doneBytes)} of ${formatSize(totalBytes)} of ${on}`
  const where = running ? '' : '; not on this peer, or it waits for the volume'
  return `${name}: ${done} copied, since ${startedAt}${where}`
}
