import { type Command, Option } from 'commander'
import {
  NBD_CONNECTIONS_MAX,
  NBD_REQUEST_BYTES_MAX,
  REQUESTS_IN_FLIGHT_MAX
} from '../../core/limits.ts'
import { formatSize, formatSizeExact } from '../../core/units.ts'
import type { NbdEndpoint } from '../../nbd/client.ts'
import { defaultLimits } from '../../nbd/limits.ts'
import { NBD_FLAG_READ_ONLY } from '../../nbd/protocol.ts'
import type { Volume } from '../api-client.ts'
import { countBetween, sizeArgument } from '../arguments.ts'
import { Load, type LoadPlan } from '../bench/load.ts'
import { type BenchReport, LiveLine, planText, reportOf, reportText } from '../bench/report.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import { chooseNbdAddress } from '../nbd-address.ts'

interface BenchOptions {
  readonly write?: boolean
  readonly mix?: number
  readonly blockSize: number
  readonly depth: number
  readonly connections: number
  readonly seconds: number
  readonly pattern: 'random' | 'sequential'
  readonly fsyncEvery?: number
}

/** Smaller requests are no block device's. */
const SECTOR_BYTES = 512
const DEPTH_MAX = defaultLimits.requestsPerConnection
const SECONDS_MAX = 24 * 3600
const LIVE_MS = 500

export function addBenchCommand(program: Command): void {
  const command = program
    .command('bench')
    .description('load a volume over NBD and tell how fast it is; only reads, unless --write')
    .argument('<volume>', 'its name')
    .option('--write', 'write, over the data of the volume; without --mix nothing but writes')
    .option('--mix <percent>', 'with --write: how many requests are reads', countBetween(0, 100))
    .addOption(
      new Option('--block-size <size>', `bytes of a request, 512B to ${REQUEST_MAX}`)
        .argParser(sizeArgument)
        .default(4096, '4KiB')
    )
    .option('--depth <n>', `requests in flight of a connection`, countBetween(1, DEPTH_MAX), 32)
    .option('--connections <n>', 'at once', countBetween(1, NBD_CONNECTIONS_MAX), 1)
    .option('--seconds <n>', 'how long', countBetween(1, SECONDS_MAX), 10)
    .addOption(
      new Option('--pattern <pattern>', 'where requests go')
        .choices(['random', 'sequential'])
        .default('random')
    )
    .option(
      '--fsync-every <n>',
      'with --write: flush after each n writes of a connection',
      countBetween(1, Number.MAX_SAFE_INTEGER)
    )
    .action(action<[string], BenchOptions>(runBench))
  withExamples(
    command,
    'torus bench demo',
    'torus bench demo --block-size 1MiB --pattern sequential --depth 8',
    'torus bench scratch --write --mix 75 --fsync-every 32 --seconds 30 --yes'
  )
}

const REQUEST_MAX = formatSizeExact(NBD_REQUEST_BYTES_MAX)

async function runBench(context: Context, [name]: [string], options: BenchOptions): Promise<void> {
  const { api, output } = context
  checkOptions(options)
  const volume = await api.volume(name)
  const { blockSize } = options
  if (blockSize > volume.sizeBytes) {
    const size = formatSizeExact(volume.sizeBytes)
    throw new UsageError(`--block-size ${formatSizeExact(blockSize)}: the volume has only ${size}`)
  }
  const endpoint = endpointOf(chooseNbdAddress(await api.peer()))
  const plan = planOf(name, endpoint, options)
  if (options.write === true) await confirmWrites(context, volume)
  const load = new Load(plan)
  const { sizeBytes, flags } = await load.open()
  try {
    if (options.write === true && (flags & NBD_FLAG_READ_ONLY) !== 0) throw readOnly(name)
    if (options.write !== true && volume.usedBytes === 0) {
      output.note(`${name} is empty: reads find zeroes, and no disk is asked`)
    }
    output.note(`${planText(plan)}, for ${plan.seconds} s; Ctrl-C ends it early`)
    const report = await measure(load, sizeBytes, context)
    if (report.error !== null) throw report.error
  } finally {
    load.close()
  }
}

function checkOptions({ write, mix, fsyncEvery, blockSize, depth, connections }: BenchOptions) {
  if (write !== true && mix !== undefined && mix < 100) {
    throw new UsageError(`--mix ${mix} writes over the data of the volume: say --write as well`)
  }
  if (write !== true && fsyncEvery !== undefined) {
    throw new UsageError('--fsync-every counts writes, and there are none without --write')
  }
  if (blockSize < SECTOR_BYTES || blockSize > NBD_REQUEST_BYTES_MAX || blockSize % SECTOR_BYTES) {
    const limits = `must be a multiple of 512B, up to ${REQUEST_MAX}`
    throw new UsageError(`--block-size ${formatSizeExact(blockSize)}: ${limits}`)
  }
  if (depth * connections > REQUESTS_IN_FLIGHT_MAX) {
    const asked = `--depth ${depth} on --connections ${connections}: ${depth * connections}`
    throw new UsageError(`${asked} requests in flight, and a peer takes ${REQUESTS_IN_FLIGHT_MAX}`)
  }
}

function planOf(volume: string, endpoint: NbdEndpoint, options: BenchOptions): LoadPlan {
  const { write, mix, blockSize, depth, connections, seconds, pattern, fsyncEvery } = options
  return {
    endpoint,
    volume,
    blockBytes: blockSize,
    depth,
    connections,
    seconds,
    pattern,
    readPercent: write === true ? (mix ?? 0) : 100,
    fsyncEvery: fsyncEvery ?? 0
  }
}

function endpointOf(address: ReturnType<typeof chooseNbdAddress>): NbdEndpoint {
  return address.kind === 'unix' ? { path: address.path } : address
}

const readOnly = (name: string): CommandError =>
  new CommandError('ReadOnly', `volume ${name} is read-only: bench it without --write`)

async function confirmWrites({ confirm }: Context, volume: Volume): Promise<void> {
  const { name, sizeBytes, usedBytes, clients } = volume
  if (volume.readOnly) throw readOnly(name)
  if (usedBytes === 0 && clients === 0) return
  const others = clients === 0 ? '' : ` ${clients} clients are connected to it.`
  const held = usedBytes === null ? '' : ` with ${formatSize(usedBytes)} in use`
  await confirm(
    `Data anywhere in volume ${name} (${formatSize(sizeBytes)}${held}) is overwritten ` +
      `with noise.${others}`
  )
}

/** Runs the load, shows how it goes, and prints what came out, even of a run that failed. */
async function measure(
  load: Load,
  sizeBytes: number,
  { output }: Context
): Promise<BenchReport & { error: CommandError | null }> {
  const { plan } = load
  const line = new LiveLine(output)
  const startedMs = performance.now()
  let shownMs = startedMs
  const timer = setInterval(() => {
    const nowMs = performance.now()
    const left = plan.seconds - (nowMs - startedMs) / 1000
    line.show(left, load.recent, plan.blockBytes, (nowMs - shownMs) / 1000)
    shownMs = nowMs
    load.takeRecent()
  }, LIVE_MS)
  const stop = () => load.stop()
  process.once('SIGINT', stop)
  const cpuBefore = process.cpuUsage()
  try {
    const end = await load.run()
    const { user, system } = process.cpuUsage(cpuBefore)
    const cpu = (user + system) / 1e6 / Math.max(load.seconds, 0.001)
    const report = reportOf(load, sizeBytes, cpu, end.kind)
    line.end()
    const any = load.total.some(({ count }) => count > 0)
    if (any) output.result(report, () => reportText(report, plan, output))
    return { ...report, error: end.kind === 'failed' ? end.error : null }
  } finally {
    clearInterval(timer)
    line.end()
    process.off('SIGINT', stop)
  }
}
