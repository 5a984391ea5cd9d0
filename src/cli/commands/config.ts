import type { Command } from 'commander'
import { StoreError } from '../../core/errors.ts'
import type { ConfigEntry } from '../api-client.ts'
import { action, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'
import { addServeOptions, flagsOf } from '../serve-options.ts'

export function addConfigCommands(program: Command): void {
  const config = program.command('config').description('effective configuration')
  withExamples(config, 'torus config show')
  const show = addServeOptions(
    config
      .command('show')
      .description('every option, its value and where it came from; of the running peer')
      .option('--local', 'instead of one that would be started here and now with these flags')
  ).action(
    action<[], { local?: boolean; config?: string }>(async (context, _, options) => {
      const { flags, file } = flagsOf({ ...options })
      const local =
        options.local === true || options.config !== undefined || Object.keys(flags).length > 0
      const entries = local ? await localEntries(flags, file) : await context.api.config()
      context.output.result(entries, () =>
        context.output.table(
          ['OPTION', 'VALUE', 'FROM'],
          entries.map((entry) => [entry.name, valueText(entry), entry.source])
        )
      )
    })
  )
  withExamples(
    show,
    'torus config show',
    'torus config show --local --config /etc/torus.yaml',
    `torus config show --json | jq '.[] | select(.source != "default")'`
  )
}

const valueText = ({ value }: ConfigEntry): string => {
  if (value === null || value === undefined) return '-'
  return Array.isArray(value) ? value.join(', ') || '-' : String(value)
}

async function localEntries(
  flags: ReturnType<typeof flagsOf>['flags'],
  file: string | null
): Promise<ConfigEntry[]> {
  const { resolveConfig } = await import('../../core/config.ts')
  const { configEntries } = await import('../../core/config-entries.ts')
  try {
    return configEntries(resolveConfig({ flags, env: process.env, file }))
  } catch (error) {
    if (error instanceof StoreError) throw new UsageError(error.message)
    throw error
  }
}
