/** Limits of volumes, and their turns. Times are given, so nothing waits. */
import { deepStrictEqual, ok, strictEqual, throws } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import {
  FEW_REQUESTS,
  SHARED_MS,
  SHARED_WINDOW,
  SHARED_WINDOW_BESIDE_FEW
} from '../../src/core/limits.ts'
import { Admission, limitsOf, NO_LIMITS, Turns } from '../../src/volume/admission.ts'
import { failsWith } from '../helpers/volume-bench.ts'

/** Takes what it may for so long, asking each millisecond; returns how many requests began. */
function taken(admission: Admission, fromMs: number, ms: number, bytes: number): number {
  let count = 0
  for (let nowMs = fromMs; nowMs < fromMs + ms; nowMs++) {
    while (admission.waitMs(nowMs) === 0) {
      admission.spend(bytes)
      count++
    }
  }
  return count
}

const limited = (limits: Partial<typeof NO_LIMITS>): Admission => {
  const admission = new Admission(new Turns(), { inFlight: 0 })
  admission.limit({ ...NO_LIMITS, ...limits }, 0)
  return admission
}

const isNear = (found: number, wanted: number): void =>
  ok(Math.abs(found - wanted) <= wanted * 0.02 + 1, `${found} is not about ${wanted}`)

test('requests and bytes come at the rate that was set, after what may come at once', () => {
  isNear(taken(limited({ iops: 500 }), 0, 10_000, 4096), 5000 + 50)
  isNear(taken(limited({ iops: 500, iopsBurst: 2000 }), 0, 10_000, 4096), 5000 + 2000)
  isNear(taken(limited({ bandwidth: 10 * 2 ** 20 }), 0, 10_000, 2 ** 20), 100 + 1)
  isNear(taken(limited({ iops: 100, bandwidth: 2 ** 20 }), 0, 10_000, 4096), 1000 + 10)
  // Slower than one a second, and requests far above what there is for a second.
  isNear(taken(limited({ iops: 1 }), 0, 20_000, 0), 20)
  isNear(taken(limited({ bandwidth: 2 ** 20 }), 0, 64_000, 32 * 2 ** 20), 2)
})

test('an idle volume saves up no more than its burst, and limits change while it is used', () => {
  const admission = limited({ iops: 1000 })
  taken(admission, 0, 1000, 0)
  isNear(taken(admission, 60_000, 1, 0), 100)
  admission.limit({ ...NO_LIMITS, iops: 10 }, 61_000)
  isNear(taken(admission, 61_000, 10_000, 0), 100)
  admission.limit(NO_LIMITS, 71_000)
  ok(!admission.isLimited)
})

test('a snapshot spends what its volume may, also when limits change later', () => {
  const volume = limited({ iops: 1000 })
  const snapshot = new Admission(new Turns(), { inFlight: 0 })
  snapshot.shareLimits(volume)
  isNear(taken(volume, 0, 1000, 0) + taken(snapshot, 1000, 1000, 0), 2000 + 100)
  volume.limit({ ...NO_LIMITS, iops: 10 }, 61_000)
  ok(snapshot.isLimited)
  isNear(taken(snapshot, 61_000, 10_000, 0), 100)
  strictEqual(volume.waitMs(70_999) > 0, true)
})

test('limits are checked, and each is taken away by itself', () => {
  const some = limitsOf(NO_LIMITS, { iops: 10, iopsBurst: 20, bandwidth: 2 ** 20 })
  deepStrictEqual(limitsOf(some, { iops: null }), { ...NO_LIMITS, bandwidth: 2 ** 20 })
  deepStrictEqual(limitsOf(some, { bandwidth: null }), { ...some, bandwidth: null })
  for (const wrong of [{ iops: 0 }, { bandwidth: 0 }, { bandwidth: 4095 }, { iops: 1.5 }]) {
    throws(() => limitsOf(some, wrong), failsWith(ErrorCode.InvalidArgument))
  }
  throws(() => limitsOf(NO_LIMITS, { iopsBurst: 5 }), failsWith(ErrorCode.InvalidArgument))
})

test('a volume shares while another one is busy too, and has all for itself later', () => {
  const turns = new Turns()
  const [greedy, other] = [{ inFlight: SHARED_WINDOW }, { inFlight: 0 }]
  const [first, second] = [new Admission(turns, greedy), new Admission(turns, other)]
  strictEqual(first.isShared(0), false)
  strictEqual(first.isShared(1), false)
  strictEqual(second.isShared(2), true)
  strictEqual(first.isShared(3), true)
  deepStrictEqual([first.isFull, second.isFull], [true, false])
  strictEqual(first.isShared(3 + SHARED_MS), false)
  strictEqual(second.isShared(1000), false)
})

test('a volume leaves more room to one with few requests than to a deep one', () => {
  const turns = new Turns()
  const [deep, other] = [{ inFlight: SHARED_WINDOW_BESIDE_FEW }, { inFlight: 0 }]
  const [first, second] = [new Admission(turns, deep), new Admission(turns, other)]
  const run = (fromMs: number): boolean => {
    for (let ms = fromMs; ms < fromMs + 3 * SHARED_MS; ms += 5) {
      first.isShared(ms)
      second.isShared(ms + 1)
    }
    return first.isFull
  }
  strictEqual(run(0), true)
  strictEqual(second.isFull, false)
  other.inFlight = FEW_REQUESTS
  strictEqual(run(1000), false)
  deep.inFlight = SHARED_WINDOW
  strictEqual(run(2000), true)
})

test.run()
