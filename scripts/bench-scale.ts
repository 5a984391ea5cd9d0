/**
 * Shows how the cost of torus grows: with the size of a thin volume, with the number of volumes,
 * of connections and of shards. For each: random 4 KiB IOPS, memory, and the time to start again.
 * It reports; it never fails on a figure.
 *
 *   npm run bench:scale                  all series, no more than five minutes
 *   npm run bench:scale -- --quick       two points of each, two minutes
 *   npm run bench:scale -- --series size,shards --blocks 1000000 --minutes 30
 *
 * At each point a new peer gets --blocks random 4 KiB writes (131,072: 512 MiB), the same reads for
 * --seconds (2), and is started again after a stop and after a kill -9. No point begins after
 * --minutes (4.5); what was measured is in the files after every point. --save NAME also keeps them
 * as scripts/bench/results/NAME.*.
 *
 * Exit codes: 0 measured, 1 something could not run or not in time, 2 usage.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import Table from 'cli-table3'
import { parseArgs } from './arguments.ts'
import { type LineChart, lineCharts } from './bench/lines.ts'
import { durationText } from './bench/estimate.ts'
import { describeMachine, type Machine, machineLine } from './bench/machine.ts'
import {
  measureSeries,
  pointsOf,
  type ScalePoint,
  type ScaleSeries,
  seriesIds
} from './bench/scale.ts'
import { repositoryRoot } from './repository.ts'

const MiB = 2 ** 20

function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  const at = Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10 + 1e-9))
  const value = bytes / 1024 ** at
  return `${value >= 10 ? value.toFixed(0) : Number(value.toFixed(1))} ${units[at]}`
}

const countText = (value: number): string =>
  value >= 1000 ? `${Number((value / 1000).toPrecision(3))}k` : String(Number(value.toPrecision(3)))

const xText = ({ unit }: ScaleSeries, x: number): string =>
  unit === 'bytes' ? bytesText(x) : countText(x)

function printSeries(series: ScaleSeries): void {
  const table = new Table({
    head: [
      series.title,
      'writes/s',
      'reads/s',
      'memory',
      'index',
      'B/block',
      'restart',
      'recovery'
    ],
    style: { head: [], border: [], compact: true }
  })
  for (const point of series.points) {
    const { indexBytes, indexEntries } = point
    table.push([
      xText(series, point.x),
      point.writeIops.toFixed(0),
      point.readIops.toFixed(0),
      `${(point.residentBytes / MiB).toFixed(0)} MiB`,
      `${(indexBytes / MiB).toFixed(1)} MiB`,
      (indexBytes / Math.max(1, indexEntries)).toFixed(1),
      `${point.restartMs.toFixed(0)} ms`,
      `${point.recoveryMs.toFixed(0)} ms`
    ])
  }
  console.log(table.toString())
}

function charts(series: ScaleSeries): LineChart[] {
  const xLabel = (x: number): string => xText(series, x)
  const line = (of: (point: ScalePoint) => number): [number, number][] =>
    series.points.map((point) => [point.x, of(point)])
  return [
    {
      title: `IOPS by ${series.title}`,
      xLabel,
      yLabel: countText,
      yBase: 10,
      series: [
        { name: '4 KiB writes', points: line(({ writeIops }) => writeIops) },
        { name: '4 KiB reads', points: line(({ readIops }) => readIops) }
      ]
    },
    {
      title: `memory by ${series.title}`,
      xLabel,
      yLabel: bytesText,
      yBase: 2,
      series: [
        { name: 'process', points: line(({ residentBytes }) => residentBytes) },
        { name: 'index', points: line(({ indexBytes }) => indexBytes) }
      ]
    },
    {
      title: `start by ${series.title}`,
      xLabel,
      yLabel: (ms) => (ms >= 1000 ? `${countText(ms / 1000)} s` : `${countText(ms)} ms`),
      yBase: 10,
      series: [
        { name: 'after stop', points: line(({ restartMs }) => restartMs) },
        { name: 'after kill -9', points: line(({ recoveryMs }) => recoveryMs) }
      ]
    }
  ]
}

interface ScaleOptions {
  readonly series: readonly string[]
  readonly quick: boolean
  readonly seconds: number
  readonly blocks: number
  readonly minutes: number
  readonly directory: string
  readonly out: string
  readonly save: string
}

/** @throws Error that tells what is wrong with the arguments */
function parseOptions(): ScaleOptions {
  const { values } = parseArgs({
    options: {
      series: { type: 'string', default: seriesIds.join(',') },
      quick: { type: 'boolean', default: false },
      seconds: { type: 'string', default: '2' },
      blocks: { type: 'string', default: '131072' },
      minutes: { type: 'string', default: '4.5' },
      dir: { type: 'string', default: tmpdir() },
      out: { type: 'string', default: 'bench-out' },
      save: { type: 'string', default: '' }
    }
  })
  const series = values.series.split(',')
  const unknown = series.find((id) => !seriesIds.includes(id))
  if (unknown !== undefined) throw new Error(`no series ${unknown}: ${seriesIds.join(' ')}`)
  const number = (name: 'seconds' | 'blocks' | 'minutes'): number => {
    const value = Number(values[name])
    if (!(value > 0)) throw new Error(`--${name} ${values[name]} is not a number above 0`)
    return value
  }
  return {
    series,
    quick: values.quick,
    seconds: number('seconds'),
    blocks: number('blocks'),
    minutes: number('minutes'),
    directory: values.dir,
    out: values.out,
    save: values.save
  }
}

/** Starting, stopping and starting a peer again, and what fio takes by itself. */
const POINT_SECONDS = 7
/** A guess, for the estimate alone. */
const WRITES_PER_SECOND = 35_000

/** False when the time was over before the last point. */
async function measure(options: ScaleOptions): Promise<boolean> {
  const { series, quick, seconds, blocks, minutes } = options
  const directory = mkdtempSync(join(options.directory, 'torus-scale-'))
  const remove = (): void => rmSync(directory, { recursive: true, force: true })
  process.once('exit', remove)
  const note = (text: string): void => console.error(text)
  const machine = await describeMachine(directory)
  const points = series.reduce((sum, id) => sum + pointsOf(id, quick), 0)
  const estimate = points * (POINT_SECONDS + seconds + blocks / WRITES_PER_SECOND)
  note(`this takes about ${durationText(estimate)}; no point begins after ${minutes} min`)
  const all = new Map<string, ScaleSeries>()
  const startedMs = performance.now()
  const plan = {
    seconds,
    blocks,
    directory,
    note,
    onPoint: (measured: ScaleSeries) => {
      all.set(measured.id, measured)
      keep(options, machine, [...all.values()])
    },
    isOver: () => performance.now() - startedMs > minutes * 60_000
  }
  let complete = true
  for (const id of series) complete = (await measureSeries(id, quick, plan)) && complete
  remove()
  console.log(machineLine(machine))
  for (const each of all.values()) printSeries(each)
  if (!complete) console.log('not all of it: the time was over; --minutes gives more')
  for (const place of placesOf(options)) console.log(`wrote ${place}.json and .svg`)
  return complete
}

function placesOf({ out, save }: ScaleOptions): string[] {
  const place = join(resolve(out), 'scale')
  return save === '' ? [place] : [place, join(repositoryRoot, 'scripts/bench/results', save)]
}

function keep(options: ScaleOptions, machine: Machine, all: readonly ScaleSeries[]): void {
  const { blocks, seconds } = options
  const drawn = lineCharts(
    'How the cost of Torus grows',
    `${machine.date.slice(0, 10)}, ${machine.cores} cores with the client on them, ` +
      `${countText(blocks)} random 4 KiB blocks written`,
    all.map(charts)
  )
  const text = JSON.stringify({ machine, options: { blocks, seconds }, series: all }, null, 2)
  for (const place of placesOf(options)) {
    mkdirSync(join(place, '..'), { recursive: true })
    writeFileSync(`${place}.json`, `${text}\n`)
    writeFileSync(`${place}.svg`, drawn)
  }
}

let options: ScaleOptions | null = null
try {
  options = parseOptions()
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 2
}
if (options !== null) {
  try {
    if (!(await measure(options))) process.exitCode = 1
  } catch (error) {
    console.error(error)
    process.exitCode = 1
  }
}
