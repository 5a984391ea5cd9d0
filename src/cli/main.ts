#!/usr/bin/env node
/** `torus …`. Exit codes: 0 done, 1 failed, 2 wrong usage. */
import { CommanderError } from 'commander'
import { errorCodeName, StoreError } from '../core/errors.ts'
import { complete } from './completion.ts'
import { CommandError, commanderText, UsageError } from './errors.ts'
import { buildProgram } from './program.ts'

const EXIT_FAILED = 1
const EXIT_USAGE = 2

/** Syncs run in this pool: a slow one of a shard must not make those of others wait. */
process.env['UV_THREADPOOL_SIZE'] ??= '16'

async function main(words: readonly string[]): Promise<number> {
  if (words[0] === '__complete') {
    const typed = words.slice(words[1] === '--' ? 2 : 1)
    const lines = await complete(await buildProgram(typed.slice(0, -1)), typed)
    process.stdout.write(lines.map((line) => `${line}\n`).join(''))
    return 0
  }
  const program = await buildProgram(words)
  try {
    await program.parseAsync(words, { from: 'user' })
    return 0
  } catch (error) {
    return tell(error, words.includes('--json'))
  }
}

/** Says what went wrong, for a person or a program, and returns the exit code. */
function tell(error: unknown, json: boolean): number {
  // Commander throws after --help and --version too, and says in words itself what is wrong.
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0
    if (!json || error.code === 'commander.help') return EXIT_USAGE
  }
  const { code, message, exitCode } = describe(error)
  const text = json ? JSON.stringify({ error: { code, message } }) : `torus: ${message}`
  process.stderr.write(`${text}\n`)
  return exitCode
}

function describe(error: unknown): { code: string; message: string; exitCode: number } {
  if (error instanceof UsageError || error instanceof CommanderError) {
    return { code: 'InvalidArgument', message: commanderText(error.message), exitCode: EXIT_USAGE }
  }
  if (error instanceof CommandError) {
    // A value that the server does not take is as wrong as one that we do not take.
    const exitCode = error.code === 'InvalidArgument' ? EXIT_USAGE : EXIT_FAILED
    return { code: error.code, message: error.message, exitCode }
  }
  if (error instanceof StoreError) {
    return { code: errorCodeName(error.code), message: error.message, exitCode: EXIT_FAILED }
  }
  const stack = error instanceof Error ? error.stack : undefined
  return { code: 'Internal', message: stack ?? String(error), exitCode: EXIT_FAILED }
}

// `torus volume list | head -1` closes the pipe: that is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

process.exitCode = await main(process.argv.slice(2))
