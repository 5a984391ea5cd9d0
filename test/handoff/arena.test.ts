import { notStrictEqual, ok, strictEqual, throws } from 'node:assert/strict'
import fc from 'fast-check'
import { suite } from 'uvu'
import { SharedArena } from '../../src/handoff/arena.ts'
import { PageRuns } from '../../src/handoff/page-runs.ts'

const test = suite('arena')

const PAGES = 300
const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)

/** Longest run of `false`. */
function longestFree(taken: readonly boolean[]): number {
  let longest = 0
  let length = 0
  for (const page of taken) {
    length = page ? 0 : length + 1
    longest = Math.max(longest, length)
  }
  return longest
}

const step = fc.oneof(
  { weight: 3, arbitrary: fc.record({ take: fc.integer({ min: 1, max: 5 }) }) },
  { weight: 1, arbitrary: fc.record({ take: fc.integer({ min: 1, max: PAGES }) }) },
  { weight: 3, arbitrary: fc.record({ give: fc.nat() }) }
)

test(`runs answer as an array of pages does (SEED=${seed})`, () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const runs = new PageRuns(PAGES)
      const model: boolean[] = new Array(PAGES).fill(false)
      const held: { start: number; length: number }[] = []
      for (const action of steps) {
        if ('take' in action) {
          const start = runs.take(action.take)
          // A run is found exactly when there is one: nothing is lost to fragmentation.
          strictEqual(start >= 0, longestFree(model) >= action.take)
          if (start < 0) continue
          for (let page = start; page < start + action.take; page++) {
            strictEqual(model[page], false)
            model[page] = true
          }
          held.push({ start, length: action.take })
        } else if (held.length > 0) {
          const [run] = held.splice(action.give % held.length, 1)
          model.fill(false, run!.start, run!.start + run!.length)
          runs.give(run!.start, run!.length)
        }
        strictEqual(runs.pagesFree, model.filter((taken) => !taken).length)
      }
      for (const run of held) runs.give(run.start, run.length)
      strictEqual(runs.take(PAGES), 0)
    }),
    { seed, numRuns: 300 }
  )
})

test('a large run is found while single pages come and go', () => {
  const runs = new PageRuns(4096)
  const singles: number[] = []
  for (let step = 0; step < 20_000; step++) {
    if (singles.length < 256) singles.push(runs.take(1))
    else runs.give(singles.splice((step * 7919) % singles.length, 1)[0]!, 1)
  }
  ok(runs.take(2049) >= 0)
})

test('an arena run is freed by its last hold', () => {
  const arena = new SharedArena(64 * 1024)
  const run = arena.acquire(16)
  strictEqual(arena.pagesFree, 0)
  strictEqual(arena.acquire(1), -1)
  arena.retain(run)
  arena.release(run)
  strictEqual(arena.pagesFree, 0)
  arena.release(run)
  strictEqual(arena.pagesFree, 16)
  notStrictEqual(arena.acquire(1), -1)
})

test('a waiter is woken once, after pages were freed', async () => {
  const arena = new SharedArena(64 * 1024)
  const runs = [arena.acquire(8), arena.acquire(8)]
  let woken = 0
  arena.onFree(() => woken++)
  await Promise.resolve()
  strictEqual(woken, 0)
  for (const run of runs) arena.release(run)
  strictEqual(woken, 0) // never from inside release
  await Promise.resolve()
  strictEqual(woken, 1)
  arena.release(arena.acquire(1))
  await Promise.resolve()
  strictEqual(woken, 1)
})

test('a run that is not held is neither held once more nor given back', () => {
  const arena = new SharedArena(64 * 1024)
  const run = arena.acquire(2)
  for (const wrong of [run + 2 * 4096, run + 1]) {
    let failures = 0
    for (const act of [() => arena.retain(wrong), () => arena.release(wrong)]) {
      try {
        act()
      } catch {
        failures++
      }
    }
    strictEqual(failures, 2)
  }
  arena.release(run)
})

test('any page of a run names it', () => {
  const arena = new SharedArena(64 * 1024)
  const run = arena.acquire(4)
  arena.retain(run + 3 * 4096)
  arena.release(run + 4096)
  strictEqual(arena.pagesFree, 12)
  arena.release(run + 2 * 4096)
  strictEqual(arena.pagesFree, 16)
})

test('copies are right at any alignment, between lent buffers, pages and any other buffer', () => {
  const arena = new SharedArena(64 * 1024)
  const lent = arena.lend(1000)
  const other = Buffer.alloc(1000)
  for (let at = 0; at < 1000; at++) other[at] = at % 251
  arena.copy(lent, 0, other, 0, 1000)
  ok(lent.equals(other))
  arena.copy(arena.bytes, 4096, lent, 28, 900)
  ok(arena.bytes.subarray(4096, 4996).equals(other.subarray(28, 928)))
  // To the front of itself, as a receive buffer is compacted.
  arena.copy(lent, 0, lent, 3, 900)
  ok(lent.subarray(0, 900).equals(other.subarray(3, 903)))
  throws(() => arena.copy(arena.bytes, 64 * 1024 - 4, lent, 0, 8))
  throws(() => arena.copy(lent, 990, arena.bytes, 0, 11))
})

test('lent buffers are apart from the pages, and given back they are lent again', () => {
  const arena = new SharedArena(64 * 1024)
  const first = arena.lend(70_000)
  strictEqual(first.length, 70_000)
  ok(first.byteOffset >= 64 * 1024)
  arena.giveBack(first)
  strictEqual(arena.lend(5).byteOffset, first.byteOffset)
  // However many are asked for, all of them work.
  const many = Array.from({ length: 200 }, (_, value) => arena.lend(100).fill(value))
  for (const [value, buffer] of many.entries()) strictEqual(buffer[99], value)
})

test.run()
