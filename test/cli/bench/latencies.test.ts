import { deepEqual, equal, ok } from 'node:assert/strict'
import { test } from 'uvu'
import { Latencies } from '../../../src/cli/bench/latencies.ts'

const near = (found: number, wanted: number) =>
  ok(Math.abs(found / wanted - 1) < 0.02, `${found} is about ${wanted}`)

test('percentiles are exact to about one percent, whatever the scale', () => {
  for (const scale of [1, 37, 12_345]) {
    const latencies = new Latencies()
    for (let us = 1; us <= 10_000; us++) latencies.recordUs(us * scale)
    equal(latencies.count, 10_000)
    near(latencies.meanUs, 5000.5 * scale)
    for (const part of [0.5, 0.9, 0.99, 0.999]) {
      near(latencies.quantileUs(part), 10_000 * part * scale)
    }
    equal(latencies.maxUs, 10_000 * scale)
    ok(latencies.quantileUs(1) <= latencies.maxUs)
  }
})

test('a single value is every percentile, and none are 0', () => {
  const latencies = new Latencies()
  deepEqual([latencies.quantileUs(0.5), latencies.meanUs, latencies.maxUs], [0, 0, 0])
  latencies.recordUs(250)
  for (const part of [0, 0.5, 0.999]) near(latencies.quantileUs(part), 250)
})

test('times below the first and beyond the last bucket are counted', () => {
  const latencies = new Latencies()
  latencies.recordUs(0)
  latencies.recordUs(0.3)
  latencies.recordUs(1e12)
  equal(latencies.count, 3)
  equal(latencies.maxUs, 1e12)
})

test('draining moves everything and leaves nothing', () => {
  const total = new Latencies()
  const recent = new Latencies()
  for (const us of [10, 20, 30]) recent.recordUs(us)
  total.recordUs(5)
  total.drain(recent)
  deepEqual([total.count, total.maxUs, total.meanUs], [4, 30, 16.25])
  deepEqual([recent.count, recent.maxUs, recent.meanUs], [0, 0, 0])
  near(total.quantileUs(1), 30)
})

test.run()
