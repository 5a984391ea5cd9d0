import { doesNotThrow, ok, throws } from 'node:assert/strict'
import { suite } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { FailedAttempts } from '../../src/core/failed-attempts.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

const test = suite('failed attempts')

/** Whole seconds until the key is taken again. */
function waitOf(attempts: FailedAttempts, key: string): number {
  let seconds = 0
  try {
    attempts.check(key, 'it')
  } catch (thrown) {
    ok(thrown instanceof StoreError && thrown.code === ErrorCode.Busy)
    seconds = Number(/taken in (\d+) s/.exec(thrown.message)?.[1])
  }
  return seconds
}

test('each failure doubles the wait, up to a minute', () => {
  const clock = new ManualClock()
  const attempts = new FailedAttempts(clock)
  for (const seconds of [1, 2, 4, 8, 16, 32, 60, 60]) {
    attempts.failed('v')
    ok(waitOf(attempts, 'v') === seconds, `${waitOf(attempts, 'v')} s instead of ${seconds}`)
    clock.nowMs += seconds * 1000 - 1
    throws(() => attempts.check('v', 'volume v'), /volume v: \d failed attempts?/)
    clock.nowMs += 1
    doesNotThrow(() => attempts.check('v', 'volume v'))
  }
})

test('others do not wait, success ends it, and time forgets', () => {
  const clock = new ManualClock()
  const attempts = new FailedAttempts(clock)
  for (let i = 0; i < 4; i++) attempts.failed('v')
  ok(waitOf(attempts, 'w') === 0)
  attempts.succeeded('v')
  ok(waitOf(attempts, 'v') === 0)
  for (let i = 0; i < 4; i++) attempts.failed('v')
  clock.nowMs += 10 * 60_000
  attempts.failed('v')
  ok(waitOf(attempts, 'v') === 1)
})

test('what is remembered is bounded', () => {
  const attempts = new FailedAttempts(new ManualClock())
  for (let i = 0; i < 5000; i++) attempts.failed(`${i}`)
  ok(waitOf(attempts, '0') === 0)
  ok(waitOf(attempts, '4999') === 1)
})

test.run()
