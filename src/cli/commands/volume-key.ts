import { existsSync } from 'node:fs'
import { open, rename, writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import type { ExportedKeys, KeySlotAnswer, KeySlotList } from '../../admin/key-schemas.ts'
import { formatSize, plural } from '../../core/units.ts'
import type { ApiClient } from '../api-client.ts'
import { countArgument } from '../arguments.ts'
import { action, withExamples } from '../context.ts'
import { CommandError } from '../errors.ts'
import { partName } from '../export-sinks.ts'
import { addSecretOptions, type SecretOptions, secretOf } from '../secrets.ts'

const volumeArgument = 'name of an encrypted volume'

/** unlock, lock, and what is done to key slots. */
export function addVolumeKeyCommands(volume: Command): void {
  addUnlock(volume)
  addLock(volume)
  addRekey(volume)
  const key = volume.command('key').description('who can open an encrypted volume: its key slots')
  withExamples(key, 'torus volume key list secret', 'torus volume key add secret')
  addKeyList(key)
  addKeyAdd(key)
  addKeyRotate(key)
  addKeyRevoke(key)
  addKeyExport(key)
  addKeyImport(key)
}

function addUnlock(parent: Command): void {
  const command = parent
    .command('unlock')
    .description('let this peer serve an encrypted volume; the key is kept in memory only')
    .argument('<volume>', volumeArgument)
    .option('--slot <N>', 'try this key slot only', countArgument)
    .action(
      action<[string], SecretOptions & { slot?: number }>(
        async ({ api, output }, [name], { slot, ...options }) => {
          const secret = await secretOf(options, { what: `passphrase of ${name}` })
          const opened = await api.unlockVolume(
            name,
            slot === undefined ? secret : { ...secret, slot }
          )
          output.result(opened, () => `unlocked ${name} with key slot ${opened.id}`)
        }
      )
    )
  addSecretOptions(command)
  withExamples(command, 'torus volume unlock secret --key-file /media/usb/secret.key')
}

function addLock(parent: Command): void {
  const command = parent
    .command('lock')
    .description('disconnect the clients of an encrypted volume and forget its keys on this peer')
    .argument('<volume>', volumeArgument)
    .action(
      action<[string], object>(async ({ api, output, confirm }, [name]) => {
        const { clients } = await api.volume(name)
        if (clients > 0)
          await confirm(`${plural(clients, 'client')} of volume ${name} will be cut off.`)
        await api.lockVolume(name)
        output.result({ locked: name }, () => `locked ${name}`)
      })
    )
  withExamples(command, 'torus volume lock secret')
}

function addRekey(parent: Command): void {
  const command = parent
    .command('rekey')
    .description('put all blocks under a new data key, in the background; key slots stay')
    .argument('<volume>', volumeArgument)
    .option('--status', 'tell how far it is')
    .action(
      action<[string], { status?: boolean }>(async ({ api, output }, [name], { status }) => {
        if (status !== true) await api.rekeyVolume(name)
        const { rekey } = await api.keySlots(name)
        output.result({ rekey }, () =>
          rekey === null ? `${name}: no rekey goes on` : textOf(name, rekey)
        )
      })
    )
  withExamples(command, 'torus volume rekey secret', 'torus volume rekey secret --status')
}

function textOf(name: string, rekey: NonNullable<KeySlotList['rekey']>): string {
  const { doneBytes, totalBytes, startedAt, running } = rekey
  const done = `${formatSize(doneBytes)} of ${formatSize(totalBytes)}`
  const where = running ? '' : '; not on this peer, or it waits for the volume'
  return `${name}: ${done} under the new key, since ${startedAt}${where}`
}

function addKeyList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('key slots of a volume')
    .argument('<volume>', volumeArgument)
    .action(
      action<[string], object>(async ({ api, output }, [name]) => {
        const { unlocked, slots, rekey } = await api.keySlots(name)
        output.result({ unlocked, slots, rekey }, () => {
          const rows = slots.map(({ id, kind, label, createdAt, kdf }) => [
            String(id),
            kind,
            label,
            createdAt.slice(0, 16).replace('T', ' '),
            kdf
          ])
          const table = output.table(['SLOT', 'KIND', 'LABEL', 'CREATED', 'DERIVATION'], rows, 'r')
          return `${table}\n${name} is ${unlocked ? 'unlocked' : 'locked'} on this peer`
        })
      })
    )
  withExamples(command, 'torus volume key list secret')
}

type SlotOptions = SecretOptions & { label: string }

const withNewSlot = (command: Command): Command =>
  addSecretOptions(addSecretOptions(command), 'new-').option('--label <text>', 'a note', '')

async function slotChange(name: string, options: SlotOptions) {
  const credential = await secretOf(options, { what: `passphrase of ${name}` })
  const asked = { what: `new passphrase of ${name}`, prefix: 'new-', repeat: true } as const
  const slot = { ...(await secretOf(options, asked)), label: options.label }
  return { credential, slot }
}

const slotText = ({ id, kind }: KeySlotAnswer): string => `key slot ${id} (${kind})`

function addKeyAdd(parent: Command): void {
  const command = parent
    .command('add')
    .description('add a key slot; no data is rewritten')
    .argument('<volume>', volumeArgument)
    .action(
      action<[string], SlotOptions>(async ({ api, output }, [name], options) => {
        const slot = await api.addKeySlot(name, await slotChange(name, options))
        output.result(slot, () => `added ${slotText(slot)} to ${name}`)
      })
    )
  withNewSlot(command)
  withExamples(command, 'torus volume key add secret --key-file old.key --new-key-file new.key')
}

function addKeyRotate(parent: Command): void {
  const command = parent
    .command('rotate')
    .description('put a new key slot in place of the one that is opened; no data is rewritten')
    .argument('<volume>', volumeArgument)
    .action(
      action<[string], SlotOptions>(async ({ api, output }, [name], options) => {
        const slot = await api.rotateKeySlot(name, await slotChange(name, options))
        output.result(slot, () => `${name} has ${slotText(slot)} in place of the one before`)
      })
    )
  withNewSlot(command)
  withExamples(command, 'torus volume key rotate secret')
}

function addKeyRevoke(parent: Command): void {
  const command = parent
    .command('revoke')
    .description('remove a key slot; who copied the data key while it was open still has that')
    .argument('<volume>', volumeArgument)
    .argument('<slot>', 'its number', countArgument)
    .action(
      action<[string, number], object>(async ({ api, output, confirm }, [name, slot]) => {
        await confirm(`The secret of key slot ${slot} opens volume ${name} no more.`)
        await api.revokeKeySlot(name, slot)
        output.result({ revoked: slot }, () => `revoked key slot ${slot} of ${name}`)
      })
    )
  withExamples(command, 'torus volume key revoke secret 2')
}

function addKeyExport(parent: Command): void {
  const command = parent
    .command('export')
    .description('save key slots apart from the metadata; useless without a secret of one')
    .argument('<volume>', volumeArgument)
    .argument('<file>', 'where to, "-" for standard output')
    .action(
      action<[string, string], object>(async ({ api, output, confirm }, [name, file]) => {
        if (existsSync(file)) await confirm(`File ${file} is there and will be replaced.`)
        const text = `${JSON.stringify(await api.exportKeys(name), null, 2)}\n`
        if (file === '-') return output.write(text)
        await writeFile(partName(file), text, { mode: 0o600, flush: true })
        await rename(partName(file), file)
        output.result({ file }, () => `wrote the key slots of ${name} to ${file}`)
      })
    )
  withExamples(command, 'torus volume key export secret secret-keys.json')
}

function addKeyImport(parent: Command): void {
  const command = parent
    .command('import')
    .description('put exported key slots in place of those that are there')
    .argument('<volume>', volumeArgument)
    .argument('<file>', 'from where')
    .action(
      action<[string, string], object>(async ({ api, output, confirm }, [name, file]) => {
        const keys = await exportedIn(file)
        await confirm(await replacedText(api, name, keys))
        await api.importKeys(name, keys)
        output.result({ imported: name }, () => `${name} has the key slots of ${file}`)
      })
    )
  withExamples(command, 'torus volume key import secret secret-keys.json')
}

/** Which slots go, and which come: a revoked one comes back with an export from before. */
async function replacedText(api: ApiClient, name: string, keys: Exported): Promise<string> {
  const present = await api.keySlots(name).then(
    ({ slots }) => slots.map(({ id }) => id),
    (): number[] => []
  )
  const next = Array.isArray(keys.slots) ? keys.slots.map(({ id }: { id: number }) => id) : []
  const text = `Key slots ${next.join(', ') || 'of the file'} take the place of the present ones`
  const back = next.filter((id) => !present.includes(id))
  const end = back.length === 0 ? '' : `. Slots ${back.join(', ')} open it again`
  return `${text} of volume ${name}${present.length === 0 ? '' : `, ${present.join(', ')}`}${end}.`
}

type Exported = ExportedKeys & { slots?: readonly { readonly id: number }[] }

async function exportedIn(file: string): Promise<Exported> {
  try {
    const keys: unknown = JSON.parse(await readSmall(file))
    if (typeof keys === 'object' && keys !== null) return keys as Exported
    throw new Error('it has no object')
  } catch (cause) {
    const text = `${file} cannot be read as exported keys: ${(cause as Error).message}`
    throw new CommandError('InvalidArgument', text, { cause })
  }
}

/** Far more than the slots of any volume take. */
const EXPORTED_BYTES_MAX = 2 ** 20

async function readSmall(file: string): Promise<string> {
  const handle = await open(file)
  try {
    const bytes = Buffer.alloc(EXPORTED_BYTES_MAX + 1)
    let length = 0
    for (let read = -1; read !== 0 && length < bytes.length; length += read) {
      read = (await handle.read(bytes, length, bytes.length - length, null)).bytesRead
    }
    if (length <= EXPORTED_BYTES_MAX) return bytes.toString('utf8', 0, length)
  } finally {
    await handle.close()
  }
  throw new Error(`it has more than ${formatSize(EXPORTED_BYTES_MAX)}`)
}
