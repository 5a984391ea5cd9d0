import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { type AdminTlsOptions, ApiClient, adminTlsOptions, DEFAULT_ADMIN } from './api-client.ts'
import { CommandError, UsageError } from './errors.ts'
import { Output } from './output.ts'
import { givenToken, type TokenOptions } from './token.ts'

/** What every command is given beside its own arguments. */
export interface Context {
  readonly output: Output
  readonly api: ApiClient
  /** Asks on a terminal; elsewhere only --yes is a yes. @throws UsageError when it is none */
  confirm(question: string): Promise<void>
}

interface GlobalOptions extends TokenOptions, AdminTlsOptions {
  readonly admin?: string
  readonly json?: boolean
  readonly yes?: boolean
}

function contextOf(options: GlobalOptions): Context {
  const output = new Output({ json: options.json === true })
  let api: ApiClient | null = null
  return {
    output,
    // Made when first used: `torus check` must not fail for a bad TORUS_ADMIN.
    get api() {
      const address = options.admin ?? (process.env['TORUS_ADMIN'] || DEFAULT_ADMIN)
      api ??= new ApiClient(address, () => givenToken(options), adminTlsOptions(options))
      return api
    },
    confirm: (question) => confirm(question, options.yes === true)
  }
}

async function confirm(question: string, yes: boolean): Promise<void> {
  if (yes) return
  if (process.stdin.isTTY !== true || process.stderr.isTTY !== true) {
    throw new UsageError(`${question} There is no terminal to ask on: say --yes to go on`)
  }
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    const answer = await lines.question(`${question} [y/N] `)
    if (/^y(es)?$/i.test(answer.trim())) return
  } finally {
    lines.close()
  }
  throw new CommandError('Cancelled', 'nothing was changed')
}

/** Adapts `handler` to commander: context first, then arguments, then options. */
export const action =
  <Arguments extends unknown[], Options extends object>(
    handler: (context: Context, args: Arguments, options: Options) => Promise<void>
  ) =>
  async (...given: unknown[]): Promise<void> => {
    const command = given.at(-1) as Command
    const options = command.optsWithGlobals<Options & GlobalOptions>()
    await handler(contextOf(options), command.processedArgs as Arguments, options)
  }

/** `--help` of every command ends with how it is used. */
export const withExamples = (command: Command, ...examples: string[]): Command =>
  command.addHelpText('after', `\nExamples:\n${examples.map((line) => `  $ ${line}`).join('\n')}`)
