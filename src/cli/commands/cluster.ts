import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { clusterText } from '../cluster-text.ts'
import { action, withExamples } from '../context.ts'

const WATCH_MS = 1000

export function addClusterCommands(program: Command): void {
  const cluster = program.command('cluster').description('all peers together')
  withExamples(cluster, 'torus cluster status', 'torus cluster status --watch')
  const status = cluster
    .command('status')
    .description('health in words and what to do about it, pools, peers, running resyncs')
    .option('--watch', 'show it again every second until Ctrl-C')
    .action(
      action<[], { watch?: boolean }>(async ({ api, output }, _, { watch = false }) => {
        for (;;) {
          const answer = await api.clusterStatus()
          if (watch && output.isTerminal && !output.json) output.write('\u001b[2J\u001b[H')
          output.result(answer, () => clusterText(answer, output))
          if (!watch) return
          await sleep(WATCH_MS)
        }
      })
    )
  withExamples(status, 'torus cluster status', 'torus cluster status --json | jq .problems')
}
