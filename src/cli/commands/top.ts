import { setTimeout as sleep } from 'node:timers/promises'
import { type Command, Option } from 'commander'
import { formatLatency, formatSize } from '../../core/units.ts'
import { countArgument, durationArgument } from '../arguments.ts'
import { action, type Context, withExamples } from '../context.ts'
import type { Output } from '../output.ts'
import { type OperationRate, type Rates, ratesBetween, type Sample } from '../rates.ts'
import { spaceText } from '../status-text.ts'

interface TopOptions {
  readonly interval: number
  readonly count?: number
}

export function addTopCommand(program: Command): void {
  const command = program
    .command('top')
    .description('operations, throughput and latency as they are now, again and again')
    .addOption(
      new Option('--interval <duration>', 'time between two pictures')
        .argParser(durationArgument)
        .default(1000, '1s')
    )
    .option('--count <n>', 'end after so many pictures', countArgument)
    .action(action<[], TopOptions>((context, _, options) => top(context, options)))
  withExamples(command, 'torus top', 'torus top --interval 5s', 'torus top --count 1 --json')
}

async function top({ api, output }: Context, options: TopOptions): Promise<void> {
  const live = output.isTerminal && !output.json
  const take = async (): Promise<Sample> => ({
    status: await api.status(),
    atMs: performance.now()
  })
  let before = await take()
  for (let shown = 0; shown !== (options.count ?? -1); shown++) {
    await sleep(options.interval)
    const now = await take()
    const rates = ratesBetween(before, now)
    if (output.json) output.write(`${JSON.stringify(rates)}\n`)
    else output.write(`${live ? '\x1b[H\x1b[J' : ''}${picture(now, rates, output)}\n`)
    before = now
  }
}

function picture({ status }: Sample, rates: Rates, output: Output): string {
  const head = output.facts([
    ['time', new Date().toISOString().slice(11, 19)],
    ['health', status.problems.map(({ message }) => message).join('; ') || status.health],
    ['capacity', spaceText(status)],
    ['clients', `${status.clientCount}, ${status.requestsInFlight} requests in flight`]
  ])
  return [head, '', volumeTable(rates, output), '', shardTable(rates, output), ''].join('\n')
}

const perSecond = (value: number): string => value.toFixed(value < 10 ? 1 : 0)
const speed = (bytes: number): string => `${formatSize(Math.round(bytes))}/s`
const latency = (seconds: number | null): string =>
  seconds === null ? '-' : formatLatency(seconds)

const columnsOf = (rate: OperationRate): string[] => [
  perSecond(rate.perSecond),
  speed(rate.bytesPerSecond),
  latency(rate.p50),
  latency(rate.p99)
]

function volumeTable({ volumes }: Rates, output: Output): string {
  if (volumes.length === 0) return 'no volume was opened yet'
  const names = ['VOLUME', 'READS/S', 'READ', 'P50', 'P99', 'WRITES/S', 'WRITTEN', 'P50', 'P99']
  const rows = volumes.map(({ volume, read, write, inFlight, errorsPerSecond }) => [
    ...[volume, ...columnsOf(read), ...columnsOf(write)],
    ...[String(inFlight), perSecond(errorsPerSecond)]
  ])
  return output.table([...names, 'IN FLIGHT', 'ERRORS/S'], rows, 'lrrrrrrrrrr')
}

const shardTable = ({ shards }: Rates, output: Output): string =>
  output.table(
    ['SHARD', 'BUSY', 'READS/S', 'WRITES/S', 'COMPACTION', 'SCRUB'],
    shards.map((rate) => [
      String(rate.shard),
      `${Math.round(rate.busy * 100)} %`,
      perSecond(rate.readsPerSecond),
      perSecond(rate.writesPerSecond),
      speed(rate.compactionBytesPerSecond),
      speed(rate.scrubBytesPerSecond)
    ]),
    'rrrrrr'
  )
