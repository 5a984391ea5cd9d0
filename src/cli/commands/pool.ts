import { type Command, Option } from 'commander'
import type { PoolChange } from '../../admin/cluster-schemas.ts'
import { failureDomains } from '../../core/failure-domains.ts'
import type { Pool } from '../api-client.ts'
import { countArgument } from '../arguments.ts'
import { poolText } from '../cluster-text.ts'
import { action, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'

interface PoolOptions {
  readonly redundancy?: string
  readonly failureDomain?: Pool['failureDomain']
  readonly ring?: string
  readonly groups?: number
  readonly writeMinimum?: number
  readonly force?: boolean
}

export function addPoolCommands(program: Command): void {
  const pool = program.command('pool').description('how data is kept, and on which peers')
  withExamples(pool, 'torus pool list', 'torus pool create p --redundancy replicated:3')
  addCreate(pool)
  addList(pool)
  addShow(pool)
  addSet(pool)
}

const withPoolOptions = (command: Command): Command =>
  command
    .addOption(
      new Option('--failure-domain <name>', 'copies are kept apart by this label').choices([
        ...failureDomains
      ])
    )
    .option('--ring <kind>', 'how groups are placed: ketama, rendezvous or mod')
    .option(
      '--groups <count>',
      'placement groups, a power of two; they can be split later',
      countArgument
    )
    .option('--write-minimum <count>', 'copies below which writes wait', countArgument)
    .option('--force', 'even if copies are missing until peers that are down start again')

function addCreate(parent: Command): void {
  const command = withPoolOptions(
    parent
      .command('create')
      .description('create a pool')
      .argument('<name>', 'letters, digits, ".", "_" and "-"')
      .requiredOption('--redundancy <scheme>', 'replicated:N, N copies of everything')
  ).action(
    action<[string], PoolOptions & { redundancy: string }>(
      async ({ api, output }, [name], options) => {
        const pool = await api.createPool({
          name,
          ...changeOf(options),
          redundancy: options.redundancy
        })
        output.result(pool, () => `created pool ${pool.name}, ${pool.redundancy}`)
      }
    )
  )
  withExamples(command, 'torus pool create p --redundancy replicated:3 --failure-domain rack')
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('all pools')
    .action(
      action(async ({ api, output }) => {
        const pools = await api.pools()
        const head = ['NAME', 'REDUNDANCY', 'APART BY', 'RING', 'GROUPS', 'DEGRADED', 'SYNCING']
        output.result(pools, () => output.table(head, pools.map(rowOf), 'llllrrr'))
      })
    )
  withExamples(command, 'torus pool list')
}

const rowOf = (pool: Pool): string[] => [
  pool.name,
  pool.redundancy,
  pool.failureDomain,
  pool.ring,
  String(pool.groups),
  String(pool.degraded),
  String(pool.syncing)
]

function addShow(parent: Command): void {
  const command = parent
    .command('show')
    .description('one pool')
    .argument('<pool>', 'its name')
    .action(
      action<[string], object>(async ({ api, output }, [name]) => {
        const pool = await api.pool(name)
        output.result(pool, () => poolText(pool, output))
      })
    )
  withExamples(command, 'torus pool show default')
}

function addSet(parent: Command): void {
  const command = withPoolOptions(
    parent
      .command('set')
      .description('change a pool while it is in use; data moves in the background')
      .argument('<pool>', 'its name')
      .option('--redundancy <scheme>', 'replicated:N')
  ).action(
    action<[string], PoolOptions>(async ({ api, output }, [name], options) => {
      const change = changeOf(options)
      if (Object.keys(change).every((key) => key === 'force'))
        throw new UsageError('nothing to set was given')
      const pool = await api.changePool(name, change)
      output.result(pool, () => poolText(pool, output))
    })
  )
  withExamples(
    command,
    'torus pool set default --redundancy replicated:2',
    'torus pool set default --groups 1024'
  )
}

const changeOf = (options: PoolOptions): PoolChange => ({
  ...(options.redundancy === undefined ? {} : { redundancy: options.redundancy }),
  ...(options.failureDomain === undefined ? {} : { failureDomain: options.failureDomain }),
  ...(options.ring === undefined ? {} : { ring: options.ring }),
  ...(options.groups === undefined ? {} : { groups: options.groups }),
  ...(options.writeMinimum === undefined ? {} : { writeMinimum: options.writeMinimum }),
  ...(options.force === undefined ? {} : { force: options.force })
})
