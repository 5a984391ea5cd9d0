/** Rings: of pools, and what can be said about them without a server. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { RING_PEERS_MAX } from '../../core/limits.ts'
import { formatDuration, formatSize } from '../../core/units.ts'
import { type FailureDomain, failureDomains } from '../../core/failure-domains.ts'
import { type GroupState, settledGroup } from '../../placement/group-state.ts'
import { defaultGroupCount, isGroupCount } from '../../placement/groups.ts'
import {
  formatRedundancy,
  membersOf,
  parseRedundancy,
  type Redundancy
} from '../../placement/redundancy.ts'
import { DEFAULT_RING_KIND, ringKinds } from '../../placement/ring.ts'
import type { LeafRing } from '../../placement/ring-description.ts'
import {
  type Balance,
  balanceOf,
  madeUpPeers,
  type Movement,
  movementBetween
} from '../../placement/simulation.ts'
import { planTargets, type Targets } from '../../placement/targets.ts'
import type { ApiClient } from '../api-client.ts'
import { countArgument, countBetween, reader } from '../arguments.ts'
import { onlyOne, ringText } from '../cluster-text.ts'
import { action, type Context, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'
import type { Output } from '../output.ts'

interface SimulateOptions {
  readonly peers?: number
  readonly add: number
  readonly remove: number
  readonly kind: string
  readonly redundancy: Redundancy
  readonly groups?: number
  readonly failureDomain: FailureDomain
  readonly hosts?: number
  readonly racks: number
  readonly zones: number
  readonly weights: readonly number[]
  readonly seed: number
}

/** Without --peers, these are simulated, each with a hundredth more, and one at least. */
const SCALES = [10, 100, 1000, 10_000]
/** A pool that makes no sense otherwise: its ring says nothing about many peers. */
const NOT_SIMULATED = ['single', 'empty']

const atLeastOne = countBetween(1, RING_PEERS_MAX)

export function addRingCommands(program: Command): void {
  const ring = program.command('ring').description('rings: which peers hold which data')
  withExamples(ring, 'torus ring show', 'torus ring simulate --peers 100 --add 1')
  addShow(ring)
  addSet(ring)
  addSimulate(ring)
}

const poolOption = (command: Command): Command =>
  command.option('--pool <POOL>', 'whose ring', 'default')

function addShow(parent: Command): void {
  const command = poolOption(
    parent.command('show').description('who should have how much of a pool, and who has')
  ).action(
    action<[], { pool: string }>(async ({ api, output }, _, { pool }) => {
      const ring = await api.ring(pool)
      output.result(ring, () => ringText(ring, output))
    })
  )
  withExamples(command, 'torus ring show', 'torus ring show --pool p --json')
}

interface SetOptions {
  readonly pool: string
  readonly type?: string
  readonly peers?: readonly string[]
}

function addSet(parent: Command): void {
  const kinds = ringKinds().filter((kind) => kind !== 'empty')
  const command = poolOption(
    parent.command('set').description('change a ring in use; data moves in the background')
  )
    .addOption(new Option('--type <KIND>', 'of ring').choices(kinds))
    .option('--peers <IDS>', 'who is in it, with commas between; or all', peersArgument)
    .action(
      action<[], SetOptions>(async ({ api, output }, _, { pool, type, peers }) => {
        const change = {
          ...(type === undefined ? {} : { ring: type }),
          ...(peers === undefined ? {} : { peers: await idsOf(api, peers) })
        }
        if (Object.keys(change).length === 0) throw new UsageError('nothing to set was given')
        await api.changePool(pool, change)
        const ring = await api.ring(pool)
        output.result(ring, () => ringText(ring, output))
      })
    )
  withExamples(
    command,
    'torus ring set --type rendezvous',
    'torus ring set --pool p --type single --peers 3f9a'
  )
}

const peersArgument = (text: string): string[] => text.split(',').filter((id) => id !== '')

/** Whole ids of those that begin so; null for all. */
async function idsOf(api: ApiClient, names: readonly string[]): Promise<string[] | null> {
  if (names.length === 1 && names[0] === 'all') return null
  const peers = await api.peers()
  return names.map((name) => onlyOne(peers, name).peerId)
}

function addSimulate(ring: Command): void {
  const kinds = ringKinds().filter((kind) => !NOT_SIMULATED.includes(kind))
  const simulate = ring
    .command('simulate')
    .description('balance and movement of a ring, computed exactly; no cluster needed')
    .option('--peers <N>', 'peers before; without it 10, 100, 1,000 and 10,000', atLeastOne)
    .option('--add <N>', 'peers that join', countArgument, 0)
    .option('--remove <N>', 'peers that leave', countArgument, 0)
    .addOption(new Option('--kind <KIND>', 'of ring').choices(kinds).default(DEFAULT_RING_KIND))
    .addOption(
      new Option('--redundancy <SCHEME>', 'replicated:N or erasure:K+M')
        .argParser(reader(parseRedundancy))
        .default(parseRedundancy('replicated:3'), 'replicated:3')
    )
    .option('--groups <N>', 'placement groups, a power of two; default by peers', countArgument)
    .addOption(
      new Option('--failure-domain <LABEL>', 'what holds one member of a group at most')
        .choices(failureDomains)
        .default('peer')
    )
    .option('--hosts <N>', 'hosts that peers are on, in turn; default one each', atLeastOne)
    .option('--racks <N>', 'racks that peers are in, in turn', atLeastOne, 20)
    .option('--zones <N>', 'zones that peers are in, in turn', atLeastOne, 3)
    .option('--weights <LIST>', 'weights of peers, in turn: 1,1,4', weightsArgument, [1])
    .option('--seed <N>', 'seed of the ring', countBetween(0, 0xffffffff), 1)
    .action(action<[], SimulateOptions>((context, _, options) => runSimulate(context, options)))
  withExamples(
    simulate,
    'torus ring simulate --peers 1000 --add 10 --remove 3',
    'torus ring simulate --peers 60 --remove 1 --redundancy erasure:4+2 --failure-domain rack',
    'torus ring simulate --weights 1,1,4 --json'
  )
}

function weightsArgument(text: string): number[] {
  const weights = text.split(',').map(Number)
  if (weights.every((weight) => weight > 0 && weight <= 2 ** 53)) return weights
  throw new InvalidArgumentError(`"${text}" is not a list of weights: write numbers above 0, 1,1,4`)
}

async function runSimulate({ output }: Context, options: SimulateOptions): Promise<void> {
  check(options)
  if (options.peers === undefined) return runScales(output, options)
  const run = await simulate(options.peers, options)
  output.result({ ...settings(options), ...run }, () => textOf(output, options, run))
}

function check({ peers, add, remove, groups }: SimulateOptions): void {
  const most = (peers ?? 0) + add
  if (most > RING_PEERS_MAX) {
    throw new UsageError(`${most} peers: a ring has at most ${RING_PEERS_MAX}`)
  }
  if (peers !== undefined && remove >= peers) {
    throw new UsageError(`--remove ${remove}: somebody must stay of ${peers} peers`)
  }
  if (peers === undefined && add + remove > 0) {
    throw new UsageError('--add and --remove need --peers')
  }
  if (groups !== undefined && !isGroupCount(groups)) {
    throw new UsageError(`--groups ${groups}: must be a power of two up to 65536`)
  }
}

interface Stage extends Balance {
  /** From the ring's description to the members of all groups. */
  readonly ms: number
}

interface Simulation {
  readonly groups: number
  /** JSON of the ring, as it stands in the metadata. */
  readonly ringBytes: number
  readonly before: Stage
  /** Null when no peer joins or leaves. */
  readonly change: Change | null
  /** Highest that the process needed until then. */
  readonly memoryBytesMax: number
}

interface Change {
  readonly after: Stage
  readonly movement: Movement
  /** Without regard to the members that groups have: what a ring alone would move. */
  readonly movementAfresh: Movement
}

async function simulate(peers: number, options: SimulateOptions): Promise<Simulation> {
  // Its schemas would take a quarter of the start of every command.
  const { parseRing } = await import('../../placement/ring-description.ts')
  const { redundancy, add, remove } = options
  const groups = options.groups ?? defaultGroupCount(peers, membersOf(redundancy))
  const made = { ...options, hosts: options.hosts ?? null }
  const ring = parseRing({
    v: 1,
    kind: options.kind,
    peers: madeUpPeers(0, peers, made),
    failureDomain: options.failureDomain,
    groups,
    seed: options.seed
  }) as LeafRing
  const [before, stage] = plan(ring, redundancy, null)
  let change: Change | null = null
  if (add + remove > 0) {
    const current = Array.from({ length: groups }, (_, group) =>
      settledGroup(before.membersOf(group))
    )
    const later = { ...ring, peers: madeUpPeers(remove, peers + add - remove, made) }
    const [after, stageAfter] = plan(later, redundancy, current)
    const [afresh] = plan(later, redundancy, null)
    change = {
      after: stageAfter,
      movement: movementBetween(before, after),
      movementAfresh: movementBetween(before, afresh)
    }
  }
  const ringBytes = Buffer.byteLength(JSON.stringify(ring))
  const memoryBytesMax = process.resourceUsage().maxRSS * 1024
  return { groups, ringBytes, before: stage, change, memoryBytesMax }
}

function plan(
  ring: LeafRing,
  redundancy: Redundancy,
  current: readonly GroupState[] | null
): [Targets, Stage] {
  const startedMs = performance.now()
  const targets = planTargets({ redundancy, ring }, current)
  const ms = performance.now() - startedMs
  if (targets.shortage !== null) throw new UsageError(`cannot place ${targets.shortage}`)
  return [targets, { ...balanceOf(targets), ms }]
}

const settings = ({ kind, redundancy, failureDomain }: SimulateOptions) => ({
  kind,
  redundancy: formatRedundancy(redundancy),
  failureDomain
})

function textOf(output: Output, options: SimulateOptions, run: Simulation): string {
  const { kind, redundancy, failureDomain } = settings(options)
  const { before, change } = run
  const stages: [string, Stage][] = [['before', before]]
  if (change !== null) stages.push(['after', change.after])
  const apart = failureDomain === 'peer' ? 'peers' : `${failureDomain}s`
  const parts = [
    `${kind}, ${redundancy} on different ${apart}, ${run.groups} groups`,
    '',
    output.table(
      ['load / weight', 'peers', 'members', 'min', 'mean', 'max', 'stddev', 'computed in'],
      stages.map(([name, stage]) => [
        name,
        String(stage.peers),
        String(stage.members),
        ...evenness(stage.toWeight),
        formatDuration(stage.ms)
      ]),
      'lrrrrrrr'
    )
  ]
  if (stages.some(([, { toWeight, toFairShare }]) => differs(toWeight.max, toFairShare.max))) {
    parts.push(
      '',
      `At most one member of a group per ${failureDomain}: heavy ones use a part of their weight.`,
      output.table(
        ['load / what can be', 'min', 'mean', 'max', 'stddev'],
        stages.map(([name, { toFairShare }]) => [name, ...evenness(toFairShare)]),
        'lrrrr'
      )
    )
  }
  if (change !== null) parts.push('', movementText(output, change))
  parts.push('', `memory ${formatSize(run.memoryBytesMax)}, ring ${formatSize(run.ringBytes)}`)
  return parts.join('\n')
}

const differs = (a: number, b: number): boolean => Math.abs(a - b) > 1e-6

const evenness = ({ min, mean, max, stddev }: Balance['toWeight']): string[] =>
  [min, mean, max, stddev].map((ratio) => ratio.toFixed(4))

function movementText(output: Output, { movement, movementAfresh }: Change): string {
  const of = (part: number, all: number): string =>
    `${part} of ${all} (${percent(all === 0 ? 0 : part / all)})`
  const { groups, groupsMoved, members, membersMoved, membersLeast } = movement
  return output.facts([
    ['groups with a new member', of(groupsMoved, groups)],
    ['data that move', of(membersMoved, members)],
    ['least for exact shares', of(membersLeast, members)],
    ['if placed afresh', of(movementAfresh.membersMoved, members)]
  ])
}

const percent = (fraction: number): string => `${(fraction * 100).toFixed(2)} %`

async function runScales(output: Output, options: SimulateOptions): Promise<void> {
  const runs: (Simulation & { readonly peers: number })[] = []
  for (const peers of SCALES) {
    runs.push({ peers, ...(await simulate(peers, { ...options, add: Math.ceil(peers / 100) })) })
  }
  const head = ['peers', 'groups', 'min', 'max', 'stddev', 'computed in', 'joining']
  output.result({ ...settings(options), runs }, () =>
    output.table(
      [...head, 'data that move', 'least', 'computed in', 'ring', 'memory'],
      runs.map(({ peers, groups, before, change, ringBytes, memoryBytesMax }) => [
        ...[String(peers), String(groups)],
        ...[before.toWeight.min, before.toWeight.max, before.toWeight.stddev].map((ratio) =>
          ratio.toFixed(4)
        ),
        ...[formatDuration(before.ms), String(change!.after.peers - peers)],
        ...[percent(change!.movement.fraction), percent(change!.movement.fractionLeast)],
        ...[formatDuration(change!.after.ms), formatSize(ringBytes), formatSize(memoryBytesMax)]
      ]),
      'rrrrrrrrrrrr'
    )
  )
}
