import { type Command, InvalidArgumentError } from 'commander'
import { formatDuration, formatSize } from '../../core/units.ts'
import type { ClusterPeer } from '../api-client.ts'
import { countArgument, durationArgument, sizeArgument } from '../arguments.ts'
import { clusterPeerText, onlyOne, peerTable } from '../cluster-text.ts'
import { action, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import { peerText } from '../status-text.ts'

export function addPeerCommands(program: Command): void {
  const peer = program.command('peer').description('the storage servers of the cluster')
  withExamples(peer, 'torus peer list', 'torus peer show', 'torus peer drain 3f9a')
  addList(peer)
  addShow(peer)
  addSet(peer)
  addAdd(peer)
  addDrain(peer)
  addReplace(peer)
  addMaintenance(peer)
  addRemove(peer)
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('all peers, and how their copies are')
    .action(
      action(async ({ api, output }) => {
        const peers = await api.peers()
        output.result(peers, () => peerTable(peers, output))
      })
    )
  withExamples(command, 'torus peer list', "torus peer list --json | jq -r '.[].peerId'")
}

function addShow(parent: Command): void {
  const command = parent
    .command('show')
    .description('one peer; without an id the one that answers, in full')
    .argument('[peer]', 'its id, or the beginning of it')
    .action(
      action<[string | undefined], object>(async ({ api, output }, [id]) => {
        if (id === undefined) {
          const own = await api.peer()
          output.result(own, () => peerText(own, output))
          return
        }
        const peer = onlyOne(await api.peers(), id)
        output.result(peer, () => clusterPeerText(peer, output))
      })
    )
  withExamples(command, 'torus peer show', 'torus peer show 3f9a')
}

function addSet(parent: Command): void {
  const command = parent
    .command('set')
    .description('labels and weight of a peer')
    .argument('<peer>', 'its id, or the beginning of it')
    .option('--label <key=value>', 'set a label; an empty value takes it away', labelArgument, {})
    .option(
      '--weight <number>',
      'share of data in proportion to others, or "capacity"',
      weightArgument
    )
    .option('--capacity <size>', 'the same as a size, in place of what the disk has', sizeArgument)
    .action(
      action<[string], { label: Labels; weight?: number | 'capacity'; capacity?: number }>(
        async ({ api, output }, [id], { label, weight, capacity }) => {
          if (weight !== undefined && capacity !== undefined) {
            throw new UsageError('--weight and --capacity are one and the same: give one of them')
          }
          const share = weight === 'capacity' ? null : (weight ?? capacity)
          const change = {
            ...(Object.keys(label).length === 0 ? {} : { labels: label }),
            ...(share === undefined ? {} : { weight: share })
          }
          if (Object.keys(change).length === 0) throw new UsageError('nothing to set was given')
          const peer = await api.changePeer(id, change)
          output.result(peer, () => clusterPeerText(peer, output))
        }
      )
    )
  withExamples(command, 'torus peer set 3f9a --label rack=r1', 'torus peer set 3f9a --weight 2')
}

type Labels = Record<string, string>

function labelArgument(text: string, previous: Labels): Labels {
  const match = /^([^=]+)=(.*)$/.exec(text)
  if (match === null) throw new InvalidArgumentError(`"${text}" is not KEY=VALUE`)
  return { ...previous, [match[1]!]: match[2]! }
}

/** Not null, which commander takes for nothing. */
const weightArgument = (text: string): number | 'capacity' =>
  text === 'capacity' ? text : countArgument(text)

function addDrain(parent: Command): void {
  const drain = parent
    .command('drain')
    .description('move everything off a peer, while it serves')
    .argument('<peer>', 'its id, or the beginning of it')
    .action(
      action<[string], object>(async ({ api, output }, [id]) => {
        const peer = await api.changePeer(id, { drained: true })
        output.result(peer, () => `${shortId(peer)} gives its data away: see "torus peer list"`)
      })
    )
  withExamples(drain, 'torus peer drain 3f9a')
  const undrain = parent
    .command('undrain')
    .description('let a drained peer have data again')
    .argument('<peer>', 'its id, or the beginning of it')
    .action(
      action<[string], object>(async ({ api, output }, [id]) => {
        const peer = await api.changePeer(id, { drained: false })
        output.result(peer, () => `${shortId(peer)} takes data again`)
      })
    )
  withExamples(undrain, 'torus peer undrain 3f9a')
}

const shortId = ({ peerId }: ClusterPeer): string => `peer ${peerId.slice(0, 8)}`

function addAdd(parent: Command): void {
  const command = parent
    .command('add')
    .description('let a pending peer in (torus cluster settings join-policy=approve)')
    .argument('<peer>', 'its id, or the beginning of it')
    .action(
      action<[string], object>(async ({ api, output }, [id]) => {
        const peer = await api.addPeer(id)
        output.result(peer, () => `${shortId(peer)} is part of the cluster`)
      })
    )
  withExamples(command, 'torus peer add 3f9a')
}

function addReplace(parent: Command): void {
  const command = parent
    .command('replace')
    .description('a new peer takes over all copies of another, which may be down for good')
    .argument('<old>', 'id of the one that goes, or the beginning of it')
    .argument('<new>', 'id of the one that takes its place')
    .action(
      action<[string, string], object>(async ({ api, output }, [old, by]) => {
        const peer = await api.replacePeer(old, by)
        output.result(
          peer,
          () =>
            `peer ${peer.replacedBy?.slice(0, 8)} takes the place of ${shortId(peer)}: when that ` +
            `has no groups left ("torus peer list"), "torus peer remove ${peer.peerId.slice(0, 8)}"`
        )
      })
    )
  withExamples(command, 'torus peer replace 3f9a 77c0')
}

function addMaintenance(parent: Command): void {
  const command = parent
    .command('maintenance')
    .description('say that a peer will be away: no copies are made elsewhere meanwhile')
    .argument('<peer>', 'its id, or the beginning of it')
    .argument('<on|off>', 'whether it is')
    .option('--for <duration>', 'for how long at most, like 1h', durationArgument, 3_600_000)
    .action(
      action<[string, string], { for: number }>(async ({ api, output }, [id, state], options) => {
        if (state !== 'on' && state !== 'off') throw new UsageError(`"${state}" is not on or off`)
        const peer = await api.changePeer(id, { maintenanceMs: state === 'on' ? options.for : 0 })
        output.result(peer, () =>
          state === 'on'
            ? `${shortId(peer)} may be away for ${formatDuration(options.for)}`
            : `${shortId(peer)} is expected to be there`
        )
      })
    )
  withExamples(command, 'torus peer maintenance 3f9a on --for 2h')
}

function addRemove(parent: Command): void {
  const command = parent
    .command('remove')
    .alias('rm')
    .description('remove a peer for good; its copies are made anew from others at once')
    .argument('<peer>', 'its id, or the beginning of it')
    .option('--force', 'even if data is lost or stays with fewer copies; says which before')
    .action(
      action<[string], { force?: boolean }>(
        async ({ api, output, confirm }, [id], { force = false }) => {
          const peer = onlyOne(await api.peers(), id)
          const what = `${formatSize(peer.usedBytes ?? 0)} in ${peer.groupsInSync} groups`
          await confirm(`${shortId(peer)} (${what}) is removed for good.`)
          const refusal = await refusalOf(() => api.removePeer(peer.peerId, false))
          if (refusal !== null) {
            if (!force) throw refusal
            output.note(refusal.message)
            await confirm(`${shortId(peer)} is removed all the same.`)
            await api.removePeer(peer.peerId, true)
          }
          output.result({ removed: peer.peerId }, () => `removed ${shortId(peer)}`)
        }
      )
    )
  withExamples(command, 'torus peer remove 3f9a', 'torus peer remove 3f9a --force --yes')
}

/** Why it is refused as it is; null: it was done. */
async function refusalOf(work: () => Promise<void>): Promise<CommandError | null> {
  try {
    await work()
    return null
  } catch (thrown) {
    if (thrown instanceof CommandError && thrown.code === 'Busy') return thrown
    throw thrown
  }
}
