/** Draws the comparison: for each job a bar per server, the best reference being 1. */
import { formatValue, inTableOrder, type RowReport, type ServerFigures } from './report.ts'
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
const GREY = '#555555'
const MET = '#0b6e4f'
const LABEL_WIDTH = 400
const BAR_HEIGHT = 11
const PLOT_WIDTH = 480
const VERDICT_WIDTH = 150
/** Ratios beyond this are drawn as far as it, with their figure beside. */
const RATIO_MAX = 4

export function comparisonChart(reports: readonly RowReport[], subtitle: string): string {
  const ordered = inTableOrder(reports)
  const end = axisEnd(ordered)
  const x = (ratio: number): number => LABEL_WIDTH + (Math.min(ratio, end) / end) * PLOT_WIDTH
  const told = 'Longer is better; the best reference is 1. Red mark and right column: the goal.'
  const parts: string[] = [
    text(16, 24, 'Torus against native NBD servers', { size: 17, weight: 'bold' }),
    text(16, 42, subtitle, { fill: GREY }),
    text(16, 58, told, { fill: GREY })
  ]
  let y = 78
  const top = y
  const bars: string[] = []
  for (const report of ordered) {
    bars.push(...rowBars(report, y, end, x))
    y += report.servers.length * BAR_HEIGHT + 12
  }
  for (let ratio = 0; ratio <= end; ratio += 0.5) {
    const main = ratio === 1
    parts.push(line(x(ratio), top - 4, x(ratio), y - 4, main ? GREY : '#e3e3e3'))
    parts.push(text(x(ratio), y + 10, `${ratio}×`, { size: 10, anchor: 'middle', fill: GREY }))
  }
  parts.push(...bars, ...legend(ordered, y + 32))
  return svg(LABEL_WIDTH + PLOT_WIDTH + VERDICT_WIDTH, y + 48, parts)
}

/** Enough for every bar and goal, in halves. */
function axisEnd(reports: readonly RowReport[]): number {
  const ratios = reports.flatMap((report) => [
    report.goal,
    ...report.servers.map((figures) => ratioOf(report, figures))
  ])
  return Math.min(RATIO_MAX, Math.ceil(Math.max(1, ...ratios) * 2 + 0.3) / 2)
}

/** To the best reference; 1 where there is none. */
function ratioOf({ servers, best, metric }: RowReport, { value }: ServerFigures): number {
  const reference = servers.find(({ server }) => server === best)?.value.median ?? Number.NaN
  const ratio = metric === 'latencyUs' ? reference / value.median : value.median / reference
  return Number.isFinite(ratio) ? ratio : 1
}

function rowBars(
  report: RowReport,
  top: number,
  end: number,
  x: (ratio: number) => number
): string[] {
  const { metric } = report
  const servers = [...report.servers].sort((a, b) => order(a) - order(b))
  const height = servers.length * BAR_HEIGHT
  const middle = top + height / 2 + 4
  const bars = [text(LABEL_WIDTH - 10, middle, report.title, { anchor: 'end' })]
  const figures: string[] = []
  servers.forEach((each, at) => {
    const ratio = ratioOf(report, each)
    const y = top + at * BAR_HEIGHT
    const colour = colours[each.server] ?? '#999999'
    const told = formatValue(metric, each.value.median)
    const beyond = ratio > end ? ` (${ratio.toFixed(1)}×)` : ''
    bars.push(rect(LABEL_WIDTH, y, x(ratio) - LABEL_WIDTH, BAR_HEIGHT - 2, colour))
    figures.push(text(x(ratio) + 4, y + BAR_HEIGHT - 3, told + beyond, { size: 9 }))
  })
  bars.push(line(x(report.goal), top - 2, x(report.goal), top + height, GOAL, 2))
  return [...bars, ...figures, verdict(report, middle)]
}

/** Ours first, whatever the order in which they ran. */
const order = ({ server }: ServerFigures): number => (server === 'torus' ? 0 : 1)

function verdict({ ratio, goal }: RowReport, y: number): string {
  if (!Number.isFinite(ratio.median)) return ''
  const fill = ratio.median >= goal ? MET : GOAL
  const told = `${ratio.median.toFixed(2)}×, goal ${goal}×`
  const at = LABEL_WIDTH + PLOT_WIDTH + VERDICT_WIDTH - 16
  return text(at, y, told, { anchor: 'end', fill, weight: 'bold' })
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
