import { equal, ok } from 'node:assert/strict'
import { test } from 'uvu'
import {
  histogramCount,
  histogramQuantile,
  LATENCY_BOUNDS_SECONDS,
  LatencyHistogram
} from '../../src/core/histogram.ts'

test('an operation is counted in the bucket whose upper bound it does not pass', () => {
  const histogram = new LatencyHistogram()
  for (const ms of [0, 0.01, 0.0101, 1, 10_000, 10_001]) histogram.recordMs(ms)
  const { counts, sumSeconds } = histogram.snapshot()
  equal(counts.length, LATENCY_BOUNDS_SECONDS.length + 1)
  equal(counts[0], 2)
  equal(counts[1], 1)
  equal(counts[LATENCY_BOUNDS_SECONDS.indexOf(0.001)], 1)
  equal(counts.at(-2), 1)
  equal(counts.at(-1), 1)
  equal(histogramCount({ counts, sumSeconds }), 6)
  ok(Math.abs(sumSeconds - 20.0020201) < 1e-9)
})

test('a quantile lies in the bucket of the operation it stands for', () => {
  const histogram = new LatencyHistogram()
  for (let i = 0; i < 99; i++) histogram.recordMs(0.15)
  const early = histogram.snapshot()
  histogram.recordMs(150)
  const late = histogram.snapshot()
  const median = histogramQuantile(null, late, 0.5)!
  ok(median > 0.0001 && median <= 0.0002)
  const tail = histogramQuantile(null, late, 0.999)!
  ok(tail > 0.1 && tail <= 0.2)
  const since = histogramQuantile(early, late, 0.5)!
  ok(since > 0.1 && since <= 0.2)
  equal(histogramQuantile(late, late, 0.5), null)
})

test('a snapshot does not change later', () => {
  const histogram = new LatencyHistogram()
  const before = histogram.snapshot()
  histogram.recordMs(1)
  equal(histogramCount(before), 0)
})

test.run()
