/** Draws the comparison: for each job a bar per server, the best reference being 1. */
import { formatValue, inTableOrder, type RowReport } from './report.ts'
import { line, rect, svg, text } from './svg.ts'

const colours: Record<string, string> = {
  torus: '#0b6e4f',
  nbdkit: '#8fa3bf',
  'qemu-threads': '#c2b280',
  'qemu-uring': '#d9cfae',
  'nbd-server': '#b7a3c9',
  'append-buffered': '#9aa0a6',
  'append-direct': '#c5c9cd',
  'raw disk': '#e0c3c0'
}
const GOAL = '#c0392b'
const LABEL_WIDTH = 400
const BAR_HEIGHT = 11
const PLOT_WIDTH = 520
/** Ratios beyond this are drawn as far as it, with their figure beside. */
const RATIO_MAX = 4

const x = (ratio: number): number =>
  LABEL_WIDTH + (Math.min(ratio, RATIO_MAX) / RATIO_MAX) * PLOT_WIDTH

export function comparisonChart(reports: readonly RowReport[], subtitle: string): string {
  const ordered = inTableOrder(reports)
  const parts: string[] = [
    text(16, 24, 'Torus against native NBD servers', { size: 17, weight: 'bold' }),
    text(16, 42, subtitle, { fill: '#555555' }),
    text(16, 58, 'Longer is better; the best reference is 1. Red mark: goal.', { fill: '#555555' })
  ]
  let y = 78
  const top = y
  const bars: string[] = []
  for (const report of ordered) {
    bars.push(...rowBars(report, y))
    y += report.servers.length * BAR_HEIGHT + 12
  }
  for (let ratio = 0; ratio <= RATIO_MAX; ratio += 0.5) {
    const main = ratio === 1
    parts.push(line(x(ratio), top - 4, x(ratio), y - 4, main ? '#555555' : '#e3e3e3'))
    parts.push(text(x(ratio), y + 10, `${ratio}×`, { size: 10, anchor: 'middle', fill: '#555555' }))
  }
  parts.push(...bars, ...legend(ordered, y + 32))
  return svg(LABEL_WIDTH + PLOT_WIDTH + 110, y + 48, parts)
}

function rowBars(report: RowReport, top: number): string[] {
  const { servers, metric } = report
  const best = servers.find(({ server }) => server === report.best)?.value.median ?? Number.NaN
  const height = servers.length * BAR_HEIGHT
  const parts = [text(LABEL_WIDTH - 10, top + height / 2 + 4, report.title, { anchor: 'end' })]
  servers.forEach(({ server, value }, at) => {
    const ratio = metric === 'latencyUs' ? best / value.median : value.median / best
    const known = Number.isFinite(ratio) ? ratio : 1
    const y = top + at * BAR_HEIGHT
    const told = formatValue(metric, value.median)
    const beyond = known > RATIO_MAX ? ` (${known.toFixed(1)}×)` : ''
    parts.push(
      rect(LABEL_WIDTH, y, x(known) - LABEL_WIDTH, BAR_HEIGHT - 2, colours[server] ?? '#999999')
    )
    parts.push(text(x(known) + 4, y + BAR_HEIGHT - 3, told + beyond, { size: 9 }))
  })
  parts.push(line(x(report.goal), top - 2, x(report.goal), top + height, GOAL, 2))
  return parts
}

function legend(reports: readonly RowReport[], y: number): string[] {
  const names = [...new Set(reports.flatMap(({ servers }) => servers.map(({ server }) => server)))]
  let at = 16
  return names.flatMap((name) => {
    const parts = [rect(at, y - 9, 10, 10, colours[name] ?? '#999999'), text(at + 14, y, name)]
    at += 34 + name.length * 7
    return parts
  })
}
