/** Secrets of encrypted volumes on the command line: from a file, a command, or a person. */
import type { Command } from 'commander'
import { type SecretKind, SECRET_BYTES_MAX } from '../seal/key-slots.ts'
import { wipe } from '../seal/secret.ts'
import { readSecret } from '../seal/secret-source.ts'
import { CommandError, UsageError } from './errors.ts'

/** A secret as the admin API takes it. */
export interface SecretBody {
  readonly kind: SecretKind
  /** Base64. */
  readonly secret: string
}

export type SecretOptions = Readonly<Record<string, unknown>>

interface Flag {
  readonly flag: string
  readonly argument: string
  readonly kind: SecretKind
  readonly help: string
}

const flags: readonly Flag[] = [
  {
    flag: 'passphrase-file',
    argument: 'FILE',
    kind: 'passphrase',
    help: 'passphrase in this file; without any of these it is asked for'
  },
  {
    flag: 'key-file',
    argument: 'FILE',
    kind: 'key-file',
    help: '32 random bytes or more, as "head -c 32 /dev/urandom" makes them'
  },
  {
    flag: 'key-command',
    argument: 'COMMAND',
    kind: 'command',
    help: 'what this command prints, like "vault kv get -field=key secret/torus"'
  }
]

/** Adds `--passphrase-file` and its like, or `--new-passphrase-file` with a prefix. */
export function addSecretOptions(command: Command, prefix: '' | 'new-' = ''): Command {
  for (const { flag, argument, help } of flags) {
    command.option(`--${prefix}${flag} <${argument}>`, prefix === '' ? help : `the same, new`)
  }
  return command
}

export const hasSecretOption = (options: SecretOptions): boolean =>
  flags.some(({ flag }) => options[attributeOf('', flag)] !== undefined)

/**
 * The secret that the options name, or that a person types, twice if `repeat`.
 * @throws UsageError, CommandError
 */
export async function secretOf(
  options: SecretOptions,
  asked: { readonly what: string; readonly prefix?: '' | 'new-'; readonly repeat?: boolean }
): Promise<SecretBody> {
  const { prefix = '' } = asked
  const given = flags.filter(({ flag }) => options[attributeOf(prefix, flag)] !== undefined)
  if (given.length > 1) {
    const names = given.map(({ flag }) => `--${prefix}${flag}`).join(' and ')
    throw new UsageError(`${names} name two secrets: give one of them`)
  }
  const [flag] = given
  if (flag === undefined) {
    return { kind: 'passphrase', secret: await typed(asked.what, prefix, asked.repeat === true) }
  }
  const secret = await readSecret(flag.kind, String(options[attributeOf(prefix, flag.flag)]))
  return { kind: flag.kind, secret: encoded(secret) }
}

async function typed(what: string, prefix: string, repeat: boolean): Promise<string> {
  if (process.stdin.isTTY !== true || process.stderr.isTTY !== true) {
    const names = flags.map(({ flag }) => `--${prefix}${flag}`).join(', ')
    throw new UsageError(`there is no terminal to ask for the ${what} on: give one of ${names}`)
  }
  const first = await typedOnce(`${what}: `)
  if (repeat) {
    const second = await typedOnce(`${what}, again: `)
    const same = first.equals(second)
    wipe(second)
    if (!same) {
      wipe(first)
      throw new CommandError('InvalidArgument', 'the two are not the same: nothing was changed')
    }
  }
  return encoded(first)
}

/** Reads a line that is not shown. */
async function typedOnce(prompt: string): Promise<Buffer> {
  const { stdin, stderr } = process
  const line = Buffer.alloc(SECRET_BYTES_MAX)
  let length = 0
  stderr.write(prompt)
  stdin.setRawMode(true)
  stdin.resume()
  try {
    await new Promise<void>((resolve, reject) => {
      stdin.on('data', (bytes: Buffer) => {
        for (const byte of bytes) {
          if (byte === 0x0d || byte === 0x0a || byte === 0x04) resolve()
          else if (byte === 0x03) reject(new CommandError('Cancelled', 'nothing was changed'))
          else if (byte === 0x7f || byte === 0x08) length = Math.max(0, length - 1)
          else if (length < line.length) line[length++] = byte
        }
        bytes.fill(0)
      })
    })
    return line.subarray(0, length)
  } finally {
    stdin.removeAllListeners('data')
    stdin.setRawMode(false)
    stdin.pause()
    stderr.write('\n')
  }
}

function encoded(secret: Buffer): string {
  const text = secret.toString('base64')
  wipe(secret)
  return text
}

/** As commander stores it: 'key-file' -> 'keyFile'. */
const attributeOf = (prefix: string, flag: string): string =>
  `${prefix}${flag}`.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase())

/** The first key slot of a volume that is to be encrypted. */
export async function slotFor(
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
