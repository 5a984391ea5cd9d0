/** A peer's entries in group records when it starts. */
import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { decideAtStart, type StartedPeer } from '../../src/replication/start-rule.ts'

const test = suite('start rule')

const entries = (text: string) =>
  text
    .split(' ')
    .filter(Boolean)
    .map((each) => ({ peer: each[0]!, boot: each.slice(1) }))
const text = (list: readonly { peer: string; boot: string }[]): string =>
  list.map(({ peer, boot }) => peer + boot).join(' ')

const record = (inSync: string, syncing = ''): GroupRecord => ({
  ...{ v: 1, epoch: 7, members: ['a', 'b', 'c'] },
  ...{ inSync: entries(inSync), syncing: entries(syncing) }
})
const self: StartedPeer = {
  ...{ peerId: 'a', bootId: '2', cleanPredecessor: null, counterFollows: true }
}

/** `up`: entries whose boots run. */
function decided(known: GroupRecord, up: string, peer: StartedPeer = self): string {
  const decision = decideAtStart(known, peer, (id, boot) => up.split(' ').includes(id + boot))
  if (decision.kind !== 'change') return decision.kind
  deepStrictEqual(decision.record.members, known.members)
  return `${text(decision.record.inSync)} | ${text(decision.record.syncing)}`
}

test('another boot is no longer in sync while one that was with it runs on', () => {
  strictEqual(decided(record('a1 b1'), 'b1'), 'b1 | a2')
  strictEqual(decided(record('a1 b1', 'c1'), 'b1 c1'), 'b1 | c1 a2')
})

test('it stays in sync when nobody of them runs on', () => {
  strictEqual(decided(record('a1 b1'), ''), 'a2 b1 | ')
  strictEqual(decided(record('a1'), 'c1'), 'a2 | ')
})

test('a clean end of the boot before keeps its place', () => {
  strictEqual(decided(record('a1 b1'), 'b1', { ...self, cleanPredecessor: '1' }), 'keep')
  strictEqual(decided(record('a1 b1'), 'b1', { ...self, cleanPredecessor: '0' }), 'b1 | a2')
})

test('one that was being brought up to date goes on under its new boot', () => {
  strictEqual(decided(record('b1', 'a1'), 'b1'), 'b1 | a2')
  strictEqual(decided(record('b1', 'a2'), 'b1'), 'keep')
  strictEqual(decided(record('b1', 'c1'), 'b1'), 'keep')
})

test('a copied or reverted disk is not believed, and never alone', () => {
  const copied = { ...self, counterFollows: false, cleanPredecessor: '1' }
  strictEqual(decided(record('a1 b1'), '', copied), 'b1 | a2')
  strictEqual(decided(record('a1'), '', copied), 'distrusted')
})

test.run()
