import { deepStrictEqual, match, ok, strictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import {
  CLUSTER,
  clusterCostTable,
  type ClusterMeasurement,
  clusterTable,
  REFERENCE,
  reportClusterRow
} from '../../scripts/bench/cluster-report.ts'
import { clusterRows } from '../../scripts/bench/cluster-rows.ts'
import type { FioResult } from '../../scripts/bench/fio.ts'

const fio = (latencyUs: number, iops: number): FioResult => ({
  operations: 1000,
  bytes: 4_096_000,
  seconds: 1,
  iops,
  bytesPerSecond: iops * 4096,
  latencyUs,
  p50Us: latencyUs,
  p99Us: 2 * latencyUs,
  maxUs: 3 * latencyUs,
  syncs: 0
})

const measurement = (row: string, server: string, result: FioResult): ClusterMeasurement => ({
  row,
  server,
  round: 0,
  fio: result,
  usage: [{ name: 'gateway', mainUs: 12_000, restUs: 3400 }],
  startUs: 0,
  endUs: 1
})

test('latencies are better when low, rates when high, and goals likewise', () => {
  const [randread, randread1] = ['randread', 'randread1'].map(
    (id) => clusterRows.find((row) => row.id === id)!
  )
  const all = [
    measurement('randread', CLUSTER, fio(600, 55_000)),
    measurement('randread', REFERENCE, fio(500, 44_000)),
    measurement('randread1', CLUSTER, fio(100, 9000)),
    measurement('randread1', REFERENCE, fio(50, 18_000))
  ]
  const reports = [randread!, randread1!].map((row) => reportClusterRow(row, all))
  deepStrictEqual(
    reports.map(({ ratio, met }) => [ratio, met]),
    [
      [1.25, true],
      [0.5, false]
    ]
  )
  const table = clusterTable(reports, [CLUSTER, REFERENCE])
  match(table, /depth 32.*55\.0k.*44\.0k.*1\.25.*≥ 50\.0k.*yes/)
  match(table, /depth 1 .*100 µs.*50 µs.*0\.50.*≤ 85 µs.*no/)
  match(clusterCostTable(reports), /12\.0 \+ 3\.4.*15\.4/)
})

test('a row without a reference has no ratio, and every row names a goal', () => {
  const report = reportClusterRow(clusterRows[0]!, [])
  ok(Number.isNaN(report.ratio) && !report.met)
  strictEqual(clusterRows.length, 9)
  ok(clusterRows.every(({ goal }) => goal > 0))
})

test.run()
