/** How cost grows: one server per point, loaded the same way, looked at, and started again. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { TorusServer } from '../../test/helpers/server.ts'
import { type FioResult, fio, nbdTarget } from './fio.ts'
import { writeBack } from './page-cache.ts'
import { residentBytes } from './usage.ts'

export interface ScalePlan {
  /** Of reading at each point. */
  readonly seconds: number
  /** Random blocks written at each point: the same everywhere, so that memory compares. */
  readonly blocks: number
  readonly directory: string
  note(text: string): void
  /** Takes every point as it is measured. */
  onPoint(series: ScaleSeries): void
  /** The time is over: no more points are begun. */
  isOver(): boolean
}

export interface ScalePoint {
  /** Bytes of the volume, volumes, connections or shards. */
  readonly x: number
  readonly writeIops: number
  readonly readIops: number
  readonly residentBytes: number
  readonly indexBytes: number
  readonly indexEntries: number
  /** From exec to serving, after an orderly stop and after kill -9. */
  readonly restartMs: number
  readonly recoveryMs: number
}

export interface ScaleSeries {
  readonly id: string
  readonly title: string
  readonly unit: 'bytes' | 'count'
  readonly points: readonly ScalePoint[]
}

interface Setting {
  readonly shards: number
  readonly volumes: number
  readonly volumeBytes: number
  readonly connections: number
  /** Requests in flight of each connection. */
  readonly depth: number
}

const GiB = 2 ** 30
const usual: Setting = { shards: 2, volumes: 1, volumeBytes: 4 * GiB, connections: 1, depth: 32 }

interface SeriesPlan {
  readonly id: string
  readonly title: string
  readonly unit: 'bytes' | 'count'
  readonly values: readonly number[]
  readonly quickValues: readonly number[]
  setting(x: number): Setting
}

const seriesPlans: readonly SeriesPlan[] = [
  {
    id: 'size',
    title: 'volume size (thin)',
    unit: 'bytes',
    values: [1, 4, 32, 256, 1024].map((gib) => gib * GiB),
    quickValues: [GiB, 1024 * GiB],
    setting: (volumeBytes) => ({ ...usual, volumeBytes })
  },
  {
    id: 'volumes',
    title: 'volumes',
    unit: 'count',
    values: [1, 10, 100, 1000],
    quickValues: [1, 1000],
    // Sixteen of them are under load at a time, which is all that fio's threads bear here.
    setting: (volumes) => ({ ...usual, volumes, volumeBytes: GiB, connections: 16, depth: 4 })
  },
  {
    id: 'connections',
    title: 'connections',
    unit: 'count',
    values: [1, 4, 16, 64, 256],
    quickValues: [1, 256],
    setting: (connections) => ({ ...usual, connections, depth: 4 })
  },
  {
    id: 'shards',
    title: 'shards',
    unit: 'count',
    values: [1, 2, 4, 8],
    quickValues: [1, 4],
    setting: (shards) => ({ ...usual, shards })
  }
]

export const seriesIds: readonly string[] = seriesPlans.map(({ id }) => id)

export const pointsOf = (id: string, quick: boolean): number => {
  const series = seriesPlans.find((each) => each.id === id)!
  return (quick ? series.quickValues : series.values).length
}

/** False when the time was over before the last point. */
export async function measureSeries(id: string, quick: boolean, plan: ScalePlan): Promise<boolean> {
  const series = seriesPlans.find((each) => each.id === id)!
  const points: ScalePoint[] = []
  for (const x of quick ? series.quickValues : series.values) {
    if (plan.isOver()) return false
    const point = await measurePoint(x, series.setting(x), plan)
    points.push(point)
    const { writeIops, readIops, restartMs, recoveryMs } = point
    const iops = `${writeIops.toFixed(0)} writes/s, ${readIops.toFixed(0)} reads/s`
    const starts = `restart ${restartMs.toFixed(0)} ms, after kill ${recoveryMs.toFixed(0)} ms`
    const memory = `${(point.residentBytes / 2 ** 20).toFixed(0)} MiB`
    plan.note(`${series.title} ${x}: ${iops}, ${memory}, ${starts}`)
    plan.onPoint({ id, title: series.title, unit: series.unit, points: [...points] })
  }
  return true
}

async function measurePoint(x: number, setting: Setting, plan: ScalePlan): Promise<ScalePoint> {
  const dataDir = join(plan.directory, 'scale')
  const volumes = Array.from({ length: setting.volumes }, (_, at) => `v${at}`)
  const server = await TorusServer.start({
    dataDir,
    args: [
      ...['--shards', String(setting.shards)],
      ...volumes.flatMap((name) => ['--volume', `${name}=${setting.volumeBytes}`])
    ],
    env: { TORUS_LOG_LEVEL: 'warn' },
    readyMs: 60_000
  })
  // Interrupted: the server must not outlive us.
  const interrupted = (): void => void server.dispose().then(() => process.exit(1))
  process.on('SIGINT', interrupted).on('SIGTERM', interrupted)
  try {
    const written = await load(server, setting, writing(setting, plan.blocks))
    await writeBack()
    // The same seed: reads meet what was written, as far as they come.
    const reading = ['--rw=randread', '--time_based=1', `--runtime=${plan.seconds}`]
    const read = await load(server, setting, reading)
    const resident = residentBytes(server.pid)
    const { shards } = await server.json<StatusShards>('status')
    const sum = (of: (stats: IndexStats) => number): number =>
      shards.reduce((total, { stats }) => total + of(stats), 0)
    await server.stop(60_000)
    const restartMs = await timeToStart(server)
    // A little is written, so that there is something to recover.
    await load(server, setting, writing(setting, plan.blocks / 8))
    await server.kill()
    const recoveryMs = await timeToStart(server)
    return {
      x,
      writeIops: written.iops,
      readIops: read.iops,
      residentBytes: resident,
      indexBytes: sum(({ indexBytes }) => indexBytes),
      indexEntries: sum(({ indexEntries }) => indexEntries),
      restartMs,
      recoveryMs
    }
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted)
    await server.dispose()
    rmSync(dataDir, { recursive: true, force: true })
  }
}

interface IndexStats {
  readonly indexBytes: number
  readonly indexEntries: number
}

interface StatusShards {
  readonly shards: readonly { readonly stats: IndexStats }[]
}

async function timeToStart(server: TorusServer): Promise<number> {
  const started = performance.now()
  await server.start()
  return performance.now() - started
}

/** A slow machine must not take for ever; fio ends at what comes first. */
const WRITE_SECONDS_MAX = 30

/** fio's arguments for so many random blocks, by all its jobs together. */
function writing({ connections }: Setting, blocks: number): string[] {
  const each = Math.max(1, Math.round(blocks / connections)) * 4096
  return ['--rw=randwrite', `--io_size=${each}`, `--runtime=${WRITE_SECONDS_MAX}`]
}

/** Random 4 KiB requests over all of the volumes under load. */
async function load(
  server: TorusServer,
  setting: Setting,
  what: readonly string[]
): Promise<FioResult> {
  const { volumes, connections, depth, volumeBytes } = setting
  const shape = [
    '--thread',
    '--group_reporting',
    '--bs=4096',
    `--iodepth=${depth}`,
    `--size=${volumeBytes}`,
    '--norandommap',
    ...what
  ]
  if (volumes === 1 && connections === 1) {
    const target = [...nbdTarget(server.uri('v0')), '--randseed=7']
    return await fio(['--name=scale', ...shape, ...target], LIMIT_SECONDS)
  }
  // Connections take turns with the volumes, or volumes with the connections.
  const jobs = Array.from({ length: connections }, (_, at) => {
    const uri = server.uri(`v${at % volumes}`)
    return [`--name=j${at}`, ...shape, ...nbdTarget(uri), `--randseed=${7 + at}`]
  })
  return await fio(jobs.flat(), LIMIT_SECONDS)
}

const LIMIT_SECONDS = 120
