import type { Command } from 'commander'
import { environmentNameOf, optionInfo, optionKeys } from '../core/option-info.ts'
import type { Config, OptionKey } from '../core/options.ts'
import { UsageError, usageErrors } from './errors.ts'

/** Adds a flag for every option of the configuration, and --config. */
export function addServeOptions(command: Command): Command {
  addOptions(command, optionKeys)
  return command.option('--config <FILE>', 'YAML file with the same options, without the dashes')
}

/** Adds a flag for each of `keys`. */
export function addOptions(command: Command, keys: readonly OptionKey[]): Command {
  for (const key of keys) {
    const { name, argument, list } = optionInfo[key]
    const flags = argument === '' ? `--${name}` : `--${name} <${argument}>`
    if (list === true) command.option(flags, helpOf(key), appended)
    else command.option(flags, helpOf(key))
  }
  return command
}

const helpOf = (key: OptionKey): string => {
  const { help, usual, list } = optionInfo[key]
  const often = list === true ? '; may be repeated' : ''
  return `${help}${often}${usual === '' ? '' : ` (default: ${usual})`}`
}

const appended = (value: string, before: string[] | undefined): string[] => [
  ...(before ?? []),
  value
]

/** What `addServeOptions` read, by option key. */
export function flagsOf(options: Readonly<Record<string, unknown>>): {
  flags: Partial<Record<OptionKey, unknown>>
  file: string | null
} {
  const flags: Partial<Record<OptionKey, unknown>> = {}
  for (const key of optionKeys) {
    const value = options[attributeOf(optionInfo[key].name)]
    if (value !== undefined) flags[key] = value
  }
  const file = options['config'] ?? (process.env['TORUS_CONFIG'] || null)
  return { flags, file: file as string | null }
}

/** As commander stores it: 'data-dir' -> 'dataDir'. */
const attributeOf = (name: string): string =>
  name.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase())

export const configurationHelp = (): string =>
  `\nEvery option may also stand in the file given by --config or TORUS_CONFIG (data-dir: D),\n` +
  `or in the environment (${environmentNameOf('dataDir')}=D). A flag wins over the environment,\n` +
  `and that over the file. "torus config show" tells what holds and where it came from.`

/** What tells where etcd is, for commands that need no peer. */
export const etcdKeys: readonly OptionKey[] = [
  'etcd',
  'etcdPrefix',
  'etcdCa',
  'etcdCert',
  'etcdKey',
  'etcdUser',
  'etcdPasswordFile'
]

/** The options of etcd, checked as `serve` checks them. @throws UsageError */
export async function etcdConfig(options: object): Promise<Config> {
  const { resolveConfig } = await import('../core/config.ts')
  const { flags } = flagsOf(options as Record<string, unknown>)
  if (flags.etcd === undefined) throw new UsageError('say which etcd: --etcd URL[,URL]')
  // Nothing of the directory is used; the options that follow from it must not matter.
  const given = { ...flags, dataDir: '.', adminSocket: 'off' }
  return usageErrors(() => resolveConfig({ flags: given, env: {}, file: null }).config)
}
