/** A record tells among how many groups it is one, and which it came from. */
import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import {
  coveringGroup,
  groupsUnder,
  lacksHalves,
  newSplit,
  parentBars,
  shapeUnder,
  splitRecord
} from '../../src/cluster/group-shape.ts'
import { defaultPool } from '../../src/cluster/pools.ts'
import type { GroupRecord, PoolRecord } from '../../src/cluster/records.ts'

const whole: GroupRecord = { v: 1, epoch: 7, members: [], inSync: [], syncing: [] }
const pool = (groups: number, firstGroups: number, from?: number): PoolRecord => ({
  ...defaultPool(1, '2026-01-31T12:00:00.000Z'),
  ...{ groups, firstGroups },
  ...(from === undefined ? {} : { splitting: { from, to: groups } })
})

test('a record that names no number is of as many as the pool began with', () => {
  strictEqual(groupsUnder(whole, 4), 4)
  const shape = { pool: 3, groups: 4 }
  strictEqual(shapeUnder(shape, whole), shape)
  deepStrictEqual(shapeUnder(shape, splitRecord(whole, 4)), { pool: 3, groups: 8 })
})

test('both halves have what the whole had, under a higher epoch', () => {
  const half = splitRecord({ ...whole, fresh: ['a'], syncing: [{ peer: 'b', boot: 'c' }] }, 4)
  deepStrictEqual(half.split, { groups: 8, epochs: [8] })
  deepStrictEqual([half.epoch, half.fresh, half.syncing.length], [8, ['a'], 1])
})

test('R42: each group that it came from has the epoch at which that was split', () => {
  const half = splitRecord(whole, 4)
  const quarter = splitRecord({ ...half, epoch: 20 }, 8)
  deepStrictEqual(parentBars(13, quarter), [
    { group: 1, epoch: 8 },
    { group: 5, epoch: 21 }
  ])
  deepStrictEqual(parentBars(3, whole), [])
  // It was made after the first split, where nothing was before.
  const late = splitRecord({ ...whole, ...newSplit(8, 4) }, 8)
  deepStrictEqual(parentBars(13, late), [{ group: 5, epoch: 8 }])
})

test('R46: what was known of a group counts for the one that has it now', () => {
  const records = new Map([
    [0, splitRecord(whole, 2)],
    [2, splitRecord(whole, 2)],
    [1, whole]
  ])
  const find = (group: number): GroupRecord | null => records.get(group) ?? null
  const covering = (group: number) => coveringGroup(group, pool(4, 2, 2), find)
  deepStrictEqual([0, 1, 2, 3, 6, 7].map(covering), [0, 1, 2, 1, 2, 1])
  strictEqual(coveringGroup(6, pool(4, 2), find), 2)
})

test('a half without the other one is noticed', () => {
  const half = { record: splitRecord(whole, 2) }
  const other = { record: whole }
  strictEqual(lacksHalves(new Map([[0, other]]), 2), false)
  strictEqual(lacksHalves(new Map([[0, half]]), 2), true)
  strictEqual(
    lacksHalves(
      new Map([
        [0, half],
        [2, half]
      ]),
      2
    ),
    false
  )
  // The whole was read before it was split.
  strictEqual(
    lacksHalves(
      new Map([
        [0, other],
        [2, half]
      ]),
      2
    ),
    true
  )
  const alone = { record: { ...whole, ...newSplit(4, 2) } }
  strictEqual(lacksHalves(new Map([[2, alone]]), 2), false)
})

test.run()
