/** The command line of `npm run bench`. */
import { tmpdir } from 'node:os'
import { parseArgs } from 'node:util'
import { type Row, rows } from './rows.ts'
import { selfRowIds } from './self.ts'
import { type ServerName, serverNames } from './servers.ts'

export interface BenchOptions {
  readonly rows: readonly Row[]
  /** Rows of torus against itself. */
  readonly selfRows: readonly string[]
  readonly servers: readonly ServerName[]
  /** They were asked for by name: then a missing one is a failure. */
  readonly serversChosen: boolean
  readonly seconds: number
  readonly sizeBytes: number
  readonly rounds: number
  readonly directory: string
  readonly out: string
  /** Name under which the result is kept in the repository; '' keeps nothing. */
  readonly save: string
  /** Go on behind what an earlier run kept in `out`. */
  readonly resume: boolean
  /** Measure nothing: show what these runs kept as one. */
  readonly join: readonly string[]
  /** No round begins after so many minutes; 0 for twice what was estimated. */
  readonly minutes: number
  readonly cpuProf: boolean
  readonly nodeArgs: readonly string[]
  readonly torusArgs: readonly string[]
}

export const usage = `npm run bench -- [options]

  --quick            key rows, one round, small: under 3 minutes
  --rows A,B         of ${rows.map(({ id }) => id).join(' ')}
                     and, torus against itself, ${selfRowIds.join(' ')}
  --servers A,B      of ${serverNames.join(' ')}
  --seconds N        length of a job (8)
  --size SIZE        working set (4GiB)
  --rounds N         interleaved rounds (5)
  --dir DIR          where volumes and files go, in a new directory that is removed (${tmpdir()})
  --out DIR          where results go (bench-out)
  --save NAME        also keep JSON and chart as scripts/bench/results/NAME.*
  --resume           go on behind what a run with these options left in --out
  --join DIR,DIR     measure nothing: join what runs of other rows or rounds left in their --out
  --minutes N        begin no round after this time (twice the estimate)
  --cpu-prof         profile torus per thread and print where its time went
  --node-arg ARG     a flag for the node that runs torus, repeatable
  --torus-arg ARG    an argument for torus serve, repeatable
  --help
`

/** @throws Error that tells what is wrong with the arguments */
export function parseOptions(args: readonly string[]): BenchOptions | 'help' {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      rows: { type: 'string' },
      servers: { type: 'string' },
      seconds: { type: 'string' },
      size: { type: 'string' },
      rounds: { type: 'string' },
      dir: { type: 'string', default: tmpdir() },
      out: { type: 'string', default: 'bench-out' },
      save: { type: 'string', default: '' },
      resume: { type: 'boolean', default: false },
      join: { type: 'string' },
      minutes: { type: 'string' },
      'cpu-prof': { type: 'boolean', default: false },
      'node-arg': { type: 'string', multiple: true, default: [] },
      'torus-arg': { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean', default: false }
    }
  })
  if (values.help) return 'help'
  const { quick } = values
  const quickRows = rows.filter((row) => row.quick).map(({ id }) => id)
  const allRows = [...rows.map(({ id }) => id), ...selfRowIds]
  const wanted = listOf(values.rows, quick ? quickRows : allRows, allRows, 'row')
  const quickServers = serverNames.filter((name) => name !== 'qemu-uring')
  return {
    rows: rows.filter(({ id }) => wanted.includes(id)),
    selfRows: selfRowIds.filter((id) => wanted.includes(id)),
    servers: listOf(values.servers, quick ? quickServers : serverNames, serverNames, 'server'),
    serversChosen: values.servers !== undefined,
    seconds: numberOf(values.seconds, quick ? 3 : 8, 'seconds'),
    sizeBytes: sizeOf(values.size ?? (quick ? '1GiB' : '4GiB')),
    rounds: numberOf(values.rounds, quick ? 1 : 5, 'rounds'),
    directory: values.dir,
    out: values.out,
    save: values.save,
    resume: values.resume,
    join: values.join === undefined ? [] : values.join.split(','),
    minutes: values.minutes === undefined ? 0 : numberOf(values.minutes, 0, 'minutes'),
    cpuProf: values['cpu-prof'],
    nodeArgs: values['node-arg'],
    torusArgs: values['torus-arg']
  }
}

function listOf<T extends string>(
  given: string | undefined,
  usual: readonly T[],
  known: readonly T[],
  what: string
): readonly T[] {
  if (given === undefined) return usual
  return given.split(',').map((name) => {
    const found = known.find((one) => one === name)
    if (found === undefined) throw new Error(`no ${what} ${name}; there are ${known.join(' ')}`)
    return found
  })
}

function numberOf(given: string | undefined, usual: number, what: string): number {
  const value = given === undefined ? usual : Number(given)
  if (!(value > 0)) throw new Error(`--${what} ${given} is not a number above 0`)
  return value
}

const UNITS: Readonly<Record<string, number>> = { M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

export function sizeOf(text: string): number {
  const match = /^(\d+)([MGT])(?:iB)?$/.exec(text)
  if (match === null) throw new Error(`${text} is not a size like 512MiB or 4GiB`)
  return Number(match[1]) * UNITS[match[2] ?? '']!
}
