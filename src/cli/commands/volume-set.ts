/** What is changed about a volume that is there. */
import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import { withoutUndefined } from '../../core/without-undefined.ts'
import { type AccessOptions, addAccessOptions, givenAccess } from '../access-options.ts'
import type { ApiClient, Client } from '../api-client.ts'
import {
  countBetween,
  labelArgument,
  onOffArgument,
  orOff,
  sizeArgument,
  unavailableArgument
} from '../arguments.ts'
import { action, type Context, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'
import { programName } from '../programs.ts'
import { volumeFacts } from '../volume-text.ts'

interface ResizeOptions {
  readonly shrink?: boolean
  readonly force?: boolean
}

export function addResize(parent: Command): void {
  const command = parent
    .command('resize')
    .description('give a volume another size; a smaller one loses what lies behind its new end')
    .argument('<volume>', 'its name')
    .argument('<size>', 'the new size', sizeArgument)
    .option('--shrink', 'a smaller size is meant: do not ask')
    .option('--force', 'shrink it although clients have it open: they are disconnected')
    .action(
      action<[string, number], ResizeOptions>((context, [name, sizeBytes], options) =>
        resize(context, name, sizeBytes, options)
      )
    )
  withExamples(command, 'torus volume resize demo 20GiB', 'torus volume resize demo 1GiB --shrink')
}

async function resize(
  { api, output, confirm }: Context,
  name: string,
  sizeBytes: number,
  { shrink = false, force = false }: ResizeOptions
): Promise<void> {
  const before = await api.volume(name)
  const smaller = sizeBytes < before.sizeBytes
  if (smaller && !shrink) {
    const lost = formatSize(before.sizeBytes - sizeBytes)
    await confirm(`Volume ${name} loses its last ${lost} and all data there.`)
  }
  const volume = await api.resizeVolume(name, { sizeBytes, shrink: smaller, force })
  const sizes = `from ${formatSize(before.sizeBytes)} to ${formatSize(sizeBytes)}`
  const waiting = sizeBytes === before.sizeBytes ? [] : await clientsOf(api, name, volume.clients)
  output.result(volume, () => [`resized ${name} ${sizes}`, ...waiting.map(waitingText)].join('\n'))
}

/** NBD has no message for it: a client asks for the size when it connects. */
const waitingText = ({ id, address }: Client): string =>
  `client ${id} (${address}) sees the old size until it connects again: ` +
  `${programName()} client disconnect ${id}`

const clientsOf = async (api: ApiClient, name: string, count: number): Promise<Client[]> =>
  count === 0 ? [] : (await api.clients()).filter(({ volume }) => volume === name)

const count = countBetween(1, Number.MAX_SAFE_INTEGER)

interface SetOptions extends AccessOptions {
  readonly unavailable?: ReturnType<typeof unavailableArgument>
  readonly nbdListSnapshots?: boolean
  readonly readOnly?: boolean
  readonly description?: string
  /** 0 is off. */
  readonly iops?: number
  readonly iopsBurst?: number
  readonly bandwidth?: number
  readonly label?: Record<string, string | null>
}

export function addSet(parent: Command): void {
  const command = parent
    .command('set')
    .description('change a volume while it is in use; its clients see it at once')
    .argument('<volume>', 'its name')
    .option(
      '--unavailable <wait|error:TIME>',
      'what requests do while too few members are up: wait for them, or fail after a time',
      unavailableArgument
    )
  addAccessOptions(command)
    .option(
      '--nbd-list-snapshots <on|off>',
      'name its 64 newest snapshots to NBD clients that list exports',
      onOffArgument
    )
    .option('--read-only <on|off>', 'nobody may change its bytes', onOffArgument)
    .option('--iops <N|off>', 'requests a second that its clients get at most', orOff(count))
    .option('--iops-burst <N|off>', 'and at once after it was idle', orOff(count))
    .option('--bandwidth <SIZE|off>', 'bytes a second, like 100MiB', orOff(sizeArgument))
    .option('--description <text>', 'a note for people')
    .option('--label <KEY=VALUE>', 'a label; without a value it goes. Repeatable', labelArgument)
    .action(
      action<[string], SetOptions>(async ({ api, output }, [name], options) => {
        const volume = await api.changeVolume(name, changeOf(options))
        output.result(volume, () => volumeFacts(volume, output))
      })
    )
  withExamples(
    command,
    'torus volume set demo --unavailable error:60s',
    'torus volume set demo --allow 10.0.0.0/8,unix --allow-tls-name backup --nbd-read-only on',
    'torus volume set demo --iops 2000 --iops-burst 5000 --bandwidth 100MiB',
    'torus volume set demo --read-only on --label owner=ann --label old='
  )
}

/** @throws UsageError when there is nothing to change */
function changeOf(options: SetOptions): Parameters<ApiClient['changeVolume']>[1] {
  const { unavailable, readOnly, description, label } = options
  const { iops, iopsBurst, bandwidth, nbdListSnapshots } = options
  const given = Object.entries(withoutUndefined({ iops, iopsBurst, bandwidth }))
  const limits = Object.fromEntries(given.map(([name, value]) => [name, value || null]))
  const access = {
    ...givenAccess(options),
    ...(nbdListSnapshots === undefined ? {} : { listSnapshots: nbdListSnapshots })
  }
  const change = {
    ...unavailable,
    ...(Object.keys(access).length > 0 ? { access } : {}),
    ...(Object.keys(limits).length > 0 ? { limits } : {}),
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(description === undefined ? {} : { description }),
    ...(label === undefined ? {} : { labels: label })
  }
  if (Object.keys(change).length === 0) throw new UsageError('nothing to set was given')
  return change
}
