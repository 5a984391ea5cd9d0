import { ok } from 'node:assert/strict'
import { suite } from 'uvu'
import { Pace } from '../../src/replication/pace.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

const test = suite('pace')

function makePace(bytesPerSecond: number, depth: () => number) {
  const clock = new ManualClock()
  const timers = {
    start: (delayMs: number, run: () => void) => {
      queueMicrotask(() => {
        clock.nowMs += delayMs
        run()
      })
      return () => {}
    }
  }
  return { clock, pace: new Pace(clock, timers, { bytesPerSecond, clientDepth: depth }) }
}

test('bytes take the time that their rate says', async () => {
  const { clock, pace } = makePace(1_000_000, () => 0)
  const start = clock.nowMs
  for (let i = 0; i < 100; i++) await pace.take(10_000)
  ok(Math.abs(clock.nowMs - start - 990) < 1, `${clock.nowMs - start} ms`)
  clock.nowMs += 5000
  const idle = clock.nowMs
  await pace.take(10_000)
  ok(clock.nowMs === idle, 'after a pause there is nothing to wait for, and nothing saved up')
  await pace.take(10_000)
  ok(clock.nowMs > idle)
})

test('clients go first, and yet it goes on', async () => {
  let depth = 32
  const { clock, pace } = makePace(1e12, () => depth)
  const start = clock.nowMs
  await pace.take(4096)
  const busyMs = clock.nowMs - start
  ok(busyMs >= 20 && busyMs <= 200, `${busyMs} ms`)
  depth = 1
  const calm = clock.nowMs
  await pace.take(4096)
  ok(clock.nowMs - calm < 1)
})

test.run()
