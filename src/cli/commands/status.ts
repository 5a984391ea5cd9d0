import type { Command } from 'commander'
import { action, withExamples } from '../context.ts'
import { statusText } from '../status-text.ts'

export function addStatusCommands(program: Command): void {
  const status = program
    .command('status')
    .description('health, space and shards of the peer')
    .action(
      action(async ({ api, output }) => {
        const answer = await api.status()
        output.result(answer, () => statusText(answer, output))
      })
    )
  withExamples(status, 'torus status', 'torus status --json | jq .health')
}
