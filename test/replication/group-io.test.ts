/** R43: groups of a gateway become two when their records say so. */
import { deepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import { splitRecord } from '../../src/cluster/group-shape.ts'
import type { PoolView } from '../../src/cluster/group-table.ts'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { Boots } from '../../src/replication/boots.ts'
import { FamilyIo } from '../../src/replication/family-io.ts'
import { type GroupIo, PoolIo } from '../../src/replication/group-io.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

const FAMILY = '0000000000000001'
const view = { number: 3, groups: 2, leastGroups: 2, firstGroups: 2 } as PoolView
const boots = new Boots({ find: () => null, onChange: () => {} }, new ManualClock(), {
  onUp: () => {},
  onDown: () => {}
})
const whole: GroupRecord = {
  ...{ v: 1, epoch: 5, members: ['a', 'b'], syncing: [] },
  inSync: [
    { peer: 'a', boot: '1' },
    { peer: 'b', boot: '2' }
  ]
}

function rig() {
  const splits: [GroupIo, GroupIo][] = []
  const pool = new PoolIo(view, (group, other) => {
    splits.push([group, other])
    family.noteSplit(group, other)
  })
  const family = new FamilyIo(pool, {
    ...{ family: FAMILY, writerEpoch: 1, claim: { key: 'w', modRevision: 1 } },
    ...{ unavailableMs: null, onFenced: () => {}, onPowerLoss: () => {} }
  })
  return { pool, family, splits }
}

test('a chunk is looked for in the halves of what was split, and in the others as before', () => {
  const { pool, splits } = rig()
  const group = pool.groupUnder(5, 8)
  deepStrictEqual([group.index, group.count, splits.length], [5, 8, 2])
  const counts = new Set<string>()
  for (let chunk = 0; chunk < 200; chunk++) {
    const { index, count } = pool.groupOf(0, 1, chunk)
    strictEqual(index, groupOfChunk(0, 1, chunk, count), 'its chunks are its own')
    counts.add(`${index}/${count}`)
  }
  deepStrictEqual([...counts].sort(), ['0/2', '1/8', '3/4', '5/8'])
  deepStrictEqual(pool.all().length, 4)
  strictEqual(pool.groupUnder(1, 2).count, 8, 'a record of before tells nothing')
})

test('neither half is used before its own record is read, and restarts in it are noticed', () => {
  const { pool } = rig()
  const group = pool.covering(1)
  group.adopt({ record: whole, modRevision: 7 }, boots, 0)
  ok(group.isReady && group.isKnown)
  pool.split(group)
  const other = pool.covering(3)
  for (const half of [group, other]) {
    ok(half.isStale && !half.isReady && !half.isKnown)
    strictEqual(half.known!.modRevision, 7)
    deepStrictEqual([half.inSyncCount, half.targets.map(({ bootId }) => bootId)], [2, ['1', '2']])
  }
  // What is looked at meanwhile is what both came from: that makes neither of them ready.
  other.adopt({ record: whole, modRevision: 7 }, boots, 0)
  ok(!other.isReady)
  other.adopt({ record: splitRecord(whole, 2), modRevision: 8 }, boots, 0)
  ok(other.isReady && other.epoch === 6 && !group.isReady)
})

test('what is not flushed, or not settled, of a group is so in both halves', () => {
  const { pool, family } = rig()
  const [dirty, clean] = [pool.covering(0), pool.covering(1)]
  family.noteAcked(dirty, 4)
  family.unsettled.add(clean.index)
  pool.split(dirty)
  pool.split(clean)
  const half = pool.covering(2)
  ok(family.dirtyGroups.has(dirty) && family.dirtyGroups.has(half))
  strictEqual(family.dirtyGroups.size, 2)
  deepStrictEqual([...family.unsettled], [1, 3])
  family.noteFlushed(3)
  ok(family.dirtyGroups.has(half), 'the round is the one of the whole')
  family.noteAcked(half, 5)
  family.noteFlushed(4)
  deepStrictEqual([...family.dirtyGroups], [half])
})

test.run()
