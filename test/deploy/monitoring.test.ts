import { ok } from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { parse } from 'yaml'
import { repositoryRoot } from '../../scripts/repository.ts'
import { createRegistry, registerSecurityMetrics } from '../../src/admin/metrics.ts'
import { registerMetadataMetrics } from '../../src/coordinator/metadata-metrics.ts'
import { LatencyHistogram } from '../../src/core/histogram.ts'
import { FakeBackend } from '../helpers/fake-backend.ts'

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
}
interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly gridPos: {
    readonly x: number
    readonly y: number
    readonly w: number
    readonly h: number
  }
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[]
}

const read = (name: string): string => readFileSync(join(repositoryRoot, 'deploy', name), 'utf8')
const rules: Rule[] = parse(read('prometheus/torus-alerts.yml')).groups.flatMap(
  ({ rules }: { rules: Rule[] }) => rules
)
const dashboard = JSON.parse(read('grafana/torus.json'))
const panels: Panel[] = dashboard.panels
const targets = panels.flatMap(({ title, targets = [] }) =>
  targets.map(({ expr, legendFormat }) => ({ title, expr, legendFormat }))
)

/** Series that a scrape adds or that other exporters give: name -> labels. */
const foreign = new Map([['up', new Set<string>()]])
/** Labels that Prometheus itself puts on every series. */
const everywhere = ['instance', 'job']

/** Name of every series of a scrape -> labels that it has. */
async function seriesOfRegistry(): Promise<Map<string, Set<string>>> {
  const backend = new FakeBackend()
  backend.addTraffic('demo', 5)
  const registry = createRegistry(backend, { version: '1', nodeVersion: 'v20' })
  const latency = new LatencyHistogram().snapshot()
  const calls = [{ operation: 'get', count: 1, errors: 0, latency } as const]
  const session = { trustedForMs: 9000 }
  registerMetadataMetrics(registry, {
    store: { stats: () => [...calls], watchChanges: 0 },
    session
  })
  const audit = { counts: () => ({ written: 0, lost: 0 }) }
  registerSecurityMetrics(registry, { tokens: { count: 0 }, audit }, { wrong: 0, limited: 0 })
  const series = new Map(foreign)
  for (const line of (await registry.text()).split('\n')) {
    const [, name, labels = ''] = /^([a-z_]\w*)(?:\{(.*)\})? \S+$/.exec(line) ?? []
    if (name === undefined) continue
    const known = series.get(name) ?? new Set<string>()
    for (const [, label] of labels.matchAll(/(\w+)="/g)) known.add(label!)
    series.set(name, known)
  }
  return series
}

const series = await seriesOfRegistry()

const words = new Set(
  ['by', 'without', 'and', 'or', 'unless', 'on', 'ignoring', 'bool', 'offset'].concat(
    ...['sum', 'avg', 'min', 'max', 'count', 'rate', 'increase', 'histogram_quantile']
  )
)

/** What is wrong with the names and labels of a PromQL expression. */
function problemsOf(expr: string): string[] {
  const problems: string[] = []
  const plain = expr.replaceAll(/\[[^\]]*\]/g, '')
  const selectors = plain.matchAll(/\b([a-z_]\w*)\b(?!\s*\()(?:\{([^}]*)\})?/g)
  const outside = plain.replaceAll(/\{[^}]*\}/g, '')
  const grouped = [...outside.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, names]) =>
    names!.split(',').map((name) => name.trim())
  )
  const allLabels = new Set(everywhere)
  let found = 0
  for (const [, name, filter = ''] of selectors) {
    if (words.has(name!) || grouped.includes(name!) || insideFilter(plain, name!)) continue
    const labels = series.get(name!)
    if (labels === undefined) {
      problems.push(`no metric ${name}`)
      continue
    }
    found++
    for (const label of labels) allLabels.add(label)
    for (const [, label] of filter.matchAll(/(\w+)\s*[=!]/g)) {
      if (!labels.has(label!) && !everywhere.includes(label!))
        problems.push(`${name} has no ${label}`)
    }
  }
  if (found === 0) problems.push('no metric at all')
  for (const label of grouped) if (!allLabels.has(label)) problems.push(`no label ${label}`)
  return problems
}

/** Is the word only a label or a value in braces. */
const insideFilter = (expr: string, word: string): boolean =>
  !new RegExp(`\\b${word}\\b`).test(expr.replaceAll(/\{[^}]*\}/g, ''))

/** Labels that `{{label}}` or `{{ $labels.label }}` of a text ask for. */
const labelsOfText = (text: string): string[] =>
  [...text.matchAll(/\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}/g)].map(([, label]) => label!)

function missingLabels(expr: string, text: string): string[] {
  const grouped = /\bby \(([^)]*)\)/
    .exec(expr)?.[1]
    ?.split(',')
    .map((name) => name.trim())
  const names = [...expr.matchAll(/\b(torus_\w+|process_\w+|nodejs_\w+|up)\b/g)].map(
    ([name]) => name
  )
  const own = names.flatMap((name) => [...(series.get(name) ?? [])])
  const known = new Set(grouped ?? [...own, ...everywhere])
  return labelsOfText(text).filter((label) => !known.has(label))
}

const none = (found: readonly string[], what: string) => ok(found.length === 0, `${what}: ${found}`)

test('alerts use metrics and labels that a peer has', () => {
  for (const { alert, expr, annotations } of rules) {
    none(problemsOf(expr), alert)
    none(missingLabels(expr, Object.values(annotations).join(' ')), alert)
  }
})

test('every alert has a severity, and says what to do', () => {
  for (const { alert, labels, annotations } of rules) {
    ok(['warning', 'critical'].includes(labels['severity'] ?? ''), alert)
    ok(
      (annotations['summary'] ?? '').length > 10 && (annotations['description'] ?? '') !== '',
      alert
    )
  }
  const names = rules.map(({ alert }) => alert)
  ok(new Set(names).size === names.length)
})

test('what an operator must hear of has an alert', () => {
  const all = rules.map(({ expr }) => expr).join('\n')
  for (const metric of [
    'torus_shard_live_bytes',
    'torus_shard_used_bytes',
    'torus_shard_scrub_errors_total',
    'torus_shard_sync_failures_total',
    'torus_shard_state',
    'torus_arena_free_bytes'
  ]) {
    ok(all.includes(metric), metric)
  }
})

test('panels use metrics and labels that a peer has', () => {
  ok(targets.length > 20)
  for (const { title, expr, legendFormat } of targets) {
    none(problemsOf(expr), title)
    none(missingLabels(expr, legendFormat), title)
  }
  for (const { name, query } of dashboard.templating.list) {
    if (name === 'datasource') continue
    const asked = /label_values\((\w+)(?:\{.*\})?, (\w+)\)/.exec(query.query)
    const labels = series.get(asked?.[1] ?? '')
    ok(labels !== undefined, name)
    ok([...labels, ...everywhere].includes(asked?.[2] ?? ''), name)
  }
})

test('panels have ids of their own and do not overlap', () => {
  ok(new Set(panels.map(({ id }) => id)).size === panels.length)
  const cells = new Map<string, string>()
  for (const { title, gridPos } of panels) {
    ok(gridPos.x + gridPos.w <= 24, title)
    for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        const before = cells.get(`${x},${y}`)
        ok(before === undefined, `${title} covers ${before}`)
        cells.set(`${x},${y}`, title)
      }
    }
  }
})

test('a wrong metric or label would be found', () => {
  ok(problemsOf('torus_nonsense > 1').length > 0)
  ok(problemsOf('torus_ready{shard="0"} == 1').length > 0)
  ok(problemsOf('sum by (volume) (torus_ready)').length > 0)
  ok(problemsOf('1 > 0').length > 0)
  ok(missingLabels('torus_ready', '{{ $labels.shard }}').length > 0)
})

test.run()
