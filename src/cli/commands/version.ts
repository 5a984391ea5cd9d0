import type { Command } from 'commander'
import { version } from '../../core/version.ts'
import { action, withExamples } from '../context.ts'

export function addVersionCommand(program: Command): void {
  const command = program
    .command('version')
    .description('of this program; "torus peer show" tells that of the server')
    .action(
      action<[], object>(async ({ output }) => {
        const value = {
          version,
          node: process.version,
          platform: `${process.platform} ${process.arch}`
        }
        output.result(value, () => `torus ${version} (Node ${value.node}, ${value.platform})`)
      })
    )
  withExamples(command, 'torus version', 'torus version --json')
}
