import { ok } from 'node:assert/strict'
import { suite } from 'uvu'
import { BlockCredit } from '../../src/replication/block-credit.ts'

const test = suite('block credit')

/** Every read is from the disk. */
const countDisk = (): (() => number) => {
  let reads = 0
  return () => ++reads
}

const QUICK_READ_MS = 0.006

/** Share of a minute that reads block when one in `every` takes `slowMs`, and the others little. */
function blockedShare(slowMs: number, every: number): number {
  const credit = new BlockCredit(countDisk())
  let blockedMs = 0
  let reads = 0
  let nowMs = 0
  while (nowMs < 60_000) {
    nowMs += 0.02 // between two requests
    if (credit.isPaused(nowMs)) continue
    const tookMs = ++reads % every === 0 ? slowMs : QUICK_READ_MS
    credit.account(nowMs, nowMs + tookMs)
    nowMs += tookMs
    if (tookMs === slowMs) blockedMs += tookMs
  }
  return blockedMs / nowMs
}

test('reads do not keep the main thread, however slow the disk and however few need it', () => {
  for (const slowMs of [0.5, 3, 8, 50, 2000]) {
    for (const every of [1, 10, 33, 100]) {
      const share = blockedShare(slowMs, every)
      const what = `${slowMs} ms, one in ${every}: ${(100 * share).toFixed(1)} %`
      ok(share < 0.2, what)
    }
  }
})

test('a disk that hangs is found out by one read', () => {
  const credit = new BlockCredit(countDisk())
  for (let read = 0; read < 1000; read++) credit.account(read, read + QUICK_READ_MS)
  credit.account(1000, 3000)
  ok(credit.isPaused(3000 + 10_000))
})

test('a read that lost its core now and then stops nothing', () => {
  const credit = new BlockCredit(countDisk())
  for (let read = 1; read < 5000; read++) {
    credit.account(read, read + (read % 400 === 0 ? 4 : QUICK_READ_MS))
    ok(!credit.isPaused(read + 4))
  }
})

test('reads that are late without a disk, because others have the cores, stop nothing', () => {
  const credit = new BlockCredit(() => 7)
  credit.account(0, 4) // the first look, to which all is news
  for (let read = 1000; read < 6000; read++) {
    credit.account(read, read + (read % 3 === 0 ? 4 : QUICK_READ_MS))
    ok(!credit.isPaused(read + 4))
  }
})

test('where nobody counts what disks read every late read may be one', () => {
  const credit = new BlockCredit(() => 0)
  for (let read = 0; read < 10; read++) credit.account(read, read + 0.9)
  ok(credit.isPaused(10))
})

test.run()
