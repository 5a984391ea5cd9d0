/** `torus cluster recover|accept-loss`: when the metadata was lost, and what that leaves open. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { AcceptLoss, WaitingGroups } from '../../admin/recovery-schemas.ts'
import { action, type Context, withExamples } from '../context.ts'
import { addOptions, etcdConfig, etcdKeys } from '../serve-options.ts'

interface RecoverOptions {
  readonly fromPeers: readonly string[]
  readonly force?: boolean
  readonly dryRun?: boolean
}

interface AcceptOptions {
  readonly group?: string
  readonly peer?: string
  readonly dryRun?: boolean
}

const SHOWN = 20
const short = (peer: string): string => peer.slice(0, 8)

export function addRecover(parent: Command): void {
  const recover = parent
    .command('recover')
    .description('offline: put the newest metadata that peers kept into an empty etcd')
    .requiredOption(
      '--from-peers <DIRS...>',
      'data directories of all peers, none of which runs; of a peer on another machine a ' +
        'directory with its superblock, fences, metadata-copy and metadata-copy.old'
    )
    .option('--force', 'replace the metadata that is there')
    .option('--dry-run', 'tell what would be done')
    .action(action<[], RecoverOptions>((context, _, options) => runRecover(context, options)))
  addOptions(recover, etcdKeys)
  withExamples(
    recover,
    'torus cluster recover --from-peers D1 /tmp/peer2 /tmp/peer3 --etcd http://127.0.0.1:2379'
  )
}

async function runRecover(context: Context, options: RecoverOptions): Promise<void> {
  const { force = false, dryRun = false } = options
  const config = await etcdConfig(options)
  const { recoverFromPeers } = await import('../../coordinator/recovery.ts')
  if (force) await context.confirm('The metadata that is there is replaced by that of the peers.')
  const { output } = context
  const bar = output.progress('recover', String)
  const onProgress = (done: number, total: number): void => bar.update(done, total)
  const directories = options.fromPeers.map((path) => resolve(path))
  const found = await recoverFromPeers(directories, config, { force, dryRun, onProgress }).finally(
    () => bar.stop()
  )
  const { keys, clusterId, createdAt, missing, behind } = found
  output.result(found, () =>
    [
      `${dryRun ? 'would restore' : 'restored'} ${keys} keys of cluster ${clusterId}, as peer ` +
        `${found.from.slice(0, 8)} kept them at ${createdAt}; start the peers again`,
      ...(missing.length === 0
        ? []
        : [
            `not given: peers ${missing.map(short).join(', ')}. Their groups ` +
              'wait until they start'
          ]),
      ...(behind.length === 0
        ? []
        : [
            `${behind.length} groups changed later (${behind.slice(0, 3).join(', ')}…): they ` +
              'wait for "torus cluster accept-loss" once the peers run'
          ])
    ].join('\n')
  )
}

export function addAcceptLoss(parent: Command): void {
  const accept = parent
    .command('accept-loss')
    .description('use the copies that are there of groups that wait for better ones')
    .option('--group <POOL/N>', 'only this group; all that wait by default')
    .option('--peer <ID>', 'whose copy is to count; the most promising one by default')
    .option('--dry-run', 'only show what waits, and why')
    .action(action<[], AcceptOptions>((context, _, options) => runAccept(context, options)))
  withExamples(
    accept,
    'torus cluster accept-loss --dry-run',
    'torus cluster accept-loss --group default/17 --peer 3f2a'
  )
}

async function runAccept({ api, output, confirm }: Context, options: AcceptOptions): Promise<void> {
  const { group, peer, dryRun = false } = options
  const all = await api.waitingGroups()
  const waiting: WaitingGroups = {
    ...all,
    groups: all.groups.filter((each) => group === undefined || nameOf(each) === group)
  }
  if (dryRun || (waiting.groups.length === 0 && waiting.pendingPeers.length === 0)) {
    output.result(waiting, () => waitingText(waiting))
    return
  }
  if (!output.json) output.write(`${waitingText(waiting)}\n`)
  await confirm('What only other copies have is lost for good.')
  const wanted: AcceptLoss = {
    ...(group === undefined ? {} : { group }),
    ...(peer === undefined ? {} : { peer })
  }
  const done = await api.acceptLoss(wanted)
  const left = waiting.groups.length - done.groups.length
  output.result(done, () =>
    [
      `${done.groups.length} groups are in use again`,
      ...(left > 0 ? [`${left} wait still: no peer that is up has a copy`] : [])
    ].join('\n')
  )
}

const nameOf = ({ pool, group }: { pool: string; group: number }): string => `${pool}/${group}`

function waitingText({ groups, pendingPeers }: WaitingGroups): string {
  const lines = groups.slice(0, SHOWN).map((group) => {
    const [best] = group.candidates
    const then = best === undefined ? 'no copy is up' : `${best.slice(0, 8)} would count`
    return `${nameOf(group)}: ${group.why}; ${then}`
  })
  if (groups.length > SHOWN) lines.push(`and ${groups.length - SHOWN} more`)
  if (pendingPeers.length > 0) {
    const names = pendingPeers.map((id) => id.slice(0, 8)).join(', ')
    lines.push(`new groups wait for peers ${names}`)
  }
  return lines.length === 0 ? 'no group waits for a decision' : lines.join('\n')
}
