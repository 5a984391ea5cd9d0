/** Line charts on logarithmic axes, several in a grid: how something grows with something else. */
import { circle, line, polyline, svg, text } from './svg.ts'

export interface Series {
  readonly name: string
  /** `[x, y]`; points with y not above zero are left out. */
  readonly points: readonly (readonly [number, number])[]
}

export interface LineChart {
  readonly title: string
  readonly xLabel: (value: number) => string
  readonly yLabel: (value: number) => string
  /** Between two powers of this stands one line: 10, or 2 for bytes. */
  readonly yBase: number
  readonly series: readonly Series[]
}

const COLOURS = ['#0b6e4f', '#c0392b', '#2c5aa0', '#8a6d3b']
const WIDTH = 330
const HEIGHT = 210
const LEFT = 58
const TOP = 44
const PLOT_WIDTH = WIDTH - LEFT - 16
const PLOT_HEIGHT = HEIGHT - TOP - 34

/** A grid of charts, row by row. */
export function lineCharts(
  title: string,
  subtitle: string,
  charts: readonly (readonly LineChart[])[]
): string {
  const columns = Math.max(...charts.map((row) => row.length))
  const parts = [
    text(16, 24, title, { size: 17, weight: 'bold' }),
    text(16, 42, subtitle, { fill: '#555555' })
  ]
  charts.forEach((row, rowAt) => {
    row.forEach((chart, at) => {
      parts.push(...drawChart(chart, at * WIDTH, 54 + rowAt * HEIGHT))
    })
  })
  return svg(columns * WIDTH + 16, 54 + charts.length * HEIGHT + 8, parts)
}

/** Maps values to places on a logarithmic axis that starts and ends at powers of `base`. */
class Axis {
  readonly ticks: readonly number[]
  readonly #low: number
  readonly #high: number
  constructor(values: readonly number[], base: number) {
    const exponent = (value: number): number => Math.log(value) / Math.log(base)
    // A little below an exact power is that power: logarithms are not exact.
    this.#low = Math.floor(exponent(Math.min(...values)) + 1e-9)
    this.#high = Math.max(this.#low + 1, Math.ceil(exponent(Math.max(...values)) - 1e-9))
    const step = Math.max(1, Math.ceil((this.#high - this.#low) / 6))
    const ticks = []
    for (let at = this.#low; at <= this.#high; at += step) ticks.push(base ** at)
    this.ticks = ticks
    this.at = (value) => (exponent(value) - this.#low) / (this.#high - this.#low)
  }

  /** 0 at the low end of the axis, 1 at its high end. */
  readonly at: (value: number) => number
}

function drawChart(chart: LineChart, left: number, top: number): string[] {
  const drawn = chart.series.map(({ name, points }) => ({
    name,
    points: points.filter(([x, y]) => x > 0 && y > 0)
  }))
  const all = drawn.flatMap(({ points }) => points)
  const parts = [text(left + LEFT, top + 16, chart.title, { weight: 'bold' })]
  if (all.length === 0) return [...parts, text(left + LEFT, top + 60, 'not measured')]
  const xAxis = new Axis(
    all.map(([x]) => x),
    2
  )
  const yAxis = new Axis(
    all.map(([, y]) => y),
    chart.yBase
  )
  const x = (value: number): number => left + LEFT + xAxis.at(value) * PLOT_WIDTH
  const y = (value: number): number => top + TOP + (1 - yAxis.at(value)) * PLOT_HEIGHT
  const grid = '#e3e3e3'
  for (const tick of xAxis.ticks) {
    parts.push(line(x(tick), top + TOP, x(tick), top + TOP + PLOT_HEIGHT, grid))
    const place = top + TOP + PLOT_HEIGHT + 14
    parts.push(text(x(tick), place, chart.xLabel(tick), { size: 9, anchor: 'middle' }))
  }
  for (const tick of yAxis.ticks) {
    parts.push(line(left + LEFT, y(tick), left + LEFT + PLOT_WIDTH, y(tick), grid))
    parts.push(text(left + LEFT - 5, y(tick) + 3, chart.yLabel(tick), { size: 9, anchor: 'end' }))
  }
  drawn.forEach(({ name, points }, at) => {
    const colour = COLOURS[at % COLOURS.length]!
    const places = points.map(([px, py]) => [x(px), y(py)] as const)
    parts.push(polyline(places, colour), ...places.map(([cx, cy]) => circle(cx, cy, 3, colour)))
    parts.push(text(left + LEFT + at * 90, top + 32, name, { size: 10, fill: colour }))
  })
  return parts
}
