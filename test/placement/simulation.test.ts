import { ok, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { parseRedundancy } from '../../src/placement/redundancy.ts'
import { balanceOf, movementBetween } from '../../src/placement/simulation.ts'
import { planTargets } from '../../src/placement/targets.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { isApart, isEven, newMembers, ringFor, somePeers, statesOf } from '../helpers/rings.ts'

const test = suite('ring simulation')
const redundancy = parseRedundancy('replicated:3')

test('balance and movement are those of the members', () => {
  const before = planTargets({ redundancy, ring: ringFor(somePeers(0, 10)) }, null)
  const ring = ringFor(somePeers(2, 11))
  const after = planTargets({ redundancy, ring }, statesOf(before))
  const { toWeight, toFairShare, members, peers } = balanceOf(after)
  strictEqual(members, 768)
  strictEqual(peers, 11)
  const loads = [...after.loads]
  ok(Math.abs(toWeight.max - Math.max(...loads) / (768 / 11)) < 1e-9)
  ok(Math.abs(toWeight.min - Math.min(...loads) / (768 / 11)) < 1e-9)
  ok(Math.abs(toWeight.mean - 1) < 1e-9 && Math.abs(toFairShare.stddev - toWeight.stddev) < 1e-9)
  const movement = movementBetween(before, after)
  strictEqual(movement.membersMoved, newMembers(before, after).length)
  // Some stay above their share, within the slack.
  ok(movement.membersMoved >= movement.membersLeast * 0.98)
  // Two of ten left: theirs must move. Three of eleven are new and get theirs.
  ok(movement.membersLeast >= 3 * Math.floor(768 / 11))
  const none = movementBetween(after, after)
  strictEqual(none.membersMoved + none.groupsMoved, 0)
})

test('after many changes a pool is even, and hardly more moved than had to', () => {
  const random = new SeededRandom(5)
  let peers = somePeers(0, 12, { weights: [1, 2, 4] })
  let targets = planTargets({ redundancy, ring: ringFor(peers, { groups: 1024 }) }, null)
  const sum = { moved: 0, least: 0 }
  for (let change = 0; change < 60; change++) {
    const at = random.u32() % peers.length
    const joins = peers.length < 6 || (peers.length < 30 && random.u32() % 2 === 0)
    if (joins) peers = [...peers, ...somePeers(12 + change, 1, { weights: [1, 2, 4] })]
    else peers = peers.toSpliced(at, 1)
    const ring = ringFor(peers, { groups: 1024 })
    const next = planTargets({ redundancy, ring }, statesOf(targets))
    isApart(next)
    isEven(next)
    const movement = movementBetween(targets, next)
    sum.moved += movement.membersMoved
    sum.least += movement.membersLeast
    targets = next
  }
  ok(sum.moved < sum.least * 1.02, `${sum.moved} moved, ${sum.least} is the least`)
})

test('made-up peers have ids of their own', () => {
  const peers = somePeers(0, 16_384)
  strictEqual(new Set(peers.map(({ id }) => id)).size, 16_384)
  ok(peers.every(({ id }) => /^[0-9a-f]{32}$/.test(id)))
})

test.run()
