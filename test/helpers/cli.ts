/** The command line as a process of its own: what it prints, how it ends. */
import { join } from 'node:path'
import { repositoryRoot } from '../../scripts/repository.ts'
import { type CommandResult, run } from './process.ts'

export const cliProgram = join(repositoryRoot, 'dist/src/cli/main.js')

/** No peer listens there: a test that forgets --admin must not find a developer's own peer. */
const NOBODY = 'http://127.0.0.1:1'

export type Cli = (
  args: readonly string[],
  env?: Readonly<Record<string, string>>
) => Promise<CommandResult>

/** Runs `torus ARGS…` before the peer at `admin`; '' for none. */
export const cliFor =
  (admin: string): Cli =>
  (args, env = {}) =>
    run(process.execPath, [cliProgram, ...args], {
      timeoutMs: 60_000,
      env: { TORUS_ADMIN: admin === '' ? NOBODY : admin, ...env }
    })

/**
 * The same on a terminal, by `script` of util-linux. What it prints comes back together, with the
 * terminal's line ends made plain; `input` is typed before it asks.
 */
export async function runOnTerminal(
  admin: string,
  args: readonly string[],
  options: { input?: string; env?: Readonly<Record<string, string>> } = {}
): Promise<{ code: number; output: string }> {
  const command = [process.execPath, cliProgram, ...args].map((word) => `'${word}'`).join(' ')
  const result = await run('script', ['-qec', command, '/dev/null'], {
    timeoutMs: 60_000,
    input: options.input ?? '',
    env: { TORUS_ADMIN: admin, TERM: 'xterm', NO_COLOR: '', ...options.env }
  })
  return { code: result.code, output: result.stdout.replaceAll('\r\n', '\n') }
}
