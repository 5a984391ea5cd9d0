import { equal, ok } from 'node:assert/strict'
import { suite } from 'uvu'
import { ResyncMeter } from '../../src/replication/resync-progress.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

const test = suite('resync progress')
const BLOCK = 4096

/** Copies `blocks` in as many seconds as it takes at `perSecond`. */
function copy(clock: ManualClock, meter: ResyncMeter, blocks: number, perSecond: number): void {
  for (let left = blocks; left > 0; left -= perSecond) {
    clock.nowMs += 1000
    meter.copied(Math.min(left, perSecond) * BLOCK)
  }
}

test('rate and time left are those of the last seconds and of what is left', () => {
  const clock = new ManualClock()
  const meter = new ResyncMeter(clock)
  equal(meter.progress(0, 0).secondsLeft, 0)
  meter.begin()
  equal(meter.progress(3, 3).secondsLeft, null)
  meter.compared(1000)
  meter.compared(1000)
  meter.beginPart(1000)
  copy(clock, meter, 500, 100)
  const half = meter.progress(3, 1)
  ok(Math.abs(half.bytesPerSecond / BLOCK - 100) < 21, `${half.bytesPerSecond / BLOCK}`)
  equal(half.bytesLeft, (500 + 1000 + 1000) * BLOCK)
  ok(Math.abs(half.secondsLeft! - 25) < 6, `${half.secondsLeft}`)
  copy(clock, meter, 500, 100)
  meter.endPart()
  meter.groupDone(true)
  equal(meter.progress(2, 1).bytesLeft, 2000 * BLOCK)
  clock.nowMs += 10_000
  equal(meter.progress(2, 1).bytesPerSecond, 0)
})

test('groups that differ little are not told to take as long as all of them would', () => {
  const clock = new ManualClock()
  const meter = new ResyncMeter(clock)
  meter.begin()
  for (let group = 0; group < 10; group++) meter.compared(100_000)
  for (let group = 0; group < 5; group++) {
    meter.beginPart(100_000)
    copy(clock, meter, 10, 10)
    meter.endPart()
    meter.groupDone(true)
  }
  equal(meter.progress(5, 0).secondsLeft, 5)
  equal(meter.progress(5, 0).secondsPerGroup, 1)
})

test('groups that come soon after belong to the same run, later ones to another', () => {
  const clock = new ManualClock()
  const meter = new ResyncMeter(clock)
  const groupIsDone = (): void => {
    meter.begin()
    meter.compared(10)
    meter.copied(10 * BLOCK)
    meter.groupDone(true)
    meter.end()
  }
  groupIsDone()
  clock.nowMs += 500
  groupIsDone()
  equal(meter.progress(0, 0).groupsDone, 2)
  clock.nowMs += 60_000
  groupIsDone()
  const { groupsDone, bytesCopied } = meter.progress(0, 0)
  equal(groupsDone, 1)
  equal(bytesCopied, 10 * BLOCK)
})

test.run()
