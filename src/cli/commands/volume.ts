import { type AccessOptions, addAccessOptions, givenAccess } from '../access-options.ts'
import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import type { Volume } from '../api-client.ts'
import { sizeArgument } from '../arguments.ts'
import { action, withExamples } from '../context.ts'
import { programName } from '../programs.ts'
import { addSecretOptions, type SecretOptions, slotFor } from '../secrets.ts'
import { spaceOf, volumeSpaceFacts } from '../space-text.ts'
import { volumeFacts } from '../volume-text.ts'
import { addExport } from './export.ts'
import { addImport } from './import.ts'
import { addDiff } from './volume-diff.ts'
import { addChildren, addClone, addFlatten } from './volume-clone.ts'
import { addEvents } from './volume-events.ts'
import { addResize, addSet } from './volume-set.ts'
import { addDelete, addTrash } from './volume-trash.ts'
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
  addClone(volume)
  addFlatten(volume)
  addChildren(volume)
  addEvents(volume)
  addDiff(volume)
  addExport(volume)
  addImport(volume)
  addVolumeKeyCommands(volume)
  addDelete(volume)
  addTrash(volume)
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
          const access = givenAccess(rest)
          const isRuled = Object.keys(access).length > 0
          const what = { name, sizeBytes, description, type, pool }
          const made = isRuled ? { ...what, access } : what
          const volume = await api.createVolume(encrypt === null ? made : { ...made, encrypt })
          const how = encrypt === null ? '' : ', encrypted and unlocked on this peer'
          const size = formatSize(volume.sizeBytes)
          output.result(volume, () => `created ${volume.name}, ${size}${how}`)
        }
      )
    )
  addAccessOptions(command)
  addSecretOptions(command)
  withExamples(
    command,
    'torus volume create demo 10GiB',
    'torus volume create secret 10GiB --encrypt'
  )
}

type CreateOptions = SecretOptions &
  AccessOptions & {
    description?: string
    type: string
    pool: string
    encrypt?: boolean
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
        const space = await spaceOf(api, name)
        output.result({ ...volume, space }, () =>
          volumeFacts(volume, output, volumeSpaceFacts(space))
        )
      })
    )
  withExamples(command, 'torus volume show demo')
}

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
