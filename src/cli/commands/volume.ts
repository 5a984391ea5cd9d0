import type { Command } from 'commander'
import { formatDurationExact, formatSize } from '../../core/units.ts'
import type { Volume } from '../api-client.ts'
import { listArgument, onOffArgument, sizeArgument, unavailableArgument } from '../arguments.ts'
import { action, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import type { Output } from '../output.ts'
import { programName } from '../programs.ts'
import {
  addSecretOptions,
  hasSecretOption,
  type SecretBody,
  type SecretOptions,
  secretOf
} from '../secrets.ts'
import { addVolumeKeyCommands } from './volume-key.ts'

export function addVolumeCommands(program: Command): void {
  const volume = program.command('volume').description('create and manage volumes')
  withExamples(volume, 'torus volume create demo 10GiB', 'torus volume list')
  addCreate(volume)
  addList(volume)
  addShow(volume)
  addRename(volume)
  addResize(volume)
  addSet(volume)
  addTake(volume)
  addVolumeKeyCommands(volume)
  addDelete(volume)
}

function addCreate(parent: Command): void {
  const command = parent
    .command('create')
    .description('create a thin volume; it takes space as it is written')
    .argument('<name>', 'letters, digits, ".", "_" and "-"')
    .argument('<size>', 'like 512MiB or 2TiB, a multiple of 4096 bytes', sizeArgument)
    .option('--description <text>', 'a note for people')
    .option('--type <type>', 'volume type', 'block')
    .option('--pool <pool>', 'pool that has its blocks', 'default')
    .option('--encrypt', 'seal its blocks, under a key that a passphrase or the like opens')
    .action(
      action<[string, number], CreateOptions>(
        async ({ api, output }, [name, sizeBytes], { description = '', type, pool, ...rest }) => {
          const encrypt = await slotFor(name, rest)
          const made = { name, sizeBytes, description, type, pool }
          const volume = await api.createVolume(encrypt === null ? made : { ...made, encrypt })
          const how = encrypt === null ? '' : ', encrypted and unlocked on this peer'
          const size = formatSize(volume.sizeBytes)
          output.result(volume, () => `created ${volume.name}, ${size}${how}`)
        }
      )
    )
  addSecretOptions(command)
  withExamples(
    command,
    'torus volume create demo 10GiB',
    'torus volume create secret 10GiB --encrypt'
  )
}

type CreateOptions = SecretOptions & {
  description?: string
  type: string
  pool: string
  encrypt?: boolean
}

/** The first key slot of a volume that is to be encrypted. */
async function slotFor(
  name: string,
  { encrypt, ...options }: SecretOptions & { encrypt?: boolean }
): Promise<(SecretBody & { label: string }) | null> {
  if (encrypt === true) {
    const secret = await secretOf(options, { what: `passphrase for ${name}`, repeat: true })
    return { ...secret, label: '' }
  }
  if (!hasSecretOption(options)) return null
  throw new UsageError('a passphrase, key file or key command is for --encrypt: give that too')
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('all volumes')
    .action(
      action(async ({ api, output }) => {
        const volumes = await api.volumes()
        output.result(volumes, () =>
          volumes.length === 0
            ? `no volumes yet: ${programName()} volume create NAME SIZE`
            : output.table(
                ['NAME', 'SIZE', 'USED', 'CLIENTS', 'TYPE', 'CREATED', 'DESCRIPTION'],
                volumes.map(rowOf),
                'lrrrlll'
              )
        )
      })
    )
  withExamples(command, 'torus volume list', "torus volume list --json | jq -r '.[].name'")
}

const rowOf = (volume: Volume): string[] => [
  volume.name,
  formatSize(volume.sizeBytes),
  volume.usedBytes === null ? '-' : formatSize(volume.usedBytes),
  String(volume.clients),
  volume.type,
  volume.createdAt.slice(0, 16).replace('T', ' '),
  volume.description
]

function addShow(parent: Command): void {
  const command = parent
    .command('show')
    .description('one volume')
    .argument('<volume>', 'its name')
    .action(
      action<[string], object>(async ({ api, output }, [name]) => {
        const volume = await api.volume(name)
        output.result(volume, () => factsOf(volume, output))
      })
    )
  withExamples(command, 'torus volume show demo')
}

/** Not known while a shard is not serving. */
const usedFact = ({ usedBytes }: Volume): [string, string][] =>
  usedBytes === null ? [] : [['used', formatSize(usedBytes)]]

/** As `volume set --unavailable` takes it. */
const unavailableText = ({ unavailableMs }: Volume): string =>
  unavailableMs === null ? 'wait' : `error:${formatDurationExact(unavailableMs)}`

/** Who may open it, as `volume set` takes it. */
function accessText({ access: { addresses, tlsNames, readOnly } }: Volume): string {
  const names = tlsNames.length > 0 ? `, with a certificate or key of ${tlsNames.join(',')}` : ''
  return `${addresses.join(',') || 'any address'}${names}${readOnly ? ', read-only' : ''}`
}

const factsOf = (volume: Volume, output: Output): string =>
  output.facts([
    ['name', volume.name],
    ['type', volume.type],
    ['pool', volume.pool],
    ['size', `${formatSize(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    ...usedFact(volume),
    ['read-only', volume.readOnly ? 'yes' : 'no'],
    ['unavailable', unavailableText(volume)],
    ['NBD', accessText(volume)],
    ['encryption', volume.encryption ?? 'none'],
    ['clients', String(volume.clients)],
    ['created', volume.createdAt],
    ['family', volume.family],
    ...(volume.description === '' ? [] : [['description', volume.description] as const])
  ])

function addRename(parent: Command): void {
  const command = parent
    .command('rename')
    .description('give a volume another name; clients that have it open keep it')
    .argument('<volume>', 'its name')
    .argument('<new-name>', 'the new one')
    .action(
      action<[string, string], object>(async ({ api, output }, [name, newName]) => {
        const volume = await api.renameVolume(name, newName)
        output.result(volume, () => `renamed ${name} to ${volume.name}`)
      })
    )
  withExamples(command, 'torus volume rename demo photos')
}

function addResize(parent: Command): void {
  const command = parent
    .command('resize')
    .description('give a volume another size; a smaller one loses what lies behind its new end')
    .argument('<volume>', 'its name')
    .argument('<size>', 'the new size', sizeArgument)
    .option('--shrink', 'a smaller size is meant: do not ask')
    .action(
      action<[string, number], { shrink?: boolean }>(
        async ({ api, output, confirm }, [name, sizeBytes], options) => {
          const before = await api.volume(name)
          const smaller = sizeBytes < before.sizeBytes
          if (smaller && options.shrink !== true) {
            const lost = formatSize(before.sizeBytes - sizeBytes)
            await confirm(`Volume ${name} loses its last ${lost} and all data there.`)
          }
          const volume = await api.resizeVolume(name, sizeBytes, smaller)
          output.result(
            volume,
            () => `resized ${name} from ${formatSize(before.sizeBytes)} to ${formatSize(sizeBytes)}`
          )
        }
      )
    )
  withExamples(command, 'torus volume resize demo 20GiB', 'torus volume resize demo 1GiB --shrink')
}

interface SetOptions {
  readonly unavailable?: ReturnType<typeof unavailableArgument>
  readonly allow?: string[]
  readonly allowTlsName?: string[]
  readonly nbdReadOnly?: boolean
}

function addSet(parent: Command): void {
  const command = parent
    .command('set')
    .description('change a volume while it is in use; its clients see it at once')
    .argument('<volume>', 'its name')
    .option(
      '--unavailable <wait|error:TIME>',
      'what requests do while too few members are up: wait for them, or fail after a time',
      unavailableArgument
    )
    .option(
      '--allow <ADDRESS[/BITS],…>',
      'who may open it over NBD: addresses, networks, "unix" for unix sockets; or any',
      listArgument('any')
    )
    .option(
      '--allow-tls-name <NAME,…>',
      'and with which names in client certificates, or shared keys; or any',
      listArgument('any')
    )
    .option('--nbd-read-only <on|off>', 'NBD clients get it read-only', onOffArgument)
    .action(
      action<[string], SetOptions>(async ({ api, output }, [name], options) => {
        const { unavailable, allow, allowTlsName, nbdReadOnly } = options
        const access = {
          ...(allow === undefined ? {} : { addresses: allow }),
          ...(allowTlsName === undefined ? {} : { tlsNames: allowTlsName }),
          ...(nbdReadOnly === undefined ? {} : { readOnly: nbdReadOnly })
        }
        const rules = Object.keys(access).length > 0 ? { access } : {}
        const change = { ...unavailable, ...rules }
        if (Object.keys(change).length === 0) throw new UsageError('nothing to set was given')
        const volume = await api.changeVolume(name, change)
        output.result(volume, () => factsOf(volume, output))
      })
    )
  withExamples(
    command,
    'torus volume set demo --unavailable error:60s',
    'torus volume set demo --unavailable wait',
    'torus volume set demo --allow 10.0.0.0/8,unix --allow-tls-name backup --nbd-read-only on'
  )
}

function addTake(parent: Command): void {
  const command = parent
    .command('take')
    .description('move a volume to the peer that is asked, so that clients can attach there')
    .argument('<volume>', 'its name')
    .option('--takeover', 'even if another peer serves it now: its clients there are dropped')
    .action(
      action<[string], { takeover?: boolean }>(
        async ({ api, output, confirm }, [name], { takeover = false }) => {
          if (takeover) await confirm(`Clients of volume ${name} on other peers are dropped.`)
          const volume = await api.takeVolume(name, takeover)
          output.result(volume, () => `${name} is served here now`)
        }
      )
    )
  withExamples(command, 'torus volume take demo --takeover --admin http://127.0.0.1:4322')
}

function addDelete(parent: Command): void {
  const command = parent
    .command('delete')
    .alias('rm')
    .description('delete a volume and all its data')
    .argument('<volume>', 'its name')
    .option('--force', 'disconnect its clients first')
    .action(
      action<[string], { force?: boolean }>(
        async ({ api, output, confirm }, [name], { force = false }) => {
          const volume = await api.volume(name)
          if (volume.clients > 0 && !force) {
            const message = `volume ${name} has ${volume.clients} clients`
            const see = `see "${programName()} client list"`
            throw new CommandError('Busy', `${message}, ${see}; --force disconnects them`)
          }
          await confirm(`Volume ${name} (${formatSize(volume.sizeBytes)}) and all its data go.`)
          await api.deleteVolume(name, force)
          output.result({ deleted: name }, () => `deleted ${name}`)
        }
      )
    )
  withExamples(command, 'torus volume delete demo', 'torus volume delete demo --force --yes')
}
