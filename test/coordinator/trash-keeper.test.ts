/** When the trash is looked through, under a clock that is set. */
import { deepStrictEqual } from 'node:assert'
import { test } from 'uvu'
import { keepTrash } from '../../src/coordinator/trash-keeper.ts'
import { silentLog } from '../../src/core/log.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

const MINUTE = 60_000
const DAY = 24 * 60 * MINUTE

test('a clock that jumps ahead, and back, deletes nothing of the trash', async () => {
  const clock = new ManualClock()
  const looks: number[] = []
  const beginMs = clock.nowMs
  const removeExpired = async (): Promise<number> => looks.push((clock.nowMs - beginMs) / MINUTE)
  const given = { log: silentLog(), clock, isInCharge: () => true, onDeed: () => {}, everyMs: 2 }
  const end = keepTrash({ removeExpired }, given)
  const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 10))
  /** Which of the next minutes saw a look. */
  const pass = async (minutes: number): Promise<number[]> => {
    for (let minute = 0; minute < minutes; minute++) {
      clock.nowMs += MINUTE
      await tick()
    }
    return [...new Set(looks.splice(0))]
  }
  await tick()
  // It was started under a clock that nobody knows yet.
  deepStrictEqual(await pass(17), [15, 16, 17])
  clock.wallShiftMs += 3 * DAY
  deepStrictEqual(await pass(14), [])
  clock.wallShiftMs -= 3 * DAY
  deepStrictEqual(await pass(14), [])
  // One that is set by seconds goes well.
  clock.wallShiftMs += 5000
  deepStrictEqual(await pass(3), [47, 48])
  await end()
})

test.run()
