/**
 * Shows how the cost of torus grows: with the size of a thin volume, with the number of volumes,
 * of connections and of shards. For each: random 4 KiB IOPS, memory, and the time to start again.
 * It reports; it never fails on a figure.
 *
 *   npm run bench:scale                  all series, about five minutes
 *   npm run bench:scale -- --quick       two points of each, one minute
 *   npm run bench:scale -- --series size,shards --seconds 8
 *
 * Exit codes: 0 measured, 1 something could not run, 2 usage.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { type LineChart, lineCharts } from './bench/lines.ts'
import { describeMachine, machineLine } from './bench/machine.ts'
import { measureSeries, type ScalePoint, type ScaleSeries, seriesIds } from './bench/scale.ts'
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
      seconds: { type: 'string' },
      dir: { type: 'string', default: tmpdir() },
      out: { type: 'string', default: 'bench-out' },
      save: { type: 'string', default: '' }
    }
  })
  const series = values.series.split(',')
  const unknown = series.find((id) => !seriesIds.includes(id))
  if (unknown !== undefined) throw new Error(`no series ${unknown}: ${seriesIds.join(' ')}`)
  const seconds = Number(values.seconds ?? (values.quick ? 2 : 5))
  if (!(seconds > 0)) throw new Error('--seconds is not a number above 0')
  const { quick, dir, out, save } = values
  return { series, quick, seconds, directory: dir, out, save }
}

async function measure(options: ScaleOptions): Promise<void> {
  const directory = mkdtempSync(join(options.directory, 'torus-scale-'))
  const note = (text: string): void => console.error(text)
  const all: ScaleSeries[] = []
  const machine = await describeMachine(directory)
  try {
    for (const id of options.series) {
      const { seconds } = options
      all.push(await measureSeries(id, options.quick, { seconds, directory, note }))
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
  console.log(machineLine(machine))
  for (const series of all) printSeries(series)
  const drawn = lineCharts(
    'How the cost of Torus grows',
    `${machine.date.slice(0, 10)}, ${machine.cores} cores, client on the same machine`,
    all.map(charts)
  )
  const places = [join(resolve(options.out), 'scale')]
  if (options.save !== '') places.push(join(repositoryRoot, 'scripts/bench/results', options.save))
  for (const place of places) {
    mkdirSync(join(place, '..'), { recursive: true })
    writeFileSync(`${place}.json`, `${JSON.stringify({ machine, series: all }, null, 2)}\n`)
    writeFileSync(`${place}.svg`, drawn)
    console.log(`wrote ${place}.json and .svg`)
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
    await measure(options)
  } catch (error) {
    console.error(error)
    process.exitCode = 1
  }
}
