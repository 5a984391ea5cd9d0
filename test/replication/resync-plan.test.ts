/** Decisions of a resync about one chunk. */
import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { type HeldRun, planChunk } from '../../src/replication/resync-plan.ts'
import { VersionKind } from '../../src/shard/op.ts'

const test = suite('resync plan')

const run = (
  kind: number,
  firstBlock: number,
  blockCount: number,
  writerEpoch: number,
  sequence: number
): HeldRun => ({ kind, firstBlock, blockCount, writerEpoch, sequence })
const { Data, Zeroes, Hole } = VersionKind

test('what the source has newer is copied, marks without bytes', () => {
  const source = [run(Data, 0, 4, 5, 9), run(Zeroes, 4, 2, 5, 10), run(Hole, 8, 3, 5, 11)]
  const plan = planChunk(source, [run(Data, 1, 1, 5, 9), run(Data, 5, 4, 4, 99)], 5)
  deepStrictEqual(plan.copies, [
    { firstBlock: 0, blockCount: 1 },
    { firstBlock: 2, blockCount: 2 }
  ])
  deepStrictEqual(plan.marks, [run(Zeroes, 4, 2, 5, 10), run(Hole, 8, 3, 5, 11)])
  deepStrictEqual(plan.voids, [
    { firstBlock: 6, blockCount: 2, writerEpoch: 4, sequence: 99, floorEpoch: 0, floorSequence: 0 }
  ])
})

test('newer than the source is void below the settled epoch, down to what the source has', () => {
  const source = [run(Data, 0, 2, 3, 7)]
  const plan = planChunk(source, [run(Data, 0, 3, 4, 1)], 5)
  deepStrictEqual(plan.voids, [
    { firstBlock: 0, blockCount: 2, writerEpoch: 4, sequence: 1, floorEpoch: 3, floorSequence: 7 },
    { firstBlock: 2, blockCount: 1, writerEpoch: 4, sequence: 1, floorEpoch: 0, floorSequence: 0 }
  ])
  deepStrictEqual(plan.copies, [{ firstBlock: 0, blockCount: 2 }])
  strictEqual(plan.leftBlocks, 0)
})

test('newer than the source is left alone while its writer may still be there', () => {
  const plan = planChunk([run(Data, 0, 2, 3, 7)], [run(Data, 0, 3, 5, 1)], 5)
  deepStrictEqual(plan.voids, [])
  deepStrictEqual(plan.copies, [])
  strictEqual(plan.leftBlocks, 3)
})

test('a hole that the source has dropped, or that hides an older hole, needs nothing', () => {
  const plan = planChunk([run(Hole, 4, 1, 3, 1)], [run(Hole, 0, 5, 4, 1)], 5)
  deepStrictEqual(plan, { voids: [], marks: [], copies: [], leftBlocks: 0, leftEpoch: 0 })
  const lost = planChunk([run(Data, 0, 1, 3, 1)], [run(Hole, 0, 1, 4, 1)], 5)
  strictEqual(lost.voids.length, 1)
  strictEqual(lost.copies.length, 1)
})

test.run()
