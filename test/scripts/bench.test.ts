import { deepStrictEqual, match, ok, strictEqual, throws } from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { comparisonChart } from '../../scripts/bench/chart.ts'
import type { Measurement } from '../../scripts/bench/compare.ts'
import { durationText, estimateSeconds } from '../../scripts/bench/estimate.ts'
import { joined, keptIn } from '../../scripts/bench/join.ts'
import { lineCharts } from '../../scripts/bench/lines.ts'
import { fioArguments, parseFio } from '../../scripts/bench/fio.ts'
import { parseOptions, sizeOf } from '../../scripts/bench/options.ts'
import { comparisonTable, type RowReport, reportRow } from '../../scripts/bench/report.ts'
import { Results } from '../../scripts/bench/results.ts'
import { type Row, rows, tableOrder } from '../../scripts/bench/rows.ts'
import { median } from '../../scripts/bench/statistics.ts'
import { text } from '../../scripts/bench/svg.ts'
import { childrenOf, cpuUs, peakBytes } from '../../scripts/bench/usage.ts'

const side = (operations: number, meanNs: number): object => ({
  total_ios: operations,
  io_bytes: operations * 4096,
  runtime: 2000,
  iops: operations / 2,
  bw_bytes: operations * 2048,
  lat_ns: { mean: meanNs, max: 9_000_000 },
  clat_ns: { percentile: { '50.000000': 50_000, '99.000000': 99_000 } }
})

const fioOutput = (reads: number, writes: number): string => {
  const job = { error: 0, read: side(reads, 1000), write: side(writes, 4000) }
  return `fio: a note\n${JSON.stringify({ jobs: [{ ...job, sync: { total_ios: 7 } }] })}`
}

const measurement = (server: string, round: number, latencyUs: number): Measurement => ({
  row: 'randread1',
  server,
  round,
  fio: { ...parseFio(fioOutput(1000, 0)), latencyUs },
  cpuUs: 20_000,
  threads: [{ id: 1, name: 'main', cpuUs: 5000 }],
  residentBytesPeak: 0,
  startUs: 0,
  endUs: 1
})

const machine = {
  ...{ date: '2026-01-31T12:00:00.000Z', cpu: '', cores: 2, memoryGiB: 1, kernel: '' },
  ...{ filesystem: 'ext4', node: 'v20', fio: 'fio-3', commit: 'abc' }
}

const latencyRow = rows.find(({ id }) => id === 'randread1') as Row

const latencyReport = (): RowReport =>
  reportRow(latencyRow, [
    measurement('torus', 0, 50),
    measurement('torus', 1, 80),
    measurement('torus', 2, 60),
    measurement('nbdkit', 0, 60),
    measurement('nbdkit', 1, 60),
    measurement('nbdkit', 2, 60),
    measurement('nbd-server', 0, 90),
    measurement('nbd-server', 1, 90),
    measurement('nbd-server', 2, 90)
  ])

test('the median of an even count is the mean of its middle', () => {
  strictEqual(median([4, 1, 3, 2]), 2.5)
  strictEqual(median([3, 1, 2]), 2)
  ok(Number.isNaN(median([])))
})

test('a mixed fio job adds up both directions and weighs their latencies', () => {
  const result = parseFio(fioOutput(300, 100))
  strictEqual(result.operations, 400)
  strictEqual(result.iops, 200)
  strictEqual(result.bytes, 400 * 4096)
  strictEqual(result.latencyUs, 1.75)
  strictEqual(result.p99Us, 99)
  strictEqual(result.syncs, 7)
})

test('a fio job that failed is no measurement', () => {
  throws(() => parseFio(fioOutput(1, 1).replace('"error":0', '"error":5')), /error 5/)
})

test('every row has its place in the printed table, and fio can run it', () => {
  strictEqual(rows.length, tableOrder.length)
  for (const row of rows) {
    ok(tableOrder.includes(row.id), row.id)
    const target = { args: [], sizeBytes: 1, seconds: 2, seed: 3 }
    ok(fioArguments(row.job, target).includes(`--bs=${row.job.blockBytes}`))
  }
})

test('a latency ratio is above 1 when ours is the shorter, against the best reference', () => {
  const report = latencyReport()
  strictEqual(report.best, 'nbdkit')
  strictEqual(report.ratio.median, 1)
  strictEqual(report.ratio.min, 60 / 80)
  strictEqual(report.ratio.max, 60 / 50)
  strictEqual(report.servers[0]?.cpuUsPerOperation, 20)
})

test('a table and a chart are made of what ran, even when torus or the references did not', () => {
  const alone = reportRow(latencyRow, [measurement('torus', 0, 50)])
  const without = reportRow(latencyRow, [measurement('nbdkit', 0, 50)])
  ok(comparisonTable([latencyReport(), alone, without], ['torus', 'nbdkit']).includes('60 µs'))
  const chart = comparisonChart([latencyReport(), alone, without], 'a <machine>')
  ok(chart.startsWith('<svg ') && chart.trimEnd().endsWith('</svg>'))
  ok(chart.includes('a &lt;machine&gt;') && !chart.includes('NaN'))
})

test('growth is drawn on logarithmic axes, and what is zero is left out', () => {
  const labels = { xLabel: String, yLabel: String, yBase: 10 }
  const points = [[1, 10] as const, [1024, 0] as const, [2048, 90_000] as const]
  const chart = { title: 'growth', ...labels, series: [{ name: 'a', points }] }
  const empty = { title: 'none', ...labels, series: [] }
  const drawn = lineCharts('title', 'subtitle', [[chart, empty]])
  strictEqual(drawn.split('<circle').length, 3)
  ok(drawn.includes('not measured') && !drawn.includes('NaN') && !drawn.includes('Infinity'))
})

test('a chart tells the ratio and the goal, and is as wide as its longest bar', () => {
  const far = { ...latencyReport(), goal: 2.5, ratio: { median: 2, min: 1, max: 3 } }
  const chart = comparisonChart([latencyReport(), far], '')
  ok(chart.includes('>2.00×, goal 2.5×<') && chart.includes('>3×<') && !chart.includes('>3.5×<'))
})

test('an estimate counts what is left, and grows with rounds and servers', () => {
  const shape = { rows, selfRows: ['self-fill'], seconds: 8, sizeBytes: 4 * 2 ** 30, rounds: 5 }
  const all = estimateSeconds({ ...shape, servers: ['torus', 'nbdkit', 'qemu-threads'] })
  const two = estimateSeconds({ ...shape, servers: ['torus', 'nbdkit'] })
  const alone = estimateSeconds({ ...shape, servers: ['nbdkit'] })
  ok(all > two && two > alone && all > 1000 && all < 3600)
  const left = estimateSeconds({ ...shape, servers: ['torus', 'nbdkit'] }, () => true)
  ok(left < two / 4 && left > 0)
  strictEqual(durationText(89), '89 s')
  strictEqual(durationText(600), '10 min')
  strictEqual(durationText(3600 + 35 * 60), '1 h 35 min')
})

test('what was measured is kept, and another run goes on behind it', () => {
  const out = mkdtempSync(join(tmpdir(), 'torus-results-'))
  try {
    const settings = { seconds: 1, sizeBytes: 2 ** 30, rounds: 2 }
    const results = (more: object = {}, commit = 'abc') =>
      new Results(out, rows, { ...settings, ...more }, { ...machine, commit })
    match(results().resume(), /nothing to go on with/)
    const first = results()
    first.measurements.push(measurement('torus', 0, 50), measurement('nbdkit', 0, 60))
    first.keep(false)
    const second = results()
    match(second.resume(), /behind 1 rounds/)
    ok(second.isDone('randread1', 0) && !second.isDone('randread1', 1))
    ok(!second.isDone('randread', 0) && !second.isSelfDone('self-fill'))
    strictEqual(second.reports().length, 1)
    second.keep(true, join(out, 'there/named'))
    const kept = JSON.parse(readFileSync(join(out, 'there/named.json'), 'utf8'))
    strictEqual(kept.complete, true)
    strictEqual(kept.measurements, undefined)
    strictEqual(kept.rows[0].servers.length, 2)
    throws(() => results({ rounds: 3 }).resume(), /"rounds":2.*not .*"rounds":3/)
    throws(() => results({}, 'def').resume(), /at commit abc, not def/)
  } finally {
    rmSync(out, { recursive: true })
  }
})

test('runs in parts are joined: rounds of a row go on, jobs of another kind do not mix', () => {
  const out = mkdtempSync(join(tmpdir(), 'torus-bench-test-'))
  try {
    const keep = (name: string, seconds: number, commit: string, ...of: Measurement[]): string => {
      const settings = { seconds, sizeBytes: 2 ** 30, rounds: 2 }
      const results = new Results(join(out, name), rows, settings, { ...machine, commit })
      results.measurements.push(...of)
      results.keep(true)
      return join(out, name)
    }
    const first = [measurement('torus', 0, 50), measurement('torus', 1, 60)]
    const part = keep('a', 1, 'abc', ...first, measurement('nbdkit', 0, 70))
    const other = { ...measurement('torus', 0, 5), row: 'randread' }
    const rest = keep('b', 1, 'def', measurement('torus', 0, 40), other)
    const { measurements, machine: told, options } = joined([keptIn(part), keptIn(rest)])
    const roundsOf = (row: string): number[] =>
      measurements.filter((one) => one.row === row).map(({ round }) => round)
    deepStrictEqual(roundsOf('randread1'), [0, 1, 0, 2])
    deepStrictEqual(roundsOf('randread'), [0])
    strictEqual(told.commit, 'abc def')
    strictEqual(options.rounds, 3)
    const longer = keep('c', 2, 'abc', measurement('torus', 0, 40))
    throws(() => joined([keptIn(part), keptIn(longer)]), /1 s over .* do not go with 2 s/)
  } finally {
    rmSync(out, { recursive: true })
  }
})

test('text in a picture is escaped', () => {
  ok(text(1, 2, 'a < b & "c"').includes('>a &lt; b &amp; &quot;c&quot;<'))
})

test('options choose rows and servers, and name what they do not know', () => {
  const options = parseOptions([
    '--rows',
    'randread,self-fill',
    '--servers',
    'torus',
    '--size',
    '2GiB'
  ])
  ok(options !== 'help')
  strictEqual(options.rows.length, 1)
  strictEqual(options.selfRows[0], 'self-fill')
  strictEqual(options.sizeBytes, 2 * 2 ** 30)
  throws(() => parseOptions(['--rows', 'nonsense']), /no row nonsense/)
  throws(() => parseOptions(['--servers', 'apache']), /no server apache/)
  throws(() => sizeOf('12'), /not a size/)
})

test('the usage of this very process can be read', () => {
  ok(cpuUs(process.pid) > 0)
  ok(peakBytes(process.pid) > 10 * 2 ** 20)
  strictEqual(childrenOf(process.pid).length, 0)
})

test.run()
