import type { Command } from 'commander'
import { action, withExamples } from '../context.ts'
import { peerText, statusText } from '../status-text.ts'

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

  const peer = program.command('peer').description('the storage server itself')
  withExamples(peer, 'torus peer show')
  const show = peer
    .command('show')
    .description('identity, addresses and capacity')
    .action(
      action(async ({ api, output }) => {
        const answer = await api.peer()
        output.result(answer, () => peerText(answer, output))
      })
    )
  withExamples(show, 'torus peer show', 'torus peer show --admin unix:/var/lib/torus/admin.sock')
}
