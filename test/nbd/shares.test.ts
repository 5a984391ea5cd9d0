import { ok, strictEqual } from 'node:assert'
import fc from 'fast-check'
import { suite } from 'uvu'
import { Shares } from '../../src/nbd/shares.ts'
import { type Waiter, WaitLine } from '../../src/nbd/wait-line.ts'

const test = suite('nbd shares')

test('a client alone may take a good part, and not all', () => {
  const shares = new Shares(16_384, 17)
  const share = shares.join()
  let free = 16_384
  while (shares.mayTake(share, 256, free)) {
    shares.take(share, 256)
    free -= 256
  }
  ok(share.held >= 16_384 / 6, `${share.held} pages`)
  ok(share.held <= 16_384 / 4, `${share.held} pages`)
})

test('whatever others take, there is always a part for each', () => {
  const steps = fc.array(
    fc.record({ who: fc.nat(19), count: fc.integer({ min: 1, max: 300 }), give: fc.boolean() }),
    { maxLength: 300 }
  )
  fc.assert(
    fc.property(fc.integer({ min: 2_000, max: 20_000 }), steps, (total, list) => {
      const shares = new Shares(total, 17)
      const members = Array.from({ length: 20 }, () => shares.join())
      let free = total
      for (const { who, count, give } of list) {
        const share = members[who]!
        if (give) {
          const back = Math.min(count, share.held)
          shares.give(share, back)
          free += back
        } else if (shares.mayTake(share, count, free)) {
          ok(free >= count, 'only what is there is given')
          shares.take(share, count)
          free -= count
        }
      }
      // Everyone can now take up to its part of 17, all at once.
      for (const share of members) {
        while (share.held < 17) {
          ok(shares.mayTake(share, 1, free) && free > 0, 'a part is there')
          shares.take(share, 1)
          free--
        }
      }
    }),
    { numRuns: 200 }
  )
})

test('parts become smaller as clients come, and larger as they leave', () => {
  const shares = new Shares(1_000, 17)
  const first = shares.join()
  ok(shares.isOwn(first, 11))
  const others = Array.from({ length: 500 }, () => shares.join())
  ok(!shares.isOwn(first, 2))
  ok(shares.isOwn(first, 1))
  for (const share of others) shares.leave(share)
  ok(shares.isOwn(first, 11))
})

test('a line is served in order, its head keeps its place, and who stepped goes to the end', () => {
  const line = new WaitLine()
  const served: string[] = []
  const waiter = (name: string, steps: () => boolean, again: () => boolean): Waiter => {
    const self: Waiter = {
      proceed() {
        served.push(name)
        strictEqual(line.mayTake(self), true)
        if (again()) line.join(self)
        return steps()
      }
    }
    return self
  }
  let stuck = true
  const a = waiter(
    'a',
    () => !stuck,
    () => stuck
  )
  const b = waiter(
    'b',
    () => true,
    () => served.filter((name) => name === 'b').length < 2
  )
  const c = waiter(
    'c',
    () => true,
    () => false
  )
  for (const each of [a, b, c, b]) line.join(each)
  strictEqual(line.length, 3)
  strictEqual(line.mayTake(b), false)
  line.serve()
  strictEqual(served.join(''), 'a')
  stuck = false
  line.serve()
  strictEqual(served.join(''), 'aabc')
  strictEqual(line.length, 1)
  line.serve()
  strictEqual(served.join(''), 'aabcb')
  strictEqual(line.mayTake(a), true)
})

test.run()
