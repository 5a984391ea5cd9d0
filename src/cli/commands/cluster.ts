import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import type { Upgrade } from '../../admin/cluster-schemas.ts'
import type { ClusterSettings } from '../api-client.ts'
import { clusterText } from '../cluster-text.ts'
import { action, type Context, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'
import type { Output } from '../output.ts'
import { addAcceptLoss, addRecover } from './recover.ts'
import { addOptions, etcdConfig, etcdKeys } from '../serve-options.ts'

const WATCH_MS = 1000

export function addClusterCommands(program: Command): void {
  const cluster = program.command('cluster').description('all peers together')
  withExamples(cluster, 'torus cluster status', 'torus cluster status --watch')
  addStatus(cluster)
  addInit(cluster)
  addSecret(cluster)
  addSettings(cluster)
  addFinalize(cluster)
  addRecover(cluster)
  addAcceptLoss(cluster)
}

function addStatus(parent: Command): void {
  const status = parent
    .command('status')
    .description('health in words and what to do about it, pools, peers, running resyncs')
    .option('--watch', 'show it every second until Ctrl-C; with --json a line each time')
    .action(
      action<[], { watch?: boolean }>(async ({ api, output }, _, { watch = false }) => {
        if (watch) await watchStatus(api, output)
        else {
          const answer = await api.clusterStatus()
          output.result(answer, () => clusterText(answer, output))
        }
      })
    )
  withExamples(status, 'torus cluster status', 'torus cluster status --json | jq .problems')
}

/** Until Ctrl-C, also while the peer that is asked is not there. With --json a line each time. */
async function watchStatus(api: Context['api'], output: Output): Promise<void> {
  for (;;) {
    let [value, text]: [unknown, string] = [null, '']
    try {
      const answer = await api.clusterStatus()
      ;[value, text] = [answer, clusterText(answer, output)]
    } catch (thrown) {
      if (!(thrown instanceof Error)) throw thrown
      ;[value, text] = [{ error: thrown.message }, output.colors.red(`! ${thrown.message}`)]
    }
    if (output.json) output.write(`${JSON.stringify(value)}\n`)
    else output.write(output.isTerminal ? screenOf(text) : `${text}\n\n`)
    await sleep(WATCH_MS)
  }
}

/** Over what is there, line by line, so that nothing flickers. */
const screenOf = (text: string): string =>
  `\u001b[H${text.replaceAll('\n', '\u001b[K\n')}\u001b[K\n\u001b[J`

function addInit(parent: Command): void {
  const init = parent
    .command('init')
    .description('make a new cluster in etcd; its peers start with --join')
    .option('--cluster-secret-file <FILE>', 'write a new secret there, which every peer needs')
    .action(action<[], object>((context, _, options) => runInit(context, options)))
  addOptions(init, etcdKeys)
  withExamples(
    init,
    'torus cluster init --etcd http://127.0.0.1:2379 --cluster-secret-file secret',
    'torus serve --data-dir D1 --etcd http://127.0.0.1:2379 --cluster-secret-file secret --join'
  )
}

async function runInit({ output }: Context, options: object): Promise<void> {
  const config = await etcdConfig(options)
  const { initCluster, writeSecret } = await import('../../coordinator/join.ts')
  const secretFile = config.clusterSecretFile
  // First, because it can be taken back.
  if (secretFile !== null) writeSecret(secretFile)
  let clusterId: string
  try {
    clusterId = await initCluster(config)
  } catch (thrown) {
    if (secretFile !== null) rmSync(secretFile, { force: true })
    throw thrown
  }
  const prefix = config.etcdPrefix === '/torus' ? '' : ` --etcd-prefix ${config.etcdPrefix}`
  const secret = secretFile === null ? '' : ` --cluster-secret-file ${secretFile}`
  const next = `torus serve --data-dir DIR --etcd ${config.etcd.join(',')}${prefix}${secret} --join`
  output.result({ clusterId, secretFile }, () =>
    [
      `made cluster ${clusterId} below ${config.etcdPrefix}/`,
      secretFile === null
        ? 'peers prove themselves by certificates: no secret was written'
        : `peers prove themselves by ${secretFile}: copy it to each, and to nobody else`,
      '',
      'Each peer:',
      `  ${next}`
    ].join('\n')
  )
}

function addSecret(parent: Command): void {
  const secret = parent
    .command('secret')
    .description(
      'while no peer runs: tell the metadata that all peers have this secret from now on; ' +
        'without one, that they have certificates alone. To change it while they run, give each ' +
        'the new one as a second line of its file, then take the old line away'
    )
    .option('--cluster-secret-file <FILE>', 'the file that every peer is given')
    .action(
      action<[], object>(async ({ output }, _, options) => {
        const config = await etcdConfig(options)
        const { replaceSecret } = await import('../../coordinator/join.ts')
        const clusterId = await replaceSecret(config)
        const { clusterSecretFile: secretFile } = config
        output.result({ clusterId, secretFile }, () =>
          secretFile === null
            ? `peers of cluster ${clusterId} prove themselves by certificates alone`
            : `peers of cluster ${clusterId} prove themselves by ${secretFile}`
        )
      })
    )
  addOptions(secret, etcdKeys)
  withExamples(
    secret,
    'torus cluster secret --etcd http://127.0.0.1:2379 --cluster-secret-file new'
  )
}

function addSettings(parent: Command): void {
  const settings = parent
    .command('settings')
    .description('what holds for all peers: join-policy=open|approve, trash=24h|off')
    .argument('[settings...]', 'KEY=VALUE to change; without any they are shown')
    .action(
      action<[string[]], object>(async ({ api, output }, [words]) => {
        const now =
          words.length === 0
            ? await api.clusterSettings()
            : await api.changeClusterSettings(changeOf(words))
        output.result(now, () => settingsText(now, output))
      })
    )
  withExamples(
    settings,
    'torus cluster settings',
    'torus cluster settings join-policy=approve trash=7d'
  )
}

function addFinalize(parent: Command): void {
  const finalize = parent
    .command('finalize')
    .description(
      'after an upgrade of all peers: switch on what the new version brings. ' +
        'Older versions cannot start any more then'
    )
    .option('--dry-run', 'only tell what it would switch on, or who is behind')
    .action(
      action<[], { dryRun?: boolean }>(async ({ api, output }, _, { dryRun = false }) => {
        const upgrade = await api.finalize(dryRun)
        output.result(upgrade, () => upgradeText(upgrade, dryRun))
      })
    )
  withExamples(finalize, 'torus cluster finalize --dry-run', 'torus cluster finalize')
}

function upgradeText({ level, target, features }: Upgrade, dryRun: boolean): string {
  if (level === target) return `the cluster is at feature level ${level} already`
  const would = dryRun ? 'would raise' : 'raised'
  return `${would} the feature level from ${level} to ${target}: ${features.join(', ')}`
}

/** Names as on the command line, `join-policy`; the peer that answers knows which there are. */
function changeOf(words: readonly string[]): Record<string, string> {
  const change: Record<string, string> = {}
  for (const word of words) {
    const match = /^([a-z-]+)=(.+)$/.exec(word)
    if (match === null) throw new UsageError(`"${word}" is not KEY=VALUE`)
    const key = match[1]!.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase())
    change[key] = match[2]!
  }
  return change
}

const settingsText = (settings: ClusterSettings, output: Output): string =>
  output.facts([
    ['join-policy', settings.joinPolicy],
    ['trash', settings.trash]
  ])
